//! Voice and level of audio while it is being spoken, in blocks of 48 ms.

use std::collections::VecDeque;
use std::ops::Range;

use super::FRAME_SAMPLES;
use super::packing::best_cut;
use super::tone::is_tone;
use super::voice::{Frame, LIVE_BLOCK_FRAMES, VoiceDetector};

/// What is known of 16 ms ([`FRAME_SAMPLES`]) of live audio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiveFrame(Frame);

impl LiveFrame {
    /// A frame as a detector would describe it: for tests of what is made of frames.
    pub fn new(voice: f32, rms: f32) -> Self {
        Self(Frame {
            voice,
            rms,
            upper_rms: rms,
        })
    }

    /// Voice probability, 0 to 1.
    pub fn voice(&self) -> f32 {
        self.0.voice
    }

    /// Root mean square of the samples, full scale 1.
    pub fn rms(&self) -> f32 {
        self.0.rms
    }
}

/// Judges a stream of mono samples at 16 kHz. The gain follows a running level: a file's detector looks a second ahead to
/// choose it, which would be a second of delay here.
pub struct LiveVoice {
    detector: VoiceDetector,
    waiting: Vec<f32>,
    judged: Vec<Frame>,
}

impl std::fmt::Debug for LiveVoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveVoice")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Default for LiveVoice {
    fn default() -> Self {
        Self {
            detector: VoiceDetector::live(),
            waiting: Vec::new(),
            judged: Vec::new(),
        }
    }
}

impl LiveVoice {
    /// Takes any number of samples; appends the frames that are now judged. At most 47 ms wait for the next call.
    pub fn push(&mut self, samples: &[f32], frames: &mut VecDeque<LiveFrame>) {
        const BLOCK: usize = LIVE_BLOCK_FRAMES * FRAME_SAMPLES;
        self.waiting.extend_from_slice(samples);
        let whole = self.waiting.len() / BLOCK * BLOCK;
        self.judged.clear();
        for block in self.waiting[..whole].chunks_exact(BLOCK) {
            self.detector.judge(block, &mut self.judged);
        }
        self.waiting.drain(..whole);
        frames.extend(self.judged.iter().map(|&frame| LiveFrame(frame)));
    }
}

/// The frame of `range` before which a cut harms least.
pub fn quietest(frames: &VecDeque<LiveFrame>, range: Range<usize>) -> usize {
    let frames: VecDeque<Frame> = frames.iter().map(|frame| frame.0).collect();
    best_cut(&frames, range)
}

/// True for a long hum or chord without a voice; see [`super::tone`].
pub fn sounds_like_a_tone<'f>(frames: impl Iterator<Item = &'f LiveFrame>) -> bool {
    is_tone(std::iter::once(frames.map(|frame| &frame.0)))
}
