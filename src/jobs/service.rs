//! A request's time in service: the turn it holds, gives on, and waits for again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::{JobError, JobEvent};
use crate::admission::Admitted;
use crate::admission::turns::Turn;

/// Longest time in service without a window while others wait.
const TURN_TIME: Duration = Duration::from_secs(1);

/// A request's turn in service, while it has one.
pub(super) struct Service<'r> {
    request: &'r Admitted,
    turn: Option<Turn>,
    waiting: Option<BoxFuture<'r, Turn>>,
    /// The turn gave a window, or its time is over.
    pub(super) used: bool,
    since: tokio::time::Instant,
}

impl<'r> Service<'r> {
    pub(super) fn new(request: &'r Admitted, turn: Turn) -> Self {
        Self {
            request,
            turn: Some(turn),
            waiting: None,
            used: false,
            since: tokio::time::Instant::now(),
        }
    }

    pub(super) fn in_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Gives the turn on when somebody should have it, and for good once the decoder has nothing more.
    pub(super) fn give_way(&mut self, open: bool) {
        if !open || self.request.turn_is_wanted(self.used) {
            self.turn = None;
        }
    }

    /// The next turn has come, or this one should be looked at again.
    pub(super) async fn changed(&mut self) {
        if self.turn.is_some() {
            return self.used_up().await;
        }
        let request = self.request;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(request.turn()));
        let turn = waiting.await;
        self.waiting = None;
        self.turn = Some(turn);
        self.used = false;
        self.since = tokio::time::Instant::now();
    }

    /// A turn without a window (silence, a slow decoder, an engine that restarts) is no reason to keep others waiting.
    async fn used_up(&mut self) {
        if self.used {
            // Somebody may have come to want it.
            tokio::time::sleep(TURN_TIME).await;
        } else {
            tokio::time::sleep_until(self.since + TURN_TIME).await;
            self.used = true;
        }
    }

    /// A client that does not read keeps no turn.
    pub(super) async fn send(
        &mut self,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
        event: JobEvent,
    ) -> Result<(), JobError> {
        let event = match events.try_send(Ok(event)) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(JobError::Cancelled),
            Err(mpsc::error::TrySendError::Full(event)) => event,
        };
        self.turn = None;
        // Nor does it stand in line: a turn that came meanwhile would lie there until the client reads.
        self.waiting = None;
        events.send(event).await.map_err(|_| JobError::Cancelled)
    }
}
