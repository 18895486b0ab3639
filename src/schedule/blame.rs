//! Which window is to blame for an engine's end: only one that was alone in it.
//!
//! Windows that were in an engine together when it ended of itself are suspects and run again one at a time; a clean run
//! clears them. A window that was alone is charged, and so is one that hung; whoever is charged twice is given up. An
//! end from outside (a signal that was sent, the out-of-memory killer, the server itself because of another window) is
//! nobody's fault.

use crate::engine::{DeathCause, EngineError};
use crate::serving::Need;

/// Charges after which a window is given up: the first may have been a driver's bad moment.
const MAX_CHARGES: u32 = 2;
/// Interruptions from outside after which a window runs by itself, on all cores: it then needs less time and memory.
const INTERRUPTIONS_BEFORE_ALONE: u32 = 2;

/// What has happened to a window so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    charges: u32,
    interruptions: u32,
    suspect: bool,
    charged_on_gpu: bool,
}

/// What becomes of a window whose run ended with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs again.
    Again,
    /// The error is its answer.
    GiveUp,
}

/// What an error means for the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It was alone in an engine that ended, or it hung.
    Charged,
    /// It was in the engine with others.
    Suspected,
    /// Nobody's fault.
    Interrupted,
    /// The engine lives: the window's own failure, or its client left.
    Final,
}

impl Finding {
    pub(super) fn of(error: &EngineError) -> Self {
        match error {
            EngineError::Died {
                cause: DeathCause::Own,
                in_flight,
                ..
            } if *in_flight > 1 => Self::Suspected,
            EngineError::Died {
                cause: DeathCause::Own,
                ..
            }
            | EngineError::Hung { .. } => Self::Charged,
            EngineError::Died {
                cause: DeathCause::Outside,
                ..
            } => Self::Interrupted,
            _ => Self::Final,
        }
    }
}

impl History {
    /// Takes a finding down and says what comes next.
    pub(super) fn judge(&mut self, finding: Finding, on_gpu: bool) -> Verdict {
        match finding {
            Finding::Charged => {
                self.charges += 1;
                self.suspect = true;
                self.charged_on_gpu = on_gpu;
                if self.charges >= MAX_CHARGES {
                    return Verdict::GiveUp;
                }
            }
            Finding::Suspected => self.suspect = true,
            Finding::Interrupted => self.interruptions += 1,
            Finding::Final => return Verdict::GiveUp,
        }
        Verdict::Again
    }

    /// What it needs of its next engine, when other windows of its model wait or not.
    pub(super) fn need(&self, others_wait: bool) -> Need {
        if self.suspect {
            // What ended a GPU's engine by itself gets its last try on the processor.
            if others_wait || self.charged_on_gpu {
                Need::Isolated
            } else {
                Need::Exclusive { drain: false }
            }
        } else if self.interruptions >= INTERRUPTIONS_BEFORE_ALONE {
            Need::Exclusive { drain: true }
        } else {
            Need::Shared
        }
    }

    /// Whether it has to run by itself.
    pub(super) fn runs_alone(&self) -> bool {
        self.need(false) != Need::Shared
    }

    /// Whether anything happened to it at all.
    pub(super) fn is_troubled(&self) -> bool {
        *self != Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died(cause: DeathCause, in_flight: usize) -> EngineError {
        EngineError::Died {
            status: "abort".to_owned(),
            cause,
            in_flight,
            log: Vec::new(),
        }
    }

    #[test]
    fn only_a_window_that_was_alone_is_charged() {
        assert_eq!(Finding::of(&died(DeathCause::Own, 1)), Finding::Charged);
        assert_eq!(Finding::of(&died(DeathCause::Own, 2)), Finding::Suspected);
        assert_eq!(Finding::of(&died(DeathCause::Outside, 1)), Finding::Interrupted);
        assert_eq!(Finding::of(&EngineError::Hung { seconds: 1.0 }), Finding::Charged);
        assert_eq!(Finding::of(&EngineError::Cancelled), Finding::Final);
    }

    #[test]
    fn a_suspect_that_is_never_alone_when_an_engine_ends_is_never_given_up() {
        let mut history = History::default();
        for _ in 0..100 {
            assert_eq!(history.judge(Finding::Suspected, false), Verdict::Again);
            assert_eq!(history.judge(Finding::Interrupted, false), Verdict::Again);
        }
    }

    #[test]
    fn the_second_charge_is_the_last() {
        let mut history = History::default();
        assert_eq!(history.judge(Finding::Charged, false), Verdict::Again);
        assert_eq!(history.need(true), Need::Isolated);
        assert_eq!(history.need(false), Need::Exclusive { drain: false });
        assert_eq!(history.judge(Finding::Charged, false), Verdict::GiveUp);
    }

    #[test]
    fn a_window_that_ended_a_gpus_engine_gets_its_last_try_on_the_processor() {
        let mut history = History::default();
        let _ = history.judge(Finding::Charged, true);
        assert_eq!(history.need(false), Need::Isolated);
    }

    #[test]
    fn a_window_that_was_interrupted_twice_runs_by_itself() {
        let mut history = History::default();
        let _ = history.judge(Finding::Interrupted, false);
        assert_eq!(history.need(true), Need::Shared);
        let _ = history.judge(Finding::Interrupted, false);
        assert_eq!(history.need(true), Need::Exclusive { drain: true });
    }
}
