//! Failures of a recording.

use super::{INVALID, SERVER, too_large};
use crate::audio::AudioError;
use crate::render::Family;

/// The service's own list, which clients' users know; more is accepted.
const FORMATS: &str = "['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', 'webm']";

/// Status, type, code, message.
pub(super) type Row = (u16, &'static str, Option<&'static str>, String);

/// A recording's failure in the words of the model family that was asked for.
pub(super) fn audio(error: &AudioError, family: Family, has_extension: bool, azure: bool) -> Row {
    let invalid = |message: String| (400, INVALID, Some("invalid_value"), message);
    match error {
        AudioError::Empty | AudioError::TooShort { .. } => (
            400,
            INVALID,
            Some("audio_too_short"),
            "Audio file is too short. Minimum audio length is 0.1 seconds.".to_owned(),
        ),
        AudioError::Unrecognized
        | AudioError::UnsupportedContainer { .. }
        | AudioError::UnsupportedCodec { .. }
        | AudioError::NoAudioTrack { .. }
        | AudioError::Corrupt { .. } => {
            if family != Family::Whisper {
                return invalid(format!("Audio file might be corrupted or unsupported: {error}"));
            }
            let start = match error {
                AudioError::Unrecognized if !has_extension => "Unrecognized file format.",
                _ => "Invalid file format.",
            };
            (
                400,
                INVALID,
                None,
                format!("{start} Supported formats: {FORMATS} ({error})"),
            )
        }
        AudioError::TooLong { limit_seconds } => invalid(format!(
            "audio duration is longer than {limit_seconds} seconds which is the maximum for this model"
        )),
        AudioError::Channels { .. }
        | AudioError::SampleRate { .. }
        | AudioError::Tracks { .. }
        | AudioError::Metadata { .. }
        | AudioError::Decoder { .. } => invalid(error.to_string()),
        AudioError::TooLarge {
            limit_bytes,
            seen_bytes,
        } => (413, SERVER, None, too_large(*limit_bytes, *seen_bytes)),
        AudioError::Cancelled => (
            503,
            "service_unavailable_error",
            Some("server_is_stopping"),
            "The server is stopping.".to_owned(),
        ),
        AudioError::StorageFull => (
            503,
            "service_unavailable_error",
            Some(if azure {
                "ServiceUnavailable"
            } else {
                "storage_full"
            }),
            "The server has no room to keep the upload now.".to_owned(),
        ),
        AudioError::Internal { .. } => (
            500,
            SERVER,
            azure.then_some("InternalServerError"),
            "The server could not decode the recording. Its log says more under the request's id.".to_owned(),
        ),
        AudioError::Io(_) => (
            500,
            SERVER,
            azure.then_some("InternalServerError"),
            "The server could not keep the upload. Its log says more under the request's id.".to_owned(),
        ),
    }
}
