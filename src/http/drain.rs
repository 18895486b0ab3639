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
use tokio::time::{Instant, timeout, timeout_at};

/// Longest time for which a refused upload is read.
const DRAIN_TIME: Duration = Duration::from_secs(60);
/// A refused upload that pauses for so long is given up.
const DRAIN_IDLE: Duration = Duration::from_secs(10);
/// Bytes beyond the largest accepted body that are read of a refused one.
const DRAIN_EXCESS_BYTES: u64 = 64 << 20;
/// A body must bring so many bytes in each idle period, or end: one byte a minute is not an upload.
const PROGRESS_BYTES: u64 = 512;
/// Most bytes that the form's parser may swallow without giving a field or a piece of one.
const PARSER_STALL_BYTES: u64 = 1 << 20;

/// A body that two may read, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Lent {
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

struct Borrowed(Arc<Shared>);

impl Stream for Borrowed {
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
pub(super) fn lend(request: Request<Body>, accepted_bytes: u64) -> (Request<Body>, Option<Lent>) {
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
    let borrowed = Body::from_stream(Borrowed(shared.clone()));
    let lent = Lent {
        shared,
        expects_continue: expects_continue(&parts.headers),
        accepted_bytes,
    };
    parts.extensions.insert(lent.clone());
    (Request::from_parts(parts, borrowed), Some(lent))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
}

impl Lent {
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
        let mut rest = Borrowed(shared.clone());
        let mut left = self.accepted_bytes.saturating_add(DRAIN_EXCESS_BYTES);
        tokio::spawn(async move {
            let end = Instant::now() + DRAIN_TIME;
            while let Ok(Ok(Some(Ok(chunk)))) = timeout_at(end, timeout(DRAIN_IDLE, rest.next())).await {
                left = left.saturating_sub(chunk.len() as u64);
                if left == 0 {
                    return;
                }
            }
        });
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body stopped coming for {seconds} s")]
    Idle { seconds: u64 },
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
    /// Longest pause.
    pub(super) idle: Duration,
}

/// Tells the body's reader that its consumer gets on.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The parser gave something for what it took.
    pub(super) fn made(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

struct Intake {
    body: BodyDataStream,
    limits: BodyLimits,
    seen: u64,
    deadline: Instant,
    fresh: u64,
    progress: Progress,
    ended: bool,
}

/// The body as a stream that keeps the limits: bytes counted while they come (chunked bodies announce no length),
/// pauses timed, and no more than one chunk a poll, so that the parser never reads ahead of its consumer.
pub(super) fn intake(
    body: Body,
    limits: BodyLimits,
    progress: Progress,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let start = Intake {
        body: body.into_data_stream(),
        limits,
        seen: 0,
        deadline: Instant::now() + limits.idle,
        fresh: 0,
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

impl Intake {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        tokio::task::yield_now().await;
        // Time spent by the consumer (a slow disk, a waiting place) is not the client's pause.
        if self.fresh >= PROGRESS_BYTES {
            self.deadline = Instant::now() + self.limits.idle;
            self.fresh = 0;
        }
        match timeout_at(self.deadline, self.body.next()).await {
            Err(_) => Some(Err(BodyError::Idle {
                seconds: self.limits.idle.as_secs(),
            })),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some(Err(BodyError::Broken(error))),
            Ok(Some(Ok(chunk))) => {
                let bytes = chunk.len() as u64;
                self.seen += bytes;
                self.fresh += bytes;
                if self.seen > self.limits.bytes {
                    return Some(Err(BodyError::TooLarge {
                        limit: self.limits.bytes,
                        seen: self.seen,
                    }));
                }
                let stalled = self.progress.0.fetch_add(bytes, Ordering::Relaxed);
                if stalled > PARSER_STALL_BYTES {
                    return Some(Err(BodyError::Stalled));
                }
                Some(Ok(chunk))
            }
        }
    }
}
