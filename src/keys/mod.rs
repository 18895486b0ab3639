//! Who may come in, and how much each may ask for.
//!
//! Keys are kept as digests. A long random key needs no slow hash, and a slow hash for every request would let anybody
//! keep the server busy with wrong ones.

mod allowance;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{Config, KeyConfig};
use allowance::Allowance;

/// Before the digits of a key that this program makes.
const PREFIX: &str = "wba_";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// No key is asked for, or one that opens only a live session was shown.
    Anonymous,
    /// The holder of a key. The number stays the key's over all reloads.
    Key(usize),
}

/// Which limit of its key a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLimit {
    /// `requests_per_minute`
    Requests,
    /// `audio_minutes_per_hour`
    Audio,
    /// `concurrent`
    Concurrent,
}

/// A request that its key's limits do not allow now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exceeded {
    /// Which one.
    pub limit: KeyLimit,
    /// When it is likely to be allowed.
    pub retry_after: Duration,
}

/// What is left of a key's requests a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestsLeft {
    /// Requests a minute.
    pub limit: u32,
    /// That may come now.
    pub remaining: u32,
    /// Until all may.
    pub reset: Duration,
}

/// What a key was used for since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The key's name.
    pub name: String,
    /// Requests admitted.
    pub requests: u64,
    /// Requests refused for a limit of the key.
    pub refused: u64,
    /// Seconds of audio in finished requests.
    pub audio_seconds: f64,
    /// Requests inside now.
    pub inside: usize,
}

/// The keys and what their holders use. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    inner: Arc<RwLock<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    accepted: Vec<([u8; 32], usize)>,
    /// By a client's number; a key that was taken away keeps its place, so that numbers stay what they were.
    holders: Vec<Arc<Holder>>,
}

#[derive(Debug)]
struct Holder {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Option<(u32, Allowance)>,
    audio: Option<Allowance>,
    concurrent: Option<usize>,
    models: Vec<String>,
    named: bool,
    inside: usize,
    admitted: u64,
    refused: u64,
    audio_seconds: f64,
}

/// A request inside, counted for its key until this is dropped.
#[derive(Debug, Default)]
pub struct KeyHold(Option<Arc<Holder>>);

impl Holder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn limit(&mut self, key: &KeyConfig, now: Instant) {
        self.named = true;
        self.models.clone_from(&key.models);
        self.concurrent = key.concurrent.map(|most| most as usize);
        self.requests = key.requests_per_minute.map(|most| {
            let amount = f64::from(most);
            let allowance = match &self.requests {
                Some((_, old)) => old.limited_to(amount, MINUTE, now),
                None => Allowance::new(amount, MINUTE, now),
            };
            (most, allowance)
        });
        self.audio = key.audio_minutes_per_hour.map(|minutes| {
            let seconds = f64::from(minutes) * 60.0;
            match &self.audio {
                Some(old) => old.limited_to(seconds, HOUR, now),
                None => Allowance::new(seconds, HOUR, now),
            }
        });
    }

    fn allow(&mut self, now: Instant) -> Result<(), Exceeded> {
        let exceeded = |limit, retry_after: Duration| Exceeded {
            limit,
            retry_after: retry_after.max(Duration::from_millis(1)),
        };
        if self.concurrent.is_some_and(|most| self.inside >= most) {
            return Err(exceeded(KeyLimit::Concurrent, Duration::from_secs(1)));
        }
        // A recording's length is known only when it is decoded: one may come while anything is left.
        if let Some(audio) = &mut self.audio
            && audio.left(now) <= 0.0
        {
            return Err(exceeded(KeyLimit::Audio, audio.wait_for(1.0, now)));
        }
        if let Some((_, requests)) = &mut self.requests {
            if requests.left(now) < 1.0 {
                return Err(exceeded(KeyLimit::Requests, requests.wait_for(1.0, now)));
            }
            requests.charge(1.0, now);
        }
        Ok(())
    }
}

impl Keys {
    /// The configuration's keys.
    pub fn new(config: &Config) -> Self {
        let keys = Self::default();
        keys.replace(config);
        keys
    }

    /// Takes the keys of another configuration. What was used of a key that stays is still used.
    pub fn replace(&self, config: &Config) {
        let now = Instant::now();
        let mut table = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        table.accepted.clear();
        for key in &config.server.api_keys {
            let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
            // Nameless keys are told apart by the beginning of their digest.
            let place = table.place_of(&format!("#{}", &hex::encode(digest)[..12]));
            table.accepted.push((digest, place));
        }
        for key in &config.keys {
            // Checked when the settings were read.
            let Some(digest) = parse_digest(&key.sha256) else {
                continue;
            };
            let place = table.place_of(&key.name);
            table.holders[place].lock().limit(key, now);
            table.accepted.push((digest, place));
        }
    }

    /// True when no key is asked for.
    pub fn is_open(&self) -> bool {
        self.count() == 0
    }

    /// Keys that are accepted.
    pub fn count(&self) -> usize {
        self.read(|table| table.accepted.len())
    }

    /// Whose key it is. Looks at every key whatever the outcome, so that the time taken tells nothing.
    pub fn holder_of(&self, candidate: &str) -> Option<Client> {
        let digest: [u8; 32] = Sha256::digest(candidate.as_bytes()).into();
        self.read(|table| {
            let (mut found, mut place) = (Choice::from(0), 0_u64);
            for (key, holder) in &table.accepted {
                let same = key.ct_eq(&digest);
                place.conditional_assign(&(*holder as u64), same);
                found |= same;
            }
            bool::from(found).then_some(Client::Key(place as usize))
        })
    }

    /// Lets a request in, as far as its key's limits go.
    ///
    /// # Errors
    ///
    /// Which limit it would exceed.
    pub fn enter(&self, client: Client, now: Instant) -> Result<KeyHold, Exceeded> {
        let Some(holder) = self.holder(client) else {
            return Ok(KeyHold::default());
        };
        let mut state = holder.lock();
        if let Err(exceeded) = state.allow(now) {
            state.refused += 1;
            return Err(exceeded);
        }
        state.inside += 1;
        state.admitted += 1;
        drop(state);
        Ok(KeyHold(Some(holder)))
    }

    /// Whether the key may ask for this deployment or model by this name.
    pub fn may_use(&self, client: Client, name: &str) -> bool {
        self.holder(client).is_none_or(|holder| {
            let state = holder.lock();
            state.models.is_empty() || state.models.iter().any(|model| model == name)
        })
    }

    /// What is left of the key's requests a minute, where that is limited.
    pub fn requests_left(&self, client: Client, now: Instant) -> Option<RequestsLeft> {
        let holder = self.holder(client)?;
        let mut state = holder.lock();
        let (limit, requests) = state.requests.as_mut()?;
        Some(RequestsLeft {
            limit: *limit,
            remaining: requests.left(now).max(0.0) as u32,
            reset: requests.full_in(now),
        })
    }

    /// What named keys were used for.
    pub fn usage(&self) -> Vec<Usage> {
        let holders = self.read(|table| table.holders.clone());
        holders
            .iter()
            .filter_map(|holder| {
                let state = holder.lock();
                state.named.then(|| Usage {
                    name: holder.name.clone(),
                    requests: state.admitted,
                    refused: state.refused,
                    audio_seconds: state.audio_seconds,
                    inside: state.inside,
                })
            })
            .collect()
    }

    fn holder(&self, client: Client) -> Option<Arc<Holder>> {
        let Client::Key(place) = client else { return None };
        self.read(|table| table.holders.get(place).cloned())
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn place_of(&mut self, name: &str) -> usize {
        if let Some(place) = self.holders.iter().position(|holder| holder.name == name) {
            return place;
        }
        self.holders.push(Arc::new(Holder {
            name: name.to_owned(),
            state: Mutex::default(),
        }));
        self.holders.len() - 1
    }
}

impl KeyHold {
    /// So many seconds of audio were transcribed.
    pub fn charge_audio(&self, seconds: f64, now: Instant) {
        let Some(holder) = &self.0 else { return };
        let mut state = holder.lock();
        state.audio_seconds += seconds;
        if let Some(audio) = &mut state.audio {
            audio.charge(seconds, now);
        }
    }
}

impl Drop for KeyHold {
    fn drop(&mut self) {
        if let Some(holder) = &self.0 {
            holder.lock().inside -= 1;
        }
    }
}

/// A new random key: 244 random bits in 64 hexadecimal digits.
pub fn generate() -> String {
    let half = || uuid::Uuid::new_v4().simple();
    format!("{PREFIX}{}{}", half(), half())
}

/// SHA-256 of a key in hexadecimal digits, as `[[keys]]` takes it.
pub fn digest_of(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// 64 hexadecimal digits as bytes.
fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[(&str, &str)], change: impl Fn(&mut KeyConfig)) -> Config {
        let mut config = Config::default();
        for (name, key) in keys {
            let mut key = KeyConfig {
                name: (*name).to_owned(),
                sha256: digest_of(key),
                ..KeyConfig::default()
            };
            change(&mut key);
            config.keys.push(key);
        }
        config
    }

    #[test]
    fn keys_that_are_made_differ_and_open_what_their_digest_is_written_for() {
        let (one, other) = (generate(), generate());
        assert_ne!(one, other);
        assert!(one.starts_with(PREFIX) && one.len() == PREFIX.len() + 64, "{one}");
        let keys = Keys::new(&config(&[("app", &one)], |_| {}));
        assert_eq!(keys.holder_of(&one), Some(Client::Key(0)));
        assert_eq!(keys.holder_of(&other), None);
        assert!(!keys.is_open() && Keys::new(&Config::default()).is_open());
    }

    #[test]
    fn requests_a_minute_by_a_clock_of_the_tests() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let keys = Keys::new(&config(&[("a", "key a"), ("b", "key b")], |key| {
            key.requests_per_minute = Some(6);
        }));
        let (a, b) = (keys.holder_of("key a").unwrap(), keys.holder_of("key b").unwrap());
        for left in (0..6).rev() {
            assert!(keys.enter(a, at(1)).is_ok());
            assert_eq!(keys.requests_left(a, at(1)).unwrap().remaining, left);
        }
        let refused = keys.enter(a, at(1)).unwrap_err();
        assert_eq!(
            (refused.limit, refused.retry_after.as_secs_f64().round()),
            (KeyLimit::Requests, 10.0)
        );
        assert_eq!(
            keys.requests_left(a, at(1)).unwrap().reset,
            Duration::from_secs(60)
        );
        // Another key's requests are its own, and the first one's come back one by one.
        assert!(keys.enter(b, at(1)).is_ok());
        assert!(keys.enter(a, at(12)).is_ok());
        assert!(keys.enter(a, at(12)).is_err());
        assert_eq!(keys.usage()[0].refused, 2);
        // Who shows no key has no limit.
        assert!(keys.enter(Client::Anonymous, at(1)).is_ok());
    }

    #[test]
    fn minutes_of_audio_an_hour_are_paid_afterwards() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let keys = Keys::new(&config(&[("a", "key")], |key| {
            key.audio_minutes_per_hour = Some(60);
        }));
        let client = keys.holder_of("key").unwrap();
        let hold = keys.enter(client, at(0)).unwrap();
        hold.charge_audio(3600.0 + 120.0, at(1));
        let refused = keys.enter(client, at(2)).unwrap_err();
        assert_eq!(refused.limit, KeyLimit::Audio);
        assert!(
            (100.0..130.0).contains(&refused.retry_after.as_secs_f64()),
            "{refused:?}"
        );
        assert!(keys.enter(client, at(130)).is_ok());
        assert!((keys.usage()[0].audio_seconds - 3720.0).abs() < 1e-6);
    }

    #[test]
    fn requests_at_once_and_names_of_models() {
        let now = Instant::now();
        let keys = Keys::new(&config(&[("a", "key")], |key| {
            key.concurrent = Some(2);
            key.models = vec!["small".to_owned()];
        }));
        let client = keys.holder_of("key").unwrap();
        let (one, _two) = (keys.enter(client, now).unwrap(), keys.enter(client, now).unwrap());
        assert_eq!(keys.enter(client, now).unwrap_err().limit, KeyLimit::Concurrent);
        drop(one);
        assert!(keys.enter(client, now).is_ok());
        assert!(keys.may_use(client, "small") && !keys.may_use(client, "large"));
        assert!(keys.may_use(Client::Anonymous, "large"));
    }

    #[test]
    fn other_settings_take_keys_away_and_forgive_nothing() {
        let now = Instant::now();
        let limited = |key: &mut KeyConfig| key.requests_per_minute = Some(1);
        let keys = Keys::new(&config(&[("a", "old"), ("b", "other")], limited));
        let a = keys.holder_of("old").unwrap();
        assert!(keys.enter(a, now).is_ok());
        // A new secret for the same name, and no more `b`.
        keys.replace(&config(&[("a", "new")], limited));
        assert_eq!(keys.holder_of("new"), Some(a));
        assert_eq!((keys.holder_of("old"), keys.holder_of("other")), (None, None));
        assert!(keys.enter(a, now).is_err());
        keys.replace(&Config::default());
        assert!(keys.is_open());
    }

    #[test]
    fn digests_are_64_hexadecimal_digits() {
        assert!(parse_digest(&digest_of("x")).is_some());
        assert!(parse_digest("ab").is_none() && parse_digest(&"é".repeat(32)).is_none());
        assert!(parse_digest(&"g".repeat(64)).is_none());
    }
}
