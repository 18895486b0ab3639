//! Every failure and its status, code, parameter and advice.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use whisper_backend_api::audio::AudioError;
use whisper_backend_api::jobs::JobError;
use whisper_backend_api::keys::Client;
use whisper_backend_api::serving::ServingError;

use crate::support::*;

/// One row: the job's failure, then status, type, param, code, and the message's start for A and for C.
#[tokio::test]
async fn every_failure_of_a_job_has_its_answer() {
    type Row = (
        fn() -> JobError,
        u16,
        &'static str,
        Option<&'static str>,
        [Option<&'static str>; 2],
        &'static str,
    );
    let format = "Unrecognized file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', 'webm']";
    let rows: Vec<Row> = vec![
        (
            || AudioError::Unrecognized.into(),
            400,
            "invalid_request_error",
            None,
            [None, None],
            format,
        ),
        (
            || {
                AudioError::NoAudioTrack {
                    container: "mp4".to_owned(),
                }
                .into()
            },
            400,
            "invalid_request_error",
            None,
            [None, None],
            "Invalid file format.",
        ),
        (
            || {
                AudioError::UnsupportedCodec {
                    container: "mp4".to_owned(),
                    codec: "ac3".to_owned(),
                }
                .into()
            },
            400,
            "invalid_request_error",
            None,
            [None, None],
            "Invalid file format.",
        ),
        (
            || AudioError::TooShort { seconds: 0.05 }.into(),
            400,
            "invalid_request_error",
            Some("file"),
            [Some("audio_too_short"); 2],
            "Audio file is too short. Minimum audio length is 0.1 seconds.",
        ),
        (
            || AudioError::Empty.into(),
            400,
            "invalid_request_error",
            Some("file"),
            [Some("audio_too_short"); 2],
            "Audio file is too short.",
        ),
        (
            || AudioError::TooLong { limit_seconds: 10 }.into(),
            400,
            "invalid_request_error",
            None,
            [Some("invalid_value"); 2],
            "audio duration is longer than 10 seconds",
        ),
        (
            || {
                AudioError::Decoder {
                    detail: "it takes too much processor time".to_owned(),
                }
                .into()
            },
            400,
            "invalid_request_error",
            Some("file"),
            [Some("invalid_value"); 2],
            "the recording cannot be decoded: it takes too much processor time",
        ),
        (
            || {
                AudioError::TooLarge {
                    limit_bytes: 5,
                    seen_bytes: 6,
                }
                .into()
            },
            413,
            "server_error",
            None,
            [None, None],
            "Maximum content size limit (5) exceeded (6 bytes read)",
        ),
        (
            || AudioError::Io(std::io::Error::other("disk /dev/x")).into(),
            500,
            "server_error",
            None,
            [Some("InternalServerError"), None],
            "The server could not keep the upload.",
        ),
        (
            || AudioError::StorageFull.into(),
            503,
            "service_unavailable_error",
            None,
            [Some("ServiceUnavailable"), Some("storage_full")],
            "The server has no room to keep the upload now.",
        ),
        (
            || JobError::Deadline { seconds: 3600 },
            503,
            "service_unavailable_error",
            None,
            [Some("ServiceUnavailable"), Some("model_unavailable")],
            "No transcription is possible now: the model was not ready for 3600 s",
        ),
        (
            // A panic of our own code is no damaged file.
            || JobError::Internal {
                detail: "engine 7: panic".to_owned(),
            },
            500,
            "server_error",
            None,
            [Some("InternalServerError"), None],
            "The server had an error while processing your request.",
        ),
        (
            || JobError::Failed {
                detail: "engine 7 died".to_owned(),
            },
            500,
            "server_error",
            None,
            [Some("InternalServerError"), None],
            "The server had an error while processing your request.",
        ),
        (
            || {
                JobError::Serving(ServingError::Unavailable {
                    reason: "no model is installed".to_owned(),
                })
            },
            503,
            "service_unavailable_error",
            None,
            [Some("ServiceUnavailable"), Some("model_unavailable")],
            "No transcription is possible now: no model is installed",
        ),
        (
            || JobError::Cancelled,
            503,
            "service_unavailable_error",
            None,
            [Some("ServiceUnavailable"), Some("server_is_stopping")],
            "The server is stopping.",
        ),
        (
            || JobError::Serving(ServingError::UnknownDeployment { name: "x".to_owned() }),
            404,
            "invalid_request_error",
            None,
            [Some("DeploymentNotFound"), Some("model_not_found")],
            "The ",
        ),
    ];
    for (error, status, kind, param, codes, start) in rows {
        for (path, code) in [(A, codes[0]), (C, codes[1])] {
            for stream in ["false", "true"] {
                let server = server(failing(error), |_| {});
                let reply = server.post(path, &[MODEL, ("stream", stream)]).await;
                assert_eq!(
                    reply.error(),
                    (status, json!(kind), json!(param), json!(code)),
                    "{:?} {path}",
                    error()
                );
                assert!(reply.message().starts_with(start), "{}", reply.message());
                assert!(!reply.body.contains("engine 7") && !reply.body.contains("/dev/x"));
                let retried = status == 503
                    || matches!(
                        error(),
                        JobError::Audio(AudioError::Io(_)) | JobError::Internal { .. }
                    );
                assert_eq!(
                    reply.header("x-should-retry"),
                    if retried { "" } else { "false" },
                    "{:?}",
                    error()
                );
                assert_eq!(reply.header("retry-after").is_empty(), status != 503);
            }
        }
    }
}

#[tokio::test]
async fn a_job_without_an_end_is_an_error() {
    let server = server(
        Scripted {
            script: Box::new(Vec::new),
            ..Scripted::default()
        },
        |_| {},
    );
    assert_eq!(server.post(C, &[MODEL]).await.error().0, 500);
}

#[tokio::test]
async fn missing_parts() {
    let file: &[u8] = b"RIFF";
    for (path, fields, file, param, message) in [
        (
            C,
            vec![],
            Some(file),
            "model",
            "you must provide a model parameter",
        ),
        (
            B,
            vec![("model", "  ")],
            Some(file),
            "model",
            "you must provide a model parameter",
        ),
        (C, vec![MODEL], None, "file", "'file' is a required property"),
        (A, vec![], None, "file", "'file' is a required property"),
    ] {
        let reply = plain().send(multipart(path, form(&fields, file))).await;
        let expected = (
            400,
            json!("invalid_request_error"),
            json!(param),
            json!("missing_required_parameter"),
        );
        assert_eq!(reply.error(), expected, "{path}");
        assert_eq!(reply.message(), message);
    }
}

#[tokio::test]
async fn bodies_that_are_no_form() {
    let whole = form(&[MODEL], Some(b"RIFF"));
    let with = |content_type: &str, body: &[u8]| {
        Request::post(C)
            .header("content-type", content_type)
            .body(Body::from(body.to_vec()))
            .unwrap()
    };
    let good_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let mut zipped = with(&good_type, &whole);
    zipped
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let long_header = [
        b"--".as_slice(),
        BOUNDARY.as_bytes(),
        b"\r\nX: ",
        &vec![b'x'; 5 << 20],
    ]
    .concat();
    for (request, status) in [
        (with("application/json", b"{}"), 415),
        (with("multipart/mixed; boundary=x", b"--x--"), 415),
        (Request::post(C).body(Body::empty()).unwrap(), 415),
        (zipped, 415),
        (with("multipart/form-data", &whole), 400),
        (with(&good_type, b""), 400),
        (with(&good_type, b"no boundary at all"), 400),
        (with(&good_type, &whole[..whole.len() / 2]), 400),
        (with(&good_type, &whole[..whole.len() - BOUNDARY.len() - 8]), 400),
        (with(&good_type, &long_header), 400),
        (multipart(C, form(&[MODEL, ("prompt", "a\0b")], Some(b"x"))), 400),
        (
            multipart(C, form(&[MODEL, ("language", &"x".repeat(2 << 20))], Some(b"x"))),
            400,
        ),
        (multipart(C, form(&vec![("other", "x"); 2000], Some(b"x"))), 400),
        (
            multipart(C, [form(&[], Some(b"x")), form(&[MODEL], Some(b"y"))].concat()),
            400,
        ),
    ] {
        let reply = plain().send(request).await;
        assert_eq!(reply.error().0, status, "{}", reply.body);
    }
}

/// The refusal comes with the part's header: not one of the megabytes that follow is waited for.
#[tokio::test]
async fn speaker_references_are_refused_by_name_before_they_come() {
    let mut begun = form(&[MODEL], None);
    begun.truncate(begun.len() - BOUNDARY.len() - 6);
    let part = "Content-Disposition: form-data; name=\"known_speaker_references[]\"\r\n\r\ndata:audio/wav";
    begun.extend_from_slice(format!("--{BOUNDARY}\r\n{part}").as_bytes());
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let body = futures_util::StreamExt::chain(
        futures_util::stream::once(async move { Ok::<_, std::io::Error>(begun) }),
        never,
    );
    let mut request = multipart(C, Vec::new());
    *request.body_mut() = Body::from_stream(body);
    let server = plain();
    let reply = tokio::time::timeout(Duration::from_secs(5), server.send(request));
    let expected = (
        400,
        json!("invalid_request_error"),
        json!("known_speaker_references"),
        json!("unsupported_value"),
    );
    assert_eq!(reply.await.unwrap().error(), expected);
}

/// Text fields are small: with every place taken, their sum stays within megabytes.
#[tokio::test]
async fn text_fields_have_bounds_and_repeated_ones_do_not_pile_up() {
    let large = "x".repeat(5 << 10);
    for field in [
        "model",
        "language",
        "temperature",
        "stream",
        "priority",
        "filename",
    ] {
        let reply = plain().post(C, &[MODEL, (field, &large)]).await;
        assert_eq!(reply.error().3, json!("string_above_max_length"), "{field}");
    }
    let keywords = "k".repeat(100 << 10);
    let many = [("keywords[]", keywords.as_str()); 3];
    let reply = plain().post(C, &[&[MODEL], &many[..]].concat()).await;
    assert_eq!(reply.error().0, 400, "{}", reply.body);
    let server = plain();
    let reply = server
        .post(
            C,
            &[
                MODEL,
                ("language", "xx"),
                ("language", "ja"),
                ("prompt", "one"),
                ("prompt", "two"),
            ],
        )
        .await;
    assert_eq!(reply.status, 200, "the last value counts: {}", reply.body);
    let seen = server.jobs.seen.lock().unwrap();
    assert_eq!(seen[0].0.prompt.as_deref(), Some("two"));
}

/// 8,000 Japanese characters without a space ended the engine three times: they never reach it.
#[tokio::test]
async fn a_long_prompt_leaves_as_what_a_model_can_hold() {
    let prompt: String = "日本語の長い前置き".chars().cycle().take(8_000).collect();
    let server = plain();
    let reply = server
        .post(C, &[MODEL, ("prompt", &prompt), ("keywords[]", "京都")])
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let seen = server.jobs.seen.lock().unwrap();
    let sent = seen[0].0.prompt.as_deref().unwrap();
    assert!((1500..=1536).contains(&sent.len()), "{}", sent.len());
    assert!(prompt.ends_with(sent));
    assert_eq!(seen[0].0.keywords, ["京都"]);
}

/// The bytes that all requests share bound what is kept, whatever each announces.
#[tokio::test]
async fn uploads_beyond_the_shared_bytes_are_told_to_come_back() {
    let server = server(Scripted::default(), |_| {});
    let hoard = server
        .admission
        .enter("other".into(), Client::Anonymous, None)
        .unwrap();
    hoard.keep_recording((16 << 30) - 4).unwrap();
    let reply = server.post(C, &[MODEL]).await;
    assert_eq!(
        reply.error().0,
        429,
        "it is known only once it comes: {}",
        reply.body
    );
    assert!(!reply.header("retry-after").is_empty());
    let mut announced = upload(C, &[MODEL]);
    announced
        .headers_mut()
        .insert("content-length", "1000".parse().unwrap());
    assert_eq!(server.send(announced).await.error().0, 429);
    drop(hoard);
    assert_eq!(server.post(C, &[MODEL]).await.status, 200);
}

#[tokio::test]
async fn a_server_that_stops_says_so_before_the_body() {
    let server = plain();
    server.admission.close();
    let reply = server.post(C, &[MODEL]).await;
    assert_eq!(reply.error().3, json!("server_is_stopping"));
    assert!(!reply.header("retry-after").is_empty());
}

#[tokio::test]
async fn unknown_fields_are_no_error() {
    assert_eq!(
        plain()
            .post(C, &[MODEL, ("bogus_param", "xyz"), ("", "nameless")])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn strict_names() {
    let strict = || {
        server(
            Scripted {
                strict: true,
                ..Scripted::default()
            },
            |_| {},
        )
    };
    for (path, code, start) in [
        (
            "/openai/deployments/x/audio/transcriptions",
            "DeploymentNotFound",
            "The API deployment for this resource does not exist.",
        ),
        (
            B,
            "DeploymentNotFound",
            "The API deployment for this resource does not exist.",
        ),
        (
            C,
            "model_not_found",
            "The model `x` does not exist or you do not have access to it.",
        ),
    ] {
        let reply = strict().post(path, &[("model", "x")]).await;
        assert_eq!(
            reply.error(),
            (404, json!("invalid_request_error"), json!(null), json!(code)),
            "{path}"
        );
        assert!(reply.message().starts_with(start));
        assert_eq!(reply.header("x-should-retry"), "false");
    }
}

#[tokio::test]
async fn a_full_house_says_when_to_come_back() {
    let full = || {
        server(
            Scripted {
                full: true,
                ..Scripted::default()
            },
            |_| {},
        )
    };
    for (path, code) in [(A, "429"), (B, "429"), (C, "rate_limit_exceeded")] {
        let server = full();
        let reply = server.post(path, &[MODEL]).await;
        assert_eq!(reply.error(), (429, json!("requests"), json!(null), json!(code)));
        assert_eq!(
            (reply.header("retry-after"), reply.header("retry-after-ms")),
            ("1", "1000")
        );
        assert!(reply.message().contains("Please retry after 1 seconds."));
        assert_eq!(reply.header("x-should-retry"), "");
        assert!(
            server.jobs.asked.lock().unwrap().is_empty(),
            "no model is loaded for it"
        );
        // However long requests take, no client is told to stay away for more than a minute.
        for _ in 0..100 {
            server.admission.served(Duration::from_secs(3600));
        }
        let reply = server.post(path, &[MODEL]).await;
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((30..=60).contains(&seconds), "{seconds}");
    }
    let mut request = upload(C, &[MODEL]);
    request
        .headers_mut()
        .insert("user-agent", "AzureOpenAI/JS 4.104.0".parse().unwrap());
    assert_eq!(full().send(request).await.header("x-should-retry"), "false");
}
