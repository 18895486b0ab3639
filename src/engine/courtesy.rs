//! Windows of long recordings that wait, between two decoder steps, while the first window of somebody else runs.
//!
//! The cores are all taken when a long recording is being transcribed. A short clip that comes then need not wait for
//! the end of a window: it runs at once, and one of the others stops at its next decoder step until the clip is done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a window that waits looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// Guests that run, and windows that wait for them.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    /// The same as under the lock: read at each decoder step.
    guests: AtomicUsize,
    waiting: Mutex<usize>,
    left: Condvar,
}

/// A guest while it runs.
pub(super) struct Guest<'c>(&'c Courtesy);

impl Courtesy {
    /// A guest begins.
    pub(super) fn welcome(&self) -> Guest<'_> {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(self)
    }

    /// Waits while there is a guest for whom nobody waits yet.
    fn give_way(&self, cancel: &AtomicBool) {
        if self.guests.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut waiting = self.lock();
        if self.guests.load(Ordering::Relaxed) <= *waiting {
            return;
        }
        *waiting += 1;
        while self.guests.load(Ordering::Relaxed) > 0 && !cancel.load(Ordering::Relaxed) {
            let woken = self.left.wait_timeout(waiting, LOOK);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *waiting -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let waiting = self.0.lock();
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_all();
        drop(waiting);
    }
}

/// What a running window looks at between two steps.
#[derive(Clone, Copy)]
pub(super) struct Control<'j> {
    cancel: &'j AtomicBool,
    courtesy: Option<&'j Courtesy>,
}

impl<'j> Control<'j> {
    /// `courtesy` is absent for windows that wait for nobody.
    pub(super) fn new(cancel: &'j AtomicBool, courtesy: Option<&'j Courtesy>) -> Self {
        Self { cancel, courtesy }
    }

    /// Waits where a guest is to be let past; true when nobody wants the result any more.
    pub(super) fn cancelled(&self) -> bool {
        if let Some(courtesy) = self.courtesy {
            courtesy.give_way(self.cancel);
        }
        self.flag().load(Ordering::Relaxed)
    }

    /// The flag itself, for whisper.cpp's callback.
    pub(super) fn flag(&self) -> &'j AtomicBool {
        self.cancel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    /// Threads that take steps of a millisecond until told to stop; returns the steps of each.
    fn steps_beside_a_guest(windows: usize, guest: Duration) -> Vec<usize> {
        let courtesy = Arc::new(Courtesy::default());
        let stop = Arc::new(AtomicBool::new(false));
        let running: Vec<_> = (0..windows)
            .map(|_| {
                let (courtesy, stop) = (courtesy.clone(), stop.clone());
                std::thread::spawn(move || {
                    let never = AtomicBool::new(false);
                    let control = Control::new(&never, Some(&courtesy));
                    let mut steps = 0;
                    while !stop.load(Ordering::Relaxed) {
                        assert!(!control.cancelled());
                        steps += 1;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    steps
                })
            })
            .collect();
        let welcomed = courtesy.welcome();
        std::thread::sleep(guest);
        stop.store(true, Ordering::Relaxed);
        drop(welcomed);
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    #[test]
    fn one_window_waits_for_a_guest_and_the_other_goes_on() {
        let mut steps = steps_beside_a_guest(2, Duration::from_millis(300));
        steps.sort_unstable();
        assert!(steps[0] <= 5, "{steps:?}");
        assert!(steps[1] >= 20, "{steps:?}");
    }

    #[test]
    fn a_waiting_window_can_be_cancelled() {
        let courtesy = Courtesy::default();
        let _guest = courtesy.welcome();
        let cancel = AtomicBool::new(true);
        let began = Instant::now();
        assert!(Control::new(&cancel, Some(&courtesy)).cancelled());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn nobody_waits_without_a_guest() {
        let courtesy = Courtesy::default();
        drop(courtesy.welcome());
        let cancel = AtomicBool::new(false);
        assert!(!Control::new(&cancel, Some(&courtesy)).cancelled());
    }
}
