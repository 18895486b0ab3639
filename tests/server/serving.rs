//! Which models stay in memory, and whose turn it is, as clients notice it.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{
    ROUTE, Server, fixture, form, long_clip, post, post_and_hold, scripted, server, stand_in,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Names of deployments whose models are in memory.
fn loaded(server: &Server) -> Vec<String> {
    let list = server.json("/models");
    let models = list["data"].as_array().unwrap().iter();
    models
        .filter(|model| model["deployment"] == true && model["loaded"] == true)
        .map(|model| model["id"].as_str().unwrap().to_owned())
        .collect()
}

/// A recording for a deployment.
fn ask(port: u16, deployment: &str) -> (u16, String) {
    let (content_type, body) = form(&fixture("jfk.wav"), &[]);
    let url = format!(
        "http://127.0.0.1:{port}/openai/deployments/{deployment}/audio/transcriptions?api-version=2024-02-01"
    );
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(MINUTE))
        .build()
        .new_agent();
    let mut answer = agent
        .post(url)
        .header("content-type", content_type)
        .send(&body[..])
        .unwrap();
    (
        answer.status().as_u16(),
        answer.body_mut().read_to_string().unwrap(),
    )
}

#[test]
fn a_model_makes_room_for_another_one_when_no_request_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut config =
        "[performance]\nwhisper_threads = 1\n[whisper]\nmax_loaded_mb = 200\n[deployments]\n".to_owned();
    for name in ["one", "two", "three"] {
        let path: PathBuf = folder.path().join(format!("ggml-{name}.bin"));
        stand_in::write(&path);
        writeln!(config, "{name} = {:?}", path.display().to_string()).unwrap();
    }
    // Engines take 128 MiB each: there is room for one.
    let mut server = scripted(&json!({ "delay_ms": 2500, "text": " All is well." }), &config).start();
    assert_eq!(ask(server.port, "one").0, 200);
    assert_eq!(loaded(&server), ["one"]);
    let port = server.port;
    let two = std::thread::spawn(move || ask(port, "two"));
    server.wait_until("a window of the second runs", MINUTE, |s| {
        loaded(s) == ["two"] && s.json("/stats")["queue"]["windows_running"] == 1
    });
    // While its request holds it, the third waits; both get their words.
    let three = ask(server.port, "three");
    let two = two.join().unwrap();
    assert!(two.0 == 200 && two.1.contains("All is well."), "{two:?}");
    assert!(three.0 == 200 && three.1.contains("All is well."), "{three:?}");
    assert_eq!(loaded(&server), ["three"]);
    assert_eq!(server.json("/stats")["engine"]["restarts"], 0);
}

/// The client takes nothing for longer than an idle model stays, in the middle of its recording.
#[test]
fn a_model_is_not_unloaded_while_a_client_reads_slowly() {
    let config = "[whisper]\nidle_unload_seconds = 1\n[speech]\nvad = false\nmax_window_seconds = 1.0\n";
    // Long texts: they fill what the system keeps for a connection, and the request has to wait.
    let words: Vec<String> = (0..700).map(|number| format!("{number:040}")).collect();
    let words = format!("{{window}} {}", words.join(" "));
    let mut server = scripted(&json!({ "text": words }), config).start();
    let (content_type, body) = form(&long_clip(20), &[("stream", "true")]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1 << 16).unwrap();
    let address: std::net::SocketAddr = format!("127.0.0.1:{}", server.port).parse().unwrap();
    socket.connect(&address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    write!(
        client,
        "POST {ROUTE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    client.write_all(&body).unwrap();
    let done = |s: &Server| s.json("/stats")["windows"]["total"].as_u64().unwrap();
    server.wait_until("windows are done", MINUTE, |s| done(s) >= 2);
    let mut before = 0;
    server.wait_until("nothing goes on", MINUTE, |s| {
        let now = done(s);
        let still = now == before && s.json("/stats")["queue"]["windows_running"] == 0;
        before = now;
        std::thread::sleep(Duration::from_millis(if still { 0 } else { 500 }));
        still
    });
    assert!(before < 200, "the request never had to wait: {before} windows");
    std::thread::sleep(Duration::from_secs(3));
    let pids = server.engine_pids();
    assert!(!pids.is_empty(), "{}", server.said());
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("transcript.text.done") && !answer.contains("\"error\""),
        "{}",
        &answer[answer.len().saturating_sub(2000)..]
    );
    // And when it has ended, idle time begins.
    server.wait_until("the model is unloaded", MINUTE, |s| s.engine_pids().is_empty());
    assert_eq!(
        post(server.port, &fixture("jfk.wav"), &[]).0,
        200,
        "and loaded again"
    );
}

#[test]
fn a_clip_is_answered_while_longer_recordings_and_batches_are_in_service() {
    let config = "[performance]\nwhisper_threads = 1\nmax_concurrent_requests = 2\n";
    let mut server = scripted(&json!({ "delay_ms": 1000, "text": " Words." }), config).start();
    let port = server.port;
    let long: Vec<TcpStream> = [("priority", "batch"), ("temperature", "0"), ("temperature", "0")]
        .iter()
        .map(|field| post_and_hold(port, &long_clip(20), &[*field]))
        .collect();
    server.wait_until("they are under way", MINUTE, |s| {
        let stats = s.json("/stats");
        stats["requests"]["in_flight"] == 3 && stats["windows"]["total"].as_u64() >= Some(3)
    });
    let began = Instant::now();
    let (status, body) = post(port, &fixture("jfk.wav"), &[]);
    assert_eq!(status, 200, "{body}");
    let stats = server.json("/stats");
    assert_eq!(
        stats["requests"]["in_flight"],
        3,
        "it waited {:?} for a whole recording",
        began.elapsed()
    );
    drop(long);
}

/// The upload would be refused in the end: it is refused before it comes.
#[test]
fn an_upload_is_refused_before_its_body_while_the_model_is_fetched() {
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hub.local_addr().unwrap();
    let mut fetching = server("[whisper]\nmodel_path = \"tiny.en\"\n")
        .env("HF_ENDPOINT", &format!("http://{address}"))
        .unready()
        .start();
    fetching.wait_until("it fetches", MINUTE, |s| {
        s.json("/health")["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("fetching"))
    });
    let mut client = TcpStream::connect(("127.0.0.1", fetching.port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        client,
        "POST {ROUTE} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n\
         Content-Length: 2000000000\r\nExpect: 100-continue\r\n\r\n",
    )
    .unwrap();
    let mut head = [0; 4096];
    let read = client.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let wait = head
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "))
        .and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(wait.is_some_and(|seconds| (3..=60).contains(&seconds)), "{head}");
    let body: Value = fetching.json("/health/ready");
    assert_eq!(body["status"], "starting");
}
