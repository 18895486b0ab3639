//! Voice probability and level of 16 ms frames.

use earshot::Detector;

use super::FRAME_SAMPLES;

/// Frames whose gain is chosen together: about one second, so that the level of the first word of a quiet recording
/// is known before it is judged.
pub(super) const BLOCK_FRAMES: usize = 64;

/// Level to which quiet recordings are raised before the detector hears them: RMS of the loudest frame, full scale 1.
/// Measured with `earshot` 1.2.2: from −10 to −30 dB of normal speech level its decisions move little, 40 dB below
/// they fade, and 10 dB above pauses begin to count as voice.
const TARGET_LEVEL: f32 = 0.1;

/// Most that a quiet recording is raised, 40 dB: what is fainter than that is hiss.
const MAX_GAIN: f32 = 100.0;

/// Fall of the remembered level per block: half in about 15 s, so that one slammed door does not deafen the detector.
const LEVEL_DECAY: f32 = 0.955;

/// Frames judged together while somebody speaks: 48 ms, so that a turn is known to begin and to end without delay.
pub(super) const LIVE_BLOCK_FRAMES: usize = 3;

/// Fall of the level per live block: 0.955 to the power of 3/64, as slow as a recording's.
const LIVE_LEVEL_DECAY: f32 = 0.997_844;

/// Level that live audio is taken to have before anything was heard: 14 dB below normal speech, in the middle of the 20 dB
/// within which the detector's decisions move little.
const LIVE_START_LEVEL: f32 = 0.02;

/// How often a fresh network hears the first live block (48 ms): together a second, as a recording's first block is long.
const LIVE_WARM_UP: usize = 20;

/// Frames fainter than this RMS (−80 dBFS, ten steps of 16-bit audio are about −70) hold no voice.
pub(super) const SILENCE_RMS: f32 = 1e-4;

/// What is known of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Frame {
    /// Voice probability, 0 to 1.
    pub voice: f32,
    /// Root mean square of the samples, full scale 1.
    pub rms: f32,
    /// The same of the differences between neighbouring samples: high frequencies weigh more in it.
    pub upper_rms: f32,
}

impl Frame {
    /// A frame that no detector has heard.
    pub(super) fn unheard(samples: &[f32]) -> Self {
        Self {
            voice: 0.0,
            rms: rms(samples.iter().copied()),
            upper_rms: rms(samples.windows(2).map(|pair| pair[1] - pair[0])),
        }
    }
}

/// Judges blocks of frames in the order of the recording.
pub(super) struct VoiceDetector {
    network: Box<Detector>,
    /// Loudest of the latest frames, fading.
    level: f32,
    /// Fall of the level per block.
    decay: f32,
    /// Times that the first block is still to be heard before it is judged.
    warm_up: usize,
}

impl VoiceDetector {
    pub(super) fn new() -> Self {
        Self {
            network: Box::default(),
            level: 0.0,
            decay: LEVEL_DECAY,
            warm_up: 1,
        }
    }

    /// For audio that is being spoken: blocks are of [`LIVE_BLOCK_FRAMES`], and the level is a running one.
    pub(super) fn live() -> Self {
        Self {
            network: Box::default(),
            level: LIVE_START_LEVEL,
            decay: LIVE_LEVEL_DECAY,
            warm_up: LIVE_WARM_UP,
        }
    }

    /// Judges up to [`BLOCK_FRAMES`] frames; `samples` is a multiple of [`FRAME_SAMPLES`] long.
    pub(super) fn judge(&mut self, samples: &[f32], frames: &mut Vec<Frame>) {
        let first = frames.len();
        frames.extend(samples.chunks_exact(FRAME_SAMPLES).map(Frame::unheard));
        let loudest = frames[first..].iter().map(|frame| frame.rms).fold(0.0, f32::max);
        self.level = loudest.max(self.level * self.decay);
        let gain = (TARGET_LEVEL / self.level.max(SILENCE_RMS)).min(MAX_GAIN);
        // A fresh network takes the first frames of any noise for a voice: let it hear the first block before.
        for _ in 0..std::mem::take(&mut self.warm_up) {
            for samples in samples.chunks_exact(FRAME_SAMPLES) {
                self.hear(samples, gain);
            }
        }
        for (frame, samples) in frames[first..]
            .iter_mut()
            .zip(samples.chunks_exact(FRAME_SAMPLES))
        {
            let voice = self.hear(samples, gain);
            frame.voice = if frame.rms < SILENCE_RMS { 0.0 } else { voice };
        }
    }

    /// Voice probability of the next frame.
    fn hear(&mut self, samples: &[f32], gain: f32) -> f32 {
        let mut raised = [0.0; FRAME_SAMPLES];
        for (raised, sample) in raised.iter_mut().zip(samples) {
            // The network takes full scale at most; a decoder may overshoot it or hand over NaN.
            let value = sample * gain;
            *raised = if value.is_finite() {
                value.clamp(-1.0, 1.0)
            } else {
                0.0
            };
        }
        self.network.predict_f32(&raised)
    }
}

/// Root mean square without what is not a number.
fn rms(samples: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = samples.len().max(1) as f32;
    let sum: f32 = samples
        .filter(|sample| sample.is_finite())
        .map(|sample| sample.clamp(-2.0, 2.0).powi(2))
        .sum();
    (sum / count).sqrt()
}
