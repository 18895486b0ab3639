//! How many threads run one decoder step.
//!
//! A step of a small model takes milliseconds and has hundreds of barriers, so the best number of threads depends on
//! model, machine and whoever else uses the processor just now: with two free cores `base` decodes a third faster on
//! both than on one, with a neighbour on one of them it takes twice as long (docs/performance.md). So it is measured
//! while decoding: steps run on the number that was fastest, and now and then on the next greater or smaller one.

use std::time::Duration;

/// Threads to begin with, before anything is measured (whisper.cpp's own default).
const FIRST_GUESS: usize = 4;
/// Weight of the newest step in the running mean of the number in use.
const NEWEST: f64 = 0.25;
/// The same for a trial: what was known is old by then.
const NEWEST_TRIAL: f64 = 0.75;
/// Steps between two looks at a neighbour that is no slower; one that is twice as slow is looked at four times as
/// seldom.
const STEPS_BETWEEN_TRIALS: f64 = 12.0;
/// At most this many steps pass without a look: about five seconds of decoding.
const MOST_STEPS_BETWEEN_TRIALS: f64 = 1_000.0;

/// The running choice; one for an engine, since all its windows share the processor.
#[derive(Debug)]
pub(super) struct ThreadTuner {
    /// 1, 2, 4 … and the greatest number itself, with the mean seconds of a step.
    choices: Vec<Choice>,
    /// Where the last step ran.
    last: usize,
    /// Steps left until the next trial.
    until_trial: u32,
    /// The next trial looks at more threads, not fewer.
    upwards: bool,
}

#[derive(Debug)]
struct Choice {
    threads: usize,
    seconds: Option<f64>,
}

impl ThreadTuner {
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let mut numbers: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2))
            .take_while(|&n| n < most)
            .collect();
        numbers.push(most);
        let last = numbers.iter().rposition(|&n| n <= FIRST_GUESS).unwrap_or(0);
        let choices = numbers.into_iter().map(|threads| Choice {
            threads,
            seconds: None,
        });
        Self {
            choices: choices.collect(),
            last,
            until_trial: 1,
            upwards: false,
        }
    }

    /// Threads for the next step, `most` at most.
    pub(super) fn threads(&mut self, most: usize) -> usize {
        if most <= 1 || self.choices.len() == 1 {
            return 1;
        }
        let best = self.best();
        self.last = best;
        if self.until_trial == 0 {
            let neighbour = if self.upwards {
                best + 1
            } else {
                best.wrapping_sub(1)
            };
            self.upwards = !self.upwards;
            if neighbour < self.choices.len() {
                self.last = neighbour;
            }
            self.until_trial = self.interval(best);
        } else {
            self.until_trial -= 1;
        }
        self.choices[self.last].threads.min(most)
    }

    /// Tells how long the step took that ran on `threads`.
    pub(super) fn took(&mut self, threads: usize, time: Duration) {
        let new = time.as_secs_f64();
        let best = self.best();
        if let Some(i) = self.choices.iter().position(|c| c.threads == threads) {
            let weight = if i == best { NEWEST } else { NEWEST_TRIAL };
            let seconds = &mut self.choices[i].seconds;
            *seconds = Some(seconds.map_or(new, |old| old + weight * (new - old)));
        }
    }

    fn best(&self) -> usize {
        let measured = self
            .choices
            .iter()
            .enumerate()
            .filter_map(|(i, c)| Some((i, c.seconds?)));
        measured
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(self.last, |(i, _)| i)
    }

    /// Steps until a neighbour is tried again.
    fn interval(&self, best: usize) -> u32 {
        let Some(fastest) = self.choices[best].seconds else {
            return 1;
        };
        let neighbours = [best.wrapping_sub(1), best + 1];
        let ratio = neighbours
            .iter()
            .filter_map(|&i| self.choices.get(i))
            .map(|c| c.seconds.map_or(0.0, |s| s / fastest))
            .fold(f64::INFINITY, f64::min);
        (STEPS_BETWEEN_TRIALS * ratio * ratio).clamp(1.0, MOST_STEPS_BETWEEN_TRIALS) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps on a machine where `seconds(threads)` is the time of one; returns how many ran on each number.
    fn decode(
        tuner: &mut ThreadTuner,
        most: usize,
        steps: usize,
        seconds: impl Fn(usize) -> f64,
    ) -> Vec<(usize, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..steps {
            let threads = tuner.threads(most);
            assert!((1..=most).contains(&threads));
            *counts.entry(threads).or_insert(0) += 1;
            tuner.took(threads, Duration::from_secs_f64(seconds(threads)));
        }
        counts.into_iter().collect()
    }

    fn share(counts: &[(usize, usize)], threads: usize) -> f64 {
        let all: usize = counts.iter().map(|c| c.1).sum();
        let these = counts.iter().find(|c| c.0 == threads).map_or(0, |c| c.1);
        these as f64 / all as f64
    }

    #[test]
    fn two_free_cores_are_both_used() {
        let mut tuner = ThreadTuner::new(2);
        let counts = decode(&mut tuner, 2, 400, |n| 0.006 / n as f64);
        assert!(share(&counts, 2) > 0.95, "{counts:?}");
    }

    #[test]
    fn a_neighbour_on_one_core_leaves_one_and_its_end_brings_both_back() {
        let mut tuner = ThreadTuner::new(2);
        decode(&mut tuner, 2, 100, |n| 0.006 / n as f64);
        let crowded = decode(&mut tuner, 2, 400, |n| if n == 1 { 0.007 } else { 0.02 });
        assert!(share(&crowded, 1) > 0.95, "{crowded:?}");
        decode(&mut tuner, 2, 300, |n| 0.006 / n as f64);
        let again = decode(&mut tuner, 2, 200, |n| 0.006 / n as f64);
        assert!(share(&again, 2) > 0.9, "{again:?}");
    }

    #[test]
    fn the_best_of_many_cores_is_found() {
        // Barriers cost more with every thread: the optimum is at 8 of 12.
        let mut tuner = ThreadTuner::new(12);
        let time = |n: usize| 0.012 / n as f64 + 0.0001 * n as f64;
        decode(&mut tuner, 12, 200, time);
        let counts = decode(&mut tuner, 12, 400, time);
        assert!(share(&counts, 8) + share(&counts, 12) > 0.9, "{counts:?}");
    }

    #[test]
    fn one_thread_is_never_more_than_one() {
        let mut tuner = ThreadTuner::new(1);
        assert_eq!(decode(&mut tuner, 1, 5, |_| 0.01), [(1, 5)]);
        let mut tuner = ThreadTuner::new(8);
        assert_eq!(decode(&mut tuner, 1, 5, |_| 0.01), [(1, 5)]);
    }
}
