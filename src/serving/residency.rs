//! Whether a model's engines live, and who keeps them alive. Leases, not clocks: idle time counts from the end of the
//! last one, and what is held is never unloaded.

use std::time::Duration;

use super::sync::{Arc, Instant, Mutex, PoisonError};

/// Engines of type `E`, held by any number of leases.
#[derive(Debug)]
pub(crate) struct Residency<E> {
    state: Mutex<State<E>>,
}

#[derive(Debug)]
struct State<E> {
    residence: Residence<E>,
    holds: usize,
    idle_since: Instant,
}

/// Where a model is.
#[derive(Debug)]
pub(crate) enum Residence<E> {
    /// Nowhere.
    Absent,
    /// Somebody is at it.
    Loading,
    /// Its engines are started.
    Live(E),
    /// There was no room.
    Refused(String),
}

/// Keeps the engines alive until dropped.
#[derive(Debug)]
pub(crate) struct Hold<E> {
    residency: Arc<Residency<E>>,
}

impl<E> Default for Residency<E> {
    fn default() -> Self {
        let state = State {
            residence: Residence::Absent,
            holds: 0,
            idle_since: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl<E> Residency<E> {
    fn with<T>(&self, act: impl FnOnce(&mut State<E>) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A hold; when the second value is true, the caller and nobody else has to load the model.
    pub(crate) fn hold(self: &Arc<Self>) -> (Hold<E>, bool) {
        let load = self.with(|state| {
            state.holds += 1;
            let load = matches!(state.residence, Residence::Absent | Residence::Refused(_));
            if load {
                state.residence = Residence::Loading;
            }
            load
        });
        let residency = self.clone();
        (Hold { residency }, load)
    }

    /// The engines are started.
    pub(crate) fn place(&self, engines: E) {
        self.with(|state| state.residence = Residence::Live(engines));
    }

    /// The model cannot be loaded now; the next hold tries again.
    pub(crate) fn refuse(&self, reason: String) {
        self.with(|state| state.residence = Residence::Refused(reason));
    }

    /// Takes the engines out when nobody has held them for `idle`. The caller ends them.
    pub(crate) fn retire(&self, idle: Duration) -> Option<E> {
        self.with(|state| {
            let spare = state.holds == 0 && state.idle_since.elapsed() >= idle;
            if !spare || !matches!(state.residence, Residence::Live(_)) {
                return None;
            }
            match std::mem::replace(&mut state.residence, Residence::Absent) {
                Residence::Live(engines) => Some(engines),
                _ => None,
            }
        })
    }

    /// Takes the engines out whoever holds them: the server ends.
    pub(crate) fn evict(&self) -> Option<E> {
        self.with(|state| {
            match std::mem::replace(
                &mut state.residence,
                Residence::Refused("the server is stopping".to_owned()),
            ) {
                Residence::Live(engines) => Some(engines),
                _ => None,
            }
        })
    }

    /// Looks at it under its lock.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Residence<E>) -> T) -> T {
        self.with(|state| look(&state.residence))
    }

    /// Since when nobody holds it; `None` while somebody does.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.with(|state| (state.holds == 0).then_some(state.idle_since))
    }
}

impl<E> Drop for Hold<E> {
    fn drop(&mut self) {
        self.residency.with(|state| {
            state.holds -= 1;
            if state.holds == 0 {
                state.idle_since = Instant::now();
            }
        });
    }
}
