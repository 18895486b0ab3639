//! Passes of the model over a session's audio: which one is due, and what becomes of its result.

use std::time::Duration;

use super::super::agreement::Token;
use super::super::events::ItemFailure;
use super::super::turns::frames_in;
use super::Session;
use crate::speech::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

const FRAME: u64 = FRAME_SAMPLES as u64;
/// Least voice, 192 ms, before a partial pass is worth its time.
const MIN_VOICED_FRAMES: u64 = 12;
/// A silence of 160 ms may be the end: what was said is looked at once more, so that its last words are there when the
/// turn ends.
const MAYBE_THE_END: u64 = 10;
/// New audio a partial pass waits for, in times of what the last pass took: a third of the time stays for others.
const REST: f64 = 1.5;
/// A session whose partial passes would come further apart than this gets none for a while.
const LONGEST_STEP_SECONDS: f64 = 4.0;
/// Such a session is tried again after so much audio.
const TRY_AGAIN: u64 = 30 * SAMPLE_RATE_HZ as u64;

/// Numbers a session's passes.
pub type PassId = u64;

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassKind {
    /// A look at a turn that may still go on.
    Partial,
    /// The last word on a piece.
    Final,
}

/// One run of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// Repeated to [`Session::finished`].
    pub id: PassId,
    /// What for.
    pub kind: PassKind,
    /// Mono samples at 16 kHz, at most a window.
    pub samples: Vec<f32>,
    /// Seconds of them with a voice.
    pub voiced_seconds: f32,
    /// Token ids that the result begins with.
    pub prefix: Vec<i32>,
    /// Deployment or model name; `None` is the default.
    pub model: Option<String>,
    /// ISO 639-1 code; `None` detects.
    pub language: Option<String>,
    /// When detecting, only these may win.
    pub languages: Vec<String>,
    /// Told to the model as what came before.
    pub prompt: Option<String>,
}

/// What a pass gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heard {
    /// Text tokens, the prefix included.
    pub tokens: Vec<Token>,
    /// Language the model worked in.
    pub language: Option<String>,
    /// A partial result that deserves a second look.
    pub doubtful: bool,
    /// From asking to answer, waiting included.
    pub took: Duration,
}

/// Why a pass gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassError {
    /// No engine can be had.
    Unavailable,
    /// The engine failed on this audio.
    Failed,
}

#[derive(Debug)]
pub(super) struct Running {
    id: PassId,
    kind: PassKind,
    piece: u64,
    /// Last sample it hears.
    end: u64,
}

/// Whether the machine keeps up.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What the latest partial pass took.
    last: Duration,
    /// No partial passes before this sample.
    finals_until: u64,
}

impl Session {
    /// The pass that is due now, if none runs.
    pub fn next_pass(&mut self) -> Option<Pass> {
        self.settle();
        if self.running.is_some() {
            return None;
        }
        let item = self.items.front()?;
        let piece = item.pieces.front()?;
        let heard = self.heard();
        let (kind, end) = match piece.end {
            Some(end) => (PassKind::Final, end),
            None if self.partial_is_due() => (PassKind::Partial, heard),
            None => return None,
        };
        let samples = if piece.end.is_some() {
            piece.samples.clone()
        } else {
            let from = (piece.start.max(self.held_start) - self.held_start) as usize;
            self.held.range(from..).copied().collect()
        };
        let asked = self.settings.transcription.clone().unwrap_or_default();
        let mut told: Vec<String> = asked.prompt.into_iter().collect();
        if !asked.keywords.is_empty() {
            told.push(asked.keywords.join(", "));
        }
        let running = Running {
            id: self.next_number,
            kind,
            piece: piece.number,
            end,
        };
        let pass = Pass {
            id: running.id,
            kind,
            samples,
            voiced_seconds: (piece.voiced_frames * FRAME) as f32 / SAMPLE_RATE_HZ as f32,
            prefix: piece.agreement.prefix(),
            model: asked.model,
            language: asked.language.or_else(|| piece.language.clone()),
            languages: asked.languages,
            prompt: (!told.is_empty()).then(|| told.join(" ")),
        };
        self.next_number += 1;
        self.running = Some(running);
        Some(pass)
    }

    fn partial_is_due(&self) -> bool {
        let Some(item) = self.items.front() else {
            return false;
        };
        let Some(piece) = item.open_piece() else {
            return false;
        };
        let asked = self.settings.transcription.as_ref().and_then(|asked| asked.delay);
        let Some(step) = asked.unwrap_or_default().step() else {
            return false;
        };
        let judged = self.judged();
        let degraded = judged < self.pace.finals_until;
        if degraded || item.failure.is_some() || piece.voiced_frames < MIN_VOICED_FRAMES {
            return false;
        }
        if self.tracker.silence() >= MAYBE_THE_END && !piece.would_be_heard_out(piece.covered_to) {
            return true;
        }
        let step = step.max(self.pace.last.mul_f64(REST));
        piece.voiced_to > piece.covered_to && judged >= piece.covered_to + frames_in(step) * FRAME
    }

    /// Takes the outcome of a pass. One that nobody waits for any more is forgotten.
    pub fn finished(&mut self, id: PassId, outcome: Result<Heard, PassError>) {
        let Some(running) = self.running.take_if(|running| running.id == id) else {
            return;
        };
        match (running.kind, outcome) {
            (PassKind::Partial, Ok(heard)) => self.partial_result(&running, heard),
            (PassKind::Partial, Err(_)) => {
                // The last pass will say what is wrong; until then others may go on.
                self.pace.finals_until = self.judged() + TRY_AGAIN;
            }
            (PassKind::Final, Ok(heard)) => {
                if let Some(item) = self.items.front_mut()
                    && item.language.is_none()
                    && !heard.tokens.is_empty()
                {
                    item.language = heard.language;
                }
                self.finish_piece(Some(heard.tokens));
            }
            (PassKind::Final, Err(error)) => {
                if let Some(item) = self.items.front_mut() {
                    item.failure = Some(failure(error, &item.id));
                }
            }
        }
        self.settle();
    }

    fn partial_result(&mut self, running: &Running, heard: Heard) {
        self.pace.last = heard.took;
        if heard.took.as_secs_f64() * REST > LONGEST_STEP_SECONDS {
            self.pace.finals_until = self.judged() + TRY_AGAIN;
        }
        let piece = self
            .items
            .iter_mut()
            .flat_map(|item| &mut item.pieces)
            .find(|piece| piece.number == running.piece);
        let Some(piece) = piece else {
            return;
        };
        let before = piece.covered_to;
        piece.covered_to = running.end;
        piece.doubtful = heard.doubtful;
        if heard.doubtful {
            return;
        }
        // What two passes agree on was there when the first of them listened.
        piece.agreed_to = piece.agreed_to.max(before);
        self.grow_piece(running.piece, heard.tokens, heard.language);
    }

    /// True when the machine cannot carry partial results for this session just now.
    pub fn gives_finals_only(&self) -> bool {
        self.judged() < self.pace.finals_until
    }

    /// Seconds of audio that was cut into pieces and not transcribed yet.
    pub fn backlog_seconds(&self) -> f32 {
        let samples: usize = self
            .items
            .iter()
            .flat_map(|item| &item.pieces)
            .map(|piece| piece.samples.len())
            .sum();
        samples as f32 / SAMPLE_RATE_HZ as f32
    }

    /// True once after the running pass has become useless; whoever runs it stops it.
    pub fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.abandoned)
    }

    /// Gives up the running pass if its piece is gone, or has ended and will need another one.
    pub(super) fn abandon_what_is_in_vain(&mut self) {
        let Some(running) = &self.running else {
            return;
        };
        let piece = self
            .items
            .iter()
            .flat_map(|item| &item.pieces)
            .find(|piece| piece.number == running.piece);
        let useful = piece.is_some_and(|piece| match (running.kind, piece.end) {
            (PassKind::Final, _) | (_, None) => true,
            (PassKind::Partial, Some(_)) => piece.in_pause && piece.would_be_heard_out(running.end),
        });
        if !useful {
            self.running = None;
            self.abandoned = true;
        }
    }
}

fn failure(error: PassError, item_id: &str) -> ItemFailure {
    ItemFailure {
        r#type: "server_error",
        code: match error {
            PassError::Unavailable => Some("model_unavailable"),
            PassError::Failed => None,
        },
        message: format!("Input transcription failed for item '{item_id}'."),
        param: None,
    }
}
