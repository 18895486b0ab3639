//! What is remembered of a hub that nobody answers for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A hub that could not be reached is not asked again for so long.
const SILENCE: Duration = Duration::from_secs(300);

/// Which hub did not answer, when, and why.
#[derive(Debug, Default)]
pub(crate) struct HubSilence(Mutex<Option<(String, Instant, String)>>);

impl HubSilence {
    /// Why the hub is not worth asking now.
    pub(crate) fn reason(&self, hub: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .as_ref()
            .filter(|(which, since, _)| which == hub && since.elapsed() < SILENCE)
            .map(|(_, _, reason)| reason.clone())
    }

    pub(crate) fn note(&self, hub: &str, reason: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((hub.to_owned(), Instant::now(), reason.to_owned()));
    }
}
