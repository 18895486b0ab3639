//! Why no model serves a name.

/// Why no model serves a name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ServingError {
    /// Nobody knows that name and `server.strict_deployments` is on.
    #[error("unknown deployment or model `{name}`")]
    UnknownDeployment {
        /// As the client wrote it.
        name: String,
    },
    /// No engine can be had: no model, or a build without inference.
    #[error("no transcription is possible: {reason}")]
    Unavailable {
        /// One sentence.
        reason: String,
    },
}
