//! Samples in, windows of at most 30 s out, cut at silence. Knows neither audio containers nor engines.

/// A contiguous stretch of the recording for one run of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Where the first sample stands in the recording, in samples at 16 kHz.
    pub start_sample: u64,
    /// Mono samples at 16 kHz, at most 30 s, never empty.
    pub samples: Vec<f32>,
    /// Stretches of `samples` that hold speech, as sample ranges; empty when detection is off.
    pub speech: Vec<std::ops::Range<usize>>,
}
