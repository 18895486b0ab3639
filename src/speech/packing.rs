//! Where windows end: the rule that packs speech segments into windows, and the search for the best cut.

use std::collections::VecDeque;
use std::ops::Range;

use super::voice::Frame;

/// Lengths in frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    pub min_window: u64,
    pub target_window: u64,
    pub max_window: u64,
    pub join_gap: u64,
    pub padding: u64,
}

/// What to do with the segments at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// More of the recording is needed.
    Wait,
    /// A window ends in the pause after the segment with this index.
    EndAfter(usize),
    /// Speech without a pause fills the window: cut the first segment at the best frame of this range.
    CutWithin(Range<u64>),
}

impl Packing {
    /// Decides about `segments`, in order and apart; the last one may still grow when `open`.
    /// `now` is the first frame not yet judged; `finished` says that none will come.
    pub(super) fn decide(
        &self,
        segments: &VecDeque<Range<u64>>,
        open: bool,
        now: u64,
        finished: bool,
    ) -> Decision {
        let Some(first) = segments.front() else {
            return Decision::Wait;
        };
        let gap_after = |index: usize| segments[index + 1].start - segments[index].end;
        let length_through = |index: usize| segments[index].end - first.start;
        // Padding counts: a window is never longer than the model's input.
        let max = self.max_window.saturating_sub(2 * self.padding).max(1);
        let target = self.target_window.clamp(1, max);

        // Silence that is not worth keeping ends the window wherever it stands.
        let newest = segments.len() - 1;
        let ended_at = (0..newest).find(|&index| gap_after(index) > self.join_gap);
        let (last, complete) = ended_at.map_or_else(
            || {
                let silence = now.saturating_sub(segments[newest].end);
                let ended = silence > self.join_gap.max(2 * self.padding);
                (newest, !open && (finished || ended))
            },
            |index| (index, true),
        );
        let length = length_through(last);
        // A quarter more than the target is let through when that spares a cut.
        if length <= (target + target / 4).min(max) {
            return if complete {
                Decision::EndAfter(last)
            } else {
                Decision::Wait
            };
        }

        let best_pause = (0..last)
            .filter(|&index| (self.min_window..=target).contains(&length_through(index)))
            .max_by_key(|&index| {
                // Long pauses first: they are ends of sentences. Among equals the later one: fewer windows.
                (gap_after(index) * (target + length_through(index)), index)
            });
        let next_pause = || (0..last).find(|&index| (target..=max).contains(&length_through(index)));
        if let Some(index) = best_pause.or_else(next_pause) {
            return Decision::EndAfter(index);
        }
        if length <= max {
            let silence = now.saturating_sub(segments[last].end);
            let paused = last == newest && !open && silence >= 2 * self.padding;
            return if complete || paused {
                Decision::EndAfter(last)
            } else {
                Decision::Wait
            };
        }
        // Only early pauses are left: a short window is better than a cut through a word.
        if let Some(index) = (0..last)
            .rev()
            .find(|&index| length_through(index) <= self.min_window.min(max))
        {
            return Decision::EndAfter(index);
        }
        Decision::CutWithin(first.start + max * 2 / 3..first.start + max)
    }
}

/// Frames on either side that take part in judging a cut: together 144 ms, about a short syllable.
const CUT_REACH: usize = 4;

/// How much 20 dB less level weigh against voice probability when a cut is chosen.
const LEVEL_WEIGHT: f32 = 0.5;

/// How much the end of the range is preferred to its start: later cuts mean fewer windows.
const LATENESS_WEIGHT: f32 = 0.1;

/// Index of the frame of `range` before which a cut harms least: the middle of the least voiced, quietest piece.
pub(super) fn best_cut(frames: &VecDeque<Frame>, range: Range<usize>) -> usize {
    let range = range.start..range.end.min(frames.len());
    let cost = |at: usize| {
        let around = at.saturating_sub(CUT_REACH)..(at + CUT_REACH).min(frames.len());
        let count = around.len().max(1) as f32;
        let sum: f32 = frames
            .range(around)
            .map(|frame| frame.voice + LEVEL_WEIGHT * frame.rms.max(1e-5).log10())
            .sum();
        let late = (at - range.start) as f32 / range.len().max(1) as f32;
        sum / count - LATENESS_WEIGHT * late
    };
    range
        .clone()
        .map(|at| (at, cost(at)))
        .min_by(|(_, left), (_, right)| left.total_cmp(right))
        .map_or(range.start, |(at, _)| at)
}
