//! Samples in, windows of at most 30 s out, cut at silence. Knows neither audio containers nor engines.
//!
//! [`Windower`] is a push parser: feed it blocks of any size, take the windows that are complete, and call
//! [`Windower::finish`] at the end of the recording. The walk of a sample:
//!
//! 1. [`voice`]: 16 ms frames get a voice probability (a small recurrent network) and a level.
//! 2. [`segments`]: hysteresis turns probabilities into speech segments.
//! 3. [`packing`]: segments are packed into windows; where a window must end, it ends in the best pause.
//! 4. [`tone`]: windows that hold a hum or a chord and no voice are let go.
//!
//! Audio that is being spoken has no end yet: [`LiveVoice`] judges it in blocks of 48 ms.
//!
//! Every sample of detected speech is in exactly one window; long silences are in none. Memory is bounded by about
//! two windows, whatever the length of the recording.

mod live;
mod packing;
mod segments;
#[cfg(test)]
mod tests;
mod tone;
mod voice;
mod windower;

use std::ops::Range;
use std::time::Duration;

pub use live::{LiveFrame, LiveVoice, quietest, sounds_like_a_tone};
pub use windower::Windower;

pub use crate::domain::SAMPLE_RATE_HZ;

/// Samples in one frame of the voice detector: 16 ms, fixed by the `earshot` network.
pub const FRAME_SAMPLES: usize = 256;

/// A contiguous piece of the recording for one run of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Where the first sample stands in the recording, in samples at 16 kHz.
    pub start_sample: u64,
    /// Mono samples at 16 kHz, at most 30 s, never empty.
    pub samples: Vec<f32>,
    /// Speech segments of `samples`, as sample ranges; empty when detection is off.
    pub speech: Vec<Range<usize>>,
}

/// How a recording is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowerOptions {
    /// Find speech first and drop silence; `false` cuts the whole recording into windows at its quietest points.
    pub vad: bool,
    /// Voice probability from 0 to 1 at which a speech segment begins.
    pub threshold: f32,
    /// Voice probability below which a segment may end; never above `threshold`.
    pub threshold_end: f32,
    /// Silence that ends a speech segment.
    pub min_silence: Duration,
    /// Bursts shorter than this are not speech.
    pub min_speech: Duration,
    /// Kept before and after speech, so that soft first and last consonants reach the model.
    pub padding: Duration,
    /// Longest window, from 1 s to 30 s (what Whisper's encoder sees at once).
    pub max_window: Duration,
    /// Windows longer than this are cut at their best pause; speech without a pause may run on up to `max_window`.
    pub target_window: Duration,
    /// A window is not cut at a pause before this length, silence of `join_gap` excepted.
    pub min_window: Duration,
    /// Longest silence kept inside a window; what is longer ends it and is dropped.
    pub join_gap: Duration,
}

impl Default for WindowerOptions {
    fn default() -> Self {
        Self {
            vad: true,
            threshold: 0.5,
            threshold_end: 0.4,
            min_silence: Duration::from_millis(300),
            min_speech: Duration::from_millis(100),
            padding: Duration::from_millis(200),
            max_window: Duration::from_secs(28),
            target_window: Duration::from_secs(12),
            min_window: Duration::from_secs(4),
            join_gap: Duration::from_secs(1),
        }
    }
}
