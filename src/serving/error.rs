//! Why no model serves a name.

use std::time::Duration;

/// Seconds after which a client may ask again whose model cannot start just now: a broken model is tried again as often.
const BROKEN_RETRY_SECONDS: u64 = 10;

/// Why no model serves a name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ServingError {
    /// Nobody knows that name and `server.strict_deployments` is on.
    #[error("unknown deployment or model `{name}`")]
    UnknownDeployment {
        /// As the client wrote it.
        name: String,
    },
    /// The model that would serve is still being fetched.
    #[error("{doing}")]
    Fetching {
        /// One sentence with the model's name and how far it is.
        doing: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// No engine can be had: no model, or a build without inference.
    #[error("no transcription is possible: {reason}")]
    Unavailable {
        /// One sentence.
        reason: String,
    },
}

impl ServingError {
    pub(crate) fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    /// When a client may ask again; `None` when asking again is of no use.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::UnknownDeployment { .. } => None,
            Self::Fetching { retry_after, .. } => Some(*retry_after),
            Self::Unavailable { .. } => Some(Duration::from_secs(BROKEN_RETRY_SECONDS)),
        }
    }
}
