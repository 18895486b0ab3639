//! SIGTERM ends the program within the grace time, with exit code 0, whatever it is doing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Server, fixture, kill, long_clip, post_and_hold, scripted, server};

const MINUTE: Duration = Duration::from_secs(60);
const CONFIG: &str = "[server]\nshutdown_grace_seconds = 2\n";
/// The grace time, and what a busy machine adds.
const LIMIT: Duration = Duration::from_secs(5);

/// SIGTERM, and what is left of the server.
fn stop(mut server: Server, state: &str) {
    let engines = server.engine_pids();
    let began = Instant::now();
    server.signal("TERM");
    let code = server.wait_exit(Duration::from_secs(30));
    let took = began.elapsed();
    assert_eq!(code, Some(0), "{state}\n{}", server.said());
    assert!(took < LIMIT, "{state}: {took:?}\n{}", server.said());
    let end = Instant::now() + Duration::from_secs(5);
    while engines.iter().any(|pid| crate::is_running(*pid)) {
        assert!(Instant::now() < end, "{state}: an engine lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn running(server: &mut Server) {
    server.wait_until("a window runs", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"].as_i64() >= Some(1)
    });
}

/// A hub that takes connections and, after `said`, says nothing more.
fn silent_hub(said: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(said);
            held.push(stream);
        }
    });
    format!("http://{address}")
}

#[test]
fn while_a_model_is_fetched_from_a_hub_that_says_nothing_or_stops() {
    for said in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\nETag: \"x\"\r\n\r\nGGML",
    ] {
        let mut fetching = server(&format!("{CONFIG}[whisper]\nmodel_path = \"tiny.en\"\n"))
            .env("HF_ENDPOINT", &silent_hub(said))
            .unready()
            .start();
        fetching.wait_until("it fetches", MINUTE, |s| {
            s.json("/health")["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("fetching"))
        });
        stop(fetching, "fetching");
    }
}

#[test]
fn while_an_engine_loads_or_cannot_be_started() {
    let loading = scripted(&json!({ "start": "hang" }), CONFIG).unready().start();
    stop(loading, "an engine that hangs while it loads");
    let broken = scripted(&json!({ "start": "refuse" }), CONFIG).unready().start();
    stop(broken, "an engine that refuses to start");
    let mut waiting = scripted(&json!({ "start": "hang" }), CONFIG).unready().start();
    let held = post_and_hold(waiting.port, &fixture("jfk.wav"), &[]);
    waiting.wait_until("the request is inside", MINUTE, |s| {
        s.json("/stats")["requests"]["in_flight"] == 1
    });
    stop(waiting, "a request that waits for its model");
    drop(held);
}

#[test]
fn while_nothing_happens_and_while_an_upload_comes() {
    let idle = scripted(&json!({}), CONFIG).start();
    let _kept = TcpStream::connect(("127.0.0.1", idle.port)).unwrap();
    stop(idle, "idle, with a connection kept open");
    let mut uploading = scripted(&json!({}), CONFIG).start();
    let mut half = TcpStream::connect(("127.0.0.1", uploading.port)).unwrap();
    half.write_all(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n\
          Content-Length: 100000\r\n\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF",
    )
    .unwrap();
    uploading.wait_until("the upload is inside", MINUTE, |s| {
        s.json("/stats")["requests"]["in_flight"] == 1
    });
    stop(uploading, "an upload that has stopped coming");
}

#[test]
fn while_windows_run_wait_or_hang() {
    let config = format!("{CONFIG}[performance]\nmax_concurrent_requests = 1\n");
    let mut busy = scripted(&json!({ "delay_ms": 600_000 }), &config).start();
    let _one = post_and_hold(busy.port, &long_clip(20), &[]);
    let _two = post_and_hold(busy.port, &fixture("jfk.wav"), &[]);
    running(&mut busy);
    stop(busy, "windows that run, and a request that waits for its turn");

    let mut deaf = scripted(&json!({ "delay_ms": 600_000, "deaf": true }), CONFIG).start();
    let _held = post_and_hold(deaf.port, &fixture("jfk.wav"), &[]);
    running(&mut deaf);
    stop(deaf, "a window that nothing stops");

    let mut stopped = scripted(&json!({ "delay_ms": 600_000 }), CONFIG).start();
    let _held = post_and_hold(stopped.port, &fixture("jfk.wav"), &[]);
    running(&mut stopped);
    let engine = stopped.engine_pids()[0];
    kill(engine, "STOP");
    stop(stopped, "an engine that is stopped");
}

#[test]
fn while_a_stream_goes_to_a_client_that_does_not_read() {
    let mut streaming = scripted(&json!({ "delay_ms": 200 }), CONFIG).start();
    let _held = post_and_hold(streaming.port, &long_clip(60), &[("stream", "true")]);
    streaming.wait_until("some windows are done", MINUTE, |s| {
        s.json("/stats")["windows"]["total"].as_u64() >= Some(2)
    });
    stop(streaming, "a stream nobody reads");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let config = "[server]\nshutdown_grace_seconds = 600\n";
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), config).start();
    let _held = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    running(&mut server);
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    server.signal("INT");
    server.wait_exit(Duration::from_secs(30));
    assert!(began.elapsed() < LIMIT);
}

/// Probes of an orchestrator: alive until the end, ready only while a window can be served.
#[test]
fn health_tells_alive_from_ready() {
    let mut loading = scripted(&json!({ "start": "hang" }), "").unready().start();
    let status = |s: &Server, path: &str| s.try_get(path).map(|(status, _)| status);
    loading.wait_until("it answers", MINUTE, |s| status(s, "/health/live") == Some(200));
    assert_eq!(status(&loading, "/health/ready"), Some(503));
    assert_eq!(status(&loading, "/health"), Some(503));

    let config = "[server]\nshutdown_grace_seconds = 20\n";
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), config).start();
    assert_eq!(status(&server, "/health/ready"), Some(200));
    assert_eq!(server.json("/health/live")["status"], "ok");
    let _held = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    running(&mut server);
    // A connection from before the signal: the port is closed to new ones.
    let mut probe = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    probe
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    probe.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.signal("INT");
    server.signal("INT");
    server.wait_exit(MINUTE);
}

/// The watchdog allows 0.2 s in this server, and its only engine has stopped: it is alive, and not ready.
#[test]
fn windows_that_wait_while_none_finishes_are_no_readiness() {
    let config =
        "[performance]\nslots = 1\nwhisper_threads = 1\nwatchdog_min_seconds = 0.2\nwatchdog_factor = 1.0\n";
    let mut server = scripted(
        &json!({ "delay_ms": 60_000, "deaf": true, "action": "hang" }),
        config,
    )
    .start();
    let _one = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    let _two = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("it says that it is not ready", MINUTE, |s| {
        s.try_get("/health/ready")
            .is_some_and(|(status, body)| status == 503 && body.contains("no window has finished"))
    });
    assert_eq!(server.try_get("/health/live").unwrap().0, 200);
}
