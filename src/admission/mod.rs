//! One way in: what may come in, in which order it is served, and the value that says so all the way through.
//!
//! A request takes a place before its body is read ([`Admission::enter`]); what it uploads is counted against the bytes
//! that all requests share; when its form is known it becomes an [`Admitted`], which names the model's lease, the
//! class, the deadline and the cancellation token until the last byte of the answer. [`turns`] says who of the admitted
//! is in service. Live sessions come in by the same door and have places of their own ([`Admission::enter_session`]).

mod budget;
mod request;
mod session;
pub mod turns;
#[cfg(test)]
mod turns_tests;

/// What [`turns`] is made of: a test swaps it for a model checker's.
mod sync {
    pub(super) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
}

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::keys::{Client, Exceeded, KeyHold, Keys};
use crate::metrics::Metrics;
use crate::schedule::Deadline;
use budget::{Budget, Charge};
pub use request::{Admitted, Arrival};
pub use session::SessionPlace;
use turns::Turns;

/// Smoothed seconds of a request before any has ended.
const FIRST_GUESS_SECONDS: f64 = 2.0;
/// How fast old request times fade.
const RATE_WEIGHT: f64 = 0.2;
/// Longest wait that is asked of a client: SDKs ignore waits above 60 s, or obey them for ever.
const LONGEST_RETRY_SECONDS: f64 = 59.0;

/// What may be inside at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests in service.
    pub in_service: usize,
    /// Requests beyond those: uploading, or waiting for their turn.
    pub waiting: usize,
    /// Bytes of recordings kept for all requests together.
    pub spool_bytes: u64,
    /// Bytes of text fields kept for all requests together.
    pub form_bytes: u64,
    /// How long a request may go without progress.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_service: 16,
            waiting: 64,
            spool_bytes: 16 << 30,
            form_bytes: 16 << 20,
            deadline: Duration::from_secs(3600),
        }
    }
}

/// Why nobody may come in now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// Every place is taken.
    NoPlace {
        /// When a place is likely to be free, from the measured rate; at least one second.
        retry_after: Duration,
    },
    /// The bytes that all requests share are taken.
    NoBytes {
        /// As above.
        retry_after: Duration,
    },
    /// The request's key has had what it may have.
    KeyLimit(Exceeded),
    /// The server stops.
    Stopping,
}

/// What is inside now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Requests inside, from before their body until their answer.
    pub places: usize,
    /// Requests that may be inside.
    pub places_limit: usize,
    /// Requests in service.
    pub in_service: usize,
    /// Admitted requests that wait for their turn, by class in the order of `PriorityClass::ALL`.
    pub waiting: [usize; 3],
    /// Bytes of recordings kept.
    pub spool_bytes: u64,
    /// Bytes of text fields kept.
    pub form_bytes: u64,
}

/// The one way in. A cheap handle.
#[derive(Debug, Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    places: AtomicUsize,
    sessions: AtomicUsize,
    spool: Arc<Budget>,
    form: Arc<Budget>,
    turns: Turns,
    closed: AtomicBool,
    keys: Keys,
    /// Parent of every request's and session's token.
    work: CancellationToken,
    /// Smoothed seconds a request is in service.
    request_seconds: Mutex<f64>,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// Nobody is inside. `work` ends every request and session when it is cancelled.
    pub fn new(limits: Limits, keys: Keys, work: CancellationToken, metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                limits,
                places: AtomicUsize::new(0),
                sessions: AtomicUsize::new(0),
                spool: Budget::new(limits.spool_bytes),
                form: Budget::new(limits.form_bytes),
                turns: Turns::new(limits.in_service),
                closed: AtomicBool::new(false),
                keys,
                work,
                request_seconds: Mutex::new(FIRST_GUESS_SECONDS),
                metrics,
            }),
        }
    }

    /// Takes a place. `announced` are the bytes of body the client spoke of.
    ///
    /// # Errors
    ///
    /// When there is none, when the body could not be kept, when the client's key has had what it may have, or when the
    /// server stops.
    pub fn enter(&self, id: Arc<str>, client: Client, announced: Option<u64>) -> Result<Arrival, Refusal> {
        if self.is_closed() {
            return Err(Refusal::Stopping);
        }
        let inner = &self.inner;
        let most = self.places_limit();
        let taken = inner
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        if taken.is_err() {
            inner.metrics.busy.add(1);
            return Err(Refusal::NoPlace {
                retry_after: self.retry_after(),
            });
        }
        inner.metrics.in_flight.add(1);
        let mut place = Place {
            key: KeyHold::default(),
            inner: inner.clone(),
            spool: Charge::nothing(&inner.spool),
            form: Charge::nothing(&inner.form),
        };
        if announced.is_some_and(|bytes| bytes > inner.spool.left()) {
            inner.metrics.busy.add(1);
            return Err(Refusal::NoBytes {
                retry_after: self.retry_after(),
            });
        }
        place.key = inner.keys.enter(client, Instant::now()).map_err(|exceeded| {
            inner.metrics.busy.add(1);
            Refusal::KeyLimit(exceeded)
        })?;
        Ok(Arrival::new(
            id,
            client,
            Deadline::new(inner.limits.deadline),
            inner.work.child_token(),
            place,
        ))
    }

    /// Who may come in.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// Nobody comes in any more; who is inside stays.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Relaxed);
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Relaxed)
    }

    /// Requests inside.
    pub fn in_flight(&self) -> usize {
        self.inner.places.load(Ordering::Relaxed)
    }

    /// Whether the next request would find no place.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= self.places_limit()
    }

    /// What is inside now.
    pub fn occupancy(&self) -> Occupancy {
        let inner = &self.inner;
        Occupancy {
            places: self.in_flight(),
            places_limit: self.places_limit(),
            in_service: inner.limits.in_service.max(1) - inner.turns.free(),
            waiting: inner.turns.waiting(),
            spool_bytes: inner.spool.taken(),
            form_bytes: inner.form.taken(),
        }
    }

    /// A request was in service for so long: the measure of [`Refusal`]'s advice.
    pub fn served(&self, took: Duration) {
        let mut seconds = self
            .inner
            .request_seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *seconds += RATE_WEIGHT * (took.as_secs_f64() - *seconds);
    }

    /// Requests that may be inside.
    pub fn places_limit(&self) -> usize {
        self.inner.limits.in_service.max(1) + self.inner.limits.waiting
    }

    fn retry_after(&self) -> Duration {
        let each = *self
            .inner
            .request_seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let rounds = self.in_flight() as f64 / self.inner.limits.in_service.max(1) as f64;
        Duration::from_secs_f64((each * rounds / 2.0).clamp(1.0, LONGEST_RETRY_SECONDS))
    }
}

/// A place and the bytes that go with it; free again when dropped.
#[derive(Debug)]
struct Place {
    key: KeyHold,
    inner: Arc<Inner>,
    spool: Charge,
    form: Charge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.places.fetch_sub(1, Ordering::Relaxed);
        self.inner.metrics.in_flight.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::PriorityClass;
    use crate::serving::Lease;

    fn admission(in_service: usize, waiting: usize, spool_bytes: u64) -> Admission {
        let limits = Limits {
            in_service,
            waiting,
            spool_bytes,
            form_bytes: 100,
            ..Limits::default()
        };
        Admission::new(limits, Keys::default(), CancellationToken::new(), Arc::default())
    }

    fn enter(admission: &Admission, announced: Option<u64>) -> Result<Arrival, Refusal> {
        admission.enter("id".into(), Client::Anonymous, announced)
    }

    #[test]
    fn the_last_place_is_given_once_and_comes_back_with_its_bytes() {
        let admission = admission(1, 1, 1000);
        let one = enter(&admission, None).unwrap();
        one.keep_recording(600).unwrap();
        assert!(matches!(
            enter(&admission, Some(500)),
            Err(Refusal::NoBytes { .. })
        ));
        let two = enter(&admission, Some(400)).unwrap();
        assert!(matches!(two.keep_recording(401), Err(Refusal::NoBytes { .. })));
        two.keep_recording(400).unwrap();
        two.keep_text(100).unwrap();
        assert!(matches!(one.keep_text(1), Err(Refusal::NoBytes { .. })));
        assert!(matches!(
            enter(&admission, None),
            Err(Refusal::NoPlace { retry_after }) if retry_after >= Duration::from_secs(1)
        ));
        assert!(admission.is_full());
        let two = two.admit(PriorityClass::Batch, Lease::detached("base"));
        drop(one);
        assert_eq!(admission.occupancy().spool_bytes, 400);
        drop(two);
        let empty = admission.occupancy();
        assert_eq!((empty.places, empty.spool_bytes, empty.form_bytes), (0, 0, 0));
    }

    #[tokio::test]
    async fn the_end_of_the_program_reaches_every_request_and_the_end_of_one_reaches_no_other() {
        let work = CancellationToken::new();
        let admission = Admission::new(Limits::default(), Keys::default(), work.clone(), Arc::default());
        let one = enter(&admission, None).unwrap();
        let two = enter(&admission, None)
            .unwrap()
            .admit(PriorityClass::Interactive, Lease::detached("base"));
        one.cancel.cancel();
        assert!(!two.cancel.is_cancelled());
        admission.close();
        assert_eq!(enter(&admission, None).unwrap_err(), Refusal::Stopping);
        work.cancel();
        assert!(two.cancel.is_cancelled());
    }
}
