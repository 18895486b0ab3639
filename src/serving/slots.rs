//! The slots of one engine: how many windows run on it, and whether one has it for itself.

use super::sync::{Arc, Mutex, PoisonError};

/// Counts the windows of one engine.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// One window has the engine for itself.
    alone: bool,
    completed: u64,
}

/// A slot in use; frees itself.
#[derive(Debug)]
pub(crate) struct SlotPermit {
    slots: Arc<Slots>,
}

impl Slots {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A slot, where fewer than `limit` are in use.
    pub(crate) fn take(self: &Arc<Self>, limit: usize) -> Option<SlotPermit> {
        let free = self.with(|state| {
            let free = !state.alone && state.taken < limit;
            state.taken += usize::from(free);
            free
        });
        free.then(|| SlotPermit { slots: self.clone() })
    }

    /// The whole engine, where no slot is in use; nobody else gets one until it is dropped.
    pub(crate) fn take_alone(self: &Arc<Self>) -> Option<SlotPermit> {
        let free = self.with(|state| {
            let free = state.taken == 0;
            if free {
                (state.taken, state.alone) = (1, true);
            }
            free
        });
        free.then(|| SlotPermit { slots: self.clone() })
    }

    /// Slots in use.
    pub(crate) fn taken(&self) -> usize {
        self.with(|state| state.taken)
    }

    /// Of so many slots, those that a window could have.
    pub(crate) fn free(&self, limit: usize) -> usize {
        self.with(|state| {
            if state.alone {
                0
            } else {
                limit.saturating_sub(state.taken)
            }
        })
    }

    /// Windows that were transcribed.
    pub(crate) fn completed(&self) -> u64 {
        self.with(|state| state.completed)
    }
}

impl SlotPermit {
    /// The window was transcribed.
    pub(crate) fn complete(&self) {
        self.slots.with(|state| state.completed += 1);
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        self.slots.with(|state| {
            state.taken -= 1;
            // Alone means that no other was taken: whoever frees a slot of such an engine is the one.
            state.alone = false;
        });
    }
}
