//! What may follow, and how likely it is.

use std::ops::Range;

use super::{Choice, Vocabulary};

/// The first timestamp may be at most this far in (openai-whisper `max_initial_timestamp`), in timestamp tokens.
const MAX_INITIAL_TIMESTAMP: usize = 50;
/// Logits this far below the greatest add nothing to a sum of exponentials in f32.
const NEGLIGIBLE_LOGIT: f32 = 18.0;
/// Values looked at together.
const LANES: usize = 16;
const BLOCK: usize = 8 * LANES;

/// Masks what may not follow `tokens`.
pub(super) fn apply(logits: &mut [f32], tokens: &[Choice], v: &Vocabulary, last_timestamp: i32) {
    for &id in &v.suppressed {
        logits[id as usize] = f32::NEG_INFINITY;
    }
    let first = v.first_timestamp as usize;
    if tokens.is_empty() {
        logits[v.end_of_text as usize] = f32::NEG_INFINITY;
        if let Some(blank) = v.blank {
            logits[blank as usize] = f32::NEG_INFINITY;
        }
        mask(logits, first + MAX_INITIAL_TIMESTAMP + 1..v.size);
    }
    // Timestamps come in pairs, except right before the end.
    let last_is = tokens.last().is_some_and(|t| v.is_timestamp(t.id));
    let before_is = tokens.len() < 2 || v.is_timestamp(tokens[tokens.len() - 2].id);
    if last_is {
        if before_is {
            mask(logits, first..v.size);
        } else {
            mask(logits, 0..v.end_of_text as usize);
        }
    }
    // Time does not go back; a segment is never empty.
    if let Some(latest) = tokens.iter().rev().find(|t| v.is_timestamp(t.id)) {
        let from = if last_is && !before_is {
            latest.id
        } else {
            latest.id + 1
        };
        mask(logits, first..from as usize);
    }
    mask(logits, (last_timestamp as usize + 1).max(first)..v.size);
}

fn mask(logits: &mut [f32], range: Range<usize>) {
    let end = range.end.min(logits.len());
    if range.start < end {
        logits[range.start..end].fill(f32::NEG_INFINITY);
    }
}

/// Values with the greatest of each [`BLOCK`], so that later looks pass over most of them.
struct Part<'l> {
    values: &'l [f32],
    maxima: Vec<f32>,
    /// The first of the greatest, with its place.
    best: (usize, f32),
}

impl<'l> Part<'l> {
    fn new(values: &'l [f32]) -> Self {
        let maxima: Vec<f32> = values.chunks(BLOCK).map(block_max).collect();
        let mut best = (0, f32::NEG_INFINITY);
        for (block, max) in maxima.iter().enumerate() {
            if *max > best.1 {
                best = (block * BLOCK, *max);
            }
        }
        let place = values[best.0.min(values.len())..]
            .iter()
            .position(|value| *value >= best.1);
        best.0 += place.unwrap_or(0);
        Self { values, maxima, best }
    }

    /// Values above `floor` with their places.
    fn above(&self, floor: f32) -> impl Iterator<Item = (usize, f32)> {
        self.values
            .chunks(BLOCK)
            .enumerate()
            .zip(&self.maxima)
            .filter(move |(_, max)| **max > floor)
            .flat_map(move |((block, values), _)| {
                let values = values
                    .iter()
                    .enumerate()
                    .filter(move |(_, value)| **value > floor);
                values.map(move |(i, value)| (block * BLOCK + i, *value))
            })
    }

    fn log_sum_exp(&self) -> f32 {
        let max = self.best.1;
        if max == f32::NEG_INFINITY {
            return max;
        }
        let sum: f32 = self
            .above(max - NEGLIGIBLE_LOGIT)
            .map(|(_, value)| (value - max).exp())
            .sum();
        max + sum.ln()
    }

    /// Adds what belongs among the `count` greatest of `top`, which is sorted; places count from `offset`.
    fn add_top(&self, count: usize, offset: usize, top: &mut Vec<(usize, f32)>) {
        let blocks = self.values.chunks(BLOCK).enumerate().zip(&self.maxima);
        for ((block, values), max) in blocks {
            let least = |top: &[(usize, f32)]| match top.get(count - 1) {
                Some((_, value)) => *value,
                None => f32::NEG_INFINITY,
            };
            if *max <= least(top) {
                continue;
            }
            for (i, &value) in values.iter().enumerate() {
                if value > least(top) {
                    let place = top.partition_point(|(_, other)| *other >= value);
                    top.insert(place, (offset + block * BLOCK + i, value));
                    top.truncate(count);
                }
            }
        }
    }
}

/// Logits after the rules, with what turns them into log probabilities.
pub(super) struct Allowed<'l> {
    text: Part<'l>,
    times: Part<'l>,
    /// All timestamps together outweigh every single text token: one of them must follow.
    time_only: bool,
    normaliser: f32,
}

impl<'l> Allowed<'l> {
    /// Normalised over what may be chosen (the order of openai-whisper: rules first, then `log_softmax`).
    pub(super) fn new(logits: &'l [f32], v: &Vocabulary) -> Self {
        let (text, times) = logits.split_at(v.first_timestamp as usize);
        let (text, times) = (Part::new(text), Part::new(times));
        let time_sum = times.log_sum_exp();
        let time_only = time_sum > text.best.1;
        let normaliser = if time_only {
            time_sum
        } else {
            log_add(text.log_sum_exp(), time_sum)
        };
        Self {
            text,
            times,
            time_only,
            normaliser,
        }
    }

    /// What it costs in nats to write the text token `token` in place of the likeliest; infinite when it is not allowed.
    pub(super) fn cost(&self, token: i32) -> f32 {
        let logit = self
            .text
            .values
            .get(token as usize)
            .copied()
            .unwrap_or(f32::NEG_INFINITY);
        if logit == f32::NEG_INFINITY {
            return f32::INFINITY;
        }
        // Of timestamps, all together stand for what would be written.
        let written = if self.time_only {
            self.normaliser
        } else {
            self.text.best.1.max(self.times.best.1)
        };
        (written - logit).max(0.0)
    }

    /// A text token that need not be the likeliest, with its log probability among all that is allowed.
    pub(super) fn text(&self, token: i32) -> Choice {
        let whole = if self.time_only {
            log_add(self.text.log_sum_exp(), self.normaliser)
        } else {
            self.normaliser
        };
        Choice {
            id: token,
            logprob: (self.text.values[token as usize] - whole).clamp(-100.0, 0.0),
        }
    }

    /// The likeliest token.
    pub(super) fn best(&self) -> Choice {
        if self.time_only || self.times.best.1 > self.text.best.1 {
            let (at, logit) = self.times.best;
            self.choice(self.text.values.len() + at, logit)
        } else {
            self.choice(self.text.best.0, self.text.best.1)
        }
    }

    /// The `count` likeliest tokens, likeliest first; fewer when fewer are allowed.
    pub(super) fn top(&self, count: usize) -> Vec<Choice> {
        let mut top = Vec::with_capacity(count + 1);
        if !self.time_only {
            self.text.add_top(count, 0, &mut top);
        }
        self.times.add_top(count, self.text.values.len(), &mut top);
        top.into_iter()
            .map(|(at, logit)| self.choice(at, logit))
            .collect()
    }

    /// A token drawn with probabilities sharpened or flattened by `temperature` above 0; `random` lies in 0 to 1.
    pub(super) fn draw(&self, temperature: f32, random: f32) -> Choice {
        let best = self.best();
        let offset = self.text.values.len();
        let max = if self.time_only {
            self.times.best.1
        } else {
            self.times.best.1.max(self.text.best.1)
        };
        let floor = max - NEGLIGIBLE_LOGIT * temperature;
        let weight = |value: f32| ((value - max) / temperature).exp();
        let likely = || {
            let text = if self.time_only {
                None
            } else {
                Some(self.text.above(floor))
            };
            let times = self
                .times
                .above(floor)
                .map(move |(at, value)| (offset + at, value));
            text.into_iter().flatten().chain(times)
        };
        let sum: f32 = likely().map(|(_, value)| weight(value)).sum();
        let mut left = random * sum;
        let mut last = None;
        for (at, value) in likely() {
            left -= weight(value);
            last = Some((at, value));
            if left <= 0.0 {
                break;
            }
        }
        last.map_or(best, |(at, value)| self.choice(at, value))
    }

    fn choice(&self, id: usize, logit: f32) -> Choice {
        let logprob = logit - self.normaliser;
        Choice {
            id: id as i32,
            logprob: if logprob.is_finite() {
                logprob.min(0.0)
            } else {
                -100.0
            },
        }
    }
}

/// The greatest of some values; numbers that are none count as nothing.
fn block_max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let max = |best: f32, value: &f32| if *value > best { *value } else { best };
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, max)
}

fn log_add(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// Probability of one token against all others, before any rule.
pub(in crate::engine) fn probability(logits: &[f32], id: i32) -> f32 {
    (logits[id as usize] - Part::new(logits).log_sum_exp())
        .exp()
        .clamp(0.0, 1.0)
}

/// The likeliest language among `candidates` (all when empty), as an index into the table, with its probability
/// among those considered.
pub(in crate::engine) fn language(
    logits: &[f32],
    v: &Vocabulary,
    candidates: &[usize],
) -> Option<(usize, f32)> {
    let considered: Vec<(usize, f32)> = v
        .languages
        .clone()
        .enumerate()
        .filter(|(i, _)| candidates.is_empty() || candidates.contains(i))
        .map(|(i, id)| (i, logits[id as usize]))
        .collect();
    let best = considered.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let sum: f32 = considered.iter().map(|(_, l)| (l - best.1).exp()).sum();
    Some((best.0, 1.0 / sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_weak_timestamps_outweigh_one_text_token() {
        let v = Vocabulary::toy();
        let mut logits = vec![f32::NEG_INFINITY; 121];
        logits[1] = 2.0;
        logits[30..60].fill(0.0); // together ln 30 = 3.4
        let allowed = Allowed::new(&logits, &v);
        assert!(allowed.best().id >= 20);
        assert!(allowed.top(5).iter().all(|choice| choice.id >= 20));
        assert!((allowed.best().logprob + 30_f32.ln()).abs() < 1e-4);
    }

    #[test]
    fn only_candidate_languages_win() {
        let v = Vocabulary::toy();
        let mut logits = vec![0.0; 121];
        logits[18] = 5.0;
        assert_eq!(language(&logits, &v, &[]).unwrap().0, 0);
        assert_eq!(language(&logits, &v, &[1]).unwrap(), (1, 1.0));
    }

    /// Some thousand values without a pattern, a few of them masked.
    fn noise(len: usize) -> Vec<f32> {
        let mut state = 1_u64;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
                let value = (state >> 40) as f32 / (1 << 22) as f32;
                if i % 7 == 0 { f32::NEG_INFINITY } else { value }
            })
            .collect()
    }

    #[test]
    fn blocks_find_what_a_plain_search_finds() {
        for len in [1, 15, 127, 128, 129, 5_000] {
            let mut values = noise(len);
            values[len / 2] = f32::NAN;
            let plain = values
                .iter()
                .enumerate()
                .fold(
                    (0, f32::NEG_INFINITY),
                    |best, (i, v)| if *v > best.1 { (i, *v) } else { best },
                );
            let allowed = Allowed {
                text: Part::new(&values),
                times: Part::new(&[]),
                time_only: false,
                normaliser: 0.0,
            };
            assert_eq!(allowed.text.best, plain, "{len}");
            let mut sorted: Vec<usize> = (0..len).filter(|i| values[*i] > f32::NEG_INFINITY).collect();
            sorted.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
            sorted.truncate(6);
            let top: Vec<usize> = allowed.top(6).iter().map(|choice| choice.id as usize).collect();
            assert_eq!(top, sorted, "{len}");
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let v = Vocabulary::toy();
        let mut logits = vec![f32::NEG_INFINITY; 121];
        (logits[1], logits[2]) = (3_f32.ln(), 0.0);
        let allowed = Allowed::new(&logits, &v);
        let share = |temperature: f32| {
            let ones = (0..1_000).filter(|i| allowed.draw(temperature, *i as f32 / 1_000.0).id == 1);
            ones.count() as f32 / 1_000.0
        };
        assert!((share(1.0) - 0.75).abs() < 0.01);
        assert!((share(0.5) - 0.9).abs() < 0.01);
        assert_eq!(allowed.draw(1.0, 1.0).id, 2);
    }
}
