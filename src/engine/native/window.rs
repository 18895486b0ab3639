//! One window between its decoding, which asks, and its conductor, which answers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use whisper_native::mel::{HOP, Spectrogram};
use whisper_native::timing::{Attention, token_times};
use whisper_native::{Encoded, Logits, Sequence, Weights};

use super::Model;
use crate::audio::SAMPLE_RATE_HZ;
use crate::engine::decode::{Row, StepError, Steps};
use crate::engine::window::{Forward, POSITIONS_PER_SECOND};

/// Value of what follows the sound in the spectrogram: openai-whisper's `transcribe.py` pads the finished spectrogram
/// with zeros (`pad_or_trim`).
const PADDING: f32 = 0.0;
/// Frames of the spectrogram for each position of the encoder.
const FRAMES_PER_POSITION: usize = 2;
const FRAMES_PER_SECOND: f32 = 100.0;

/// What a window waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Encode,
    Step,
    Attend,
}

/// Tokens to append to one hypothesis.
pub(super) struct Asked {
    pub(super) hypothesis: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) logits: Logits,
}

/// What a window has in the engine.
pub(super) struct State {
    pub(super) request: Option<Request>,
    pub(super) reply: Option<Result<(), StepError>>,
    /// For `Encode`: the spectrogram's rows and the positions.
    pub(super) mel: Vec<f32>,
    pub(super) positions: usize,
    pub(super) encoded: Option<Encoded>,
    pub(super) sequences: Vec<Sequence>,
    /// Sequences of hypotheses that were given up, for the next ones.
    spare: Vec<Sequence>,
    /// For `Step`: ascending hypotheses.
    pub(super) asked: Vec<Asked>,
    pub(super) logits: Vec<f32>,
    /// For `Attend`: the tokens, and the weights that come back.
    pub(super) tokens: Vec<u32>,
    pub(super) attention: Vec<f32>,
}

impl State {
    pub(super) fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            request: None,
            reply: None,
            mel: Vec::new(),
            positions: 0,
            encoded: None,
            sequences: Vec::new(),
            spare: Vec::new(),
            asked: Vec::new(),
            logits: Vec::new(),
            tokens: Vec::new(),
            attention: Vec::new(),
        }))
    }

    /// Logits that the step asks for, in rows.
    pub(super) fn rows_of_logits(&self) -> usize {
        let rows = |asked: &Asked| match asked.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => asked.tokens.len(),
        };
        self.asked.iter().map(rows).sum()
    }

    /// The window was encoded: one empty hypothesis is left.
    pub(super) fn begin(&mut self, encoded: Encoded, weights: &Weights) {
        self.encoded = Some(encoded);
        self.spare.append(&mut self.sequences);
        let mut first = self.spare.pop().unwrap_or_else(|| Sequence::new(weights));
        first.truncate(0);
        self.sequences.push(first);
    }

    fn rearrange(&mut self, parents: &[usize], weights: &Weights) {
        let mut old: Vec<Option<Sequence>> = self.sequences.drain(..).map(Some).collect();
        for (index, &parent) in parents.iter().enumerate() {
            // The last child takes the sequence itself.
            let last = !parents[index + 1..].contains(&parent);
            let taken = if last { old[parent].take() } else { None };
            let sequence = taken.unwrap_or_else(|| {
                let mut copy = self.spare.pop().unwrap_or_else(|| Sequence::new(weights));
                if let Some(original) = &old[parent] {
                    copy.fork_from(original);
                }
                copy
            });
            self.sequences.push(sequence);
        }
        self.spare.extend(old.into_iter().flatten());
    }
}

/// The decoding's end of a [`State`].
pub(super) struct Exchange {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) model: Arc<Model>,
    pub(super) spectrogram: Spectrogram,
    /// Samples of the window.
    pub(super) samples: usize,
}

impl Exchange {
    async fn ask(&self, request: Request) -> Result<(), StepError> {
        self.state.borrow_mut().request = Some(request);
        poll_fn(|_| match self.state.borrow_mut().reply.take() {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        })
        .await
    }

    /// Seconds of sound.
    pub(super) fn seconds(&self) -> f32 {
        self.samples as f32 / SAMPLE_RATE_HZ as f32
    }
}

impl Steps for Exchange {
    async fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        {
            let mut state = self.state.borrow_mut();
            state.asked = rows
                .iter()
                .map(|row| Asked {
                    hypothesis: row.hypothesis,
                    tokens: row.tokens.iter().map(|token| *token as u32).collect(),
                    logits: if row.every { Logits::All } else { Logits::Last },
                })
                .collect();
            state.logits = std::mem::take(logits);
        }
        let reply = self.ask(Request::Step).await;
        *logits = std::mem::take(&mut self.state.borrow_mut().logits);
        reply
    }

    fn rearrange(&mut self, parents: &[usize]) {
        self.state.borrow_mut().rearrange(parents, &self.model.weights);
    }

    fn forget(&mut self, tokens: usize) {
        if let Some(first) = self.state.borrow_mut().sequences.first_mut() {
            first.truncate(first.len().saturating_sub(tokens));
        }
    }
}

impl Forward for Exchange {
    async fn encode(&mut self, offset: f32, positions: usize) -> Result<(), StepError> {
        let first = (offset * FRAMES_PER_SECOND) as usize;
        // As openai-whisper counts: whole frames of 160 samples.
        let end = self.samples / HOP;
        let mel = self.spectrogram.rows(
            first,
            positions * FRAMES_PER_POSITION,
            end.max(first + 1),
            PADDING,
        );
        {
            let mut state = self.state.borrow_mut();
            state.mel = mel;
            state.positions = positions;
        }
        self.ask(Request::Encode).await
    }

    async fn onsets(&mut self, tokens: &[i32], first: usize, heard: f32) -> Result<Vec<f32>, StepError> {
        if self.model.heads.is_none() {
            return Err(StepError::Engine(
                "word times cannot be had from this model".to_owned(),
            ));
        }
        self.state.borrow_mut().tokens = tokens.iter().map(|token| *token as u32).collect();
        self.ask(Request::Attend).await?;
        let state = self.state.borrow();
        let attention = Attention {
            weights: &state.attention,
            tokens: tokens.len(),
            positions: state.positions,
        };
        let heard = (heard * POSITIONS_PER_SECOND).ceil() as usize;
        let mut times = token_times(attention, first, tokens.len() - 1, heard);
        times.truncate(tokens.len() - 1 - first);
        Ok(times)
    }
}
