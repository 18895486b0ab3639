//! Is a segment a tone and no voice? Mains hum, dial tones and held chords have the spectrum of a vowel and win the
//! detector's favour, but a mouth that speaks keeps changing its shape, and they do not.

use super::voice::Frame;

/// Frames of which one spectral tilt is taken: 64 ms, inside a vowel.
const BLOCK: usize = 4;

/// Blocks between the two tilts that are compared: 128 ms, a short syllable.
const STEP: usize = 2;

/// Shorter sounds are given the benefit of the doubt: 3 s of compared blocks.
const LEAST_BLOCKS: usize = 47;

/// Mean change of spectral tilt over [`STEP`] in dB below which nobody speaks. Measured on segments of 3 s and more: hum
/// and chords 0.07 to 0.30; the least of speech 4.2 when clean, 1.8 with pink noise as loud as the speech, 0.6 with
/// white noise as loud.
const LEAST_CHANGE_DB: f32 = 0.4;

/// True when these segments together are long and their spectral tilt stands still: the share of high frequencies in
/// their power, which does not depend on how loud they are.
pub(super) fn is_tone<'f, Segment>(segments: impl Iterator<Item = Segment>) -> bool
where
    Segment: Iterator<Item = &'f Frame>,
{
    let (mut change, mut count) = (0.0, 0_usize);
    for segment in segments {
        let frames: Vec<&Frame> = segment.collect();
        let tilts: Vec<f32> = frames.chunks_exact(BLOCK).map(spectral_tilt).collect();
        for (earlier, later) in tilts.iter().zip(tilts.iter().skip(STEP)) {
            change += (later - earlier).abs();
            count += 1;
        }
    }
    count >= LEAST_BLOCKS && change / (count as f32) < LEAST_CHANGE_DB
}

/// Power of the differences between neighbouring samples relative to the power of the samples, in dB.
fn spectral_tilt(block: &[&Frame]) -> f32 {
    let power = |level: fn(&Frame) -> f32| {
        let sum: f32 = block.iter().map(|frame| level(frame).powi(2)).sum();
        sum.max(1e-12)
    };
    10.0 * (power(|frame| frame.upper_rms) / power(|frame| frame.rms)).log10()
}
