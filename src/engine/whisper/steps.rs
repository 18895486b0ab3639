//! Decoder steps on a state, each on as many threads as are fastest just now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use whisper_rs::WhisperState;

use super::super::courtesy::Control;
use super::super::decode::{StepError, Steps};
use super::super::pace::Pace;
use super::engine_error;

/// Decoder steps on a state.
pub(super) struct Run<'s> {
    state: &'s mut WhisperState,
    position: usize,
    /// At most.
    threads: usize,
    pace: &'s Mutex<Pace>,
    control: Control<'s>,
}

impl<'s> Run<'s> {
    /// From the first position of the text on.
    pub(super) fn new(
        state: &'s mut WhisperState,
        threads: usize,
        pace: &'s Mutex<Pace>,
        control: Control<'s>,
    ) -> Self {
        Self {
            state,
            position: 0,
            threads,
            pace,
            control,
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Several tokens at once; `whisper-rs` shows only the first token's logits then, so none are taken.
    pub(super) fn feed(&mut self, tokens: &[i32]) -> Result<(), StepError> {
        self.state
            .decode(tokens, self.position, self.threads)
            .map_err(engine_error)?;
        self.position += tokens.len();
        Ok(())
    }
}

impl Steps for Run<'_> {
    fn step(&mut self, token: i32, logits: &mut Vec<f32>) -> Result<(), StepError> {
        if self.control.cancelled() {
            return Err(StepError::Cancelled);
        }
        let threads = self.pace().threads(self.threads);
        let began = Instant::now();
        self.state
            .decode(&[token], self.position, threads)
            .map_err(engine_error)?;
        self.pace().took(threads, began.elapsed());
        self.position += 1;
        let fresh = self.state.get_logits().map_err(engine_error)?;
        logits.clear();
        logits.extend_from_slice(fresh);
        Ok(())
    }
}
