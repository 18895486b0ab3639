//! Engines that end, hang and speak nonsense under requests: every answer is right all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::transcripts::words;
use super::support::{JFK, Server, fixture, form, is_running, kill, long_clip, post, scripted, with_model};

const MINUTE: Duration = Duration::from_secs(60);

/// Children of the server that run `kind`.
fn children(server: &Server, kind: &str) -> Vec<i64> {
    let parent = i64::from(server.child.id());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            after.split_whitespace().nth(1) == Some(&parent.to_string())
                && arguments.split(|b| *b == 0).nth(1) == Some(kind.as_bytes())
        })
        .collect()
}

/// Seven clean requests and one with the marker, side by side; their statuses, the marked one last.
fn seven_and(server: &Server, marker: &str) -> Vec<u16> {
    let port = server.port;
    let mut prompts = vec!["clean".to_owned(); 7];
    prompts.push(marker.to_owned());
    let requests: Vec<_> = prompts
        .into_iter()
        .map(|prompt| {
            std::thread::spawn(move || {
                post(
                    port,
                    &fixture("jfk.wav"),
                    &[("language", "en"), ("prompt", &prompt)],
                )
                .0
            })
        })
        .collect();
    requests
        .into_iter()
        .map(|request| request.join().unwrap())
        .collect()
}

#[test]
fn a_window_that_ends_or_hangs_every_engine_costs_its_own_request_alone() {
    for action in ["abort", "fault", "hang"] {
        let script = json!({ "delay_ms": 200, "on": { "poison": { "action": action, "delay_ms": 50 } } });
        let config = "[performance]\nwhisper_threads = 4\nslots = 4\nwatchdog_min_seconds = 0.2\n";
        let server = scripted(&script, config).start();
        let statuses = seven_and(&server, "poison");
        assert_eq!(
            statuses[..7],
            [200; 7],
            "{action}: {statuses:?}\n{}",
            server.said()
        );
        assert_eq!(statuses[7], 500, "{action}: {}", server.said());
        let stats = server.json("/stats");
        assert!(stats["windows"]["charged"].as_u64() <= Some(2), "{stats}");
        // Each neighbour once at most, and the window itself.
        assert!(stats["windows"]["retries"].as_u64() <= Some(7 + 2), "{stats}");
    }
}

#[test]
fn an_engine_that_speaks_nonsense_or_stops_in_the_middle_of_a_frame_is_replaced() {
    for action in ["half_frame", "garbage", "exit"] {
        let script = json!({ "action": action, "once": "$FOLDER/once", "text": " All is well." });
        let server = scripted(&script, "").start();
        assert!(
            server
                .transcript(&fixture("jfk.wav"), &[])
                .contains("All is well."),
            "{action}"
        );
        assert_eq!(server.json("/stats")["engine"]["restarts"], 1, "{action}");
    }
}

#[test]
fn a_signal_that_somebody_sends_is_no_windows_fault() {
    let mut server = scripted(&json!({ "delay_ms": 1500, "text": " All is well." }), "").start();
    for signal in ["SEGV", "ABRT", "TERM", "KILL"] {
        let port = server.port;
        let request = std::thread::spawn(move || post(port, &fixture("jfk.wav"), &[]));
        server.wait_until("the window runs", MINUTE, |s| {
            s.json("/stats")["queue"]["windows_running"] == 1
        });
        kill(server.engine_pids()[0], signal);
        let (status, body) = request.join().unwrap();
        assert_eq!(status, 200, "{signal}: {body}");
    }
    let stats = server.json("/stats");
    assert_eq!(stats["engine"]["outside_deaths"], 4, "{stats}\n{}", server.said());
    assert_eq!(
        (&stats["windows"]["charged"], &stats["windows"]["suspects"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn an_engine_that_somebody_stopped_is_replaced_within_seconds() {
    let mut server = scripted(&json!({ "delay_ms": 1500, "text": " All is well." }), "").start();
    let port = server.port;
    let request = std::thread::spawn(move || post(port, &fixture("jfk.wav"), &[]));
    server.wait_until("the window runs", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"] == 1
    });
    let began = Instant::now();
    kill(server.engine_pids()[0], "STOP");
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(
        began.elapsed() < MINUTE,
        "the watchdog's time, not the process's silence"
    );
    assert_eq!(server.json("/stats")["windows"]["charged"], 0);
}

/// Processor time of a process in seconds.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

#[test]
fn requests_that_wait_for_a_restart_use_no_processor_time() {
    let script = json!({ "start_delay_ms": 6000, "text": " All is well." });
    let mut server = scripted(&script, "").start();
    kill(server.engine_pids()[0], "KILL");
    server.wait_until("the engine restarts", MINUTE, |s| {
        s.json("/health")["status"] == "starting"
    });
    let port = server.port;
    let requests: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || post(port, &fixture("jfk.wav"), &[("language", "en")])))
        .collect();
    server.wait_until("all wait", MINUTE, |s| {
        s.json("/stats")["requests"]["in_flight"] == 4
    });
    std::thread::sleep(Duration::from_millis(700));
    let before = processor_seconds(server.child.id());
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_seconds(server.child.id()) - before;
    assert!(used < 0.8, "{used} s of processor time in 2 s of waiting");
    for request in requests {
        let (status, body) = request.join().unwrap();
        assert_eq!(status, 200, "{body}");
    }
}

#[test]
fn an_engine_that_hangs_while_it_starts_does_not_outlive_a_killed_server() {
    let mut server = scripted(&json!({ "start": "hang" }), "").unready().start();
    server.wait_until("an engine starts", MINUTE, |s| !children(s, "engine").is_empty());
    let engine = children(&server, "engine")[0];
    server.signal("KILL");
    server.wait_exit(MINUTE);
    let began = Instant::now();
    while is_running(engine) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "engine {engine} still runs"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_name_of_a_client_never_reaches_a_file_outside_the_model_folder() {
    let server = scripted(&json!({}), "").start();
    let outside = super::support::stand_in::model().display().to_string();
    for name in [
        outside.as_str(),
        "../models/ggml-tiny.bin",
        "config.toml",
        "./x.bin",
    ] {
        let (content_type, body) = form(&fixture("jfk.wav"), &[("model", name)]);
        let answer = ureq::post(format!(
            "http://127.0.0.1:{}/v1/audio/transcriptions",
            server.port
        ))
        .header("content-type", content_type)
        .send(&body[..]);
        assert!(answer.is_ok(), "served by the default model: {name}: {answer:?}");
    }
    let loaded = server.json("/models")["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["loaded"] == true)
        .count();
    assert_eq!(loaded, 1);
}

/// The short form of `bench/faults.py`: a fault every two seconds under four clients.
#[test]
fn a_minute_of_random_faults_costs_nobody_a_word() {
    let server = Arc::new(with_model("tiny.en", "").start());
    let over = Arc::new(AtomicBool::new(false));
    let faults = {
        let (server, over) = (server.clone(), over.clone());
        std::thread::spawn(move || {
            let signals = ["KILL", "STOP", "SEGV", "ABRT"];
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(2));
                for kind in ["engine", "decode"] {
                    // Every other fault for each kind of child, in a different order.
                    let turn = if kind == "engine" { sent } else { sent / 2 };
                    if (kind == "engine") == (sent % 2 == 0)
                        && let Some(pid) = children(&server, kind).first()
                    {
                        let _ = std::process::Command::new("kill")
                            .args([&format!("-{}", signals[turn / 2 % 4]), &pid.to_string()])
                            .stderr(std::process::Stdio::null())
                            .status();
                    }
                }
                sent += 1;
            }
            sent
        })
    };
    let began = Instant::now();
    let clients: Vec<_> = (0..4_usize)
        .map(|client| {
            let port = server.port;
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                let mut asked = 0;
                while began.elapsed() < Duration::from_secs(50) {
                    let times = if (client + asked) % 4 == 3 { 3 } else { 1 };
                    let (status, body) = post(port, &long_clip(times), &[("language", "en")]);
                    let text = serde_json::from_str::<Value>(&body)
                        .ok()
                        .and_then(|v| Some(v["text"].as_str()?.to_owned()))
                        .unwrap_or_default();
                    let whole = text.matches("fellow Americans").count() == times
                        && (times > 1 || words(&text) == words(JFK));
                    if status != 200 || !whole {
                        wrong.push(format!("{status} {body}"));
                    }
                    asked += 1;
                }
                (asked, wrong)
            })
        })
        .collect();
    let mut asked = 0;
    let mut wrong = Vec::new();
    for client in clients {
        let (count, failures) = client.join().unwrap();
        asked += count;
        wrong.extend(failures);
    }
    over.store(true, Ordering::Relaxed);
    let sent = faults.join().unwrap();
    let stats = server.json("/stats");
    assert!(
        wrong.is_empty(),
        "{} of {asked} after {sent} faults: {wrong:?}\n{stats}",
        wrong.len()
    );
    assert!(
        asked >= 8 && stats["engine"]["restarts"].as_u64() >= Some(3),
        "{asked} requests: {stats}"
    );
}
