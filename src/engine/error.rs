//! Why a window has no transcript.

/// Causes that the scheduler treats differently.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The process ended; the window may run again on another.
    #[error("the engine process ended ({status}){}", log_tail(.log))]
    Died {
        /// Exit code or signal in words.
        status: String,
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
    /// No engine can be had at all.
    #[error("{reason}")]
    Unavailable {
        /// One sentence.
        reason: String,
    },
}

fn log_tail(log: &[String]) -> String {
    log.last().map(|line| format!(": {line}")).unwrap_or_default()
}
