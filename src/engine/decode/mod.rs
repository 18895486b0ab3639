//! From logits to tokens: one set of rules and searches for every engine.
//!
//! The rules are openai-whisper 20250625's (`decoding.py`, `transcribe.py`); everything works on plain slices. A search is
//! `async` so that one thread can hold many windows at their next step and run those steps as one: an engine that runs a
//! step at once answers at once ([`now`]).

mod repetition;
mod rules;
mod search;
mod vocabulary;
mod vocabulary_bias;

pub(super) use repetition::{repeats_at_end, repeats_somewhere};
pub(super) use rules::{language, probability};
pub(super) use search::{Choice, Hypothesis, Limits, Strategy, search};
pub(super) use vocabulary::Vocabulary;
pub(super) use vocabulary_bias::TokenTrie;

/// One hypothesis in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'t> {
    /// Number of the hypothesis; rows come in ascending order.
    pub(super) hypothesis: usize,
    /// Appended to it; at least one.
    pub(super) tokens: &'t [i32],
    /// Logits after each of the tokens, not after the last one alone.
    pub(super) every: bool,
}

/// The decoder of one window: hypotheses that grow by tokens.
pub(super) trait Steps {
    /// Appends tokens and leaves the logits after them, [`Vocabulary::size`] for each one asked for, in the order of the
    /// rows.
    async fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), StepError>;

    /// Hypothesis `i` becomes what `parents[i]` was; there are as many as `parents` afterwards.
    fn rearrange(&mut self, parents: &[usize]);

    /// Takes back the last `tokens` tokens of the first hypothesis.
    fn forget(&mut self, tokens: usize);
}

/// Why a step was not run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StepError {
    Cancelled,
    Engine(String),
}

/// Runs a search on an engine whose steps never wait.
#[cfg(any(test, feature = "whisper"))]
pub(super) fn now<T>(search: impl Future<Output = Result<T, StepError>>) -> Result<T, StepError> {
    let search = std::pin::pin!(search);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match search.poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => Err(StepError::Engine("a step waits for another window".to_owned())),
    }
}
