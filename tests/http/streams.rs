//! `stream=true`.

use std::time::Duration;

use serde_json::{Value, json};
use whisper_backend_api::jobs::{JobError, JobEvent};

use crate::support::*;

/// `data:` frames, parsed; `[DONE]` becomes a string.
fn frames(body: &str) -> Vec<Value> {
    let frames = body
        .split("\n\n")
        .filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    frames
        .map(|frame| {
            let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("{frame}"));
            if data == "[DONE]" {
                json!("[DONE]")
            } else {
                serde_json::from_str(data).unwrap()
            }
        })
        .collect()
}

fn deltas(frames: &[Value]) -> String {
    let deltas = frames
        .iter()
        .filter(|frame| frame["type"] == "transcript.text.delta");
    deltas.map(|frame| frame["delta"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn streams_sum_to_the_text() {
    for texts in [
        vec![" Hello,", " world! "],
        vec![" 日本", "語 ", " 👩‍👩‍👧 ", " 한국어。", " "],
        vec![" ", "  only"],
        vec![],
    ] {
        let script = {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            move || hello(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let server = server(
            Scripted {
                script: Box::new(script),
                ..Scripted::default()
            },
            |_| {},
        );
        for (path, model) in [(A, "x"), (B, "gpt-4o-transcribe"), (C, "whisper-1")] {
            let reply = server.post(path, &[("model", model), ("stream", "true")]).await;
            assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
            assert_eq!(reply.header("cache-control"), "no-store");
            let frames = frames(&reply.body);
            assert_eq!(frames.last().unwrap(), "[DONE]");
            let done = &frames[frames.len() - 2];
            assert_eq!(done["type"], "transcript.text.done");
            assert_eq!(done["text"], texts.concat().trim(), "{path}");
            assert_eq!(deltas(&frames), texts.concat().trim(), "{path}");
            assert!(done["usage"]["type"].is_string());
        }
    }
}

/// A runner that sends nothing before the end streams all the same.
#[tokio::test]
async fn streams_of_one_piece() {
    for (format, text) in [
        ("json", "Hello, world!"),
        ("srt", "1\n00:00:00,000 --> 00:00:00,500\nHello,\n\n2\n"),
    ] {
        let script = || vec![hello(&[" Hello,", " world!"]).pop().unwrap()];
        let server = server(
            Scripted {
                script: Box::new(script),
                ..Scripted::default()
            },
            |_| {},
        );
        let reply = server
            .post(C, &[MODEL, ("stream", "true"), ("response_format", format)])
            .await;
        assert!(deltas(&frames(&reply.body)).starts_with(text), "{}", reply.body);
    }
}

#[tokio::test]
async fn streams_in_every_format_carry_that_format() {
    let expected =
        "1\n00:00:00,000 --> 00:00:00,500\nHello,\n\n2\n00:00:01,000 --> 00:00:01,500\nworld!\n\n\n";
    let reply = plain()
        .post(C, &[MODEL, ("stream", "true"), ("response_format", "srt")])
        .await;
    let srt = frames(&reply.body);
    assert_eq!(
        (deltas(&srt).as_str(), srt[srt.len() - 2]["text"].as_str()),
        (expected, Some(expected))
    );
    let reply = plain()
        .post(C, &[MODEL, ("stream", "true"), ("response_format", "vtt")])
        .await;
    assert!(deltas(&frames(&reply.body)).starts_with("WEBVTT\n\n00:00:00.000 --> "));
    let fields = [
        MODEL,
        ("stream", "true"),
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ];
    let events = frames(&plain().post(C, &fields).await.body);
    assert_eq!(deltas(&events), "Hello, world!");
    assert_eq!(events[events.len() - 2]["verbose"]["words"][1]["word"], "world");
    // Each delta carries its segment, so that whoever reads along has times before the end.
    assert_eq!(events[0]["segment"]["words"][0]["word"], "Hello");
    assert_eq!(
        events[0]["segment"]["words"][0]["start"],
        events[events.len() - 2]["verbose"]["words"][0]["start"]
    );
    let fields = [MODEL, ("stream", "true"), ("include[]", "logprobs")];
    let events = frames(&plain().post(C, &fields).await.body);
    assert_eq!(events[0]["logprobs"][0]["token"], " Hello,");
    assert_eq!(events[events.len() - 2]["logprobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn whisper_1_does_not_stream_when_the_service_is_imitated() {
    let server = server(Scripted::default(), |config| {
        config.server.stream_whisper_1 = false;
    });
    let reply = server
        .post(C, &[("model", "whisper-1"), ("stream", "true")])
        .await;
    assert_eq!(reply.header("content-type"), "application/json");
    let reply = server.post(C, &[("model", "base"), ("stream", "true")]).await;
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
}

#[tokio::test]
async fn slow_streams_are_kept_alive_and_late_failures_are_frames() {
    let script = || {
        let mut events = hello(&[" Hello,"]);
        events.pop();
        events.push(Err(JobError::Failed {
            detail: "engine 7 died".to_owned(),
        }));
        events
    };
    let pause = Duration::from_millis(200);
    let server = server(
        Scripted {
            script: Box::new(script),
            pause,
            ..Scripted::default()
        },
        |_| {},
    );
    let reply = server.post(C, &[MODEL, ("stream", "true")]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.starts_with(": "), "{}", reply.body);
    let frames = frames(&reply.body);
    assert_eq!(frames[0]["delta"], "Hello,");
    let error = &frames.last().unwrap()["error"];
    assert_eq!(
        (&error["type"], error["message"].is_string()),
        (&json!("server_error"), true)
    );
    assert!(!reply.body.contains("[DONE]") && !reply.body.contains("engine 7"));
}

#[tokio::test]
async fn laid_out_subtitles_are_the_same_in_a_stream_and_in_a_body() {
    let said = [
        " The first thing that you notice when you walk into the old harbour is the smell of salt and of tar.",
        " Nobody comes here in winter.",
    ];
    let server = server(
        Scripted {
            script: Box::new(move || windows(&said)),
            ..Scripted::default()
        },
        |_| {},
    );
    for format in ["srt", "vtt"] {
        let fields = [
            ("response_format", format),
            ("subtitle_style", "netflix"),
            ("max_line_width", "30"),
        ];
        let whole = server.post(A, &fields).await.body;
        let mut streamed = fields.to_vec();
        streamed.push(("stream", "true"));
        let frames = server.post(A, &streamed).await.body;
        let mut deltas = String::new();
        let mut done = String::new();
        for data in frames.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(data) else {
                continue;
            };
            deltas.push_str(event["delta"].as_str().unwrap_or_default());
            done.push_str(event["text"].as_str().unwrap_or_default());
        }
        assert_eq!(deltas, whole);
        assert_eq!(done, whole);
        let lines = whole
            .lines()
            .filter(|line| line.chars().any(char::is_alphabetic) && !line.starts_with("WEBVTT"));
        for line in lines.filter(|line| !line.starts_with("NOTE")) {
            assert!(line.len() <= 30, "{line}");
        }
        assert!(
            server
                .jobs
                .seen
                .lock()
                .unwrap()
                .iter()
                .all(|(options, ..)| options.word_times)
        );
    }
    let refused = server.post(A, &[("subtitle_style", "netflix")]).await;
    assert_eq!(refused.error().2, "subtitle_style");
}

/// As [`hello`], each text with its window's place.
fn windows(texts: &[&str]) -> Events {
    let mut events = hello(texts);
    for event in events.iter_mut().flatten() {
        let segments = match event {
            JobEvent::Segments(segments) => segments,
            JobEvent::Finished(transcript) => &mut transcript.segments,
        };
        for segment in segments {
            segment.seek = segment.id * 100;
        }
    }
    events
}
