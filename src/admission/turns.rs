//! Who is in service: a fixed number of turns, given by class and then by arrival.
//!
//! A request holds a turn while it feeds windows to the scheduler. It does not keep the turn until it ends: after each
//! window it gives way when a better class waits, or its own class has waited while it had a window's work, and
//! stands at the end of its line. Sixteen long recordings so hold up a short clip for as long as one of them needs
//! for one window.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::schedule::PriorityClass;

const CLASSES: usize = PriorityClass::ALL.len();

/// The turns of a server.
#[derive(Debug, Clone)]
pub struct Turns {
    line: Arc<Mutex<Line>>,
}

#[derive(Debug)]
struct Line {
    /// Turns that nobody holds. Above 0 only while nobody waits.
    free: usize,
    waiting: [VecDeque<oneshot::Sender<Turn>>; CLASSES],
}

impl Line {
    fn first(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.waiting.iter_mut().find_map(VecDeque::pop_front)
    }
}

/// A turn in service; goes to the next in line when dropped.
#[derive(Debug)]
pub struct Turn {
    /// `None` in a turn that was given on.
    line: Option<Arc<Mutex<Line>>>,
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// So many requests are in service at once; at least one.
    pub fn new(turns: usize) -> Self {
        let line = Line {
            free: turns.max(1),
            waiting: Default::default(),
        };
        Self {
            line: Arc::new(Mutex::new(line)),
        }
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    ///
    /// Safe: who stops waiting leaves the line; a turn given at that instant goes to the next.
    pub async fn take(&self, class: PriorityClass) -> Turn {
        let given = {
            let mut line = lock(&self.line);
            if line.free > 0 {
                line.free -= 1;
                return Turn {
                    line: Some(self.line.clone()),
                };
            }
            let (give, given) = oneshot::channel();
            let places = &mut line.waiting[class as usize];
            places.retain(|place| !place.is_closed());
            places.push_back(give);
            given
        };
        match given.await {
            Ok(turn) => turn,
            // The line holds the sender until it uses it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether a holder of that class should give its turn on: to a better class always, to its own when `served`.
    pub fn wanted(&self, class: PriorityClass, served: bool) -> bool {
        let line = lock(&self.line);
        let reach = class as usize + usize::from(served);
        line.waiting[..reach]
            .iter()
            .flatten()
            .any(|place| !place.is_closed())
    }

    /// Turns that nobody holds.
    pub fn free(&self) -> usize {
        lock(&self.line).free
    }

    /// Requests that wait, by class in the order of [`PriorityClass::ALL`].
    pub fn waiting(&self) -> [usize; CLASSES] {
        let line = lock(&self.line);
        std::array::from_fn(|class| line.waiting[class].iter().filter(|p| !p.is_closed()).count())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        loop {
            let next = {
                let mut locked = lock(&line);
                let next = locked.first();
                if next.is_none() {
                    locked.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            let turn = Turn {
                line: Some(line.clone()),
            };
            match next.send(turn) {
                Ok(()) => return,
                // It had left; the turn is for the one behind it.
                Err(mut refused) => drop(refused.line.take()),
            }
        }
    }
}
