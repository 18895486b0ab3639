//! Subtitles as people read them: cues of few lines, broken at the ends of clauses, shown long enough.
//!
//! [`units`] cuts the text where lines may break (Unicode line breaking with its rules for Japanese) and prices each
//! place; [`layout`] finds the cheapest division into cues and lines; this file gives the cues their times. A cue never
//! reaches over two windows, so that a stream and a whole body are the same.

mod layout;
mod rules;
mod units;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use rules::{SubtitleRules, SubtitleStyle};

use crate::transcript::{Segment, Task};
use layout::layout;
use rules::{LONGEST_SECONDS, Limits, SHORTEST_SECONDS};
use units::{Unit, units};

/// Pause between two cues in seconds where there is room for one (Netflix: two frames, at 24 a second).
const GAP_SECONDS: f64 = 2.0 / 24.0;
/// A cue may begin so many seconds late, so that the one before it can be read.
const MOST_DELAY_SECONDS: f64 = 1.0;

/// One cue, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cue {
    /// Seconds from the start of the recording.
    pub start: f64,
    /// Seconds, not beyond the next cue's start.
    pub end: f64,
    /// Without line ends inside.
    pub lines: Vec<String>,
    /// What it exceeds: people speak faster than others read.
    pub exceeds: Option<Exceeds>,
}

/// Why a cue is outside the limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Exceeds {
    /// Characters a second.
    ReadingSpeed(f64),
    /// Seconds on the screen.
    TooShort(f64),
}

impl std::fmt::Display for Exceeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReadingSpeed(speed) => write!(f, "{speed:.1} characters a second"),
            Self::TooShort(seconds) => write!(f, "shown for {seconds:.2} seconds"),
        }
    }
}

/// Segments in, cues out, one channel at a time. The last cue is held back until its end is known.
#[derive(Debug)]
pub(crate) struct CueBuilder {
    rules: SubtitleRules,
    /// Language of the text where it is not the segments' own.
    translated: bool,
    /// Language of segments that do not name theirs.
    language: Option<String>,
    lanes: Vec<(Option<u16>, Lane)>,
}

#[derive(Debug, Default)]
struct Lane {
    held: Option<Draft>,
}

/// A cue whose end depends on what follows.
#[derive(Debug, Clone)]
struct Draft {
    start: f64,
    end: f64,
    lines: Vec<String>,
    characters: f64,
    limits: Limits,
}

impl CueBuilder {
    /// `task` tells the text's language: a translation is English. `language` is that of segments without one.
    pub(crate) fn new(rules: SubtitleRules, task: Task, language: Option<&str>) -> Self {
        Self {
            rules,
            translated: task == Task::Translate,
            language: language.map(str::to_owned),
            lanes: Vec::new(),
        }
    }

    /// Takes whole windows' segments, in order; gives the cues whose end is known.
    pub(crate) fn push(&mut self, segments: &[Segment]) -> Vec<Cue> {
        let mut out = Vec::new();
        for window in segments.chunk_by(|a, b| a.channel == b.channel && a.seek == b.seek) {
            self.window(window, &mut out);
        }
        out
    }

    /// The cues still held.
    pub(crate) fn finish(&mut self) -> Vec<Cue> {
        let mut out = Vec::new();
        for (_, lane) in &mut self.lanes {
            if let Some(draft) = lane.held.take() {
                out.push(draft.finish(None).0);
            }
        }
        out
    }

    fn window(&mut self, window: &[Segment], out: &mut Vec<Cue>) {
        let channel = window.first().and_then(|segment| segment.channel);
        // One language a run: a window has one, its limits hold for all of its cues.
        let language = window
            .iter()
            .find_map(|segment| segment.language.as_deref())
            .or(self.language.as_deref())
            .filter(|_| !self.translated);
        let limits = self.rules.limits(language);
        let segments: Vec<&Segment> = window.iter().collect();
        let units = units(&segments, &limits);
        let drafts: VecDeque<Draft> = layout(&units, &limits, None)
            .into_iter()
            .map(|cue| Draft::new(&units[cue.from..cue.to], cue.from, &cue.breaks, limits))
            .collect();
        let index = self
            .lanes
            .iter()
            .position(|(known, _)| *known == channel)
            .unwrap_or_else(|| {
                self.lanes.push((channel, Lane::default()));
                self.lanes.len() - 1
            });
        let lane = &mut self.lanes[index].1;
        for mut draft in drafts {
            if let Some(held) = lane.held.take() {
                let (cue, next_start) = held.finish(Some(draft.start));
                draft.start = next_start;
                draft.end = draft.end.max(next_start);
                out.push(cue);
            }
            lane.held = Some(draft);
        }
    }
}

impl Draft {
    fn new(units: &[Unit], offset: usize, breaks: &[usize], limits: Limits) -> Self {
        let mut lines = vec![String::new()];
        let mut gap = false;
        for (index, unit) in units.iter().enumerate() {
            if let Some(line) = lines.last_mut() {
                if gap {
                    line.push(' ');
                }
                line.push_str(&unit.text);
            }
            gap = unit.space;
            if breaks.contains(&(index + offset)) {
                lines.push(String::new());
                gap = false;
            }
        }
        // An arrow would begin another cue.
        for line in lines.iter_mut().filter(|line| line.contains("-->")) {
            *line = line.replace("-->", "->");
        }
        Self {
            start: units.first().map_or(0.0, |unit| unit.start),
            end: units.last().map_or(0.0, |unit| unit.end),
            lines,
            characters: units.iter().map(|unit| unit.characters).sum(),
            limits,
        }
    }

    /// Gives the cue its end. Also returns where the next may begin: its own start, or later when this one needs it.
    fn finish(self, next_start: Option<f64>) -> (Cue, f64) {
        if self.limits.whole_segments {
            let next = next_start.unwrap_or(f64::INFINITY);
            let end = self.end.min(next.max(self.start));
            let cue = Cue {
                start: self.start,
                end,
                exceeds: None,
                lines: self.lines,
            };
            return (cue, next_start.unwrap_or(end).max(end));
        }
        let said = self.end - self.start;
        let wanted = said
            .max(SHORTEST_SECONDS)
            .max(self.characters / self.limits.cps)
            .min(LONGEST_SECONDS);
        let mut end = self.start + wanted;
        let mut next = next_start.unwrap_or(f64::INFINITY);
        if end > next - GAP_SECONDS {
            let with_gap = next - GAP_SECONDS;
            end = if with_gap - self.start >= SHORTEST_SECONDS && with_gap >= self.end {
                with_gap
            } else {
                end.min(next)
            };
        }
        if end - self.start < SHORTEST_SECONDS {
            // The next cue waits, within reason.
            end = (self.start + SHORTEST_SECONDS).min(next + MOST_DELAY_SECONDS);
            next = next.max(end);
        }
        let end = end.max(self.start);
        let seconds = end - self.start;
        let speed = self.characters / seconds.max(0.001);
        // Times are written in milliseconds.
        let exceeds = if seconds < SHORTEST_SECONDS - 0.001 {
            Some(Exceeds::TooShort(seconds))
        } else if speed > self.limits.cps * 1.001 {
            Some(Exceeds::ReadingSpeed(speed))
        } else {
            None
        };
        let cue = Cue {
            start: self.start,
            end,
            lines: self.lines,
            exceeds,
        };
        (cue, if next.is_finite() { next } else { end })
    }
}
