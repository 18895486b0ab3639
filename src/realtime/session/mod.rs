//! A session as a pure state machine: events, audio and results of passes in; events and passes out. No clock and no I/O:
//! time is counted in the samples that came.
//!
//! Audio is *held* from the start of what may be spoken. A *turn* becomes an *item* of the conversation; its audio is cut
//! into *pieces* of at most one window, so that a turn may last as long as it likes. A piece that is open gets partial
//! passes; one that is closed gets its last pass, or none where a partial pass has heard all of it. Pieces are finished in
//! order, and only one pass runs at a time: what falls due meanwhile is dropped, not queued.

mod audio;
mod items;
mod passes;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use super::events::{ClientEvent, Refusal, ServerEvent};
use super::input::Intake;
use super::settings::{Dialect, Settings, TurnDetection, TurnKind};
use super::turns::{SpeechRule, SpeechTracker, frames_in};
use crate::speech::{LiveFrame, LiveVoice};

use items::Item;
pub use passes::{Heard, Pass, PassError, PassId, PassKind};
use passes::{Pace, Running};

/// Least audio that can be committed (the service's limit).
const MIN_COMMIT_MILLISECONDS: f64 = 100.0;

/// Judges frames; [`LiveVoice`] but for tests.
pub trait Voice: Send {
    /// Appends a frame for every 256 samples, at once or within 60 ms.
    fn push(&mut self, samples: &[f32], frames: &mut VecDeque<LiveFrame>);
}

impl Voice for LiveVoice {
    fn push(&mut self, samples: &[f32], frames: &mut VecDeque<LiveFrame>) {
        LiveVoice::push(self, samples, frames);
    }
}

/// What the configuration says of speech.
#[derive(Debug, Clone, Copy)]
pub struct SpeechSettings {
    /// Voice probability at which speech begins, where the client says nothing.
    pub threshold: f32,
    /// Below this it may end.
    pub threshold_end: f32,
    /// Shorter bursts are not speech.
    pub min_speech: Duration,
    /// Longest piece.
    pub max_window: Duration,
}

/// How a session begins.
#[derive(Debug, Clone)]
pub struct Opening {
    /// `sess_…`
    pub id: String,
    /// What is set before the first event.
    pub settings: Settings,
    /// Which shape the first event has.
    pub dialect: Dialect,
    /// The words that may still change are sent too (MAI-Transcribe's `intermediate`).
    pub intermediate: bool,
    /// Seconds since 1970 at which the session ends.
    pub expires_at: u64,
    /// From the configuration.
    pub speech: SpeechSettings,
}

/// One session.
pub struct Session {
    opening: Opening,
    settings: Settings,
    dialect: Dialect,
    out: Vec<ServerEvent>,

    intake: Intake,
    /// Milliseconds of the intake at the last commit or clear.
    floor_milliseconds: f64,
    voice: Box<dyn Voice>,
    tracker: SpeechTracker,
    /// Audio that may still be needed; its first sample is number `held_start`, a multiple of a frame.
    held: VecDeque<f32>,
    held_start: u64,
    /// Judged frames of `held`.
    frames: VecDeque<LiveFrame>,
    /// Audio before this sample belongs to what was committed.
    floor: u64,
    /// Nobody has spoken since this sample.
    idle_from: u64,

    /// Items without a transcript, oldest first; the last one may be open.
    items: VecDeque<Item>,
    last_item: Option<String>,
    next_number: u64,

    running: Option<Running>,
    abandoned: bool,
    pace: Pace,
    draining: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.opening.id)
            .field("items", &self.items.len())
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session that has just been connected; its first event waits in [`Session::take_events`].
    ///
    /// # Errors
    ///
    /// A sentence, when the input cannot be resampled.
    pub fn new(opening: Opening, voice: Box<dyn Voice>) -> Result<Self, String> {
        let settings = opening.settings.clone();
        let mut session = Self {
            intake: Intake::new(settings.format)?,
            floor_milliseconds: 0.0,
            voice,
            tracker: SpeechTracker::new(rule(&settings, &opening.speech)),
            held: VecDeque::new(),
            held_start: 0,
            frames: VecDeque::new(),
            floor: 0,
            idle_from: 0,
            items: VecDeque::new(),
            last_item: None,
            next_number: 1,
            running: None,
            abandoned: false,
            pace: Pace::default(),
            draining: false,
            out: Vec::new(),
            dialect: opening.dialect,
            settings,
            opening,
        };
        let shown = session.shown();
        session.out.push(match session.dialect {
            Dialect::Current => ServerEvent::SessionCreated { session: shown },
            Dialect::Beta => ServerEvent::BetaSessionCreated { session: shown },
        });
        Ok(session)
    }

    /// The settings now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Events for the client, in order.
    pub fn take_events(&mut self) -> Vec<ServerEvent> {
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// An event of the client that cannot be obeyed; the session goes on.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.out.push(ServerEvent::Error { error: refusal });
    }

    /// Obeys a client's event.
    pub fn handle(&mut self, event: ClientEvent, event_id: Option<String>) {
        let outcome = match event {
            ClientEvent::Update { dialect, session } => self.update(dialect, &session),
            ClientEvent::Append(bytes) => {
                self.append(&bytes);
                Ok(())
            }
            ClientEvent::Commit => self.commit(),
            ClientEvent::Clear => {
                self.clear();
                Ok(())
            }
        };
        if let Err(refusal) = outcome {
            self.refuse(refusal.about(event_id));
        }
    }

    /// No more audio is taken; what was said so far is transcribed. The session is over once [`Session::is_idle`].
    pub fn drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        let spoken = self.tracker.speaking() || self.open_item().is_some_and(Item::was_spoken);
        if spoken {
            self.commit_turn();
        } else {
            self.drop_open_item();
        }
    }

    /// Nothing is left to transcribe and nothing left to send.
    pub fn is_idle(&mut self) -> bool {
        self.settle();
        self.items.iter().all(|item| !item.committed) && self.out.is_empty()
    }

    fn update(
        &mut self,
        dialect: Dialect,
        session: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), Refusal> {
        let new = self.settings.patched(dialect, session)?;
        if new.format != self.settings.format {
            let fresh = Intake::new(new.format)
                .map_err(|reason| Refusal::invalid("session.audio.input.format", reason))?;
            self.floor_milliseconds -= self.intake.milliseconds();
            self.intake = fresh;
        }
        self.tracker.set_rule(rule(&new, &self.opening.speech));
        let detected = self.settings.turn_detection.is_some();
        let detects = new.turn_detection.is_some();
        self.settings = new;
        self.dialect = dialect;
        if detects && !detected {
            self.begin_to_detect();
        }
        let shown = self.shown();
        self.out.push(match dialect {
            Dialect::Current => ServerEvent::SessionUpdated { session: shown },
            Dialect::Beta => ServerEvent::BetaSessionUpdated { session: shown },
        });
        Ok(())
    }

    /// The client has committed so far; from now on silence does.
    fn begin_to_detect(&mut self) {
        let spoken = self.open_item().is_some_and(Item::was_spoken);
        if self.tracker.speaking() {
            if let Some(item) = self.open_item() {
                let started = ServerEvent::SpeechStarted {
                    audio_start_ms: milliseconds(item.start),
                    item_id: item.id.clone(),
                };
                self.out.push(started);
            }
        } else if spoken {
            self.commit_turn();
        } else {
            self.drop_open_item();
        }
        self.idle_from = self.judged();
    }

    fn commit(&mut self) -> Result<(), Refusal> {
        let buffered = self.intake.milliseconds() - self.floor_milliseconds;
        if self.draining || buffered < MIN_COMMIT_MILLISECONDS {
            let mut refusal = Refusal::invalid(
                "",
                format!(
                    "Error committing input audio buffer: buffer too small. Expected at least \
                     {MIN_COMMIT_MILLISECONDS}ms of audio, but buffer only has {buffered:.2}ms of audio."
                ),
            );
            refusal.param = None;
            return Err(refusal.with_code("input_audio_buffer_commit_empty"));
        }
        self.commit_turn();
        Ok(())
    }

    fn clear(&mut self) {
        self.drop_open_item();
        self.restart_buffer(self.heard());
        self.out.push(ServerEvent::Cleared {});
    }

    fn shown(&self) -> serde_json::Value {
        let opening = &self.opening;
        self.settings
            .to_json(self.dialect, &opening.id, opening.expires_at)
    }

    fn detection(&self) -> Option<&TurnDetection> {
        self.settings.turn_detection.as_ref()
    }
}

fn rule(settings: &Settings, speech: &SpeechSettings) -> SpeechRule {
    let threshold = match settings.turn_detection.as_ref().map(|turns| turns.kind) {
        Some(TurnKind::Silence { threshold, .. }) => threshold.clamp(0.01, 1.0),
        Some(TurnKind::Semantic { .. }) | None => speech.threshold,
    };
    SpeechRule {
        threshold,
        threshold_end: speech.threshold_end.min(threshold * 0.8),
        min_speech: frames_in(speech.min_speech),
        patience: frames_in(Duration::from_millis(300)),
    }
}

/// Milliseconds from the start of all audio.
fn milliseconds(sample: u64) -> u64 {
    sample * 1000 / u64::from(crate::speech::SAMPLE_RATE_HZ)
}
