//! Voice probabilities → speech segments, with hysteresis.

use std::ops::Range;

/// Lengths in frames, probabilities from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hysteresis {
    pub threshold: f32,
    pub threshold_end: f32,
    pub min_silence: u64,
    pub min_speech: u64,
}

/// Follows the frames of a recording; segments are ranges of frame numbers.
#[derive(Debug)]
pub(super) struct SegmentTracker {
    rule: Hysteresis,
    next: u64,
    /// First frame of the latest run of frames at or above `threshold_end`.
    rising: Option<u64>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    start: u64,
    last_voiced: u64,
    /// The segment began in a window that is gone: its rest is speech however short.
    continued: bool,
}

impl Open {
    fn is_speech(&self, min_speech: u64) -> bool {
        self.continued || self.last_voiced + 1 - self.start >= min_speech
    }
}

impl SegmentTracker {
    pub(super) fn new(rule: Hysteresis) -> Self {
        Self {
            rule,
            next: 0,
            rising: None,
            open: None,
        }
    }

    /// Takes the probability of the next frame; a segment that this frame ends is returned.
    pub(super) fn push(&mut self, voice: f32) -> Option<Range<u64>> {
        let at = self.next;
        self.next += 1;
        let maybe = voice >= self.rule.threshold_end;
        if !maybe {
            self.rising = None;
        } else if self.rising.is_none() {
            self.rising = Some(at);
        }
        match &mut self.open {
            None => {
                if voice >= self.rule.threshold {
                    let rising = self.rising.unwrap_or(at);
                    self.open = Some(Open {
                        // A murmur that lasts longer than a pause is background, not the start of this word.
                        start: rising.max(at.saturating_sub(self.rule.min_silence)),
                        last_voiced: at,
                        continued: false,
                    });
                }
                None
            }
            Some(open) => {
                if maybe {
                    open.last_voiced = at;
                    return None;
                }
                if at - open.last_voiced < self.rule.min_silence {
                    return None;
                }
                self.close()
            }
        }
    }

    /// The segment that has begun and not ended, up to its last voiced frame so far, once it is long enough to be
    /// speech.
    pub(super) fn open_stretch(&self) -> Option<Range<u64>> {
        self.open
            .as_ref()
            .filter(|open| open.is_speech(self.rule.min_speech))
            .map(|open| open.start..open.last_voiced + 1)
    }

    /// Earliest frame that a segment not yet returned can begin with.
    pub(super) fn earliest_start(&self) -> u64 {
        match &self.open {
            Some(open) => open.start,
            None => self.next.saturating_sub(self.rule.min_silence),
        }
    }

    /// Lets the open segment begin at `frame`: what came before has left in a window.
    pub(super) fn cut_open_at(&mut self, frame: u64) {
        if let Some(open) = &mut self.open {
            if open.last_voiced < frame {
                self.open = None;
            } else {
                open.start = open.start.max(frame);
                open.continued = true;
            }
        }
        self.rising = self.rising.map(|rising| rising.max(frame));
    }

    /// Ends the open segment with the recording.
    pub(super) fn finish(&mut self) -> Option<Range<u64>> {
        self.close()
    }

    fn close(&mut self) -> Option<Range<u64>> {
        let open = self.open.take()?;
        open.is_speech(self.rule.min_speech)
            .then_some(open.start..open.last_voiced + 1)
    }
}
