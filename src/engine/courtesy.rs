//! Windows of long recordings that wait, between two decoder steps, while the first window of somebody else runs.
//!
//! The cores are all taken when a long recording is being transcribed. A short clip that comes then need not wait for
//! the end of a window: it runs at once, and one of the others stops at its next decoder step until the clip is done. A
//! window waits for one guest only, so that any number of clips hold it up by the time of one.

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
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Windows that wait.
    waiting: usize,
    /// Guests that have left so far.
    departures: usize,
}

/// A guest while it runs.
pub(super) struct Guest<'c>(&'c Courtesy);

impl Courtesy {
    /// A guest begins.
    pub(super) fn welcome(&self) -> Guest<'_> {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(self)
    }

    /// Waits until a guest leaves, where there is one for whom nobody waits yet; true when it did.
    fn give_way(&self, cancel: &AtomicBool) -> bool {
        if self.guests.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut state = self.lock();
        if self.guests.load(Ordering::Relaxed) <= state.waiting {
            return false;
        }
        state.waiting += 1;
        let departures = state.departures;
        while state.departures == departures && !cancel.load(Ordering::Relaxed) {
            let woken = self.left.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting -= 1;
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
        state.departures += 1;
        self.0.left.notify_all();
    }
}

/// One window's courtesy, spent once.
#[derive(Debug)]
pub(super) struct Turn<'c> {
    courtesy: &'c Courtesy,
    spent: AtomicBool,
}

impl<'c> Turn<'c> {
    pub(super) fn new(courtesy: &'c Courtesy) -> Self {
        Self {
            courtesy,
            spent: AtomicBool::new(false),
        }
    }
}

/// What a running window looks at between two steps.
#[derive(Clone, Copy)]
pub(super) struct Control<'j> {
    cancel: &'j AtomicBool,
    turn: Option<&'j Turn<'j>>,
}

impl<'j> Control<'j> {
    /// `turn` is absent for windows that wait for nobody.
    pub(super) fn new(cancel: &'j AtomicBool, turn: Option<&'j Turn<'j>>) -> Self {
        Self { cancel, turn }
    }

    /// Waits where a guest is to be let past; true when nobody wants the result any more.
    pub(super) fn cancelled(&self) -> bool {
        if let Some(turn) = self.turn
            && !turn.spent.load(Ordering::Relaxed)
            && turn.courtesy.give_way(self.cancel)
        {
            turn.spent.store(true, Ordering::Relaxed);
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
                    let turn = Turn::new(&courtesy);
                    let control = Control::new(&never, Some(&turn));
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
        assert!(Control::new(&cancel, Some(&Turn::new(&courtesy))).cancelled());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn nobody_waits_without_a_guest() {
        let courtesy = Courtesy::default();
        drop(courtesy.welcome());
        let cancel = AtomicBool::new(false);
        assert!(!Control::new(&cancel, Some(&Turn::new(&courtesy))).cancelled());
    }

    #[test]
    fn a_window_waits_for_one_guest_and_not_for_the_next() {
        let courtesy = Courtesy::default();
        let cancel = AtomicBool::new(false);
        let turn = Turn::new(&courtesy);
        let first = courtesy.welcome();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!Control::new(&cancel, Some(&turn)).cancelled()));
            while courtesy.lock().waiting == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The next guest is there before the window has woken up.
            let _second = courtesy.welcome();
            drop(first);
            while courtesy.lock().waiting > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!Control::new(&cancel, Some(&turn)).cancelled());
        });
        assert!(turn.spent.load(Ordering::Relaxed));
    }
}
