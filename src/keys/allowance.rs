//! An amount that is used up and comes back steadily.
//!
//! Not a crate's: what a recording costs is known when it is transcribed, so an allowance must be able to go below zero.

use std::time::{Duration, Instant};

/// What is left of an allowance. Full at the start.
#[derive(Debug, Clone)]
pub struct Allowance {
    most: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// `most` at once, and as much again within `period`.
    pub fn new(most: f64, period: Duration, now: Instant) -> Self {
        Self {
            most,
            per_second: most / period.as_secs_f64(),
            left: most,
            at: now,
        }
    }

    /// The same use under another limit: what was used stays used.
    pub fn limited_to(&self, most: f64, period: Duration, now: Instant) -> Self {
        let mut old = self.clone();
        let used = old.most - old.left(now);
        let mut new = Self::new(most, period, now);
        new.left -= used.min(most);
        new
    }

    /// What may be used now; below zero after more was used than there was.
    pub fn left(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.most);
        self.at = self.at.max(now);
        self.left
    }

    /// Uses so much, whether it is there or not.
    pub fn charge(&mut self, amount: f64, now: Instant) {
        self.left(now);
        self.left -= amount;
    }

    /// How long until so much is left; nothing if it is.
    pub fn wait_for(&mut self, amount: f64, now: Instant) -> Duration {
        let missing = amount - self.left(now);
        if missing <= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((missing / self.per_second).min(86_400.0))
        }
    }

    /// How long until it is full.
    pub fn full_in(&mut self, now: Instant) -> Duration {
        self.wait_for(self.most, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_steadily_and_never_above_its_limit() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(60.0, Duration::from_secs(60), start);
        allowance.charge(60.0, start);
        assert!(allowance.left(start) < 0.001);
        assert_eq!(allowance.wait_for(1.0, start), Duration::from_secs(1));
        assert!((allowance.left(at(30)) - 30.0).abs() < 1e-6);
        assert!((allowance.left(at(3600)) - 60.0).abs() < 1e-6);
        // A recording longer than what was left is paid for afterwards.
        allowance.charge(90.0, at(3600));
        assert_eq!(allowance.wait_for(0.0, at(3600)), Duration::from_secs(30));
        // A clock that goes back gives nothing.
        assert!(allowance.left(at(10)) < 0.0);
    }

    #[test]
    fn another_limit_forgives_nothing() {
        let start = Instant::now();
        let mut old = Allowance::new(10.0, Duration::from_secs(60), start);
        old.charge(8.0, start);
        old = old.limited_to(20.0, Duration::from_secs(60), start);
        assert!((old.left(start) - 12.0).abs() < 1e-6);
        old = old.limited_to(5.0, Duration::from_secs(60), start);
        assert!(old.left(start).abs() < 1e-6);
    }
}
