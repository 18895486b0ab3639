//! Live transcription over real sockets: the real router, the real detector, the recording of 1961; only the model is
//! scripted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use whisper_backend_api::admission::{Admission, Limits};
use whisper_backend_api::config::{Config, Count};
use whisper_backend_api::http::{AppState, Connections, HEAD_TIMEOUT, Realtime, router, serve};
use whisper_backend_api::keys::Keys;
use whisper_backend_api::metrics::Metrics;
use whisper_backend_api::realtime::agreement::Token;
use whisper_backend_api::realtime::session::{Heard, Pass, PassError};
use whisper_backend_api::realtime::windows::{Hold, Recognizer};
use whisper_backend_api::serving::ServingError;

use crate::support::{Scripted, TRANSFER};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Hears the number of tenths of a second that it was given.
struct Engine {
    capacity: usize,
    delay: Duration,
    running: Arc<AtomicUsize>,
}

struct RunningGuard(Arc<AtomicUsize>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Recognizer for Engine {
    fn hold(&self, name: Option<String>) -> BoxFuture<'static, Result<Hold, ServingError>> {
        Box::pin(async move {
            match name {
                Some(name) if name == "nobody" => Err(ServingError::UnknownDeployment { name }),
                _ => Ok(Arc::new(()) as Hold),
            }
        })
    }

    fn run(&self, pass: Pass) -> BoxFuture<'static, Result<Heard, PassError>> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let (guard, delay) = (RunningGuard(self.running.clone()), self.delay);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let tokens = (0..pass.samples.len() / 8000).map(|n| Token {
                id: n as i32,
                bytes: format!(" word{n}").into_bytes(),
                logprob: -0.1,
            });
            drop(guard);
            Ok(Heard {
                tokens: tokens.collect(),
                language: Some("en".to_owned()),
                doubtful: false,
                took: delay,
            })
        })
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

struct Live {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    admission: Admission,
    running: Arc<AtomicUsize>,
}

async fn live(capacity: usize, delay: Duration, change: impl FnOnce(&mut Config)) -> Live {
    let mut config = Config::default();
    config.realtime.max_sessions = Count::Fixed(capacity);
    change(&mut config);
    let (stop, running) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let engine = Engine {
        capacity,
        delay,
        running: running.clone(),
    };
    let metrics = Arc::new(Metrics::default());
    let realtime = Arc::new(Realtime::new(Arc::new(engine), stop.clone(), metrics.clone()));
    let admission = Admission::new(
        Limits::default(),
        Keys::new(&config),
        CancellationToken::new(),
        metrics,
    );
    let mut state = AppState::new(Arc::new(Scripted::default()), admission.clone(), Arc::new(config));
    state.realtime = Some(realtime);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        router(state),
        HEAD_TIMEOUT,
        TRANSFER,
        None,
        Connections::new(1000),
        stop.clone(),
    ));
    Live {
        address,
        stop,
        admission,
        running,
    }
}

impl Live {
    async fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", self.address)
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((client, _)) => Ok(client),
            Err(tungstenite::Error::Http(answer)) => {
                let retry = answer.headers().get("retry-after");
                let retry = retry.map(|value| value.to_str().unwrap().to_owned());
                Err((answer.status().as_u16(), retry.unwrap_or_default()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn connect(&self) -> Client {
        self.open("/v1/realtime?intent=transcription", &[]).await.unwrap()
    }
}

async fn say(client: &mut Client, event: Value) {
    client.send(Message::text(event.to_string())).await.unwrap();
}

async fn next(client: &mut Client) -> Value {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), client.next()).await;
        match message.expect("nothing came for 20 s").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

async fn until(client: &mut Client, name: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let event = next(client).await;
        let kind = event["type"].as_str().unwrap().to_owned();
        seen.push(event);
        if kind.ends_with(name) {
            return seen;
        }
    }
}

/// The recording of 1961: 11 s at 16 kHz, 16 bits.
fn recording() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jfk.wav");
    std::fs::read(path).unwrap()[44..].to_vec()
}

fn append(bytes: &[u8]) -> Value {
    json!({"type":"input_audio_buffer.append","audio":BASE64_STANDARD.encode(bytes)})
}

#[allow(clippy::needless_pass_by_value, reason = "callers hand over literals")]
fn at_16_khz(turn_detection: Value) -> Value {
    json!({"type":"session.update","session":{"type":"transcription","audio":{"input":{
        "format":{"type":"audio/pcm","rate":16000},"turn_detection":turn_detection}}}})
}

#[tokio::test]
async fn every_address_opens_a_session_and_says_so_first() {
    let live = live(8, Duration::ZERO, |_| {}).await;
    for path in [
        "/v1/realtime?intent=transcription",
        "/v1/realtime?intent=transcription&model=whisper-1",
        "//openai/v1/realtime?model=my-whisper",
        "/openai/realtime?api-version=2025-04-01-preview&deployment=my-whisper",
        "/mai/v1/realtime?intent=transcription",
    ] {
        let mut client = live.open(path, &[]).await.unwrap();
        let created = next(&mut client).await;
        assert_eq!(created["type"], "session.created", "{path}");
        assert!(created["event_id"].as_str().unwrap().starts_with("event_"));
        assert!(created["session"]["id"].as_str().unwrap().starts_with("sess_"));
        let detects = !created["session"]["audio"]["input"]["turn_detection"].is_null();
        assert_eq!(detects, !path.starts_with("/mai"), "{path}");
    }
    let beta = [("openai-beta", "realtime=v1")];
    let mut client = live.open("/v1/realtime", &beta).await.unwrap();
    assert_eq!(next(&mut client).await["type"], "transcription_session.created");
    assert_eq!(
        live.open("/v1/realtime?model=nobody", &[]).await.unwrap_err().0,
        404
    );
}

#[tokio::test]
async fn speech_becomes_turns_and_deltas_are_the_transcript() {
    let live = live(1, Duration::from_millis(5), |_| {}).await;
    let mut client = live.connect().await;
    say(
        &mut client,
        at_16_khz(json!({"type":"server_vad","silence_duration_ms":400})),
    )
    .await;
    let mut audio = recording();
    audio.extend(vec![0; 48_000]);
    for piece in audio.chunks(3201) {
        say(&mut client, append(piece)).await;
    }
    say(&mut client, json!({"type":"input_audio_buffer.clear"})).await;
    let mut events = until(&mut client, "cleared").await;
    let count = |events: &[Value], name: &str| {
        events
            .iter()
            .filter(|event| event["type"].as_str().unwrap().ends_with(name))
            .count()
    };
    while count(&events, "completed") < count(&events, "committed") {
        events.push(next(&mut client).await);
    }
    assert!((2..=6).contains(&count(&events, "speech_started")), "{events:#?}");
    assert_eq!(count(&events, "speech_started"), count(&events, "speech_stopped"));
    assert_eq!(count(&events, "error"), 0);
    for completed in events
        .iter()
        .filter(|event| event["type"].as_str().unwrap().ends_with("completed"))
    {
        let deltas: String = events
            .iter()
            .filter(|event| event["item_id"] == completed["item_id"])
            .filter_map(|event| event["delta"].as_str())
            .collect();
        assert_eq!(deltas, completed["transcript"].as_str().unwrap());
        assert_eq!(completed["usage"]["type"], "duration");
    }
}

#[tokio::test]
async fn a_commit_of_nothing_names_its_event_and_the_session_goes_on() {
    let live = live(1, Duration::ZERO, |_| {}).await;
    let mut client = live.connect().await;
    next(&mut client).await;
    say(
        &mut client,
        json!({"type":"input_audio_buffer.commit","event_id":"last one"}),
    )
    .await;
    let error = next(&mut client).await;
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty");
    assert_eq!(error["error"]["event_id"], "last one");
    client.send(Message::text("{nonsense")).await.unwrap();
    assert_eq!(next(&mut client).await["error"]["code"], "invalid_json");
    let unknown =
        json!({"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"nobody"}}}}});
    say(&mut client, unknown).await;
    assert_eq!(next(&mut client).await["error"]["code"], "model_not_found");
    say(&mut client, at_16_khz(Value::Null)).await;
    assert_eq!(next(&mut client).await["type"], "session.updated");
    say(&mut client, append(&recording()[..64_000])).await;
    say(&mut client, json!({"type":"input_audio_buffer.commit"})).await;
    let events = until(&mut client, "completed").await;
    assert!(!events.last().unwrap()["transcript"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn any_form_of_a_key_opens_and_a_short_lived_one_opens_sessions_only() {
    let live = live(16, Duration::ZERO, |config| {
        config.server.api_keys = vec!["secret-key".to_owned()];
    })
    .await;
    let path = "/v1/realtime?intent=transcription";
    assert_eq!(live.open(path, &[]).await.unwrap_err().0, 401);
    assert_eq!(live.open(path, &[("api-key", "wrong")]).await.unwrap_err().0, 401);
    for headers in [("api-key", "secret-key"), ("authorization", "Bearer secret-key")] {
        live.open(path, &[headers]).await.unwrap();
    }
    live.open("/v1/realtime?api-key=secret-key", &[]).await.unwrap();
    let protocols = "realtime, openai-insecure-api-key.secret-key";
    live.open(path, &[("sec-websocket-protocol", protocols)])
        .await
        .unwrap();

    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .new_agent();
    let base = format!("http://{}", live.address);
    let issued = tokio::task::spawn_blocking({
        let (agent, base) = (agent.clone(), base.clone());
        move || {
            let body = json!({"expires_after":{"anchor":"created_at","seconds":60},
                "session":{"type":"transcription","audio":{"input":{"transcription":{"model":"my-whisper"}}}}});
            let url = format!("{base}/v1/realtime/client_secrets");
            let mut answer = agent
                .post(&url)
                .header("api-key", "secret-key")
                .send_json(body)
                .unwrap();
            answer.body_mut().read_json::<Value>().unwrap()
        }
    });
    let issued = issued.await.unwrap();
    let key = issued["value"].as_str().unwrap().to_owned();
    assert!(
        key.starts_with("ek_") && issued["expires_at"].is_u64(),
        "{issued}"
    );
    let bearer = format!("Bearer {key}");
    let mut client = live.open(path, &[("authorization", &bearer)]).await.unwrap();
    let created = next(&mut client).await;
    assert_eq!(
        created["session"]["audio"]["input"]["transcription"]["model"],
        "my-whisper"
    );
    let refused = tokio::task::spawn_blocking(move || {
        agent
            .get(format!("{base}/v1/models"))
            .header("authorization", bearer)
            .call()
            .unwrap()
            .status()
    });
    assert_eq!(refused.await.unwrap().as_u16(), 401);
}

#[tokio::test]
async fn a_full_server_says_so_before_the_upgrade_and_places_come_back() {
    let live = live(1, Duration::ZERO, |_| {}).await;
    let client = live.connect().await;
    let (status, retry_after) = live.open("/v1/realtime", &[]).await.unwrap_err();
    assert_eq!((status, retry_after.as_str()), (429, "10"));
    drop(client);
    for _ in 0..200 {
        if live.open("/v1/realtime", &[]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place is still taken: {:?}", live.admission);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let live = live(4, Duration::ZERO, |config| {
        config.server.cors_origins = vec!["https://mine.example".to_owned()];
    })
    .await;
    let path = "/v1/realtime";
    assert_eq!(
        live.open(path, &[("origin", "https://evil.example")])
            .await
            .unwrap_err()
            .0,
        403
    );
    live.open(path, &[("origin", "https://mine.example")])
        .await
        .unwrap();
    live.open(path, &[]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_finishes_the_turn_and_closes_with_1012() {
    let live = live(2, Duration::from_millis(300), |_| {}).await;
    let mut client = live.connect().await;
    let mut silent = live.connect().await;
    say(&mut client, at_16_khz(json!({"type":"server_vad"}))).await;
    say(&mut client, append(&recording()[..48_000])).await;
    until(&mut client, "speech_started").await;
    live.stop.cancel();
    let events = until(&mut client, "completed").await;
    assert!(!events.last().unwrap()["transcript"].as_str().unwrap().is_empty());
    for client in [&mut client, &mut silent] {
        loop {
            match client.next().await.unwrap().unwrap() {
                Message::Close(frame) => {
                    assert_eq!(u16::from(frame.unwrap().code), 1012);
                    break;
                }
                Message::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn too_large_a_message_ends_its_connection_alone() {
    let live = live(4, Duration::ZERO, |_| {}).await;
    let mut good = live.connect().await;
    let mut bad = live.connect().await;
    next(&mut bad).await;
    let _ = bad.send(Message::text("x".repeat(25 << 20))).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(Ok(_)) = bad.next().await {}
    });
    ended.await.expect("the connection stays open");
    say(&mut good, json!({"type":"input_audio_buffer.clear"})).await;
    until(&mut good, "cleared").await;
}

#[tokio::test]
async fn a_large_append_of_fifteen_mebibytes_is_taken() {
    let live = live(1, Duration::ZERO, |_| {}).await;
    let mut client = live.connect().await;
    say(&mut client, append(&vec![0; 15 << 20])).await;
    say(&mut client, json!({"type":"input_audio_buffer.commit"})).await;
    let events = until(&mut client, "completed").await;
    assert_eq!(events.last().unwrap()["transcript"], "");
    assert_eq!(events.iter().filter(|event| event["type"] == "error").count(), 0);
}

#[tokio::test]
async fn who_does_not_read_is_given_up_and_nobody_else_notices() {
    let live = live(2, Duration::ZERO, |_| {}).await;
    let mut good = live.connect().await;
    let bad = live.connect().await;
    // Every one of these is answered with an error, which nobody reads.
    let (mut sink, unread) = bad.split();
    let flood =
        tokio::spawn(
            async move { while sink.send(Message::text(r#"{"type":"nonsense"}"#)).await.is_ok() {} },
        );
    let given_up = async {
        while live.admission.sessions() > 1 {
            say(&mut good, json!({"type":"input_audio_buffer.clear"})).await;
            until(&mut good, "cleared").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_up)
        .await
        .expect("the place is still taken");
    flood.await.unwrap();
    drop(unread);
}

/// Resident memory of this process in KiB, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_half_of_them_killed_leave_nothing_behind() {
    let live = Arc::new(live(64, Duration::from_millis(20), |_| {}).await);
    let audio = Arc::new(recording()[..96_000].to_vec());
    let round = async |count: usize| {
        let mut sessions = Vec::new();
        for number in 0..count {
            let (live, audio) = (live.clone(), audio.clone());
            sessions.push(tokio::spawn(async move {
                let mut client = live.connect().await;
                let detection = if number % 3 == 0 {
                    Value::Null
                } else {
                    json!({"type":"server_vad"})
                };
                say(&mut client, at_16_khz(detection)).await;
                for piece in audio.chunks(4801) {
                    say(&mut client, append(piece)).await;
                }
                if number % 2 == 0 {
                    return; // without a word, in the middle of its turn
                }
                say(&mut client, json!({"type":"input_audio_buffer.commit"})).await;
                until(&mut client, "completed").await;
                client.close(None).await.unwrap();
            }));
        }
        for session in sessions {
            session.await.unwrap();
        }
        for _ in 0..500 {
            if live.admission.sessions() == 0 && live.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("left behind: {:?}", live.admission);
    };
    round(40).await;
    let before = (
        resident_kib(),
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    );
    for _ in 0..4 {
        round(40).await;
    }
    let after = (
        resident_kib(),
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    );
    assert!(after.1 <= before.1 + 4, "tasks: {before:?} → {after:?}");
    if let (Some(before), Some(after)) = (before.0, after.0) {
        assert!(after < before + 65_536, "memory in KiB: {before} → {after}");
    }
}
