//! Decoder steps on a state, each on as many threads as are fastest just now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use whisper_rs::{FullParams, SamplingStrategy, WhisperState};

use super::super::decode::{Row, StepError, Steps};
use super::super::preemption::Control;
use super::super::thread_tuner::ThreadTuner;
use super::super::window::Forward;
use super::{engine_error, quiet};

/// One window on a state.
pub(super) struct Run<'s> {
    state: &'s mut WhisperState,
    samples: &'s [f32],
    position: usize,
    /// At most.
    threads: usize,
    tuner: &'s Mutex<ThreadTuner>,
    control: &'s Control,
}

impl<'s> Run<'s> {
    /// `samples` are at least as long as whisper.cpp takes.
    pub(super) fn new(
        state: &'s mut WhisperState,
        samples: &'s [f32],
        threads: usize,
        tuner: &'s Mutex<ThreadTuner>,
        control: &'s Control,
    ) -> Self {
        Self {
            state,
            samples,
            position: 0,
            threads,
            tuner,
            control,
        }
    }

    fn tuner(&self) -> MutexGuard<'_, ThreadTuner> {
        self.tuner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs some tokens; the state then has the logits after the first of them.
    fn feed(&mut self, tokens: &[i32]) -> Result<(), StepError> {
        if self.control.cancelled() {
            return Err(StepError::Cancelled);
        }
        let single = tokens.len() == 1;
        let threads = if single {
            self.tuner().threads(self.threads.min(self.control.threads()))
        } else {
            self.threads
        };
        let began = Instant::now();
        self.state
            .decode(tokens, self.position, threads)
            .map_err(engine_error)?;
        if single {
            self.tuner().took(threads, began.elapsed());
        }
        self.position += tokens.len();
        Ok(())
    }
}

impl Steps for Run<'_> {
    async fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        logits.clear();
        for row in rows {
            if row.hypothesis > 0 {
                return Err(StepError::Engine("a state has one hypothesis".to_owned()));
            }
            // `whisper-rs` shows the first token's logits alone.
            let (before, shown) = if row.every {
                row.tokens.split_at(0)
            } else {
                row.tokens.split_at(row.tokens.len() - 1)
            };
            if !before.is_empty() {
                self.feed(before)?;
            }
            for token in shown {
                self.feed(&[*token])?;
                logits.extend_from_slice(self.state.get_logits().map_err(engine_error)?);
            }
        }
        Ok(())
    }

    /// Only the one hypothesis: several go through `whisper_full`.
    fn rearrange(&mut self, _parents: &[usize]) {}

    fn forget(&mut self, tokens: usize) {
        // whisper.cpp drops what its cache holds from the next position on.
        self.position = self.position.saturating_sub(tokens);
    }
}

impl Forward for Run<'_> {
    async fn encode(&mut self, offset: f32, positions: usize) -> Result<(), StepError> {
        if self.control.cancelled() {
            return Err(StepError::Cancelled);
        }
        // There is no call that sets the encoder's length. `whisper_full` over the first 100 ms does nothing
        // else: it stores the spectrogram and the length and finds too little to decode.
        let mut params = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
        quiet(&mut params, self.threads as u32);
        params.set_duration_ms(100);
        params.set_audio_ctx(positions as i32);
        self.state.full(params, self.samples).map_err(engine_error)?;
        self.position = 0;
        let threads = self.threads.min(self.control.threads());
        self.state
            .encode((offset * 100.0) as usize, threads)
            .map_err(engine_error)
    }

    async fn onsets(&mut self, _tokens: &[i32], _first: usize, _heard: f32) -> Result<Vec<f32>, StepError> {
        Err(StepError::Engine(
            "whisper.cpp gives word times in `whisper_full` alone".to_owned(),
        ))
    }
}
