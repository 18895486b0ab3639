//! Bytes that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of bytes that many may take from.
#[derive(Debug)]
pub(super) struct Budget {
    most: u64,
    taken: AtomicU64,
}

impl Budget {
    pub(super) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: AtomicU64::new(0),
        })
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn left(&self) -> u64 {
        self.most.saturating_sub(self.taken())
    }
}

/// What one request has taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

impl Charge {
    pub(super) fn nothing(budget: &Arc<Budget>) -> Self {
        Self {
            budget: budget.clone(),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes `more`; false, and nothing taken, when so much is not there.
    pub(super) fn add(&self, more: u64) -> bool {
        let most = self.budget.most;
        let taken = self
            .budget
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(more).filter(|sum| *sum <= most)
            });
        if taken.is_ok() {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget
            .taken
            .fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_no_byte_more_is_given() {
        let budget = Budget::new(10);
        let one = Charge::nothing(&budget);
        let two = Charge::nothing(&budget);
        assert!(one.add(6) && !two.add(5) && two.add(4) && !one.add(1));
        assert!(!one.add(u64::MAX), "no sum wraps");
        assert_eq!((budget.taken(), budget.left()), (10, 0));
        drop(one);
        assert_eq!(budget.left(), 6);
        drop(two);
        assert_eq!(budget.taken(), 0);
    }
}
