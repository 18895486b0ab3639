//! The HTTP side as clients meet it: a scripted job runner behind the real router, called in memory and over
//! sockets. No model, no engine.

#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use whisper_backend_api::audio::{AudioError, UploadedAudio};
use whisper_backend_api::config::Config;
use whisper_backend_api::http::{AppState, HEAD_TIMEOUT, router, serve};
use whisper_backend_api::jobs::{Busy, JobError, JobEvent, JobHandle, JobRunner, Ticket, TranscribeOptions};
use whisper_backend_api::serving::{ModelInfo, ServingError};
use whisper_backend_api::transcript::{Segment, Task, TokenLogprob, Transcript, Word};

// ---------------------------------------------------------------------------------------------- the runner

type Events = Vec<Result<JobEvent, JobError>>;

/// Answers every job with the same script and remembers what it was asked.
struct Scripted {
    script: Box<dyn Fn() -> Events + Send + Sync>,
    pause: Duration,
    busy: Option<Duration>,
    strict: bool,
    seen: Mutex<Vec<(TranscribeOptions, u64, Option<String>)>>,
    cancelled: CancellationToken,
    tickets: Mutex<Vec<Ticket>>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            script: Box::new(|| hello(&[" Hello,", " world!"])),
            pause: Duration::ZERO,
            busy: None,
            strict: false,
            seen: Mutex::default(),
            cancelled: CancellationToken::new(),
            tickets: Mutex::default(),
        }
    }
}

impl JobRunner for Scripted {
    fn admit(&self) -> Result<Ticket, Busy> {
        match self.busy {
            Some(retry_after) => Err(Busy { retry_after }),
            None => Ok(Ticket::new(())),
        }
    }

    fn resolve(&self, name: &str) -> Result<String, ServingError> {
        match name {
            "panic" => panic!("scripted"),
            "my-whisper" | "whisper-1" => Ok("base".to_owned()),
            name if self.strict => Err(ServingError::UnknownDeployment {
                name: name.to_owned(),
            }),
            _ => Ok("base".to_owned()),
        }
    }

    fn start(&self, audio: UploadedAudio, options: TranscribeOptions, ticket: Ticket) -> JobHandle {
        let name = audio.file_name().map(str::to_owned);
        self.seen.lock().unwrap().push((options, audio.len(), name));
        self.tickets.lock().unwrap().push(ticket);
        let (sender, events) = mpsc::channel(8);
        let (script, pause) = ((self.script)(), self.pause);
        tokio::spawn(async move {
            for event in script {
                tokio::time::sleep(pause).await;
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        JobHandle {
            events,
            cancel: self.cancelled.clone().drop_guard(),
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        let model = |id: &str, default, deployment| ModelInfo {
            id: id.to_owned(),
            created: 1_700_000_000,
            file: Some(format!("{id}.bin")),
            bytes: Some(1),
            installed: true,
            loaded: false,
            default,
            deployment,
            multilingual: true,
        };
        vec![
            model("base", true, false),
            model("my-whisper", false, true),
            model("Systran/faster-whisper-small", false, false),
        ]
    }
}

fn segment(id: u32, text: &str) -> Segment {
    let word = text.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    Segment {
        id,
        seek: 0,
        start: id as f32,
        end: id as f32 + 0.5,
        text: text.to_owned(),
        tokens: vec![50364, 2425, 50464],
        temperature: 0.0,
        avg_logprob: -0.25,
        compression_ratio: 1.0,
        no_speech_prob: 0.0,
        words: vec![Word {
            text: word,
            start: id as f32,
            end: id as f32 + 0.5,
        }],
        logprobs: vec![TokenLogprob {
            bytes: text.as_bytes().to_vec(),
            logprob: -0.5,
        }],
        channel: None,
    }
}

/// A script that says each text in a window of its own.
fn hello(texts: &[&str]) -> Events {
    let segments: Vec<Segment> = texts
        .iter()
        .zip(0..)
        .map(|(text, id)| segment(id, text))
        .collect();
    let transcript = Transcript {
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        duration: 1.7,
        segments: segments.clone(),
    };
    let mut events: Events = segments
        .into_iter()
        .map(|segment| Ok(JobEvent::Segments(vec![segment])))
        .collect();
    events.push(Ok(JobEvent::Finished(Box::new(transcript))));
    events
}

fn failing(error: impl Fn() -> JobError + Send + Sync + 'static) -> Scripted {
    Scripted {
        script: Box::new(move || vec![Err(error())]),
        ..Scripted::default()
    }
}

// ---------------------------------------------------------------------------------------------- the server

struct Server {
    router: Router,
    jobs: Arc<Scripted>,
}

fn server(jobs: Scripted, change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    change(&mut config);
    let jobs = Arc::new(jobs);
    let mut state = AppState::new(jobs.clone(), Arc::new(config));
    state.keep_alive = Duration::from_millis(50);
    Server {
        router: router(state),
        jobs,
    }
}

fn plain() -> Server {
    server(Scripted::default(), |_| {})
}

fn locked() -> Server {
    server(Scripted::default(), |config| {
        config.server.api_keys = vec!["secret-key".to_owned()];
    })
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, type, param and code of an error that has the one shape.
    fn error(&self) -> (u16, Value, Value, Value) {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.body);
        let mut body = self.json();
        let error = body["error"].take();
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(!self.header("x-request-id").is_empty());
        (
            self.status.as_u16(),
            error["type"].clone(),
            error["param"].clone(),
            error["code"].clone(),
        )
    }

    fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Server {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply {
            status,
            headers,
            body: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.send(upload(path, fields)).await
    }

    /// Listens on a free port for as long as the test runs.
    async fn listen(&self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router.clone();
        tokio::spawn(serve(listener, router, HEAD_TIMEOUT, CancellationToken::new()));
        address
    }
}

const BOUNDARY: &str = "------------------------d74496d66958873e";

fn form(fields: &[(&str, &str)], file: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    if let Some(file) = file {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"upload\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn upload(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    multipart(path, form(fields, Some(b"RIFF....WAVE")))
}

fn multipart(path: &str, body: Vec<u8>) -> Request<Body> {
    Request::post(path)
        .header(
            "content-type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(Body::from(body))
        .unwrap()
}

const A: &str = "/openai/deployments/my-whisper/audio/transcriptions?api-version=2024-10-21";
const B: &str = "/openai/v1/audio/transcriptions";
const C: &str = "/v1/audio/transcriptions";
const MODEL: (&str, &str) = ("model", "my-whisper");

// ---------------------------------------------------------------------------------------------- routes

#[tokio::test]
async fn every_route_and_alias_takes_a_recording() {
    for path in [
        A,
        B,
        C,
        "/openai/deployments/my-whisper/audio/translations?api-version=2024-10-21",
        "/openai/v1/audio/translations?api-version=preview",
        "/v1/audio/translations",
        "//openai/deployments/my-whisper/audio/transcriptions?api-version=2023-12-01-preview",
        "//v1//audio/transcriptions",
        "/openai/audio/transcriptions",
        "/openai/v1/audio/transcriptions?api-version=v1",
        "/openai/deployments/my-whisper/audio/transcriptions",
        "/v1/audio/transcriptions/",
    ] {
        let reply = plain().post(path, &[MODEL]).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        assert_eq!(reply.json()["text"], "Hello, world!", "{path}");
    }
}

#[tokio::test]
async fn the_path_names_the_deployment_whatever_the_form_says() {
    for (path, expected) in [
        (
            "/openai/deployments/my%20dep/%C3%A9/audio/transcriptions",
            "my dep/é",
        ),
        (
            "/openai/deployments/Systran%2Ffaster-whisper-small/audio/transcriptions",
            "Systran/faster-whisper-small",
        ),
        ("/openai/deployments/whisper/audio/transcriptions", "whisper"),
    ] {
        let server = plain();
        assert_eq!(server.post(path, &[("model", "other")]).await.status, 200);
        assert_eq!(server.post(path, &[]).await.status, 200, "without a model field");
        for (options, ..) in server.jobs.seen.lock().unwrap().iter() {
            assert_eq!(options.deployment, expected);
        }
    }
}

#[tokio::test]
async fn translations_ask_for_a_translation() {
    let server = plain();
    let fields = [
        MODEL,
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ];
    let reply = server.post("/v1/audio/translations", &fields).await;
    let body = reply.json();
    assert_eq!(server.jobs.seen.lock().unwrap()[0].0.task, Task::Translate);
    assert_eq!(
        (body["language"].as_str(), body.get("words"), body.get("usage")),
        (Some("english"), None, None)
    );
    assert_eq!(body["segments"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_in_their_dialect() {
    let server = plain();
    for (method, path, status, code) in [
        ("GET", "/openai/nothing", 404, json!("404")),
        ("POST", "/openai/v1/nothing", 404, json!("404")),
        ("GET", "/v1/nothing", 404, json!(null)),
        ("GET", "/", 404, json!(null)),
        ("GET", C, 405, json!("method_not_allowed")),
        ("DELETE", A, 405, json!("405")),
        ("POST", "/v1/models", 405, json!("method_not_allowed")),
        ("POST", "/openai/deployments/my-whisper", 405, json!("405")),
        (
            "POST",
            "/openai/deployments/d/chat/completions",
            400,
            json!("OperationNotSupported"),
        ),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::from("text"))
            .unwrap();
        let reply = server.send(request).await;
        let (found, kind, _, found_code) = reply.error();
        assert_eq!(
            (found, kind, found_code),
            (status, json!("invalid_request_error"), code),
            "{method} {path}"
        );
        assert_eq!(
            status == 405,
            !reply.header("allow").is_empty(),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let reply = plain()
        .post("/openai/deployments/panic/audio/transcriptions", &[])
        .await;
    assert_eq!(
        reply.error(),
        (
            500,
            json!("server_error"),
            json!(null),
            json!("InternalServerError")
        )
    );
    assert!(!reply.body.contains("scripted"));
}

#[tokio::test]
async fn api_versions_lenient_and_strict() {
    let strict = server(Scripted::default(), |config| {
        config.server.strict_api_version = true;
    });
    for (path, lenient_status, strict_status, code) in [
        (A, 200, 200, ""),
        ("/openai/deployments/d/audio/transcriptions", 200, 404, "404"),
        (
            "/openai/deployments/d/audio/transcriptions?api-version=2099-01-01",
            200,
            404,
            "404",
        ),
        (
            "/openai/deployments/d/audio/transcriptions?api-version=soon",
            404,
            404,
            "404",
        ),
        (
            "/openai/v1/audio/transcriptions?api-version=2024-10-21",
            200,
            400,
            "BadRequest",
        ),
        (
            "/openai/v1/audio/transcriptions?api-version=soon",
            400,
            400,
            "BadRequest",
        ),
        ("/v1/audio/transcriptions?api-version=soon", 200, 200, ""),
    ] {
        for (server, status) in [(&plain(), lenient_status), (&strict, strict_status)] {
            let reply = server.post(path, &[MODEL]).await;
            assert_eq!(reply.status.as_u16(), status, "{path}");
            if status != 200 {
                assert_eq!(reply.error().3, code, "{path}");
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------- keys

#[tokio::test]
async fn keys_in_every_form_on_every_dialect() {
    let server = locked();
    for path in [A, B, C] {
        for headers in [
            vec![("api-key", "secret-key")],
            vec![("API-Key", "secret-key")],
            vec![("authorization", "Bearer secret-key")],
            vec![("authorization", "BEARER secret-key"), ("api-key", "stale")],
            vec![("authorization", "Bearer stale"), ("api-key", "secret-key")],
        ] {
            let mut request = upload(path, &[MODEL]);
            for (name, value) in &headers {
                let name: axum::http::HeaderName = name.parse().unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            assert_eq!(server.send(request).await.status, 200, "{path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn refusals_of_keys_in_each_dialect() {
    let server = locked();
    let wrong = "sk-0oJ1Kabcdefghijklmnop-cMnE";
    for (path, key, code, start) in [
        (
            A,
            Some(wrong),
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            A,
            None,
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            B,
            Some(wrong),
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            C,
            Some(wrong),
            json!("invalid_api_key"),
            "Incorrect API key provided: sk-****cMnE.",
        ),
        (C, None, json!(null), "You didn't provide an API key."),
        ("/v1/models", None, json!(null), "You didn't provide an API key."),
        ("/v1/nothing", None, json!(null), "You didn't provide an API key."),
    ] {
        let mut request = upload(path, &[MODEL]);
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let reply = server.send(request).await;
        assert_eq!(
            reply.error(),
            (401, json!("invalid_request_error"), json!(null), code),
            "{path}"
        );
        assert!(reply.message().starts_with(start), "{}", reply.message());
        assert!(!reply.body.contains(wrong) && !reply.body.contains("secret-key"));
        assert_eq!(reply.header("x-should-retry"), "false");
    }
    assert!(server.jobs.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_configured_keys_any_or_none_will_do() {
    let mut request = upload(C, &[MODEL]);
    request
        .headers_mut()
        .insert("authorization", "Bearer whatever".parse().unwrap());
    assert_eq!(plain().send(request).await.status, 200);
    assert_eq!(plain().post(C, &[MODEL]).await.status, 200);
}

// ---------------------------------------------------------------------------------------------- answers

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

// ---------------------------------------------------------------------------------------------- errors

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
                AudioError::TooSlow {
                    seconds: 99.0,
                    audio_seconds: 1.0,
                }
                .into()
            },
            400,
            "invalid_request_error",
            Some("file"),
            [Some("invalid_value"); 2],
            "the recording takes too long",
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
                let retried = status == 503 || matches!(error(), JobError::Audio(AudioError::Io(_)));
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

#[tokio::test]
async fn megabytes_of_speaker_references_are_read_and_refused_by_name() {
    let reference = format!("data:audio/wav;base64,{}", "A".repeat(3 << 20));
    let reply = plain()
        .post(C, &[MODEL, ("known_speaker_references[]", &reference)])
        .await;
    let expected = (
        400,
        json!("invalid_request_error"),
        json!("known_speaker_references"),
        json!("unsupported_value"),
    );
    assert_eq!(reply.error(), expected);
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
    let full = |seconds| {
        let busy = Some(Duration::from_secs_f64(seconds));
        server(
            Scripted {
                busy,
                ..Scripted::default()
            },
            |_| {},
        )
    };
    for (path, code) in [(A, "429"), (B, "429"), (C, "rate_limit_exceeded")] {
        let reply = full(2.3).post(path, &[MODEL]).await;
        assert_eq!(reply.error(), (429, json!("requests"), json!(null), json!(code)));
        assert_eq!(
            (reply.header("retry-after"), reply.header("retry-after-ms")),
            ("3", "2300")
        );
        assert!(reply.message().contains("Please retry after 3 seconds."));
        assert_eq!(reply.header("x-should-retry"), "");
    }
    assert_eq!(full(500.0).post(C, &[MODEL]).await.header("retry-after"), "60");
    let mut request = upload(C, &[MODEL]);
    request
        .headers_mut()
        .insert("user-agent", "AzureOpenAI/JS 4.104.0".parse().unwrap());
    assert_eq!(full(1.0).send(request).await.header("x-should-retry"), "false");
}

// ---------------------------------------------------------------------------------------------- streams

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

// ---------------------------------------------------------------------------------------------- models

#[tokio::test]
async fn models_in_every_dialect() {
    let server = plain();
    for (path, azure) in [
        ("/v1/models", false),
        ("/openai/v1/models", false),
        ("/openai/models?api-version=2024-10-21", true),
        (
            "/openai/deployments/my-whisper/models?api-version=2024-10-21",
            true,
        ),
        ("//openai/models?api-version=2024-10-21", true),
    ] {
        let body = server.get(path).await.json();
        assert_eq!(body["object"], "list");
        let ids: Vec<&str> = body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            ["base", "my-whisper", "Systran/faster-whisper-small", "whisper-1"],
            "{path}"
        );
        let first = &body["data"][0];
        assert_eq!(
            (&first["object"], &first["created"]),
            (&json!("model"), &json!(1_700_000_000))
        );
        assert!(first["owned_by"].is_string());
        assert_eq!(first.get("created_at").is_some(), azure);
        assert_eq!(first.get("capabilities").is_some(), azure);
    }
    for path in [
        "/v1/models/base",
        "/openai/v1/models/my-whisper",
        "/openai/models/whisper-1?api-version=2024-10-21",
        "/v1/models/Systran/faster-whisper-small",
        "/v1/models/Systran%2Ffaster-whisper-small",
        "/v1/models/gpt-4o-transcribe",
    ] {
        let reply = server.get(path).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["object"]),
            (200, &json!("model")),
            "{path}"
        );
    }
    for path in ["/v1/models/fake_id", "/openai/v1/models/fake_id"] {
        let reply = server.get(path).await;
        let expected = (
            404,
            json!("invalid_request_error"),
            json!("model"),
            json!("model_not_found"),
        );
        assert_eq!(reply.error(), expected);
        assert_eq!(reply.message(), "The model 'fake_id' does not exist");
    }
}

#[tokio::test]
async fn deployments() {
    let server = plain();
    let body = server
        .get("/openai/deployments?api-version=2022-12-01")
        .await
        .json();
    let deployment = &body["data"][1];
    assert_eq!(
        (&deployment["id"], &deployment["model"]),
        (&json!("my-whisper"), &json!("base"))
    );
    assert_eq!(
        (&deployment["object"], &deployment["status"]),
        (&json!("deployment"), &json!("succeeded"))
    );
    let body = server
        .get("/openai/deployments/my-whisper?api-version=2022-12-01")
        .await
        .json();
    assert_eq!(body["id"], "my-whisper");
    let reply = server
        .get("/openai/deployments/none?api-version=2022-12-01")
        .await;
    assert_eq!(reply.error().3, "DeploymentNotFound");
}

#[tokio::test]
async fn the_description_is_served_without_a_key() {
    let reply = locked().get("/openapi.json").await;
    let body = reply.json();
    assert_eq!(body["openapi"], "3.1.0");
    assert!(body["paths"]["/openai/deployments/{deployment}/audio/transcriptions"]["post"].is_object());
}

#[tokio::test]
async fn every_path_described_is_served() {
    let server = plain();
    let api = server.get("/openapi.json").await.json();
    let mut answered = 0;
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // Diagnostics are the application's routes, not this router's.
            if operation["tags"][0] == "diagnostics" {
                continue;
            }
            let filled = path.replace("{deployment}", "my-whisper").replace("{id}", "base");
            let mut request = upload(&filled, &[MODEL]);
            *request.method_mut() = method.to_uppercase().parse().unwrap();
            assert_eq!(server.send(request).await.status, 200, "{method} {path}");
            answered += 1;
        }
    }
    assert!(answered >= 17, "{answered}");
}

#[tokio::test]
async fn browsers_may_call() {
    let preflight = || {
        Request::options(A)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "api-key,authorization,content-type,x-stainless-lang",
            )
            .body(Body::empty())
            .unwrap()
    };
    let reply = locked().send(preflight()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    let allowed = reply.header("access-control-allow-headers");
    for name in ["api-key", "authorization", "content-type", "x-stainless-lang"] {
        assert!(allowed.contains(name), "{name} not in {allowed}");
    }
    let mut request = upload(A, &[]);
    request
        .headers_mut()
        .insert("origin", "https://app.example".parse().unwrap());
    let reply = locked().send(request).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("access-control-allow-origin")),
        (401, "*")
    );
    assert!(
        reply
            .header("access-control-expose-headers")
            .contains("x-request-id")
    );

    let one = server(Scripted::default(), |config| {
        config.server.cors_origins = vec!["https://a.example".to_owned()];
    });
    assert_eq!(
        one.send(preflight()).await.header("access-control-allow-origin"),
        ""
    );
}

// ---------------------------------------------------------------------------------------------- sockets

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
        busy: Some(Duration::from_secs(1)),
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
        .write_all(include_bytes!("fixtures/dotnet-transcription.http"))
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
    assert_eq!(options.deployment, "my/whisper");
    assert_eq!(options.language.as_deref(), Some("en"));
    assert_eq!(options.prompt.as_deref(), Some("Grüße, 世界"));
    assert!((options.temperature - 0.4).abs() < 1e-6);
    assert_eq!(
        (options.vad, options.vad_threshold, options.vad_padding_ms),
        (Some(true), Some(0.3), Some(100))
    );
}

// ---------------------------------------------------------------------------------------------- logs

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
    let guard = tracing::subscriber::set_default(subscriber);
    let reply = locked()
        .send({
            let mut request = upload(A, &[("prompt", "private prompt"), ("filename", "private.wav")]);
            request
                .headers_mut()
                .insert("api-key", "secret-key".parse().unwrap());
            request
        })
        .await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains(reply.header("x-request-id")), "{text}");
    assert!(text.contains("status=200"), "{text}");
    for private in ["private", "secret-key", "Hello", "upload\""] {
        assert!(!text.contains(private), "{private} in {text}");
    }
}

// ---------------------------------------------------------------------------------------------- by hand

/// Serves the scripted runner for clients outside this program: `SCRIPTED_PORT=8099 cargo test --test http
/// serve_the_script -- --ignored`, then for example `schemathesis run http://127.0.0.1:8099/openapi.json`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs until it is stopped"]
async fn serve_the_script() {
    let port = std::env::var("SCRIPTED_PORT").unwrap_or_else(|_| "8099".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .unwrap();
    serve(listener, plain().router, HEAD_TIMEOUT, CancellationToken::new()).await;
}
