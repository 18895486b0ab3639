//! How many connections are open at once: each costs a file, and the files a process may open are the bound.
//!
//! Without one, connections that say nothing take every file, and the server then cannot open a spool, start a decoder or
//! answer anybody. One connection too many is told so and closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files of a request in service beside its connection: its recording, and a decoder's socket and two pipes with both ends
/// open while it starts.
const FILES_OF_A_REQUEST: u64 = 8;
/// Files of everything else: listener, log, engines' pipes, model files while they are checked, refusals below.
const OTHER_FILES: u64 = 128;
/// Connections are taken even where the system grants hardly any files.
const LEAST: u64 = 16;
/// Refusals that are written at once; further connections are just closed.
const REFUSALS: usize = 32;
/// Longest time for one.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Seconds between two lines in the log.
const LOG_EVERY: u64 = 30;
/// What one connection too many is told.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n\
    connection: close\r\ncontent-length: 155\r\n\r\n\
    {\"error\":{\"message\":\"Every connection of this server is taken. Please retry after 5 seconds.\",\"type\":\"service_unavailable_error\",\"param\":null,\"code\":null}}";

/// The connections of a server. A cheap handle.
#[derive(Debug, Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    most: usize,
    /// Seconds since the first refusal, of the newest line in the log.
    logged: Arc<AtomicU64>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// Files to ask the system for at the most: more connections than these would cost more memory (about 20 KiB each)
    /// than they are worth.
    pub const MOST_FILES: u64 = 16_384;

    /// As many as `files` allow, which this process may open, beside what `requests` at once need.
    pub fn by_open_files(files: u64, requests: usize) -> Self {
        Self::new(most(files.min(Self::MOST_FILES), requests as u64))
    }

    /// A fixed number.
    pub fn new(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            most,
            logged: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The most that may be open.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A permit for a connection that was accepted; without one it is refused, in words where `plain` (not TLS).
    pub(super) fn admit(&self, stream: TcpStream, plain: bool) -> Option<(TcpStream, ConnectionPermit)> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some((stream, ConnectionPermit { _permit: permit }));
        }
        self.log();
        if plain && let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await;
                drop(permit);
            });
        }
        None
    }

    fn log(&self) {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let now = FIRST.get_or_init(Instant::now).elapsed().as_secs() + LOG_EVERY;
        let last = self.logged.load(Ordering::Relaxed);
        let due = now >= last + LOG_EVERY;
        if due
            && self
                .logged
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(
                connections = self.most,
                "every connection is taken, new ones are refused; the limit follows the files this process may open (ulimit -n)"
            );
        }
    }
}

fn most(files: u64, requests: u64) -> usize {
    let reserved = requests
        .saturating_mul(FILES_OF_A_REQUEST)
        .saturating_add(OTHER_FILES);
    files.saturating_sub(reserved).max(LEAST) as usize
}

/// Says so, and reads what the client has sent already: closing before that would reset the connection, and the words with it.
async fn refuse(mut stream: TcpStream) {
    if stream.write_all(REFUSAL.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut sent = [0; 4096];
    while stream.read(&mut sent).await.is_ok_and(|bytes| bytes > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }

    #[test]
    fn requests_keep_the_files_that_they_need() {
        assert_eq!(most(1024, 80), 1024 - 128 - 640);
        assert_eq!(most(256, 80), 16);
        assert_eq!(most(u64::MAX, u64::MAX), 16);
        assert_eq!(Connections::by_open_files(u64::MAX, 0).most(), 16_384 - 128);
    }
}
