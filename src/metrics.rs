//! Counters since the start; `/stats` shows them.

use std::sync::atomic::{AtomicU64, Ordering};

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

impl Metrics {
    /// Counts an answer by its status.
    pub fn answered(&self, status: u16) {
        let class = match status {
            0..300 => 0,
            300..500 => 1,
            _ => 2,
        };
        self.answers[class].add(1);
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
    /// Answers by class of status: below 300, below 500, the rest; diagnostic routes included.
    pub answers: [Counter; 3],
    /// Requests in service now, waiting ones included.
    pub in_flight: Gauge,
    /// Windows waiting for a core now.
    pub windows_waiting: Gauge,
    /// Windows running now.
    pub windows_running: Gauge,
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
}
