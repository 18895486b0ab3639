//! Which units make a cue, and where its lines break: the cheapest of all ways, found by dynamic programming.

use super::rules::{LONGEST_SECONDS, Limits, SHORTEST_SECONDS};
use super::units::{SENTENCE, Unit};

/// A cue: units `from..to`, with a line break behind each unit of `breaks`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub from: usize,
    pub to: usize,
    /// Indices of units, in order, that end a line but the last.
    pub breaks: Vec<usize>,
}

/// Each cue costs so much: two short ones are worse than one whole.
const CUE: f64 = 4.0;
/// Each line beyond the first.
const LINE: f64 = 0.7;
/// A line as long as the limit; half as long costs a quarter, so that equal lines are cheapest.
const FULL_LINE: f64 = 4.0;
/// Reading twice as fast as the limit.
const TOO_FAST: f64 = 25.0;
/// No time at all to read.
const TOO_SHORT: f64 = 40.0;
/// A sentence ends and another begins within the cue.
const TWO_SENTENCES: f64 = 1.0;
/// A pause of this many seconds always ends a cue: text must not stand long before it is said.
const PAUSE_SECONDS: f64 = 2.0;
/// From this pause on the end of a cue costs less, as at a comma.
const BREATH_SECONDS: f64 = 0.5;
/// Longest cue that is searched, in units: no cue of 7 s has more words, and the work stays bounded.
const MOST_UNITS: usize = 160;
/// Most lines that are laid out apart.
const MOST_LINES: usize = 24;

/// Divides `units`. `following` is when the next text begins, where that is known.
pub(super) fn layout(units: &[Unit], limits: &Limits, following: Option<f64>) -> Vec<Layout> {
    let count = units.len();
    let mut best: Vec<(f64, usize, Vec<usize>)> = vec![(f64::INFINITY, 0, Vec::new()); count + 1];
    best[0].0 = 0.0;
    for from in 0..count {
        if best[from].0.is_infinite() {
            continue;
        }
        let reachable = reach(units, limits, from);
        let lines = Lines::new(&units[from..reachable], limits);
        for to in from + 1..=reachable {
            if limits.whole_segments && !units[to - 1].segment_end && to < reachable {
                continue;
            }
            let Some((line_cost, breaks)) = lines.best(to - from) else {
                continue;
            };
            let next_start = units.get(to).map(|unit| unit.start).or(following);
            let cost = best[from].0 + line_cost + cue_cost(&units[from..to], limits, next_start);
            if cost < best[to].0 {
                best[to] = (cost, from, breaks.into_iter().map(|index| index + from).collect());
            }
        }
    }
    let mut cues = Vec::new();
    let mut to = count;
    while to > 0 {
        let (_, from, breaks) = &best[to];
        cues.push(Layout {
            from: *from,
            to,
            breaks: breaks.clone(),
        });
        to = *from;
    }
    cues.reverse();
    cues
}

/// One past the last unit that a cue beginning with `from` may hold: at least one unit.
fn reach(units: &[Unit], limits: &Limits, from: usize) -> usize {
    let most = if limits.whole_segments {
        units.len()
    } else {
        from + MOST_UNITS
    };
    let mut to = from + 1;
    while to < units.len().min(most) {
        let (last, unit) = (&units[to - 1], &units[to]);
        let ends = if limits.whole_segments {
            last.segment_end
        } else {
            unit.start - last.end >= PAUSE_SECONDS || unit.end - units[from].start > LONGEST_SECONDS
        };
        if ends {
            break;
        }
        to += 1;
    }
    to
}

fn cue_cost(units: &[Unit], limits: &Limits, next_start: Option<f64>) -> f64 {
    let (Some(first), Some(last)) = (units.first(), units.last()) else {
        return 0.0;
    };
    if limits.whole_segments {
        return CUE;
    }
    let mut cost = CUE;
    let pause = next_start.map_or(f64::INFINITY, |next| next - last.end);
    let end_cost = 1.5 * last.break_cost;
    cost += if pause >= BREATH_SECONDS {
        end_cost.min(2.0)
    } else {
        end_cost
    };
    let characters: f64 = units.iter().map(|unit| unit.characters).sum();
    let shown = shown_seconds(first.start, last.end, characters, limits, next_start);
    let speed = characters / shown.max(0.05);
    if speed > limits.cps {
        cost += TOO_FAST * (speed / limits.cps - 1.0).min(4.0);
    }
    if shown < SHORTEST_SECONDS {
        cost += TOO_SHORT * (1.0 - shown / SHORTEST_SECONDS);
    }
    let inner = units[..units.len() - 1]
        .iter()
        .filter(|unit| unit.break_cost <= SENTENCE)
        .count();
    cost + TWO_SENTENCES * inner as f64
}

/// Seconds a cue can stand: as long as it is said, and longer where it needs to be and nothing follows.
fn shown_seconds(start: f64, end: f64, characters: f64, limits: &Limits, next_start: Option<f64>) -> f64 {
    let wanted = (end - start).max(SHORTEST_SECONDS).max(characters / limits.cps);
    let room = next_start.map_or(f64::INFINITY, |next| next - start);
    wanted.min(room.max(end - start)).min(LONGEST_SECONDS)
}

/// The best line breaks of every cue that begins with the same unit.
struct Lines {
    /// `best[lines - 1][units]`: cost, and where its last line begins.
    best: Vec<Vec<(f64, usize)>>,
}

impl Lines {
    fn new(units: &[Unit], limits: &Limits) -> Self {
        let count = units.len();
        let most = limits.lines.min(MOST_LINES).min(count).max(1);
        // With no limit on lines, as many as the width asks for.
        let most = if limits.lines == usize::MAX {
            count.clamp(1, MOST_LINES.max(lines_needed(units, limits)))
        } else {
            most
        };
        let mut best: Vec<Vec<(f64, usize)>> = Vec::with_capacity(most);
        let mut first = vec![(f64::INFINITY, 0); count + 1];
        for_each_line(units, limits, 0, |to, cost| first[to] = (cost, 0));
        let mut done = first[count].0.is_finite();
        best.push(first);
        for line in 1..most {
            // More lines than the whole text needs are never cheaper.
            if done {
                break;
            }
            let mut row = vec![(f64::INFINITY, 0); count + 1];
            for from in line..count {
                let before = best[line - 1][from].0;
                if before.is_infinite() {
                    continue;
                }
                let turn = before + LINE + 0.8 * units[from - 1].break_cost;
                for_each_line(units, limits, from, |to, cost| {
                    if turn + cost < row[to].0 {
                        row[to] = (turn + cost, from);
                    }
                });
            }
            done = limits.lines == usize::MAX && row[count].0.is_finite();
            best.push(row);
        }
        Self { best }
    }

    /// Cost and breaks of the first `units` units; `None` when they do not fit.
    fn best(&self, units: usize) -> Option<(f64, Vec<usize>)> {
        let (line, cost) = self
            .best
            .iter()
            .map(|row| row[units].0)
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        if cost.is_infinite() {
            return None;
        }
        let mut breaks = Vec::new();
        let mut to = units;
        for line in (1..=line).rev() {
            to = self.best[line][to].1;
            breaks.push(to - 1);
        }
        breaks.reverse();
        Some((cost, breaks))
    }
}

fn lines_needed(units: &[Unit], limits: &Limits) -> usize {
    let total: usize = units.iter().map(|unit| unit.width + 1).sum();
    let words: usize = units.iter().map(|unit| unit.words).sum();
    // Words never fill lines wholly; twice as many is always enough, since two neighbours exceed one line's width or words.
    2 * (total.div_ceil(limits.width.max(1)) + words.div_ceil(limits.words.max(1))) + 2
}

/// Calls `found` with the end and the cost of each line that begins with unit `from` and keeps the limits. The first
/// unit alone always does: it is no wider than a line.
fn for_each_line(units: &[Unit], limits: &Limits, from: usize, mut found: impl FnMut(usize, f64)) {
    let (mut width, mut words) = (0, 0);
    for to in from + 1..=units.len() {
        let unit = &units[to - 1];
        if to > from + 1 {
            width += usize::from(units[to - 2].space);
        }
        width += unit.width;
        words += unit.words;
        if to > from + 1 && (width > limits.width || words > limits.words) {
            break;
        }
        let share = width as f64 / limits.width as f64;
        found(to, FULL_LINE * share * share);
    }
}
