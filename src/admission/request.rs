//! One request: while its form is read, and once it is admitted.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::turns::Turn;
use super::{Place, Refusal};
use crate::keys::Client;
use crate::schedule::{Deadline, PriorityClass};
use crate::serving::Lease;

/// A request with a place whose form is still on its way.
#[derive(Debug)]
pub struct Arrival {
    /// In the log, in `x-request-id`, and in what users report.
    pub id: Arc<str>,
    /// Who asks.
    pub client: Client,
    /// When to give up after a failure.
    pub deadline: Deadline,
    /// Cancelled when the client leaves or the program ends.
    pub cancel: CancellationToken,
    place: Place,
}

impl Arrival {
    pub(super) fn new(
        id: Arc<str>,
        client: Client,
        deadline: Deadline,
        cancel: CancellationToken,
        place: Place,
    ) -> Self {
        Self {
            id,
            client,
            deadline,
            cancel,
            place,
        }
    }

    /// Counts bytes of the recording.
    ///
    /// # Errors
    ///
    /// When all requests together keep too many.
    pub fn keep_recording(&self, bytes: u64) -> Result<(), Refusal> {
        self.taken(self.place.spool.add(bytes))
    }

    /// Counts bytes of text fields.
    ///
    /// # Errors
    ///
    /// When all requests together keep too many.
    pub fn keep_text(&self, bytes: u64) -> Result<(), Refusal> {
        self.taken(self.place.form.add(bytes))
    }

    fn taken(&self, there: bool) -> Result<(), Refusal> {
        if there {
            return Ok(());
        }
        let admission = super::Admission {
            inner: self.place.inner.clone(),
        };
        admission.inner.metrics.busy.add(1);
        Err(Refusal::NoBytes {
            retry_after: admission.retry_after(),
        })
    }

    /// Whether the next request would find no place: a slow upload is then in somebody's way.
    pub fn is_in_the_way(&self) -> bool {
        super::Admission {
            inner: self.place.inner.clone(),
        }
        .is_full()
    }

    /// Whether its key may ask for this deployment or model by this name.
    pub fn may_use(&self, name: &str) -> bool {
        self.place.inner.keys.may_use(self.client, name)
    }

    /// The form is known: what it asks of which model.
    pub fn admit(self, class: PriorityClass, lease: Lease) -> Arc<Admitted> {
        Arc::new(Admitted {
            id: self.id,
            client: self.client,
            class,
            lease,
            deadline: self.deadline,
            cancel: self.cancel,
            place: self.place,
        })
    }
}

/// A request on its way through the server: what was decided at the door, made once and handed on.
///
/// Its place is free when the last clone of the `Arc` is dropped: when the work has ended, not when the client leaves.
#[derive(Debug)]
pub struct Admitted {
    /// In the log, in `x-request-id`, and in what users report.
    pub id: Arc<str>,
    /// Who asks.
    pub client: Client,
    /// Who goes before it.
    pub class: PriorityClass,
    /// The model, kept loaded until the request ends.
    pub lease: Lease,
    /// When to give up after a failure.
    pub deadline: Deadline,
    /// Cancelled when the client leaves or the program ends; ends the decoder and the windows.
    pub cancel: CancellationToken,
    place: Place,
}

impl Admitted {
    /// Waits for a turn in service.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn turn(&self) -> Turn {
        self.place.inner.turns.take(self.class).await
    }

    /// So many seconds of audio were transcribed: its key's allowance is smaller by them.
    pub fn charge_audio(&self, seconds: f64) {
        self.place.key.charge_audio(seconds, std::time::Instant::now());
    }

    /// Whether a turn should be given on; `served` says that it was used for a window.
    pub fn turn_is_wanted(&self, served: bool) -> bool {
        self.place.inner.turns.wanted(self.class, served)
    }
}
