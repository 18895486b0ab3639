//! What whoever runs the server sees and does: numbers, keys, other settings while it runs.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use whisper_backend_api::keys::digest_of;

use super::support::{Server, fixture, form, long_clip, post_and_hold, scripted, stand_in};

const MINUTE: Duration = Duration::from_secs(60);

fn metrics(server: &Server) -> String {
    server.try_get("/metrics").unwrap().1
}

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("{series} is not there:\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The same of a series that counts.
fn count(text: &str, series: &str) -> u64 {
    value(text, series).round() as u64
}

#[test]
fn every_series_is_there_from_the_start_and_equals_the_clients_own_count() {
    let server = scripted(&json!({ "delay_ms": 20 }), "").start();
    let before = metrics(&server);
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    let names = series(&before);
    assert!(names.len() < 300, "{} series", names.len());
    let helped = before.lines().filter(|line| line.starts_with("# HELP ")).count();
    let typed = before.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(helped, typed);
    let ok = "whisper_requests_total{route=\"transcriptions\",outcome=\"ok\"}";
    let rejected = "whisper_requests_total{route=\"transcriptions\",outcome=\"rejected\"}";
    for zero in [
        ok,
        rejected,
        "whisper_requests_total{route=\"realtime\",outcome=\"cancelled\"}",
        "whisper_queue_wait_seconds_count",
        "whisper_window_seconds_count{stage=\"infer\"}",
        "whisper_second_looks_total{reason=\"language\"}",
        "whisper_engine_restarts_total{cause=\"own\"}",
        "whisper_fallback_total",
        "whisper_realtime_sessions",
    ] {
        assert!(value(&before, zero).abs() < 1e-9, "{zero}");
    }
    assert!((value(&before, "whisper_ready") - 1.0).abs() < 1e-9);

    for turn in 0..12 {
        let fields: &[(&str, &str)] = if turn % 3 == 2 {
            &[("response_format", "nonsense")]
        } else {
            &[]
        };
        let status = server.post(&fixture("jfk.wav"), fields).0;
        assert_eq!(status, if turn % 3 == 2 { 400 } else { 200 });
    }
    let after = metrics(&server);
    assert_eq!(series(&after), names, "no series appears later");
    assert_eq!((count(&after, ok), count(&after, rejected)), (8, 4));
    assert_eq!(count(&after, "whisper_request_seconds_count"), 12);
    assert_eq!(count(&after, "whisper_queue_wait_seconds_count"), 8);
    assert_eq!(count(&after, "whisper_windows_total"), 8);
    assert_eq!(count(&after, "whisper_window_seconds_count{stage=\"wait\"}"), 8);
    assert!((value(&after, "whisper_audio_seconds_total") - 8.0 * 11.0).abs() < 0.5);
    assert_eq!(server.json("/stats")["answers"]["client_errors"], 4);
}

#[test]
fn the_queue_is_seen_while_it_waits_and_a_client_that_leaves_is_counted() {
    let config = "[performance]\nwhisper_threads = 1\nslots = 1\n";
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), config).start();
    let one = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("one runs", MINUTE, |s| {
        value(&metrics(s), "whisper_windows_running") > 0.0
    });
    let two = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("the other waits", MINUTE, |s| {
        let text = metrics(s);
        value(&text, "whisper_queue_requests") > 0.0 && value(&text, "whisper_queue_oldest_seconds") > 0.3
    });
    drop((one, two));
    server.wait_until("both have left", MINUTE, |s| {
        let text = metrics(s);
        value(&text, "whisper_queue_requests") < 1.0
            && value(
                &text,
                "whisper_requests_total{route=\"transcriptions\",outcome=\"cancelled\"}",
            ) > 1.0
    });
}

#[test]
fn metrics_may_have_a_port_of_their_own_that_asks_for_no_key() {
    let port = super::support::free_port();
    let config = format!("[server]\napi_keys = [\"secret\"]\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let server = scripted(&json!({}), &config).start();
    assert_eq!(server.try_get("/metrics").unwrap().0, 401);
    let text = ureq::get(format!("http://127.0.0.1:{port}/metrics"))
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    assert!((value(&text, "whisper_keys") - 1.0).abs() < 1e-9);
    let other = ureq::get(format!("http://127.0.0.1:{port}/stats")).call();
    assert!(other.is_err(), "nothing else is answered there");
}

fn status_with_key(server: &Server, key: &str, path: &str) -> (u16, String) {
    let (content_type, body) = form(&fixture("jfk.wav"), &[("model", "whisper-1")]);
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: a\r\napi-key: {key}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[test]
fn sighup_takes_keys_limits_deployments_and_a_model_and_drops_nothing() {
    let path = "/v1/audio/transcriptions";
    let config =
        "[server]\napi_keys = [\"old\"]\nstrict_deployments = true\n[whisper]\nidle_unload_seconds = 0\n";
    let mut server = scripted(&json!({ "delay_ms": 1500 }), config).start();
    let old_model = server.json("/health")["model"].clone();
    let folder = server.folder().to_owned();
    std::fs::create_dir_all(folder.join("models")).unwrap();
    stand_in::write(&folder.join("models/ggml-other.bin"));

    // A request under the old settings is inside while they change.
    let (content_type, body) = form(&long_clip(6), &[("model", old_model.as_str().unwrap())]);
    let mut running = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    write!(
        running,
        "POST {path} HTTP/1.1\r\nHost: a\r\napi-key: old\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    running.write_all(&body).unwrap();
    server.wait_until("it runs", MINUTE, |s| s.said().contains("Transcription starts"));
    std::fs::write(
        folder.join("config.local.toml"),
        format!(
            "[server]\napi_keys = []\nport = 1\n[deployments]\nmeetings = \"models/ggml-other.bin\"\n\
             [[keys]]\nname = \"app\"\nsha256 = \"{}\"\nrequests_per_minute = 1\n",
            digest_of("new")
        ),
    )
    .unwrap();
    server.signal("HUP");
    server.wait_until("the settings are read", MINUTE, |s| {
        s.said().contains("settings read again")
    });
    assert!(
        server.said().contains("server.port"),
        "what needs a restart is said: {}",
        server.said()
    );

    assert_eq!(status_with_key(&server, "old", path).0, 401);
    let meetings = "/openai/deployments/meetings/audio/transcriptions";
    let (status, answer) = status_with_key(&server, "new", meetings);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(status_with_key(&server, "new", meetings).0, 429);
    let mut answer = String::new();
    running.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "the request inside is answered: {answer}"
    );

    // A broken file changes nothing.
    std::fs::write(folder.join("config.local.toml"), "[server]\nprot = 1\n").unwrap();
    server.signal("HUP");
    server.wait_until("it is refused", MINUTE, |s| {
        s.said().contains("stay as they were")
    });
    assert_eq!(status_with_key(&server, "old", path).0, 401);
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn sighup_swaps_the_model_without_a_moment_without_one() {
    let mut server = scripted(&json!({ "delay_ms": 50, "start_delay_ms": 500 }), "")
        .without_model()
        .start();
    let folder = server.folder().to_owned();
    let mut wait_for = |name: &str| {
        stand_in::write(&folder.join(format!("models/ggml-{name}.bin")));
        std::fs::write(
            folder.join("config.local.toml"),
            format!("[whisper]\nmodel_path = \"models/ggml-{name}.bin\"\n"),
        )
        .unwrap();
        server.signal("HUP");
        let mut served = 0;
        server.wait_until("the other model serves", MINUTE, |s| {
            // Somebody is served all the time.
            assert_eq!(s.post(&fixture("jfk.wav"), &[]).0, 200, "{}", s.said());
            served += 1;
            s.json("/health")["model"] == name
        });
        assert!(served > 1, "the old one served while the new one loaded");
        assert_eq!(server.json("/health")["status"], "ok");
    };
    wait_for("second");
    wait_for("third");
}

#[test]
fn log_lines_are_objects_with_the_callers_trace() {
    let mut server = scripted(&json!({}), "[log]\nformat = \"json\"\n").start();
    let (content_type, body) = form(&fixture("jfk.wav"), &[]);
    ureq::post(format!(
        "http://127.0.0.1:{}/openai/deployments/a/audio/transcriptions",
        server.port
    ))
    .header("content-type", content_type)
    .header(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    .send(&body[..])
    .unwrap();
    server.wait_until("the answer is logged", MINUTE, |s| s.said().contains("answered"));
    let said = server.said();
    let line = said
        .lines()
        .find(|line| line.contains("4bf92f35"))
        .unwrap_or_else(|| panic!("{said}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(line["span"]["parent_id"], "00f067aa0ba902b7");
    assert_eq!(line["level"], "INFO");
}

#[test]
fn commands_make_keys_a_manual_and_completions() {
    let run = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (good, key, lines) = run(&["keys", "new", "app"]);
    assert!(good && key.trim().len() > 60, "{key}");
    assert!(
        lines.contains(&digest_of(key.trim())) && lines.contains("name = \"app\""),
        "{lines}"
    );
    assert!(!lines.contains(key.trim()), "the key itself is on stdout alone");
    assert!(!run(&["keys", "new", "two words"]).0);
    let (good, page, _) = run(&["man"]);
    assert!(
        good && page.contains(".TH WhisperBackendAPI") && page.contains("check\\-config"),
        "{page}"
    );
    assert!(!page.contains("with\\-ffmpeg"), "hidden commands stay hidden");
    let (good, script, _) = run(&["completions", "bash"]);
    assert!(good && script.contains("complete -F"), "{script}");
}
