//! Runs the windows of one core, or one window on many.

use std::cell::{RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use whisper_native::{EncodeError, Row, Team};

use super::window::{Exchange, Request, State};
use super::{BEAM, MARGINS, Model};
use crate::engine::decode::StepError;
use crate::engine::message::DecodeOptions;
use crate::engine::preemption::Control;
use crate::engine::window::{lengths, transcribe};
use crate::transcript::WindowTranscript;

/// How long a conductor sleeps when all its windows are paused: pauses last for one short window of somebody else.
const PAUSE_LOOK: Duration = Duration::from_millis(1);

/// A window to run.
pub(super) struct Job {
    pub(super) samples: Vec<f32>,
    pub(super) options: DecodeOptions,
    pub(super) control: Control,
    pub(super) answer: Sender<Result<WindowTranscript, StepError>>,
}

/// Asked several times a layer while a window is encoded, with its switches and whether it is urgent; true gives it up.
pub(super) type Between<'b> = dyn Fn(&Control, bool) -> bool + 'b;

/// A window's result, or why there is none.
type Outcome = Result<WindowTranscript, StepError>;

/// A window that is being decoded.
struct Running {
    state: Rc<RefCell<State>>,
    decoding: Pin<Box<dyn Future<Output = Outcome>>>,
    control: Control,
    urgent: bool,
    answer: Sender<Outcome>,
    began: Instant,
}

/// Windows whose next steps are taken together.
pub(super) struct Conductor {
    model: Arc<Model>,
    team: Team,
    windows: Vec<Running>,
    logits: Vec<f32>,
}

impl Conductor {
    /// Works on the threads of `team`.
    pub(super) fn new(model: Arc<Model>, team: Team) -> Self {
        Self {
            model,
            team,
            windows: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Windows that run.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether no window runs.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Threads of the team.
    pub(super) fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Goes on with another team.
    pub(super) fn change_team(&mut self, team: Team) -> Team {
        std::mem::replace(&mut self.team, team)
    }

    /// The team, when all is done.
    pub(super) fn into_team(self) -> Team {
        self.team
    }

    /// Takes a window in.
    pub(super) fn begin(&mut self, job: Job) {
        let began = Instant::now();
        let Job {
            samples,
            mut options,
            control,
            answer,
        } = job;
        let urgent = options.urgent;
        if options.beam_size == 0 {
            // A draft is for the eye, and the next one follows at once.
            options.beam_size = if options.draft { 1 } else { BEAM };
        }
        let state = State::new();
        let mut exchange = Exchange {
            state: state.clone(),
            model: self.model.clone(),
            spectrogram: self.model.mel.compute(&mut self.team, &samples),
            samples: samples.len(),
        };
        let full = self.model.weights.shape().n_audio_ctx;
        let decoding = Box::pin(async move {
            let model = exchange.model.clone();
            let seconds = exchange.seconds();
            let lengths = lengths(seconds, &MARGINS, full, options.short_context);
            transcribe(&mut exchange, &model.vocabulary, seconds, &options, &lengths).await
        });
        self.windows.push(Running {
            state,
            decoding,
            control,
            urgent,
            answer,
            began,
        });
    }

    /// Takes every window to its next step, encodes at most one, and takes the steps of the others together.
    pub(super) fn round(&mut self, between: &Between<'_>) {
        self.advance();
        if self.windows.is_empty() {
            return;
        }
        let wants = |window: &Running, request: Request| {
            !window.control.paused() && window.state.borrow().request == Some(request)
        };
        let single = |window: &Running| wants(window, Request::Encode) || wants(window, Request::Attend);
        let mut idle = true;
        if let Some(index) = self.windows.iter().position(single) {
            idle = false;
            self.single(index, between);
        }
        let stepping: Vec<usize> = (0..self.windows.len())
            .filter(|index| wants(&self.windows[*index], Request::Step))
            .collect();
        if !stepping.is_empty() {
            idle = false;
            self.step(&stepping);
        }
        if idle {
            std::thread::sleep(PAUSE_LOOK);
        }
    }

    /// Polls what has its answer; hands out results; forgets what nobody wants.
    fn advance(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        self.windows.retain_mut(|window| {
            let outcome = if window.control.cancel_requested() {
                Poll::Ready(Err(StepError::Cancelled))
            } else if window.state.borrow().request.is_some() {
                Poll::Pending
            } else {
                window.decoding.as_mut().poll(&mut context)
            };
            let Poll::Ready(mut outcome) = outcome else {
                return true;
            };
            if let Ok(transcript) = &mut outcome {
                transcript.inference_seconds = window.began.elapsed().as_secs_f32();
            }
            // Its slot may have gone with the process's end.
            let _ = window.answer.send(outcome);
            false
        });
    }

    /// Encodes or aligns one window.
    fn single(&mut self, index: usize, between: &Between<'_>) {
        let window = &self.windows[index];
        let mut state = window.state.borrow_mut();
        let state = &mut *state;
        let weights = &self.model.weights;
        let reply = if state.request == Some(Request::Encode) {
            // Its memory serves the next one.
            state.encoded = None;
            let cancelled = || between(&window.control, window.urgent);
            match weights.encode(&mut self.team, &state.mel, state.positions, &cancelled) {
                Ok(encoded) => {
                    state.begin(encoded, weights);
                    Ok(())
                }
                Err(EncodeError::Cancelled) => Err(StepError::Cancelled),
                Err(error) => Err(StepError::Engine(error.to_string())),
            }
        } else {
            let heads = self.model.heads.unwrap_or_default();
            match &state.encoded {
                Some(encoded) => weights
                    .attend(&mut self.team, encoded, &state.tokens, heads)
                    .map(|attention| state.attention = attention)
                    .map_err(|error| StepError::Engine(error.to_string())),
                None => Err(StepError::Engine("a window that was not encoded".to_owned())),
            }
        };
        state.request = None;
        state.reply = Some(reply);
    }

    /// Takes the next step of some windows; where that fails, of each by itself, so that one fails alone.
    fn step(&mut self, stepping: &[usize]) {
        let together = self.try_step(stepping);
        for &index in stepping {
            let reply = match &together {
                Ok(()) => Ok(()),
                Err(_) if stepping.len() > 1 => self.try_step(&[index]),
                Err(error) => Err(error.clone()),
            };
            let mut state = self.windows[index].state.borrow_mut();
            state.request = None;
            state.reply = Some(reply);
        }
    }

    fn try_step(&mut self, stepping: &[usize]) -> Result<(), StepError> {
        let size = self.model.vocabulary.size;
        let mut states: Vec<RefMut<'_, State>> = stepping
            .iter()
            .map(|index| self.windows[*index].state.borrow_mut())
            .collect();
        let counts: Vec<usize> = states.iter().map(|state| state.rows_of_logits() * size).collect();
        let alone = states.len() == 1;
        // A lone window's own memory, the conductor's for several.
        let mut logits = if alone {
            std::mem::take(&mut states[0].logits)
        } else {
            std::mem::take(&mut self.logits)
        };
        logits.resize(counts.iter().sum(), 0.0);
        let mut rows = Vec::new();
        let mut missing = false;
        for state in &mut states {
            let State {
                encoded,
                sequences,
                asked,
                ..
            } = &mut **state;
            let Some(encoded) = encoded.as_ref() else {
                missing = true;
                continue;
            };
            let mut asked = asked.iter().peekable();
            for (number, sequence) in sequences.iter_mut().enumerate() {
                if let Some(asked) = asked.next_if(|asked| asked.hypothesis == number) {
                    rows.push(Row {
                        encoded,
                        sequence,
                        tokens: &asked.tokens,
                        logits: asked.logits,
                    });
                }
            }
            missing |= asked.next().is_some();
        }
        let outcome = if missing {
            Err(StepError::Engine(
                "a step of a hypothesis that is not there".to_owned(),
            ))
        } else {
            self.model
                .weights
                .step(&mut self.team, &mut rows, &mut logits)
                .map(drop)
                .map_err(|error| StepError::Engine(error.to_string()))
        };
        drop(rows);
        if alone {
            states[0].logits = logits;
        } else {
            if outcome.is_ok() {
                let mut from = 0;
                for (state, count) in states.iter_mut().zip(counts) {
                    state.logits.clear();
                    state.logits.extend_from_slice(&logits[from..from + count]);
                    from += count;
                }
            }
            drop(states);
            self.logits = logits;
        }
        outcome
    }
}
