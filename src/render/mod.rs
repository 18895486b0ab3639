//! Transcript → body. Pure functions: the same transcript gives the same bytes.

mod json;
mod presentation;
mod subtitles;

pub(crate) use json::{StreamEvent, Transcription, VerboseTranscription};
pub(crate) use json::{heard, logprobs, transcription, usage, verbose};
pub use presentation::{Family, Presentation, ResponseFormat};
pub(crate) use subtitles::{srt_cue, srt_end, vtt_cue, vtt_start};

use crate::transcript::Transcript;

/// `Content-Type` of JSON bodies; the service names no charset.
pub(crate) const JSON: &str = "application/json";
/// `Content-Type` of text, srt and vtt alike: .NET takes a body for text only when the header starts with exactly
/// `text/plain`.
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";

/// Content type and bytes of the whole answer to a request that is not streamed.
///
/// # Errors
///
/// When a number cannot be written as JSON; the renderers never let one through.
pub fn body(transcript: &Transcript, shown: &Presentation) -> serde_json::Result<(&'static str, Vec<u8>)> {
    Ok(match shown.format {
        ResponseFormat::Json => (JSON, serde_json::to_vec(&transcription(transcript, shown))?),
        ResponseFormat::VerboseJson => (JSON, serde_json::to_vec(&verbose(transcript, shown))?),
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
