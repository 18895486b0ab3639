//! Decoder children of a running server: killed, left alone by clients, and outlived by nobody.

use std::time::Duration;

use serde_json::Value;

use super::support::{JFK, Server, fixture, is_running, kill, long_clip, post, post_and_hold, with_model};
use super::words;

const MINUTE: Duration = Duration::from_secs(60);

/// Its decoders, those that wait and those that work.
fn decoders(server: &Server) -> Vec<i64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let all: Vec<String> = lists.collect();
    all.iter()
        .flat_map(|list| list.split_whitespace())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.ends_with("\0decode\0"))
        })
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// A decoder that has a recording holds more than its three streams and the socket.
fn is_busy(pid: i64) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let files = limits.lines().find(|line| line.starts_with("Max file size"));
    files.is_some_and(|line| !line.contains("unlimited"))
}

#[test]
fn a_decoder_killed_in_the_middle_of_a_request_costs_nobody_a_word() {
    let mut server = with_model("tiny.en", "").start();
    let port = server.port;
    // Longer than what is decoded ahead of the engine.
    let recording = long_clip(24);
    let undisturbed = server.transcript(&recording, &[]);
    let before = server.json("/stats")["windows"]["total"].as_u64().unwrap();
    let request = std::thread::spawn(move || post(port, &recording, &[]));
    for kills in 1..=3_u64 {
        server.wait_until("a decoder works", MINUTE, |s| {
            s.json("/stats")["windows"]["total"].as_u64() >= Some(before + kills)
                && decoders(s).into_iter().any(is_busy)
        });
        for pid in decoders(&server).into_iter().filter(|pid| is_busy(*pid)) {
            kill(pid, "KILL");
        }
    }
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(body, undisturbed);
    assert!(server.said().contains("a decoder was lost"), "{}", server.said());
}

#[test]
fn a_client_that_leaves_takes_its_decoder_with_it() {
    let mut server = with_model("tiny.en", "").start();
    let connection = post_and_hold(server.port, &long_clip(60), &[]);
    server.wait_until("a decoder works", MINUTE, |s| {
        decoders(s).into_iter().any(is_busy)
    });
    let busy: Vec<i64> = decoders(&server)
        .into_iter()
        .filter(|pid| is_busy(*pid))
        .collect();
    drop(connection);
    server.wait_until("it is gone", MINUTE, |_| !busy.iter().any(|pid| is_running(*pid)));
}

#[test]
fn no_decoder_outlives_a_server_that_is_killed() {
    let mut server = with_model("tiny.en", "").start();
    let _connection = post_and_hold(server.port, &long_clip(60), &[]);
    server.wait_until("a decoder works", MINUTE, |s| {
        decoders(s).into_iter().any(is_busy)
    });
    let all = decoders(&server);
    assert!(all.len() >= 2, "none stands ready: {all:?}");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let began = std::time::Instant::now();
    while all.iter().any(|pid| is_running(*pid)) {
        assert!(began.elapsed() < MINUTE, "orphans: {all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// B1: this ended the server, and with it every request in it.
#[test]
fn boxes_nested_beyond_all_measure_cost_only_their_sender_an_answer() {
    let mut boxes: Vec<u8> = b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom".to_vec();
    let depth = 30_000_u32;
    for (kind, inside) in [(b"moov", depth * 8 + 8), (b"trak", depth * 8)] {
        boxes.extend((inside + 8).to_be_bytes());
        boxes.extend(kind);
    }
    for level in (1..=depth).rev() {
        boxes.extend((level * 8).to_be_bytes());
        boxes.extend(b"mdia");
    }
    let server = with_model("tiny.en", "").start();
    let (status, body) = server.post(&boxes, &[]);
    assert_eq!(status, 400, "{body}");
    let body: Value = serde_json::from_str(&server.transcript(&fixture("jfk.wav"), &[])).unwrap();
    assert_eq!(words(body["text"].as_str().unwrap()), words(JFK));
}
