//! `POST /speechtotext/transcriptions:transcribe`: Azure Speech's fast transcription, where Microsoft sends the users of
//! its Whisper deployments. The walk is that of [`super::transcriptions`]; only the form, the answer's shape and the
//! errors' shape differ.

mod definition;
mod error;

pub(super) use definition::read;
pub(super) use error::{SpeechError, body};

/// Path of the route.
pub(super) const PATH: &str = "/speechtotext/transcriptions:transcribe";
/// Name of the form's part with the recording.
pub(super) const FILE_PART: &str = "audio";
/// Name of the form's part with the JSON.
pub(super) const DEFINITION_PART: &str = "definition";
/// Values of `api-version` with this shape (the service's REST reference); others are taken unless
/// `server.strict_api_version`.
pub(super) const VERSIONS: [&str; 2] = ["2024-11-15", "2025-10-15"];
