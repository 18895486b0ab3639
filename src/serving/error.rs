//! Why no model serves a name.

use std::time::Duration;

/// Time after which a client may ask again whose model cannot start just now: a broken model is started again as often.
pub const BROKEN_RETRY: Duration = Duration::from_secs(10);

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
}
