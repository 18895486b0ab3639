//! SubRip and WebVTT as the service writes them (recorded responses of whisper-1).

use std::fmt::Write as _;

use super::cues::Cue;
use crate::transcript::Segment;

/// Adds one SubRip cue; `number` counts from 1.
pub(crate) fn srt_cue(out: &mut String, number: usize, segment: &Segment) {
    let (start, end) = (time(segment.start.into(), ','), time(segment.end.into(), ','));
    let _ = write!(
        out,
        "{number}\n{start} --> {end}\n{}\n\n",
        cue_text(&segment.text)
    );
}

/// The line end with which the service closes a SubRip body.
pub(crate) fn srt_end() -> &'static str {
    "\n"
}

/// The head of a WebVTT body.
pub(crate) fn vtt_start() -> &'static str {
    "WEBVTT\n\n"
}

/// Adds one WebVTT cue.
pub(crate) fn vtt_cue(out: &mut String, segment: &Segment) {
    let (start, end) = (time(segment.start.into(), '.'), time(segment.end.into(), '.'));
    let _ = write!(out, "{start} --> {end}\n{}\n\n", cue_text(&segment.text));
}

/// Adds one laid-out SubRip cue; `number` counts from 1.
pub(crate) fn srt_laid_out(out: &mut String, number: usize, cue: &Cue) {
    let (start, end) = (time(cue.start, ','), time(cue.end, ','));
    let _ = write!(out, "{number}\n{start} --> {end}\n{}\n\n", cue.lines.join("\n"));
}

/// Adds one laid-out WebVTT cue, with a comment before it when it exceeds a limit.
pub(crate) fn vtt_laid_out(out: &mut String, cue: &Cue) {
    if let Some(exceeds) = &cue.exceeds {
        let _ = write!(out, "NOTE {exceeds}\n\n");
    }
    let (start, end) = (time(cue.start, '.'), time(cue.end, '.'));
    // `<` and `&` begin tags and entities in WebVTT.
    let text = cue.lines.join("\n").replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(out, "{start} --> {end}\n{text}\n\n");
}

/// `HH:MM:SS,mmm`: milliseconds are rounded before they are split, hours do not wrap.
fn time(seconds: f64, decimal: char) -> String {
    let milliseconds = (seconds.max(0.0) * 1000.0).round() as u64;
    let (hours, rest) = (milliseconds / 3_600_000, milliseconds % 3_600_000);
    let (minutes, rest) = (rest / 60_000, rest % 60_000);
    format!(
        "{hours:02}:{minutes:02}:{:02}{decimal}{:03}",
        rest / 1000,
        rest % 1000
    )
}

/// Text without what would end a cue early: arrows (as openai-whisper's writer does) and line ends.
fn cue_text(text: &str) -> String {
    text.trim().replace("-->", "->").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_first_and_split_then() {
        for (seconds, srt) in [
            (0.0, "00:00:00,000"),
            (3.32, "00:00:03,320"),
            (59.9996, "00:01:00,000"),
            (3661.5, "01:01:01,500"),
            (360_000.0, "100:00:00,000"),
            (-0.5, "00:00:00,000"),
            (f64::NAN, "00:00:00,000"),
        ] {
            assert_eq!(time(seconds, ','), srt);
            assert_eq!(time(seconds, '.'), srt.replace(',', "."));
        }
    }

    #[test]
    fn a_cue_cannot_be_broken_by_its_text() {
        assert_eq!(cue_text(" a --> b\n\nc "), "a -> b  c");
    }
}
