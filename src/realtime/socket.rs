//! One connection: JSON text frames ⇄ typed events, and the session's passes, until one side has had enough.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::future::BoxFuture;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::events::{self, ClientEvent, Refusal, ServerEvent};
use super::session::{Heard, PassError, PassId, Session};
use super::settings::Dialect;
use super::windows::{Hold, Recognizer};
use crate::metrics::Metrics;
use crate::serving::ServingError;

/// Largest frame and message: an append of 15 MiB in base64, and room for the rest.
pub const MAX_MESSAGE_BYTES: usize = 24 << 20;
/// Pause between pings.
const PING: Duration = Duration::from_secs(20);
/// A client that is silent for so long, pongs included, has gone.
const GONE: Duration = Duration::from_secs(70);
/// A client that does not take an event within this time reads too slowly.
const SLOW_READER: Duration = Duration::from_secs(10);
/// Events that may wait for the client.
const EVENTS_AHEAD: usize = 256;
/// Bytes of audio taken at a time: a second and more, so that a large append does not hold up the rest.
const AUDIO_STEP: usize = 64 << 10;
/// Audio that may wait for the model; more is not read from the connection until there is room.
const MAX_BACKLOG_SECONDS: f32 = 120.0;

/// What a connection obeys.
#[derive(Clone)]
pub struct Terms {
    /// Fires when the server stops: turns finish, then the connection is closed with 1012.
    pub stop: CancellationToken,
    /// Fires when the server waits for turns no longer.
    pub end: CancellationToken,
    /// Longest session.
    pub lifetime: Duration,
    /// Whether the session's key may ask for a model by this name.
    pub allows: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").finish_non_exhaustive()
    }
}

/// WebSocket close codes (RFC 6455 section 7.4.1 and its registry).
mod close {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const UNSUPPORTED: u16 = 1003;
    pub(super) const SERVICE_RESTART: u16 = 1012;
}

/// Said with 1012.
const STOPPING: &str = "the server is stopping";

type Running = (PassId, BoxFuture<'static, Result<Heard, PassError>>);

struct Connection {
    session: Session,
    engine: Arc<dyn Recognizer>,
    /// Keeps the session's model loaded, also while nobody speaks.
    hold: Option<Hold>,
    terms: Terms,
    events: mpsc::Sender<Message>,
    /// Audio of an append that is not taken yet.
    inbox: Vec<u8>,
    taken: usize,
    running: Option<Running>,
    event_number: u64,
    finals_only: bool,
}

/// Why a connection ends.
enum End {
    /// With this code and these words.
    Close(u16, &'static str),
    /// The client has gone.
    Gone,
}

/// Serves a session until its end.
///
/// # Cancel safety
///
/// Dropped, it ends the connection and the pass that runs.
pub async fn serve(
    socket: WebSocket,
    session: Session,
    engine: Arc<dyn Recognizer>,
    hold: Option<Hold>,
    terms: Terms,
) {
    let (sink, mut frames) = socket.split();
    let (events, waiting) = mpsc::channel(EVENTS_AHEAD);
    let mut writer = tokio::spawn(write(sink, waiting));
    let mut connection = Connection {
        session,
        engine,
        hold,
        terms,
        events,
        inbox: Vec::new(),
        taken: 0,
        running: None,
        event_number: 0,
        finals_only: false,
    };
    let end = connection.run(&mut frames).await;
    if let End::Close(code, reason) = end {
        let frame = CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        };
        let _ = timeout(SLOW_READER, connection.events.send(Message::Close(Some(frame)))).await;
    }
    drop(connection);
    if timeout(SLOW_READER, &mut writer).await.is_err() {
        writer.abort();
    }
}

/// The only writer: reading goes on while a slow client is waited for.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        if !matches!(timeout(SLOW_READER, sink.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = timeout(SLOW_READER, sink.close()).await;
}

impl Connection {
    async fn run(
        &mut self,
        frames: &mut (impl StreamExt<Item = Result<Message, axum::Error>> + Unpin),
    ) -> End {
        let expiry = tokio::time::sleep(self.terms.lifetime);
        tokio::pin!(expiry);
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let (stop, end) = (self.terms.stop.clone(), self.terms.end.clone());
        let mut seen = Instant::now();
        let mut ending: Option<End> = None;
        loop {
            if !self.advance().await {
                return End::Gone;
            }
            if ending.is_some() && self.session.is_idle() {
                return ending.unwrap_or(End::Gone);
            }
            let has_room = self.session.backlog_seconds() < MAX_BACKLOG_SECONDS;
            let running = self.running.is_some();
            let (engine_result, inbox) = (
                async {
                    match &mut self.running {
                        Some((id, pass)) => (*id, pass.await),
                        None => std::future::pending().await,
                    }
                },
                !self.inbox.is_empty(),
            );
            tokio::select! {
                (id, outcome) = engine_result, if running => {
                    self.running = None;
                    if let Ok(heard) = &outcome {
                        self.terms.metrics.realtime_delay.observe(heard.took);
                    }
                    self.session.finished(id, outcome);
                }
                frame = frames.next(), if !inbox && has_room => {
                    seen = Instant::now();
                    match frame {
                        None | Some(Err(_) | Ok(Message::Close(_))) => return End::Gone,
                        Some(Ok(Message::Text(text))) if ending.is_none() => self.obey(&text).await,
                        Some(Ok(Message::Binary(_))) => {
                            ending.get_or_insert(End::Close(close::UNSUPPORTED, "events are JSON in text frames"));
                            self.session.drain();
                        }
                        Some(Ok(_)) => {}
                    }
                }
                () = tokio::task::yield_now(), if inbox && has_room => self.take_audio(),
                _ = ping.tick() => {
                    if has_room && !inbox && seen.elapsed() > GONE {
                        return End::Gone;
                    }
                    if self.events.try_send(Message::Ping(Vec::new().into())).is_err() && self.events.is_closed() {
                        return End::Gone;
                    }
                }
                () = stop.cancelled(), if ending.is_none() => {
                    ending = Some(End::Close(close::SERVICE_RESTART, STOPPING));
                    self.drop_audio();
                    self.session.drain();
                }
                () = end.cancelled() => return End::Close(close::SERVICE_RESTART, STOPPING),
                () = &mut expiry, if ending.is_none() => {
                    self.session.refuse(expired(self.terms.lifetime));
                    ending = Some(End::Close(close::NORMAL, "the session is over"));
                    self.drop_audio();
                    self.session.drain();
                }
            }
        }
    }

    /// Sends what waits and starts what is due; false when the client takes nothing any more.
    async fn advance(&mut self) -> bool {
        loop {
            if self.session.take_abandoned() {
                self.running = None;
            }
            if self.running.is_none()
                && let Some(pass) = self.session.next_pass()
            {
                self.terms.metrics.realtime_passes.add(1);
                self.running = Some((pass.id, self.engine.run(pass)));
            }
            self.note_pace();
            let events = self.session.take_events();
            if events.is_empty() {
                return true;
            }
            for event in events {
                if !self.send(&event).await {
                    return false;
                }
            }
        }
    }

    async fn send(&mut self, event: &ServerEvent) -> bool {
        self.event_number += 1;
        let text = events::to_json(&format!("event_{}", self.event_number), event);
        let sent = timeout(SLOW_READER, self.events.send(Message::Text(text.into()))).await;
        matches!(sent, Ok(Ok(())))
    }

    async fn obey(&mut self, text: &str) {
        let incoming = match events::parse(text) {
            Ok(incoming) => incoming,
            Err(refusal) => return self.session.refuse(refusal),
        };
        match incoming.event {
            ClientEvent::Append(bytes) => {
                self.inbox = bytes;
                self.taken = 0;
                self.take_audio();
            }
            ClientEvent::Update { dialect, session } => {
                let held = match self.new_model(dialect, &session) {
                    Ok(Some(name)) if !(self.terms.allows)(&name) => {
                        served(Err(ServingError::UnknownDeployment { name }))
                    }
                    Ok(Some(name)) => served(self.engine.hold(Some(name)).await),
                    Ok(None) => Ok(None),
                    Err(refusal) => Err(refusal),
                };
                match held {
                    Ok(None) => {}
                    Ok(hold) => self.hold = hold,
                    Err(refusal) => return self.session.refuse(refusal.about(incoming.event_id)),
                }
                self.session
                    .handle(ClientEvent::Update { dialect, session }, incoming.event_id);
            }
            event => self.session.handle(event, incoming.event_id),
        }
    }

    /// The model that an update names, where it is another than before.
    fn new_model(&self, dialect: Dialect, session: &Map<String, Value>) -> Result<Option<String>, Refusal> {
        let old = self.session.settings();
        let new = old.patched(dialect, session)?;
        let name = new.model().filter(|name| old.model() != Some(*name));
        Ok(name.map(str::to_owned))
    }

    fn take_audio(&mut self) {
        let until = (self.taken + AUDIO_STEP).min(self.inbox.len());
        let step = self.inbox[self.taken..until].to_vec();
        self.taken = until;
        if until == self.inbox.len() {
            self.drop_audio();
        }
        self.session.handle(ClientEvent::Append(step), None);
    }

    fn drop_audio(&mut self) {
        self.inbox = Vec::new();
        self.taken = 0;
    }

    fn note_pace(&mut self) {
        let finals_only = self.session.gives_finals_only();
        if finals_only != std::mem::replace(&mut self.finals_only, finals_only) && finals_only {
            self.terms.metrics.realtime_degraded.add(1);
            tracing::warn!(
                "this machine cannot carry a realtime session's partial results; it gets whole turns for half a minute"
            );
        }
    }
}

/// Refuses a model that nobody serves where it is named, not at the end of the first turn.
fn served(held: Result<Hold, ServingError>) -> Result<Option<Hold>, Refusal> {
    match held {
        Ok(hold) => Ok(Some(hold)),
        Err(ServingError::UnknownDeployment { name }) => {
            let shown: String = name.chars().take(100).collect();
            let refusal = Refusal::invalid(
                "session.audio.input.transcription.model",
                format!("The model `{shown}` does not exist or you do not have access to it."),
            );
            Err(refusal.with_code("model_not_found"))
        }
        // A model that is being fetched may be there when the first turn ends.
        Err(_) => Ok(None),
    }
}

fn expired(lifetime: Duration) -> Refusal {
    let minutes = lifetime.as_secs() / 60;
    let mut refusal = Refusal::invalid(
        "",
        format!("Your session hit the maximum duration of {minutes} minutes."),
    );
    refusal.param = None;
    refusal.with_code("session_expired")
}
