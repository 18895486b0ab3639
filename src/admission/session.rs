//! A live session's place: beside those of requests, since a session takes no body and waits for no turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Admission, Inner, Refusal};
use crate::keys::{Client, KeyHold};

/// When a client that found no place may ask again: sessions last minutes, and one may end at any time.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A session that came in; its place is free again when this is dropped.
#[derive(Debug)]
pub struct SessionPlace {
    /// Who speaks.
    pub client: Client,
    /// Cancelled when the program ends.
    pub cancel: CancellationToken,
    inner: Arc<Inner>,
    key: KeyHold,
    began: Instant,
}

impl Admission {
    /// Takes one of `most` places for live sessions.
    ///
    /// # Errors
    ///
    /// When there is none, when the client's key has had what it may have, or when the server stops.
    pub fn enter_session(&self, client: Client, most: usize) -> Result<SessionPlace, Refusal> {
        if self.is_closed() {
            return Err(Refusal::Stopping);
        }
        let inner = &self.inner;
        let taken = inner
            .sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        if taken.is_err() {
            inner.metrics.busy.add(1);
            return Err(Refusal::NoPlace {
                retry_after: RETRY_AFTER,
            });
        }
        inner.metrics.realtime_sessions.add(1);
        let mut place = SessionPlace {
            client,
            cancel: inner.work.child_token(),
            inner: inner.clone(),
            key: KeyHold::default(),
            began: Instant::now(),
        };
        place.key = inner.keys.enter(client, place.began).map_err(|exceeded| {
            inner.metrics.busy.add(1);
            Refusal::KeyLimit(exceeded)
        })?;
        Ok(place)
    }

    /// Live sessions inside.
    pub fn sessions(&self) -> usize {
        self.inner.sessions.load(Ordering::Relaxed)
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.inner.sessions.fetch_sub(1, Ordering::Relaxed);
        self.inner.metrics.realtime_sessions.add(-1);
        // A session counts as long as it lasts: what is said in it comes no faster.
        let lasted = self.began.elapsed().as_secs_f64();
        self.key.charge_audio(lasted, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use crate::keys::Keys;

    #[tokio::test]
    async fn sessions_have_places_of_their_own_and_end_with_the_program() {
        let work = CancellationToken::new();
        let limits = Limits {
            in_service: 1,
            waiting: 0,
            ..Limits::default()
        };
        let admission = Admission::new(limits, Keys::default(), work.clone(), Arc::default());
        let session = admission.enter_session(Client::Anonymous, 1).unwrap();
        assert!(matches!(
            admission.enter_session(Client::Anonymous, 1),
            Err(Refusal::NoPlace { retry_after }) if retry_after == RETRY_AFTER
        ));
        // A recording finds its place whoever speaks, and the other way round.
        let request = admission.enter("id".into(), Client::Anonymous, None).unwrap();
        assert!(admission.is_full());
        let other = admission.enter_session(Client::Anonymous, 2).unwrap();
        assert_eq!((admission.sessions(), admission.in_flight()), (2, 1));
        drop((session, request));
        assert_eq!((admission.sessions(), admission.in_flight()), (1, 0));
        admission.close();
        assert_eq!(
            admission.enter_session(Client::Anonymous, 2).unwrap_err(),
            Refusal::Stopping
        );
        assert!(!other.cancel.is_cancelled());
        work.cancel();
        assert!(other.cancel.is_cancelled());
        drop(other);
        assert_eq!(admission.sessions(), 0);
    }
}
