//! Answers that hold a transcript: formats, usage, headers, and what the log says of them.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn five_formats_in_three_dialects() {
    let plain_text = "text/plain; charset=utf-8";
    for path in [A, B, C] {
        for (format, content_type, body) in [
            (
                "json",
                "application/json",
                r#"{"text":"Hello, world!","usage":{"type":"duration","seconds":2}}"#,
            ),
            ("text", plain_text, "Hello, world!\n"),
            (
                "srt",
                plain_text,
                "1\n00:00:00,000 --> 00:00:00,500\nHello,\n\n2\n00:00:01,000 --> 00:00:01,500\nworld!\n\n\n",
            ),
            (
                "vtt",
                plain_text,
                "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nHello,\n\n00:00:01.000 --> 00:00:01.500\nworld!\n\n",
            ),
        ] {
            let mut request = upload(path, &[MODEL, ("response_format", format)]);
            request
                .headers_mut()
                .insert("accept", "application/json".parse().unwrap());
            let reply = plain().send(request).await;
            assert_eq!(reply.header("content-type"), content_type, "{path} {format}");
            assert_eq!(reply.body, body, "{path} {format}");
        }
        for (granularities, segments, words) in [
            (&[][..], true, false),
            (&["segment"][..], true, false),
            (&["word"][..], false, true),
            (&["word", "segment"][..], true, true),
        ] {
            let server = plain();
            let mut fields = vec![MODEL, ("response_format", "verbose_json")];
            fields.extend(
                granularities
                    .iter()
                    .map(|value| ("timestamp_granularities[]", *value)),
            );
            let body = server.post(path, &fields).await.json();
            assert_eq!(body.get("segments").is_some(), segments, "{granularities:?}");
            assert_eq!(body.get("words").is_some(), words, "{granularities:?}");
            assert_eq!(server.jobs.seen.lock().unwrap()[0].0.word_times, words);
            assert_eq!(body["language"], "english");
        }
    }
}

#[tokio::test]
async fn names_of_the_service_get_their_usage_and_all_that_can_be_served() {
    for (model, kind) in [
        ("whisper-1", "duration"),
        ("gpt-transcribe", "duration"),
        ("gpt-4o-transcribe", "tokens"),
        ("gpt-4o-mini-transcribe-2025-12-15", "tokens"),
        ("gpt-4o-transcribe-diarize", "tokens"),
    ] {
        for format in ["json", "verbose_json"] {
            let reply = plain()
                .post(C, &[("model", model), ("response_format", format)])
                .await;
            assert_eq!(reply.status, 200, "{model} {format}");
            assert_eq!(reply.json()["usage"]["type"], kind, "{model} {format}");
        }
    }
    let reply = plain()
        .post(C, &[("model", "gpt-4o-transcribe"), ("include[]", "logprobs")])
        .await;
    let logprobs = &reply.json()["logprobs"];
    assert_eq!(
        logprobs[1],
        json!({"token": " world!", "logprob": -0.5, "bytes": b" world!".to_vec()})
    );
}

#[tokio::test]
async fn headers_of_each_dialect() {
    for (path, azure) in [(A, true), (B, true), (C, false)] {
        let mut request = upload(path, &[MODEL]);
        request
            .headers_mut()
            .insert("x-ms-client-request-id", "from-the-client".parse().unwrap());
        let reply = plain().send(request).await;
        assert!(!reply.header("x-request-id").is_empty());
        assert_eq!(
            reply.header("apim-request-id") == reply.header("x-request-id"),
            azure
        );
        assert_eq!(
            reply.header("x-ms-client-request-id"),
            if azure { "from-the-client" } else { "" }
        );
        assert_eq!(
            reply.header("openai-version"),
            if azure { "" } else { "2020-10-01" }
        );
        assert_eq!(
            reply.header("openai-processing-ms").parse::<u64>().is_ok(),
            !azure
        );
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_holds_the_request_but_nothing_private() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For the whole program: a subscriber of one thread misses what other tests' threads have met before it.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let reply = locked()
        .send({
            let mut request = upload(A, &[("prompt", "private prompt"), ("filename", "private.wav")]);
            request
                .headers_mut()
                .insert("api-key", "secret-key".parse().unwrap());
            request
        })
        .await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains(reply.header("x-request-id")), "{text}");
    assert!(text.contains("status=200"), "{text}");
    for private in ["private", "secret-key", "Hello", "upload\""] {
        assert!(!text.contains(private), "{private} in {text}");
    }
}
