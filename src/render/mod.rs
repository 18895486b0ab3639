//! Transcript → body. Pure functions: the same transcript gives the same bytes.

mod cues;
mod fast_transcription;
mod json;
mod presentation;
mod subtitles;

pub(crate) use cues::{Cue, CueBuilder};
pub use cues::{SubtitleRules, SubtitleStyle};
pub(crate) use fast_transcription::FastTranscriptionResult;
pub use fast_transcription::{FastTranscription, locale_language};
pub(crate) use json::{StreamEvent, Transcription, VerboseTranscription};
pub(crate) use json::{heard, logprobs, stream_segment, transcription, usage, verbose};
pub use presentation::{Family, Presentation, ResponseFormat};
pub(crate) use subtitles::{srt_cue, srt_end, srt_laid_out, vtt_cue, vtt_laid_out, vtt_start};

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
        ResponseFormat::FastTranscription => {
            let result = fast_transcription::fast_transcription(transcript, &shown.fast);
            (JSON, serde_json::to_vec(&result)?)
        }
        ResponseFormat::Text => (PLAIN, format!("{}\n", transcript.text()).into_bytes()),
        ResponseFormat::Srt | ResponseFormat::Vtt if shown.subtitles.is_some() => {
            (PLAIN, laid_out(transcript, shown).0.into_bytes())
        }
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

/// Cues of a laid-out srt or vtt that exceed a limit; 0 for every other form.
pub(crate) fn exceeding(transcript: &Transcript, shown: &Presentation) -> usize {
    if shown.subtitles.is_some() {
        laid_out(transcript, shown).1
    } else {
        0
    }
}

/// srt or vtt with the lines and times that were asked for, and how many cues exceed a limit.
pub(crate) fn laid_out(transcript: &Transcript, shown: &Presentation) -> (String, usize) {
    let rules = shown.subtitles.unwrap_or_default();
    let language = transcript.language.as_deref().or(shown.language.as_deref());
    let mut channels: Vec<Option<u16>> = transcript
        .segments
        .iter()
        .map(|segment| segment.channel)
        .collect();
    channels.sort_unstable();
    channels.dedup();
    let mut cues = Vec::new();
    for channel in channels {
        let mut builder = CueBuilder::new(rules, shown.task, language);
        let lane: Vec<_> = transcript
            .segments
            .iter()
            .filter(|segment| segment.channel == channel)
            .cloned()
            .collect();
        cues.extend(builder.push(&lane));
        cues.extend(builder.finish());
    }
    cues.sort_by(|a, b| a.start.total_cmp(&b.start));
    let exceeding = cues.iter().filter(|cue| cue.exceeds.is_some()).count();
    let mut out = String::new();
    if shown.format == ResponseFormat::Srt {
        for (index, cue) in cues.iter().enumerate() {
            srt_laid_out(&mut out, index + 1, cue);
        }
        out.push_str(srt_end());
    } else {
        out.push_str(vtt_start());
        for cue in &cues {
            vtt_laid_out(&mut out, cue);
        }
    }
    (out, exceeding)
}

#[cfg(test)]
mod tests;
