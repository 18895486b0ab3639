//! Transcript → body. Pure functions: the same transcript gives the same bytes.

mod json;
mod subtitles;

pub(super) use json::{StreamEvent, Transcription, VerboseTranscription};
pub(super) use json::{heard, logprobs, transcription, usage, verbose};
pub(super) use subtitles::{srt_cue, srt_end, vtt_cue, vtt_start};

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::fields::{Presentation, ResponseFormat};
use crate::transcript::Transcript;

/// `Content-Type` of JSON bodies; the service names no charset.
pub(super) const JSON: &str = "application/json";
/// `Content-Type` of text, srt and vtt alike: .NET takes a body for text only when the header starts with exactly
/// `text/plain`.
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// The whole answer to a request that is not streamed.
pub(super) fn response(transcript: &Transcript, shown: &Presentation) -> Result<Response, ApiError> {
    let (content_type, body) = body(transcript, shown)?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// The bytes of an answer, for those who print it instead of sending it.
///
/// # Errors
///
/// When a number cannot be written as JSON; the renderers never let one through.
pub fn rendered(transcript: &Transcript, shown: &Presentation) -> Result<Vec<u8>, ApiError> {
    body(transcript, shown).map(|(_, bytes)| bytes)
}

/// Content type and bytes.
fn body(transcript: &Transcript, shown: &Presentation) -> Result<(&'static str, Vec<u8>), ApiError> {
    let json = |written: serde_json::Result<Vec<u8>>| {
        written.map_err(|error| ApiError::Internal {
            detail: format!("render: {error}"),
            permanent: true,
        })
    };
    Ok(match shown.format {
        ResponseFormat::Json => (JSON, json(serde_json::to_vec(&transcription(transcript, shown)))?),
        ResponseFormat::VerboseJson => (JSON, json(serde_json::to_vec(&verbose(transcript, shown)))?),
        ResponseFormat::Text => (PLAIN, format!("{}\n", transcript.text()).into_bytes()),
        ResponseFormat::Srt => {
            let mut out = String::new();
            let spoken = transcript
                .segments
                .iter()
                .filter(|segment| !segment.text.trim().is_empty());
            for (index, segment) in spoken.enumerate() {
                srt_cue(&mut out, index + 1, segment);
            }
            out.push_str(srt_end());
            (PLAIN, out.into_bytes())
        }
        ResponseFormat::Vtt => {
            let mut out = vtt_start().to_owned();
            for segment in transcript
                .segments
                .iter()
                .filter(|segment| !segment.text.trim().is_empty())
            {
                vtt_cue(&mut out, segment);
            }
            (PLAIN, out.into_bytes())
        }
    })
}

#[cfg(test)]
mod tests;
