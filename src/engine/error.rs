//! Why a window has no transcript.

/// Who ended an engine's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathCause {
    /// It ended of itself: an abort, a fault, an exit. A window may be to blame.
    Own,
    /// Somebody else ended it: the server, the system's out-of-memory killer, a signal. No window is to blame.
    Outside,
}

/// Causes that the scheduler treats differently.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The process ended; the window may run again on another.
    #[error("the engine process ended ({status}){}", log_tail(*.cause, .log))]
    Died {
        /// Exit code or signal in words.
        status: String,
        /// Who ended it.
        cause: DeathCause,
        /// Windows it had taken and not answered.
        in_flight: usize,
        /// Its last error lines.
        log: Vec<String>,
    },
    /// The engine said that it cannot start.
    #[error("the engine cannot start: {reason}")]
    StartFailed {
        /// One sentence.
        reason: String,
    },
    /// The engine lives but this window failed.
    #[error("the engine could not run the window: {detail}")]
    Window {
        /// What whisper.cpp said.
        detail: String,
    },
    /// The window took far longer than its audio allows; its engine was killed.
    #[error("the engine was stopped after {seconds:.0} s on one window")]
    Hung {
        /// Seconds waited.
        seconds: f64,
    },
    /// Nobody waits for the result.
    #[error("cancelled")]
    Cancelled,
    /// The request made no progress for longer than `server.request_deadline_seconds` after its engine had failed.
    #[error("the engine did not come back within {seconds:.0} s")]
    Deadline {
        /// Seconds waited.
        seconds: f64,
    },
    /// No engine can be had at all.
    #[error("{reason}")]
    Unavailable {
        /// One sentence.
        reason: String,
    },
}

impl EngineError {
    /// Ended by somebody else, before it said anything about a window.
    pub fn outside(status: &str) -> Self {
        Self::Died {
            status: status.to_owned(),
            cause: DeathCause::Outside,
            in_flight: 0,
            log: Vec::new(),
        }
    }

    /// True when no window and no driver is to blame.
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Self::Died {
                cause: DeathCause::Outside,
                ..
            }
        )
    }
}

/// What it said last explains an end of its own; it has nothing to do with a signal that somebody sent.
fn log_tail(cause: DeathCause, log: &[String]) -> String {
    log.last()
        .filter(|_| cause == DeathCause::Own)
        .map(|line| format!(": {line}"))
        .unwrap_or_default()
}
