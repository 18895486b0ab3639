//! Reading request bodies: once for the form, and once more for what a refusal leaves unread.
//!
//! A server that answers before the upload has been read, and then closes, resets the connection while the client
//! still sends: npm's clients then report "Connection error." instead of our 401. So the body has two owners here.
//! The handler reads through one; when it answers early, the other reads on in the background, within bounds of
//! bytes and time, while the answer is already on its way. The connection stays good for the next request.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest time for which a refused upload is read.
const DRAIN_TIME: Duration = Duration::from_secs(60);
/// In each such time, a refused upload must bring …
const DRAIN_PERIOD: Duration = Duration::from_secs(5);
/// … so many bytes, 8 KiB a second, or it is given up.
const DRAIN_PERIOD_BYTES: u64 = 40 << 10;
/// Bodies that are drained side by side; one more loses its connection. Each costs a buffer and a task, no disk.
const DRAINS: usize = 256;
/// Bytes beyond the largest accepted body that are read of a refused one.
const DRAIN_EXCESS_BYTES: u64 = 64 << 20;
/// Most bytes that the form's parser may swallow without giving a field or a piece of one.
const PARSER_STALL_BYTES: u64 = 1 << 20;

/// A body that two may read, one after the other: the handler, and whoever drains what it leaves.
#[derive(Debug, Clone)]
pub(super) struct SharedBody {
    shared: Arc<Shared>,
    expects_continue: bool,
    accepted_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    body: Mutex<BodyDataStream>,
    touched: AtomicBool,
    ended: AtomicBool,
    draining: AtomicBool,
}

struct SharedBodyStream(Arc<Shared>);

impl Stream for SharedBodyStream {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = &self.0;
        if shared.ended.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        shared.touched.store(true, Ordering::Relaxed);
        let mut body = shared.body.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = body.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            shared.ended.store(true, Ordering::Relaxed);
        }
        polled
    }
}

/// Splits a request's body into what the handler reads and what is kept for draining. `accepted_bytes` is the
/// largest body the server takes. The handler finds the second part among the request's extensions.
pub(super) fn share(request: Request<Body>, accepted_bytes: u64) -> (Request<Body>, Option<SharedBody>) {
    let (mut parts, body) = request.into_parts();
    if body.is_end_stream() {
        return (Request::from_parts(parts, body), None);
    }
    let shared = Arc::new(Shared {
        body: Mutex::new(body.into_data_stream()),
        touched: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    });
    let handed = Body::from_stream(SharedBodyStream(shared.clone()));
    let kept = SharedBody {
        shared,
        expects_continue: expects_continue(&parts.headers),
        accepted_bytes,
    };
    parts.extensions.insert(kept.clone());
    (Request::from_parts(parts, handed), Some(kept))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
}

impl SharedBody {
    /// Reads what is left, in the background.
    ///
    /// Also wanted of a body that was used: hyper notices that a client has left only once the body has ended, and
    /// a form ends before the last bytes of a chunked body.
    pub(super) fn drain(&self) {
        let shared = &self.shared;
        // A client that waits for "100 Continue" has sent nothing and will send nothing: reading would call it up.
        let waiting = self.expects_continue && !shared.touched.load(Ordering::Relaxed);
        if waiting || shared.ended.load(Ordering::Relaxed) || shared.draining.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(permit) = DRAINING.try_acquire() else {
            return;
        };
        let rest = SharedBodyStream(shared.clone());
        let most = self.accepted_bytes.saturating_add(DRAIN_EXCESS_BYTES);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = timeout(DRAIN_TIME, read_away(rest, most)).await;
        });
    }
}

static DRAINING: Semaphore = Semaphore::const_new(DRAINS);

/// Reads until the end, `most` bytes, or a period that brought too little.
async fn read_away(mut body: impl Stream<Item = Result<Bytes, axum::Error>> + Unpin, most: u64) {
    let (mut seen, mut before) = (0, 0);
    let mut period_ends = Instant::now() + DRAIN_PERIOD;
    while seen < most {
        match timeout_at(period_ends, body.next()).await {
            Ok(Some(Ok(chunk))) => seen += chunk.len() as u64,
            Ok(Some(Err(_)) | None) => return,
            Err(_) if seen - before < DRAIN_PERIOD_BYTES => return,
            Err(_) => {
                before = seen;
                period_ends = Instant::now() + DRAIN_PERIOD;
            }
        }
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body brought {bytes} bytes in {seconds} s")]
    Slow { bytes: u64, seconds: u64 },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64, seen: u64 },
    #[error("a part's header is longer than {PARSER_STALL_BYTES} bytes")]
    Stalled,
    #[error("the connection broke")]
    Broken(#[source] axum::Error),
}

/// Bounds on one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Largest whole body.
    pub(super) bytes: u64,
    /// In each such time spent waiting for the client …
    pub(super) period: Duration,
    /// … it must bring so many bytes each second, or end.
    pub(super) bytes_per_second: u64,
}

/// While every place is taken, an upload has to be so many times faster than otherwise: a slow one keeps others out.
const FULL_FACTOR: u64 = 16;

/// Tells the body's reader that its consumer gets on.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The parser gave something for what it took.
    pub(super) fn made(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Whether the body keeps others out now.
pub(super) type InTheWay<'a> = &'a (dyn Fn() -> bool + Send + Sync);

struct Intake<'a> {
    body: BodyDataStream,
    limits: BodyLimits,
    in_the_way: InTheWay<'a>,
    seen: u64,
    /// Bytes of this period, and the time of it spent waiting for the client.
    fresh: u64,
    waited: Duration,
    progress: Progress,
    ended: bool,
}

/// The body as a stream that keeps the limits: bytes counted while they come (chunked bodies announce no length),
/// the client's pauses timed, and no more than one chunk a poll, so that the parser never reads ahead of its consumer.
pub(super) fn intake(
    body: Body,
    limits: BodyLimits,
    progress: Progress,
    in_the_way: InTheWay<'_>,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let start = Intake {
        body: body.into_data_stream(),
        limits,
        in_the_way,
        seen: 0,
        fresh: 0,
        waited: Duration::ZERO,
        progress,
        ended: false,
    };
    stream::unfold(start, |mut intake| async move {
        if intake.ended {
            return None;
        }
        let item = intake.next().await?;
        intake.ended = item.is_err();
        Some((item, intake))
    })
}

impl Intake<'_> {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        tokio::task::yield_now().await;
        // Only the wait counts: what the consumer takes (a slow disk) is not the client's pause.
        loop {
            let began = Instant::now();
            let left = self.limits.period.saturating_sub(self.waited);
            let came = timeout(left, self.body.next()).await;
            self.waited += began.elapsed();
            let over = came.is_err() || self.waited >= self.limits.period;
            if let Ok(Some(Ok(chunk))) = &came {
                self.fresh += chunk.len() as u64;
            }
            if over {
                if self.fresh < self.least() {
                    return Some(Err(BodyError::Slow {
                        bytes: self.fresh,
                        seconds: self.limits.period.as_secs(),
                    }));
                }
                self.fresh = 0;
                self.waited = Duration::ZERO;
            }
            return match came {
                Err(_) => continue,
                Ok(None) => None,
                Ok(Some(Err(error))) => Some(Err(BodyError::Broken(error))),
                Ok(Some(Ok(chunk))) => Some(self.counted(chunk)),
            };
        }
    }

    /// Bytes that a period must bring; one at the least.
    fn least(&self) -> u64 {
        let factor = if (self.in_the_way)() { FULL_FACTOR } else { 1 };
        let seconds = self.limits.period.as_secs_f64();
        ((self.limits.bytes_per_second.saturating_mul(factor) as f64 * seconds) as u64).max(1)
    }

    fn counted(&mut self, chunk: Bytes) -> Result<Bytes, BodyError> {
        let bytes = chunk.len() as u64;
        self.seen += bytes;
        if self.seen > self.limits.bytes {
            return Err(BodyError::TooLarge {
                limit: self.limits.bytes,
                seen: self.seen,
            });
        }
        let stalled = self.progress.0.fetch_add(bytes, Ordering::Relaxed);
        if stalled > PARSER_STALL_BYTES {
            return Err(BodyError::Stalled);
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        bytes: 1 << 30,
        period: Duration::from_secs(30),
        bytes_per_second: 1024,
    };

    /// A body of pieces of so many bytes, each after a pause.
    fn body(bytes: usize, pause: Duration, pieces: usize) -> Body {
        Body::from_stream(stream::unfold(0, move |piece| async move {
            if piece == pieces {
                return None;
            }
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![7; bytes])), piece + 1))
        }))
    }

    /// Seconds until the end, and whether it came whole.
    async fn read(body: Body, full: bool, consumer: Duration) -> (u64, bool) {
        let began = Instant::now();
        let progress = Progress::default();
        let in_the_way = move || full;
        let mut stream = Box::pin(intake(body, LIMITS, progress.clone(), &in_the_way));
        while let Some(item) = stream.next().await {
            progress.made();
            tokio::time::sleep(consumer).await;
            if item.is_err() {
                return (began.elapsed().as_secs(), false);
            }
        }
        (began.elapsed().as_secs(), true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_loses_its_place_and_a_slow_line_does_not() {
        let second = Duration::from_secs(1);
        // Today's floor of 512 bytes in 30 s would let this one hold its place for ever.
        let (seconds, whole) = read(body(20, second, 10_000), false, Duration::ZERO).await;
        assert!(!whole && seconds <= 60, "{seconds}");
        let (_, whole) = read(body(2048, second, 600), false, Duration::ZERO).await;
        assert!(whole, "2 kB/s is slow but comes");
        let (seconds, whole) = read(body(2048, second, 600), true, Duration::ZERO).await;
        assert!(!whole && seconds <= 60, "it keeps others out: {seconds}");
        let (_, whole) = read(body(1 << 16, second, 600), true, Duration::ZERO).await;
        assert!(whole);
        // A fast start earns no right to crawl afterwards.
        let (_, whole) = read(body(100, Duration::from_secs(29), 3), false, Duration::ZERO).await;
        assert!(!whole);
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_slowness_is_not_the_clients() {
        let (seconds, whole) = read(body(64, Duration::ZERO, 100), false, Duration::from_secs(20)).await;
        assert!(whole && seconds >= 2000, "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_body_is_read_away_unless_it_drips() {
        let read = |bytes, pause, pieces, most| async move {
            let began = Instant::now();
            read_away(body(bytes, pause, pieces).into_data_stream(), most).await;
            began.elapsed().as_secs()
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            read(10 << 10, second, 50, u64::MAX).await,
            50,
            "it ends by itself"
        );
        assert_eq!(read(1000, second, 10_000, u64::MAX).await, 5);
        assert_eq!(read(0, Duration::from_secs(3600), 1, u64::MAX).await, 5);
        assert_eq!(read(10 << 10, second, 10_000, 30 << 10).await, 3);
    }
}
