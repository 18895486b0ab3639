//! A few spoken words whose transcript is compared: whether a GPU that failed can be trusted again.

use crate::transcript::WindowTranscript;

/// «And so, my fellow Americans»: the beginning of the public-domain clip that the tests use, 16-bit mono at 16 kHz.
static CLIP: &[u8] = include_bytes!("reference.pcm");

/// Samples of the clip.
pub(super) fn samples() -> Vec<f32> {
    let pairs = CLIP.as_chunks::<2>().0.iter();
    pairs
        .map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0)
        .collect()
}

/// The words of a transcript, without case and punctuation: devices round differently, and a comma is no fault.
pub(super) fn words(transcript: &WindowTranscript) -> Vec<String> {
    let tokens = transcript.segments.iter().flat_map(|segment| &segment.tokens);
    let bytes: Vec<u8> = tokens.flat_map(|token| token.bytes.iter().copied()).collect();
    String::from_utf8_lossy(&bytes)
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clip_is_a_few_seconds_of_sound() {
        let samples = super::samples();
        let seconds = samples.len() as f32 / 16_000.0;
        assert!((2.0..6.0).contains(&seconds), "{seconds}");
        assert!(samples.iter().any(|s| s.abs() > 0.1));
    }
}
