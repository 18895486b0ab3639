//! What the server asks of a window while it runs: to end, to wait, or to use fewer cores.
//!
//! A window of a long recording waits between two decoder steps while the first window of somebody else runs on its
//! core: that is preemption, and the server alone decides about it, since only the server sees the windows of all engines.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// One window's switches; the thread that reads the pipe sets them, the window's own thread looks at them.
#[derive(Debug)]
pub struct Switches {
    cancel: AtomicBool,
    /// The same as under the lock: read at each decoder step.
    paused: AtomicBool,
    state: Mutex<bool>,
    changed: Condvar,
    threads: AtomicUsize,
    told: AtomicUsize,
}

impl Switches {
    /// For a window that begins with `threads`.
    pub fn new(threads: usize) -> Self {
        Self {
            cancel: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            state: Mutex::new(false),
            changed: Condvar::new(),
            threads: AtomicUsize::new(threads.max(1)),
            told: AtomicUsize::new(threads.max(1)),
        }
    }

    /// Nobody wants the result any more.
    pub fn cancel(&self) {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.cancel.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The window waits at its next step, until it is told to go on.
    pub fn pause(&self, paused: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = paused;
        self.paused.store(paused, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Cores it may use from its next step on.
    pub fn set_threads(&self, threads: usize) {
        self.threads.store(threads.max(1), Ordering::Relaxed);
    }

    fn wait(&self) {
        let mut paused = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while *paused && !self.cancel.load(Ordering::Relaxed) {
            paused = self.changed.wait(paused).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a running window looks at between two steps.
#[derive(Clone)]
pub struct Control {
    switches: Arc<Switches>,
    /// Told once whenever the number of threads has changed: the server gives the rest to somebody else.
    changed: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Control {
    /// `changed` is called with the new number when the window begins to use fewer or more cores.
    pub fn new(switches: Arc<Switches>, changed: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let changed = Arc::new(changed);
        Self { switches, changed }
    }

    /// Waits while the window is paused; true when nobody wants the result any more.
    pub fn cancelled(&self) -> bool {
        if self.paused() {
            self.switches.wait();
        }
        self.cancel_requested()
    }

    /// True when nobody wants the result any more; never waits.
    pub fn cancel_requested(&self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    /// True while another window has this one's cores; never waits.
    pub fn paused(&self) -> bool {
        self.switches.paused.load(Ordering::Relaxed)
    }

    /// Cores this window may use for its next step; whoever asks has left the others.
    pub fn threads(&self) -> usize {
        let threads = self.switches.threads.load(Ordering::Relaxed);
        if self.switches.told.swap(threads, Ordering::Relaxed) != threads {
            (self.changed)(threads);
        }
        threads
    }

    /// The flag of cancellation itself, for whisper.cpp's callback.
    pub fn flag(&self) -> &AtomicBool {
        &self.switches.cancel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn control(switches: &Arc<Switches>) -> Control {
        Control::new(switches.clone(), |_| {})
    }

    #[test]
    fn a_paused_window_waits_until_it_is_told_to_go_on() {
        let switches = Arc::new(Switches::new(1));
        switches.pause(true);
        let window = {
            let control = control(&switches);
            std::thread::spawn(move || control.cancelled())
        };
        std::thread::sleep(Duration::from_millis(50));
        assert!(!window.is_finished());
        switches.pause(false);
        assert!(!window.join().unwrap());
    }

    #[test]
    fn a_paused_window_can_be_cancelled() {
        let switches = Arc::new(Switches::new(1));
        switches.pause(true);
        let window = {
            let control = control(&switches);
            std::thread::spawn(move || control.cancelled())
        };
        std::thread::sleep(Duration::from_millis(20));
        switches.cancel();
        assert!(window.join().unwrap());
    }

    #[test]
    fn the_server_is_told_once_when_cores_are_given_up() {
        let switches = Arc::new(Switches::new(4));
        let told = Arc::new(Mutex::new(Vec::new()));
        let control = {
            let told = told.clone();
            Control::new(switches.clone(), move |threads| {
                told.lock().unwrap().push(threads);
            })
        };
        assert_eq!(control.threads(), 4);
        switches.set_threads(2);
        assert_eq!((control.threads(), control.threads()), (2, 2));
        assert_eq!(*told.lock().unwrap(), [2]);
    }
}
