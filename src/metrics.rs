//! Counters since the start; `/stats` and `/metrics` show them, and nothing counts a second time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(std::sync::atomic::AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of every duration, in seconds: from a cached answer to the longest recording.
const BUCKETS_SECONDS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// How long things took.
#[derive(Debug, Clone)]
pub struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(BUCKETS_SECONDS))
    }
}

impl Durations {
    /// Counts one more.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    /// For the exposition.
    pub fn histogram(&self) -> &Histogram {
        &self.0
    }
}

/// What was asked for. A path is counted as one of these, so that no client can make up labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `…/audio/transcriptions`
    Transcriptions,
    /// `…/audio/translations`
    Translations,
    /// Azure's fast transcription.
    FastTranscription,
    /// WebSockets of live transcription and their short-lived keys.
    Realtime,
    /// Lists of models and deployments.
    Models,
    /// `/health` and what is below it.
    Health,
    /// `/stats`, `/metrics`, `/gpu-status`, `/languages`.
    Diagnostics,
    /// Everything else: the page, the API's description, unknown paths.
    Other,
}

impl Route {
    /// All, in the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::Transcriptions,
        Self::Translations,
        Self::FastTranscription,
        Self::Realtime,
        Self::Models,
        Self::Health,
        Self::Diagnostics,
        Self::Other,
    ];

    /// What a path asks for.
    pub fn of(path: &str) -> Self {
        if path.ends_with("/audio/transcriptions") {
            Self::Transcriptions
        } else if path.ends_with("/audio/translations") {
            Self::Translations
        } else if path.ends_with("/transcriptions:transcribe") {
            Self::FastTranscription
        } else if path.split('/').any(|part| part == "realtime") {
            Self::Realtime
        } else if path == "/health" || path.starts_with("/health/") {
            Self::Health
        } else if ["/stats", "/metrics", "/gpu-status", "/languages"].contains(&path) {
            Self::Diagnostics
        } else if path
            .split('/')
            .any(|part| part == "models" || part == "deployments")
        {
            Self::Models
        } else {
            Self::Other
        }
    }

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcriptions => "transcriptions",
            Self::Translations => "translations",
            Self::FastTranscription => "fast_transcription",
            Self::Realtime => "realtime",
            Self::Models => "models",
            Self::Health => "health",
            Self::Diagnostics => "diagnostics",
            Self::Other => "other",
        }
    }

    /// Whether its answers take as long as a recording does.
    fn takes_recordings(self) -> bool {
        matches!(
            self,
            Self::Transcriptions | Self::Translations | Self::FastTranscription
        )
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Below 400.
    Ok,
    /// 4xx but 429.
    Rejected,
    /// 429: no place, or a key's limit.
    Busy,
    /// 503: no model yet, or the server stops.
    Unavailable,
    /// 5xx but 503.
    Failed,
    /// The client left before the answer began.
    Cancelled,
}

impl Answered {
    /// All, in the order of the counters.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Rejected,
        Self::Busy,
        Self::Unavailable,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Of a status; `None`: the client left.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::Cancelled,
            Some(429) => Self::Busy,
            Some(503) => Self::Unavailable,
            Some(..400) => Self::Ok,
            Some(400..500) => Self::Rejected,
            Some(_) => Self::Failed,
        }
    }

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Answers by what was asked and what became of it.
#[derive(Debug, Default)]
pub struct Answers {
    counts: [[Counter; Answered::ALL.len()]; Route::ALL.len()],
    /// From the head of a request with a recording to the head of its answer.
    pub seconds: Durations,
}

impl Answers {
    /// Counts an answer, or a client that left (no status).
    pub fn add(&self, route: Route, status: Option<u16>, took: Duration) {
        self.counts[route as usize][Answered::of(status) as usize].add(1);
        if route.takes_recordings() {
            self.seconds.observe(took);
        }
    }

    /// How many so far.
    pub fn value(&self, route: Route, answered: Answered) -> u64 {
        self.counts[route as usize][answered as usize].value()
    }

    /// How many so far, on all routes.
    pub fn sum(&self, answered: Answered) -> u64 {
        self.counts
            .iter()
            .map(|route| route[answered as usize].value())
            .sum()
    }
}

/// Requests that were admitted and of which no window runs yet: what waits.
#[derive(Debug, Clone, Default)]
pub struct Waiters {
    inner: Arc<WaitersInner>,
}

#[derive(Debug, Default)]
struct WaitersInner {
    since: Mutex<(u64, BTreeMap<u64, Instant>)>,
    waits: Durations,
}

impl WaitersInner {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Instant>)> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    /// One more waits from now on.
    pub fn enter(&self) -> Waiter {
        let mut since = self.inner.lock();
        since.0 += 1;
        let number = since.0;
        since.1.insert(number, Instant::now());
        Waiter {
            inner: self.inner.clone(),
            number,
        }
    }

    /// How many wait, and since when the first of them.
    pub fn now(&self) -> (usize, Option<Duration>) {
        let since = self.inner.lock();
        let oldest = since.1.values().next().map(Instant::elapsed);
        (since.1.len(), oldest)
    }

    /// How long those waited whose first window has begun.
    pub fn waits(&self) -> &Durations {
        &self.inner.waits
    }
}

/// A request that waits, until this is dropped.
#[derive(Debug)]
pub struct Waiter {
    inner: Arc<WaitersInner>,
    number: u64,
}

impl Waiter {
    /// Its first window begins.
    pub fn served(self) {
        let since = self.inner.lock().1.get(&self.number).copied();
        if let Some(since) = since {
            self.inner.waits.observe(since.elapsed());
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.inner.lock().1.remove(&self.number);
    }
}

/// Everything counted. Durations are in microseconds inside, seconds outside.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that got their transcript.
    pub succeeded: Counter,
    /// Requests answered with a client's mistake (4xx), those below apart.
    pub rejected: Counter,
    /// Requests refused for want of a place (429).
    pub busy: Counter,
    /// Requests answered with a fault of ours (5xx).
    pub failed: Counter,
    /// Requests whose client left.
    pub cancelled: Counter,
    /// Every answer, diagnostic routes included.
    pub answers: Answers,
    /// Admitted requests of which no window runs yet.
    pub waiters: Waiters,
    /// Requests in service now, waiting ones included.
    pub in_flight: Gauge,
    /// Windows running now.
    pub windows_running: Gauge,
    /// Time to decode and cut what becomes a window.
    pub window_decode: Durations,
    /// Time a window waits for a core or slot.
    pub window_wait: Durations,
    /// Time a window takes on its engine.
    pub window_infer: Durations,
    /// Windows transcribed.
    pub windows: Counter,
    /// Audio decoded for finished requests, in microseconds.
    pub audio_us: Counter,
    /// Audio that reached the model, in microseconds.
    pub speech_us: Counter,
    /// Engine time, in microseconds of wall time summed over windows.
    pub inference_us: Counter,
    /// Wall time of finished requests from first byte to last, in microseconds.
    pub request_us: Counter,
    /// Engine processes that ended and were started again.
    pub engine_restarts: Counter,
    /// Those of them that the watchdog or a signal ended.
    pub engine_restarts_outside: Counter,
    /// Moves from a GPU to the CPU.
    pub fallbacks: Counter,
    /// Windows run again after their engine died.
    pub window_retries: Counter,
    /// Windows that run alone because an engine ended with others in it.
    pub window_suspects: Counter,
    /// Windows found to end or hang the engine in which they were alone.
    pub windows_charged: Counter,
    /// Windows paused for the first window of somebody else.
    pub preemptions: Counter,
    /// Engines ended by somebody else: the out-of-memory killer, a signal.
    pub outside_deaths: Counter,
    /// Looks at GPUs that were given up.
    pub gpu_probes: Counter,
    /// Windows whose shortened encoder context gave a doubtful result.
    pub full_context_retries: Counter,
    /// Windows run again in the language of their neighbours.
    pub language_retries: Counter,
    /// Windows run again without the vocabulary that they merely repeated.
    pub vocabulary_retries: Counter,
    /// Segments that were dropped as repetition or hallucination.
    pub segments_dropped: Counter,
    /// Engines stopped by the watchdog.
    pub watchdog_kills: Counter,
    /// Realtime sessions open now.
    pub realtime_sessions: Gauge,
    /// Passes of the model that realtime sessions asked for.
    pub realtime_passes: Counter,
    /// Times that a realtime session had to do without partial results.
    pub realtime_degraded: Counter,
    /// From asking for a pass of the model to its words.
    pub realtime_delay: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_what_they_ask_for_and_made_up_ones_as_one() {
        for (path, route) in [
            ("/v1/audio/transcriptions", Route::Transcriptions),
            (
                "/openai/deployments/a/audio/transcriptions",
                Route::Transcriptions,
            ),
            ("/openai/deployments/a/b/audio/translations", Route::Translations),
            (
                "/speechtotext/transcriptions:transcribe",
                Route::FastTranscription,
            ),
            ("/openai/v1/realtime", Route::Realtime),
            ("/v1/realtime/client_secrets", Route::Realtime),
            ("/health/ready", Route::Health),
            ("/metrics", Route::Diagnostics),
            ("/v1/models/small", Route::Models),
            ("/openai/deployments/a", Route::Models),
            ("/healthy", Route::Other),
            ("/anything/at/all", Route::Other),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn who_waits_is_counted_until_it_is_served_or_leaves() {
        let waiters = Waiters::default();
        let (first, second) = (waiters.enter(), waiters.enter());
        std::thread::sleep(Duration::from_millis(5));
        assert!(matches!(waiters.now(), (2, Some(oldest)) if oldest >= Duration::from_millis(5)));
        first.served();
        assert_eq!(waiters.now().0, 1);
        drop(second);
        assert_eq!(waiters.now(), (0, None));
    }
}
