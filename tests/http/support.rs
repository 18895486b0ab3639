//! A scripted job runner behind the real router, and just enough of a client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use whisper_backend_api::admission::{Admission, Admitted, Arrival, Limits};
use whisper_backend_api::audio::UploadedAudio;
use whisper_backend_api::config::Config;
use whisper_backend_api::http::{AppState, Connections, HEAD_TIMEOUT, Transfer, router, serve};
use whisper_backend_api::jobs::{JobError, JobEvent, JobHandle, JobRunner, TranscribeOptions};
use whisper_backend_api::keys::{Client, Keys};
use whisper_backend_api::serving::{Lease, ModelInfo, ServingError};
use whisper_backend_api::transcript::{Segment, Task, TokenLogprob, Transcript, Word};

pub type Events = Vec<Result<JobEvent, JobError>>;

/// Answers every job with the same script and remembers what it was asked.
pub struct Scripted {
    pub script: Box<dyn Fn() -> Events + Send + Sync>,
    pub pause: Duration,
    /// No place is free.
    pub full: bool,
    pub strict: bool,
    pub seen: Mutex<Vec<(TranscribeOptions, u64, Option<String>)>>,
    pub cancelled: CancellationToken,
    pub requests: Mutex<Vec<Arc<Admitted>>>,
    /// Deployment and model names that were asked for.
    pub asked: Mutex<Vec<String>>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            script: Box::new(|| hello(&[" Hello,", " world!"])),
            pause: Duration::ZERO,
            full: false,
            strict: false,
            seen: Mutex::default(),
            cancelled: CancellationToken::new(),
            requests: Mutex::default(),
            asked: Mutex::default(),
        }
    }
}

impl JobRunner for Scripted {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Lease, ServingError>> {
        let found = self.lookup(name);
        self.asked.lock().unwrap().push(name.to_owned());
        Box::pin(async move { found.map(|model| Lease::detached(&model)) })
    }

    fn lookup(&self, name: &str) -> Result<String, ServingError> {
        match name {
            "panic" => panic!("scripted"),
            "my-whisper" | "whisper-1" => Ok("base".to_owned()),
            name if self.strict => Err(ServingError::UnknownDeployment {
                name: name.to_owned(),
            }),
            _ => Ok("base".to_owned()),
        }
    }

    fn start(&self, request: Arc<Admitted>, audio: UploadedAudio, options: TranscribeOptions) -> JobHandle {
        let name = audio.file_name().map(str::to_owned);
        self.seen.lock().unwrap().push((options, audio.len(), name));
        self.requests.lock().unwrap().push(request);
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

pub fn segment(id: u32, text: &str) -> Segment {
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
        language: None,
    }
}

/// A script that says each text in a window of its own.
pub fn hello(texts: &[&str]) -> Events {
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
        languages: None,
    };
    let mut events: Events = segments
        .into_iter()
        .map(|segment| Ok(JobEvent::Segments(vec![segment])))
        .collect();
    events.push(Ok(JobEvent::Finished(Box::new(transcript))));
    events
}

pub fn failing(error: impl Fn() -> JobError + Send + Sync + 'static) -> Scripted {
    Scripted {
        script: Box::new(move || vec![Err(error())]),
        ..Scripted::default()
    }
}

pub struct Server {
    pub router: Router,
    pub jobs: Arc<Scripted>,
    pub admission: Admission,
    _occupant: Option<Arrival>,
}

pub fn server(jobs: Scripted, change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    change(&mut config);
    let limits = Limits {
        in_service: 1,
        // Requests of a test stay inside: the script keeps them.
        waiting: 10_000,
        ..Limits::default()
    };
    let limits = Limits {
        waiting: if jobs.full { 0 } else { limits.waiting },
        ..limits
    };
    let admission = Admission::new(
        limits,
        Keys::new(&config),
        CancellationToken::new(),
        Arc::default(),
    );
    let occupant = jobs.full.then(|| {
        admission
            .enter("occupant".into(), Client::Anonymous, None)
            .unwrap()
    });
    let jobs = Arc::new(jobs);
    let mut state = AppState::new(jobs.clone(), admission.clone(), Arc::new(config));
    state.keep_alive = Duration::from_millis(50);
    Server {
        router: router(state),
        jobs,
        admission,
        _occupant: occupant,
    }
}

pub fn plain() -> Server {
    server(Scripted::default(), |_| {})
}

pub fn locked() -> Server {
    server(Scripted::default(), |config| {
        config.server.api_keys = vec!["secret-key".to_owned()];
    })
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, type, param and code of an error that has the one shape.
    pub fn error(&self) -> (u16, Value, Value, Value) {
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

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Server {
    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply {
            status,
            headers,
            body: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.send(upload(path, fields)).await
    }

    /// Listens on a free port for as long as the test runs.
    pub async fn listen(&self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router.clone();
        tokio::spawn(serve(
            listener,
            router,
            HEAD_TIMEOUT,
            TRANSFER,
            None,
            Connections::new(1000),
            CancellationToken::new(),
        ));
        address
    }
}

pub const TRANSFER: Transfer = Transfer {
    period: Duration::from_secs(30),
    bytes_per_second: 1024,
};

pub const BOUNDARY: &str = "------------------------d74496d66958873e";

pub fn form(fields: &[(&str, &str)], file: Option<&[u8]>) -> Vec<u8> {
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

pub fn upload(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    multipart(path, form(fields, Some(b"RIFF....WAVE")))
}

pub fn multipart(path: &str, body: Vec<u8>) -> Request<Body> {
    Request::post(path)
        .header(
            "content-type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(Body::from(body))
        .unwrap()
}

pub const A: &str = "/openai/deployments/my-whisper/audio/transcriptions?api-version=2024-10-21";
pub const B: &str = "/openai/v1/audio/transcriptions";
pub const C: &str = "/v1/audio/transcriptions";
pub const MODEL: (&str, &str) = ("model", "my-whisper");
