//! Short-lived keys for clients that must not hold a real one, such as browsers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::settings::Settings;
use crate::keys::Client;

/// Keys kept at once; the one that expires first makes room.
const MOST: usize = 4096;

#[derive(Debug)]
struct Issued {
    digest: [u8; 32],
    expires_at: u64,
    settings: Settings,
    client: Client,
}

/// The keys that were given out and have not expired. They are gone when the server ends.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<Vec<Issued>>);

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Secrets {
    /// A new key for sessions that begin with `settings` and count as `client`'s, and when it expires (seconds since 1970).
    pub fn issue(&self, settings: Settings, client: Client, lifetime: Duration) -> (String, u64) {
        let value = format!(
            "ek_{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        );
        let expires_at = unix_seconds() + lifetime.as_secs();
        let mut issued = self.living();
        if issued.len() >= MOST
            && let Some(first) = (0..issued.len()).min_by_key(|&at| issued[at].expires_at)
        {
            issued.swap_remove(first);
        }
        issued.push(Issued {
            digest: Sha256::digest(value.as_bytes()).into(),
            expires_at,
            settings,
            client,
        });
        (value, expires_at)
    }

    /// The settings that a key was issued with and whose its sessions are, while it lives.
    pub fn redeem(&self, key: &str) -> Option<(Settings, Client)> {
        if !key.starts_with("ek_") {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let issued = self.living();
        let found = issued
            .iter()
            .find(|issued| bool::from(issued.digest.ct_eq(&digest)))?;
        Some((found.settings.clone(), found.client))
    }

    fn living(&self) -> MutexGuard<'_, Vec<Issued>> {
        let mut issued = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_seconds();
        issued.retain(|issued| issued.expires_at > now);
        issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lives_for_its_time_and_brings_its_settings() {
        let secrets = Secrets::default();
        let settings = Settings::new(Some("m".to_owned()), 24_000, true);
        let (key, expires_at) = secrets.issue(settings, Client::Anonymous, Duration::from_secs(60));
        assert!(key.starts_with("ek_") && expires_at >= unix_seconds() + 59);
        assert_eq!(secrets.redeem(&key).unwrap().0.model(), Some("m"));
        assert!(secrets.redeem("ek_other").is_none());
        let (dead, _) = secrets.issue(
            Settings::new(None, 24_000, true),
            Client::Anonymous,
            Duration::ZERO,
        );
        assert!(secrets.redeem(&dead).is_none());
    }

    #[test]
    fn there_are_never_too_many() {
        let secrets = Secrets::default();
        let settings = Settings::new(None, 24_000, true);
        for _ in 0..MOST + 10 {
            secrets.issue(settings.clone(), Client::Anonymous, Duration::from_secs(60));
        }
        assert_eq!(secrets.living().len(), MOST);
    }
}
