//! Azure Speech's fast transcription: its form, its answer, its errors.

use axum::body::Body;
use axum::http::Request;
use whisper_backend_api::transcript::Task;

use crate::support::*;

const PATH: &str = "/speechtotext/transcriptions:transcribe?api-version=2025-10-15";

fn request(path: &str, definition: Option<&str>, audio: Option<&[u8]>) -> Request<Body> {
    let fields: Vec<(&str, &str)> = definition.iter().map(|text| ("definition", *text)).collect();
    let mut body = form(&fields, None);
    if let Some(audio) = audio {
        body.truncate(body.len() - BOUNDARY.len() - "----\r\n".len());
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"audio\"; filename=\"a.wav\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(audio);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    }
    multipart(path, body)
}

#[tokio::test]
async fn a_recording_and_a_definition_give_phrases() {
    let server = plain();
    let definition = r#"{"locales":["en-GB"],"phraseList":{"phrases":["Contoso"],"biasingWeight":2}}"#;
    let reply = server
        .send(request(PATH, Some(definition), Some(b"RIFF....WAVE")))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.json();
    assert_eq!(body["durationMilliseconds"], 1700);
    assert_eq!(body["combinedPhrases"][0]["text"], "Hello, world!");
    assert_eq!(body["phrases"][0]["locale"], "en-GB");
    assert_eq!(body["phrases"][0]["words"][0]["text"], "Hello,");
    assert_eq!(reply.header("content-type"), "application/json");
    assert!(!reply.header("apim-request-id").is_empty());
    let (options, bytes, name) = server.jobs.seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        (options.task, options.language.as_deref()),
        (Task::Transcribe, Some("en"))
    );
    assert_eq!(
        (options.keywords, options.keyword_weight),
        (vec!["Contoso".to_owned()], Some(2.0))
    );
    assert_eq!((bytes, name.as_deref()), (12, Some("a.wav")));
}

#[tokio::test]
async fn no_definition_is_needed_and_a_missing_recording_is_named() {
    let server = plain();
    assert_eq!(
        server
            .send(request(PATH, None, Some(b"RIFF....WAVE")))
            .await
            .status,
        200
    );
    let reply = server.send(request(PATH, Some("{}"), None)).await;
    assert_eq!(reply.status, 400);
    let body = reply.json();
    assert_eq!(
        (&body["code"], &body["target"]),
        (&"InvalidRequest".into(), &"audio".into())
    );
    assert_eq!(body["innerError"]["code"], "EmptyRequest");
}

#[tokio::test]
async fn errors_have_the_services_shape() {
    let server = plain();
    for (definition, code, target) in [
        (r#"{"locales":["xx-XX"]}"#, "InvalidLocale", "locales"),
        (r#"{"channels":[0,0]}"#, "InvalidChannels", "channels"),
        (r#"{"locales":"en-US"}"#, "InvalidLocale", "locales"),
        ("not json", "InvalidPayload", "definition"),
        (
            r#"{"diarization":{"enabled":true}}"#,
            "InvalidParameterValue",
            "diarization",
        ),
    ] {
        let reply = server
            .send(request(PATH, Some(definition), Some(b"RIFF....WAVE")))
            .await;
        assert_eq!(reply.status, 400, "{definition}");
        let body = reply.json();
        assert_eq!(body["code"], "InvalidRequest", "{definition}");
        assert_eq!(body["target"], target, "{definition}");
        assert_eq!(body["innerError"]["code"], code, "{definition}");
        assert_eq!(body["message"], body["innerError"]["message"]);
        assert_eq!(reply.header("content-type"), "application/json");
    }
    let url = r#"{"audioUrl":"https://example.org/x.wav"}"#;
    let reply = server.send(request(PATH, Some(url), None)).await;
    assert_eq!(reply.json()["target"], "audioUrl");
}

#[tokio::test]
async fn the_gateways_errors_are_azures() {
    let server = locked();
    let reply = server.send(request(PATH, None, Some(b"x"))).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["error"]["code"].as_str()),
        (401, Some("401"))
    );
    let mut right = request(PATH, None, Some(b"RIFF....WAVE"));
    right
        .headers_mut()
        .insert("ocp-apim-subscription-key", "secret-key".parse().unwrap());
    assert_eq!(server.send(right).await.status, 200);
    let old = "/speechtotext/transcriptions:transcribe?api-version=v3.2";
    let reply = plain().send(request(old, None, Some(b"x"))).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["error"]["code"].as_str()),
        (404, Some("404"))
    );
}
