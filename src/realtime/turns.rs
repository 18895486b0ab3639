//! Frames of voice → where speech begins, and how long it has been silent since.

use std::time::Duration;

use crate::speech::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Frames (16 ms) in this time, to the nearest.
pub fn frames_in(duration: Duration) -> u64 {
    (duration.as_secs_f64() * f64::from(SAMPLE_RATE_HZ) / FRAME_SAMPLES as f64).round() as u64
}

/// When speech begins, in frames and probabilities.
#[derive(Debug, Clone, Copy)]
pub struct SpeechRule {
    /// Voice probability at which speech begins.
    pub threshold: f32,
    /// Voice probability below which it may have ended.
    pub threshold_end: f32,
    /// Shorter bursts are not speech.
    pub min_speech: u64,
    /// A burst that is silent for so long is over.
    pub patience: u64,
}

/// Follows the frames of a session.
#[derive(Debug)]
pub struct SpeechTracker {
    rule: SpeechRule,
    next: u64,
    /// First frame of the latest run at or above `threshold_end`.
    rising: Option<u64>,
    /// A burst: where it began and its last voiced frame.
    burst: Option<(u64, u64)>,
    /// The burst is speech.
    speaking: bool,
}

impl SpeechTracker {
    /// At frame 0.
    pub fn new(rule: SpeechRule) -> Self {
        Self {
            rule,
            next: 0,
            rising: None,
            burst: None,
            speaking: false,
        }
    }

    /// Follows another rule from now on.
    pub fn set_rule(&mut self, rule: SpeechRule) {
        self.rule = rule;
    }

    /// First frame not yet pushed.
    pub fn now(&self) -> u64 {
        self.next
    }

    /// Takes the next frame's probability; gives the frame at which speech began, once it is known to be speech.
    pub fn push(&mut self, voice: f32) -> Option<u64> {
        let at = self.next;
        self.next += 1;
        let maybe = voice >= self.rule.threshold_end;
        if maybe {
            self.rising.get_or_insert(at);
        } else {
            self.rising = None;
        }
        match &mut self.burst {
            None => {
                if voice < self.rule.threshold {
                    return None;
                }
                // A murmur that lasts longer than a pause is background, not the start of this word.
                let start = self
                    .rising
                    .unwrap_or(at)
                    .max(at.saturating_sub(self.rule.patience));
                self.burst = Some((start, at));
            }
            Some((_, last)) if maybe => *last = at,
            Some((_, last)) => {
                if !self.speaking && at - *last >= self.rule.patience {
                    self.burst = None;
                }
                return None;
            }
        }
        let (start, last) = self.burst?;
        if self.speaking || last + 1 - start < self.rule.min_speech {
            return None;
        }
        self.speaking = true;
        Some(start)
    }

    /// Where the burst under way began, be it speech already or not.
    pub fn burst(&self) -> Option<u64> {
        self.burst.map(|(start, _)| start)
    }

    /// Speech has begun and was not ended.
    pub fn speaking(&self) -> bool {
        self.speaking
    }

    /// Frame after the last voiced one of the burst.
    pub fn voiced_to(&self) -> Option<u64> {
        self.burst.map(|(_, last)| last + 1)
    }

    /// Frames without a voice since.
    pub fn silence(&self) -> u64 {
        self.voiced_to().map_or(0, |end| self.next - end)
    }

    /// The speech is over: the next voice begins anew.
    pub fn end(&mut self) {
        self.burst = None;
        self.speaking = false;
        self.rising = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> SpeechTracker {
        SpeechTracker::new(SpeechRule {
            threshold: 0.5,
            threshold_end: 0.4,
            min_speech: 6,
            patience: 10,
        })
    }

    fn push(tracker: &mut SpeechTracker, voice: f32, frames: usize) -> Vec<u64> {
        (0..frames).filter_map(|_| tracker.push(voice)).collect()
    }

    #[test]
    fn speech_begins_where_the_voice_rose_and_is_told_once() {
        let mut tracker = tracker();
        assert!(push(&mut tracker, 0.1, 20).is_empty());
        assert!(push(&mut tracker, 0.45, 3).is_empty());
        assert_eq!(push(&mut tracker, 0.9, 10), [20]);
        assert!(push(&mut tracker, 0.1, 30).is_empty());
        assert_eq!((tracker.silence(), tracker.voiced_to()), (30, Some(33)));
        tracker.end();
        assert_eq!(push(&mut tracker, 0.9, 6), [63]);
    }

    #[test]
    fn a_click_is_not_speech() {
        let mut tracker = tracker();
        assert!(push(&mut tracker, 0.9, 3).is_empty());
        assert!(push(&mut tracker, 0.0, 12).is_empty());
        assert_eq!(tracker.burst(), None);
        assert!(push(&mut tracker, 0.9, 3).is_empty());
        assert!(!tracker.speaking());
    }
}
