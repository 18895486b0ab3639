//! What is submitted: a window, whose it is, and how long it may wait after a failure.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::class::PriorityClass;
use super::queue::RequestId;
use crate::engine::DecodeOptions;
use crate::metrics::Waiter;
use crate::serving::Lease;

/// How long a request may go without progress once something has failed: an engine that died, or one that restarts.
/// Waiting in the queue behind others is no failure. One a request; its clones share the clock.
#[derive(Debug, Clone)]
pub struct Deadline {
    limit: Duration,
    progress: Arc<Mutex<Instant>>,
}

impl Deadline {
    /// Begins now; `limit` is `server.request_deadline_seconds`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            progress: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// A window of the request was transcribed: the clock begins anew.
    pub fn progressed(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When it is over, unless there is progress before.
    pub fn at(&self) -> Instant {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) + self.limit
    }

    /// The time allowed without progress.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

/// One window to run.
#[derive(Debug)]
pub struct WindowTask {
    /// With the first window of a request that waits: its wait ends when the window begins.
    pub waiter: Option<Waiter>,
    /// Whose it is.
    pub request: RequestId,
    /// Who goes before it.
    pub class: PriorityClass,
    /// The first window of its request: somebody waits for the first words.
    pub first: bool,
    /// The model, kept loaded until the window is done.
    pub lease: Lease,
    /// Mono samples at 16 kHz.
    pub samples: Vec<f32>,
    /// How to decode them.
    pub options: DecodeOptions,
    /// When to give up after failures.
    pub deadline: Deadline,
}

impl WindowTask {
    /// The same window to run once more; nobody's first words wait for it.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            waiter: None,
            request: self.request,
            class: self.class,
            first: self.first,
            lease: self.lease.clone(),
            samples: self.samples.clone(),
            options: self.options.clone(),
            deadline: self.deadline.clone(),
        }
    }
}
