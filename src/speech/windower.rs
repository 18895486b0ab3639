//! The push parser: blocks of samples in, windows out.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::packing::{Decision, Packing, best_cut};
use super::segments::{Hysteresis, SegmentTracker};
use super::tone::is_tone;
use super::voice::{BLOCK_FRAMES, Frame, VoiceDetector};
use super::{FRAME_SAMPLES, SAMPLE_RATE_HZ, Window, WindowerOptions};

const FRAME: u64 = FRAME_SAMPLES as u64;

/// Recordings up to this many samples (2 s) are one window as they are: the detector has too little to go by, and
/// a lost "yes" costs more than one short run of the model.
const SHORT_RECORDING: u64 = 2 * SAMPLE_RATE_HZ as u64;

/// RMS of the loudest frame (−60 dBFS) above which a short recording is worth a run of the model.
const SHORT_RECORDING_RMS: f32 = 1e-3;

/// Longest window that the model takes, in seconds.
const LONGEST_WINDOW: Duration = Duration::from_secs(30);

/// Shortest `max_window` that is obeyed.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Cuts a recording into [`Window`]s while it arrives.
///
/// Windows come in order, do not overlap, and are the same however the samples are divided between calls.
pub struct Windower {
    rule: Packing,
    /// `None` when detection is off.
    detection: Option<Detection>,
    /// Samples from `buffer_start` on; those not yet judged at the end.
    buffer: Vec<f32>,
    buffer_start: u64,
    /// Judged frames; the first one begins at `buffer_start`.
    frames: VecDeque<Frame>,
    /// Where the last window ended, in samples.
    emitted_to: u64,
    seen: u64,
    speech: u64,
    loudest: f32,
}

struct Detection {
    detector: VoiceDetector,
    tracker: SegmentTracker,
    /// Ended segments that are in no window yet, in frames of the recording.
    segments: VecDeque<Range<u64>>,
    judged: Vec<Frame>,
}

impl Windower {
    /// A windower for one recording. Lengths out of range are brought into range: windows are 1 to 30 s long.
    pub fn new(options: WindowerOptions) -> Self {
        let max_window = frames_in(options.max_window.clamp(SHORTEST_WINDOW, LONGEST_WINDOW)).max(1);
        let rule = Packing {
            min_window: frames_in(options.min_window).min(max_window / 2),
            target_window: frames_in(options.target_window).clamp(1, max_window),
            max_window,
            join_gap: frames_in(options.join_gap),
            padding: frames_in(options.padding).min(max_window / 4),
        };
        let threshold = options.threshold.clamp(0.01, 1.0);
        let detection = options.vad.then(|| Detection {
            detector: VoiceDetector::new(),
            tracker: SegmentTracker::new(Hysteresis {
                threshold,
                threshold_end: options.threshold_end.clamp(0.0, threshold),
                min_silence: frames_in(options.min_silence).max(1),
                min_speech: frames_in(options.min_speech),
            }),
            segments: VecDeque::new(),
            judged: Vec::with_capacity(BLOCK_FRAMES),
        });
        Self {
            rule,
            detection,
            buffer: Vec::new(),
            buffer_start: 0,
            frames: VecDeque::new(),
            emitted_to: 0,
            seen: 0,
            speech: 0,
            loudest: 0.0,
        }
    }

    /// Takes the next samples of the recording, mono at 16 kHz, and returns the windows that they complete.
    pub fn push(&mut self, samples: &[f32]) -> Vec<Window> {
        let mut windows = Vec::new();
        // In pieces, so that a whole file in one call needs no more memory than many small calls.
        for piece in samples.chunks(BLOCK_FRAMES * FRAME_SAMPLES) {
            self.buffer.extend_from_slice(piece);
            self.seen += piece.len() as u64;
            while self.unjudged() >= BLOCK_FRAMES * FRAME_SAMPLES {
                self.judge(BLOCK_FRAMES);
                self.take_windows(false, &mut windows);
            }
        }
        windows
    }

    /// Ends the recording and returns the remaining windows. Samples pushed later are not expected.
    pub fn finish(&mut self) -> Vec<Window> {
        let mut windows = Vec::new();
        let tail = self.unjudged();
        if tail > 0 {
            // The last frame is filled up with silence for the detector; windows end with the recording.
            let frames = tail.div_ceil(FRAME_SAMPLES);
            self.buffer
                .resize(self.buffer.len() + frames * FRAME_SAMPLES - tail, 0.0);
            self.judge(frames);
        }
        if self.detection.is_some() && self.seen <= SHORT_RECORDING {
            if self.seen > 0 && self.loudest >= SHORT_RECORDING_RMS {
                let all = 0..self.seen;
                windows.push(self.window(all.clone(), std::slice::from_ref(&all)));
            }
            return windows;
        }
        if let Some(detection) = &mut self.detection
            && let Some(segment) = detection.tracker.finish()
        {
            detection.segments.push_back(segment);
        }
        self.take_windows(true, &mut windows);
        windows
    }

    /// Samples pushed so far.
    pub fn samples_seen(&self) -> u64 {
        self.seen
    }

    /// Samples of detected speech in the windows returned so far, padding not counted; without detection all samples
    /// of those windows.
    pub fn speech_samples(&self) -> u64 {
        self.speech
    }

    #[cfg(test)]
    pub(super) fn buffered_samples(&self) -> usize {
        self.buffer.len()
    }

    /// Samples at the end of the buffer that are not judged.
    fn unjudged(&self) -> usize {
        self.buffer.len() - self.frames.len() * FRAME_SAMPLES
    }

    /// First frame of the recording that is not judged.
    fn now(&self) -> u64 {
        self.buffer_start / FRAME + self.frames.len() as u64
    }

    fn judge(&mut self, count: usize) {
        let from = self.frames.len() * FRAME_SAMPLES;
        let samples = &self.buffer[from..from + count * FRAME_SAMPLES];
        if let Some(detection) = &mut self.detection {
            detection.judged.clear();
            detection.detector.judge(samples, &mut detection.judged);
            for frame in &detection.judged {
                let ended = detection.tracker.push(frame.voice);
                detection.segments.extend(ended);
            }
            self.frames.extend(&detection.judged);
        } else {
            self.frames
                .extend(samples.chunks_exact(FRAME_SAMPLES).map(Frame::unheard));
        }
        self.loudest = self
            .frames
            .range(self.frames.len() - count..)
            .map(|frame| frame.rms)
            .fold(self.loudest, f32::max);
    }

    fn take_windows(&mut self, finished: bool, windows: &mut Vec<Window>) {
        if self.detection.is_some() {
            if !finished && self.now() * FRAME <= SHORT_RECORDING {
                return; // it may still turn out to be a short recording
            }
            while let Some((range, speech)) = self.next_speech(finished) {
                if self.holds_a_voice(&speech) {
                    windows.push(self.window(range, &speech));
                }
            }
            self.forget_silence();
        } else {
            while let Some(window) = self.next_plain_window(finished) {
                windows.push(window);
            }
        }
    }

    /// Samples of the next window and of the speech segments in it.
    fn next_speech(&mut self, finished: bool) -> Option<(Range<u64>, Vec<Range<u64>>)> {
        let now = self.now();
        let detection = self.detection.as_mut()?;
        let open = detection.tracker.open_stretch();
        detection.segments.extend(open.clone());
        let decision = self
            .rule
            .decide(&detection.segments, open.is_some(), now, finished);
        let (taken, cut) = match decision {
            Decision::Wait => (0, None),
            Decision::EndAfter(index) => (index + 1, None),
            Decision::CutWithin(range) => {
                let first_frame = self.buffer_start / FRAME;
                let local = |frame: u64| frame.saturating_sub(first_frame) as usize;
                let cut = first_frame + best_cut(&self.frames, local(range.start)..local(range.end)) as u64;
                (0, Some(cut))
            }
        };
        let mut speech: Vec<Range<u64>> = detection.segments.drain(..taken).collect();
        if let Some(cut) = cut
            && let Some(first) = detection.segments.front_mut()
        {
            speech.push(first.start..cut);
            first.start = cut;
        }
        if open.is_some() {
            // Back to the tracker: the open segment is still growing.
            if let Some(rest) = detection.segments.pop_back()
                && cut.is_some()
                && detection.segments.is_empty()
            {
                detection.tracker.cut_open_at(rest.start);
            }
        }
        let (first, last) = (speech.first()?, speech.last()?);
        let next_start = detection
            .segments
            .front()
            .cloned()
            .or(open)
            .map(|next| next.start);
        let padding = self.rule.padding;
        let start = (first.start.saturating_sub(padding) * FRAME).max(self.emitted_to);
        let end = if cut.is_some() {
            last.end
        } else {
            // Between close segments each side gets half of the pause.
            let room = next_start.map_or(padding, |next| next.saturating_sub(last.end) / 2);
            last.end + padding.min(room)
        };
        let end = (end * FRAME).min(self.seen);
        let speech = speech
            .iter()
            .map(|segment| segment.start * FRAME..(segment.end * FRAME).min(self.seen))
            .collect();
        self.emitted_to = end;
        Some((start..end, speech))
    }

    /// False for tones that the detector took for a voice.
    fn holds_a_voice(&self, speech: &[Range<u64>]) -> bool {
        let local = |sample: u64| (sample.saturating_sub(self.buffer_start) / FRAME) as usize;
        !is_tone(speech.iter().map(|segment| {
            let end = local(segment.end).min(self.frames.len());
            self.frames.range(local(segment.start).min(end)..end)
        }))
    }

    /// A window without detection: full, or the rest of the recording.
    fn next_plain_window(&mut self, finished: bool) -> Option<Window> {
        // So much is held back that the last window is not a sliver.
        let available = self.seen.saturating_sub(self.buffer_start);
        let max = self.rule.max_window * FRAME;
        let tail = self.rule.min_window * FRAME;
        if available == 0 || (!finished && available < max + tail) {
            return None;
        }
        let length = if available <= max {
            available
        } else {
            let until = (self.rule.max_window).min((available - tail) / FRAME);
            let from = (self.rule.max_window * 2 / 3).min(until.saturating_sub(1));
            let cut = best_cut(&self.frames, from as usize..until as usize + 1);
            (cut.max(1) as u64).min(self.rule.max_window) * FRAME
        };
        let start = self.buffer_start;
        let window = self.window(start..start + length, &[]);
        self.speech += length;
        self.forget(start + length);
        Some(window)
    }

    /// Makes the window of these samples of the recording, which the buffer holds.
    fn window(&mut self, range: Range<u64>, speech: &[Range<u64>]) -> Window {
        let local = |sample: u64| (sample - self.buffer_start) as usize;
        let samples = self.buffer[local(range.start)..local(range.end)].to_vec();
        let within = |sample: u64| (sample.clamp(range.start, range.end) - range.start) as usize;
        let speech: Vec<Range<usize>> = speech
            .iter()
            .map(|segment| within(segment.start)..within(segment.end))
            .filter(|segment| !segment.is_empty())
            .collect();
        self.speech += speech.iter().map(|segment| segment.len() as u64).sum::<u64>();
        self.emitted_to = range.end;
        Window {
            start_sample: range.start,
            samples,
            speech,
        }
    }

    /// Forgets what no window can need any more.
    fn forget_silence(&mut self) {
        let Some(detection) = &self.detection else {
            return;
        };
        let first_needed = detection
            .segments
            .front()
            .map_or(detection.tracker.earliest_start(), |first| first.start);
        let keep_from = first_needed.saturating_sub(self.rule.padding) * FRAME;
        self.forget(keep_from.max(self.emitted_to / FRAME * FRAME));
    }

    /// Forgets the buffer before this sample.
    fn forget(&mut self, keep_from: u64) {
        let frames = keep_from.saturating_sub(self.buffer_start).div_ceil(FRAME) as usize;
        let frames = frames.min(self.frames.len());
        self.frames.drain(..frames);
        self.buffer
            .drain(..(frames * FRAME_SAMPLES).min(self.buffer.len()));
        self.buffer_start += frames as u64 * FRAME;
    }
}

fn frames_in(duration: Duration) -> u64 {
    (duration.as_secs_f64() * f64::from(SAMPLE_RATE_HZ) / FRAME as f64).round() as u64
}
