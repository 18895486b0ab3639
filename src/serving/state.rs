//! What a model is doing.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What a model is doing; every question about readiness is answered from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// On disk, with no engine: the next lease loads it.
    Absent,
    /// Its file is being fetched.
    Fetching(Fetch),
    /// Its engines load, or wait for memory.
    Loading,
    /// A window can run now.
    Ready,
    /// Its engines ended and are being started again; windows wait.
    Restarting,
    /// No engine can be started; one sentence says why.
    Broken(String),
    /// Its engines are being ended for want of memory or of work, or because the server stops.
    Retiring,
}

impl ModelState {
    /// Whether a request that comes now will be served without anybody's doing.
    pub fn serves(&self) -> bool {
        matches!(
            self,
            Self::Absent | Self::Loading | Self::Ready | Self::Restarting | Self::Retiring
        )
    }
}

impl std::fmt::Display for ModelState {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => out.write_str("the model is not loaded"),
            Self::Fetching(fetch) => fetch.fmt(out),
            Self::Loading => out.write_str("the model is loading"),
            Self::Ready => out.write_str("ready"),
            Self::Restarting => out.write_str("the engine is restarting"),
            Self::Broken(reason) => out.write_str(reason),
            Self::Retiring => out.write_str("the model is being unloaded"),
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetch {
    /// Catalogue name.
    pub model: String,
    /// Bytes of the current step that are done.
    pub done: u64,
    /// Bytes of the current step, where they are known.
    pub total: Option<u64>,
    /// Bytes a second of the current step, once they were measured.
    pub bytes_per_second: Option<u64>,
}

/// Asked of a client while nobody knows how long a download takes.
const UNKNOWN_WAIT: Duration = Duration::from_secs(15);
/// Shortest and longest wait: a model loads for some seconds after it was fetched, and SDKs ignore waits above a minute.
const WAITS: RangeInclusive<f64> = 3.0..=60.0;

impl Fetch {
    /// When a client may expect the model.
    pub fn retry_after(&self) -> Duration {
        let (Some(total), Some(rate)) = (self.total, self.bytes_per_second.filter(|rate| *rate > 0)) else {
            return UNKNOWN_WAIT;
        };
        let seconds = total.saturating_sub(self.done) as f64 / rate as f64;
        Duration::from_secs_f64(seconds.clamp(*WAITS.start(), *WAITS.end()))
    }
}

impl std::fmt::Display for Fetch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "fetching the model `{}`", self.model)?;
        match self.total {
            Some(total) if total > 0 => {
                write!(out, " ({} of {} MiB)", self.done >> 20, total >> 20)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_when_the_download_will_have_ended() {
        let wait = |done, total, bytes_per_second| {
            let fetch = Fetch {
                model: "base".to_owned(),
                done,
                total,
                bytes_per_second,
            };
            fetch.retry_after().as_secs()
        };
        assert_eq!(wait(0, None, None), 15);
        assert_eq!(wait(100, Some(2_000), Some(100)), 19);
        assert_eq!(wait(1_990, Some(2_000), Some(100)), 3);
        assert_eq!(wait(0, Some(570 << 20), Some(1 << 20)), 60);
        assert_eq!(wait(9, Some(10), Some(0)), 15);
    }
}
