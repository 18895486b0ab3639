//! What only a real connection shows: uploads that are refused, pause, stop or leave.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use whisper_backend_api::config::Config;
use whisper_backend_api::http::{Connections, HEAD_TIMEOUT, serve};

use crate::support::*;

/// Reads one answer with a length from a connection that stays open.
async fn read_reply(socket: &mut TcpStream) -> (u16, String, String) {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let read = socket.read_buf(&mut bytes).await.expect("the connection broke");
        assert!(
            read > 0,
            "the connection ended: {}",
            String::from_utf8_lossy(&bytes)
        );
    };
    let head = String::from_utf8(bytes[..head_end].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.unwrap_or("0").trim().parse().unwrap();
    while bytes.len() < head_end + length {
        assert!(
            socket.read_buf(&mut bytes).await.unwrap() > 0,
            "the body ended early"
        );
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head,
        String::from_utf8(bytes[head_end..head_end + length].to_vec()).unwrap(),
    )
}

fn head(path: &str, more: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n{more}\r\n"
    )
    .into_bytes()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("took longer than 20 s")
}

/// A client that writes all of its 24 MB before it reads a byte sees the real error, and the connection serves
/// its next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_uploads_are_read_to_their_end() {
    let file = vec![7_u8; 24 << 20];
    let small = |config: &mut Config| config.server.max_file_size_mb = 1;
    let key = |config: &mut Config| config.server.api_keys = vec!["secret-key".to_owned()];
    let full = || Scripted {
        full: true,
        ..Scripted::default()
    };
    let strict = || Scripted {
        strict: true,
        ..Scripted::default()
    };
    for (name, server, path, status) in [
        ("wrong key", server(Scripted::default(), key), C, 401),
        ("unknown path", plain(), "/v1/nothing", 404),
        (
            "unknown deployment",
            server(strict(), |_| {}),
            "/openai/deployments/x/audio/transcriptions",
            404,
        ),
        ("unknown model", server(strict(), |_| {}), C, 404),
        ("too large", server(Scripted::default(), small), C, 413),
        ("full", server(full(), |_| {}), C, 429),
    ] {
        let address = server.listen().await;
        for chunked in [false, true] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let body = form(&[("model", "x")], Some(&file));
            for _ in 0..2 {
                let (status_found, head_found, text) = within(async {
                    if chunked {
                        socket
                            .write_all(&head(path, "Transfer-Encoding: chunked\r\n"))
                            .await
                            .unwrap();
                        for chunk in body.chunks(1 << 16) {
                            let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
                            framed.extend_from_slice(chunk);
                            framed.extend_from_slice(b"\r\n");
                            socket.write_all(&framed).await.unwrap();
                        }
                        socket.write_all(b"0\r\n\r\n").await.unwrap();
                    } else {
                        let length = format!("Content-Length: {}\r\n", body.len());
                        socket.write_all(&head(path, &length)).await.unwrap();
                        socket.write_all(&body).await.unwrap();
                    }
                    read_reply(&mut socket).await
                })
                .await;
                assert_eq!(status_found, status, "{name} {chunked} {text}");
                assert!(serde_json::from_str::<Value>(&text).unwrap()["error"]["message"].is_string());
                assert!(!head_found.contains("connection: close"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn clients_that_wait_for_100_continue() {
    let server = locked();
    let address = server.listen().await;
    let body = form(&[MODEL], Some(b"RIFF"));
    let length = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&head(C, &length)).await.unwrap();
    let (status, ..) = within(read_reply(&mut socket)).await;
    assert_eq!(
        status, 401,
        "a refusal comes instead of 100, and no byte of the body is asked for"
    );

    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(&head(C, &format!("api-key: secret-key\r\n{length}")))
        .await
        .unwrap();
    let (status, ..) = within(read_reply(&mut socket)).await;
    assert_eq!(status, 100);
    socket.write_all(&body).await.unwrap();
    let (status, _, text) = within(read_reply(&mut socket)).await;
    assert_eq!((status, text.contains("Hello, world!")), (200, true));
}

/// npm 4.x repeats a multipart request as headers with a length and no body.
#[tokio::test]
async fn bodies_that_never_come_are_given_up() {
    let server = server(Scripted::default(), |config| {
        config.server.body_idle_timeout_seconds = 1;
    });
    let address = server.listen().await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let more = "Content-Length: 1000000\r\nUser-Agent: OpenAI/JS 4.104.0\r\nx-stainless-retry-count: 1\r\n";
    socket.write_all(&head(C, more)).await.unwrap();
    let (status, head, text) = within(read_reply(&mut socket)).await;
    assert_eq!(status, 408, "{text}");
    assert!(head.contains("connection: close") && head.contains("x-should-retry: false"));
    let mut rest = Vec::new();
    within(socket.read_to_end(&mut rest)).await.unwrap();

    // One byte now and then is no upload either.
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(&self::head(C, "Content-Length: 1000000\r\n"))
        .await
        .unwrap();
    let (mut reader, mut writer) = socket.split();
    let drip = async {
        loop {
            let _ = writer.write_all(b"-").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut first = [0_u8; 12];
    tokio::select! {
        () = drip => unreachable!(),
        read = within(reader.read_exact(&mut first)) => { read.unwrap(); }
    }
    assert_eq!(&first, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_job() {
    for (stream, chunked) in [("false", false), ("true", false), ("false", true), ("true", true)] {
        let slow = Scripted {
            pause: Duration::from_secs(3600),
            ..Scripted::default()
        };
        let server = server(slow, |_| {});
        let cancelled = server.jobs.cancelled.clone();
        let address = server.listen().await;
        let body = form(&[MODEL, ("stream", stream)], Some(b"RIFF"));
        let mut socket = TcpStream::connect(address).await.unwrap();
        if chunked {
            socket
                .write_all(&head(C, "Transfer-Encoding: chunked\r\n"))
                .await
                .unwrap();
            let size = format!("{:x}\r\n", body.len());
            socket
                .write_all(&[size.as_bytes(), &body, b"\r\n"].concat())
                .await
                .unwrap();
        } else {
            let length = format!("Content-Length: {}\r\n", body.len());
            socket.write_all(&head(C, &length)).await.unwrap();
            socket.write_all(&body).await.unwrap();
        }
        within(async {
            while server.jobs.seen.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if chunked {
            socket.write_all(b"0\r\n\r\n").await.unwrap();
        }
        if stream == "true" {
            let mut first = [0_u8; 12];
            within(socket.read_exact(&mut first)).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
        }
        assert!(!cancelled.is_cancelled());
        drop(socket);
        within(cancelled.cancelled()).await;
    }
}

/// The bytes of .NET's client: quoted boundary with `=` and `_`, unquoted names, content types before
/// dispositions, a Windows path as file name, objects as JSON text.
#[tokio::test]
async fn dotnet_bytes_replayed() {
    let server = server(Scripted::default(), |config| {
        config.server.api_keys = vec!["dotnet-key".to_owned()];
    });
    let address = server.listen().await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(include_bytes!("../fixtures/dotnet-transcription.http"))
        .await
        .unwrap();
    let (status, head, text) = within(read_reply(&mut socket)).await;
    assert_eq!(status, 200, "{text}");
    assert!(head.contains("x-ms-client-request-id: 5e3c4a0e-6f0f-4d7e-8c39-d5b2a8f0c001"));
    let body: Value = serde_json::from_str(&text).unwrap();
    assert!(body["segments"].is_array() && body["words"].is_array());
    let seen = server.jobs.seen.lock().unwrap();
    let (options, bytes, name) = &seen[0];
    assert_eq!(
        *bytes, 366,
        "the file arrives whole, boundary-like bytes included"
    );
    assert_eq!(name.as_deref(), Some("audio_hello_world.mp3"));
    assert_eq!(*server.jobs.asked.lock().unwrap(), ["my/whisper"]);
    assert_eq!(options.language.as_deref(), Some("en"));
    assert_eq!(options.prompt.as_deref(), Some("Grüße, 世界"));
    assert!((options.temperature - 0.4).abs() < 1e-6);
    assert_eq!(
        (options.vad, options.vad_threshold, options.vad_padding_ms),
        (Some(true), Some(0.3), Some(100))
    );
}

/// Serves the scripted runner for clients outside this program: `SCRIPTED_PORT=8099 cargo test --test http
/// serve_the_script -- --ignored`, then for example `schemathesis run http://127.0.0.1:8099/openapi.json`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs until it is stopped"]
async fn serve_the_script() {
    let port = std::env::var("SCRIPTED_PORT").unwrap_or_else(|_| "8099".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    serve(
        listener,
        plain().router,
        HEAD_TIMEOUT,
        TRANSFER,
        None,
        Connections::new(1000),
        CancellationToken::new(),
    )
    .await;
}
