//! Which window runs when, where, and on how many cores.
//!
//! One core budget for the whole process: ggml's threads meet at a barrier after every step, so one thread more
//! than there are cores makes all of them many times slower. A lone window may take every core; as soon as
//! windows wait, each runs on one thread, side by side. Round robin goes over requests, not over windows, so
//! that a long file never holds up a short clip for longer than the windows already running. The first window of a
//! request need not wait even for those: it runs as a guest, and a window of a longer recording stops for it at its
//! next decoder step (`engine/courtesy.rs`).

mod class;
mod queue;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use class::PriorityClass;
use queue::Queue;

use crate::audio::SAMPLE_RATE_HZ;
use crate::engine::{DecodeOptions, EngineError, Standing};
use crate::metrics::Metrics;
use crate::serving::model::{Model, Place, SeatGuard};
use crate::transcript::WindowTranscript;

/// Runs of one window at most: its engine may die under it twice without its being at fault.
const MAX_ATTEMPTS: u32 = 3;
/// Before anything was measured, a window gets so many times the minimum (a large model on a slow processor).
const UNMEASURED_FACTOR: u32 = 8;

/// Numbers requests for fairness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// A number nobody has.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// One window to run.
#[derive(Debug)]
pub struct WindowTask {
    /// Whose it is.
    pub request: RequestId,
    /// Waits behind interactive requests when true.
    pub batch: bool,
    /// The first window of its request: somebody waits for the first words.
    pub first: bool,
    /// Which model.
    pub model: Arc<Model>,
    /// Mono samples at 16 kHz.
    pub samples: Vec<f32>,
    /// How to decode them.
    pub options: DecodeOptions,
}

/// How a window runs.
#[derive(Debug, Clone, Copy)]
struct Run {
    threads: usize,
    standing: Standing,
}

#[derive(Debug)]
struct Waiting {
    task: WindowTask,
    attempts: u32,
    reply: oneshot::Sender<Result<WindowTranscript, EngineError>>,
}

/// When a window counts as hung.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    /// Times the measured rate.
    pub factor: f64,
    /// Never sooner than this.
    pub minimum: Duration,
}

/// The handle everybody submits windows to.
#[derive(Debug, Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue<Waiting>>,
    cores: usize,
    watchdog: Watchdog,
    metrics: Arc<Metrics>,
}

impl Queue<Waiting> {
    fn begin(&mut self, run: Run) {
        match run.standing {
            Standing::Usual => self.use_cores(run.threads),
            Standing::GivesWay => {
                self.use_cores(run.threads);
                self.giving_way += 1;
            }
            Standing::Guest => self.guests += 1,
        }
    }

    fn end(&mut self, run: Run) {
        match run.standing {
            Standing::Usual => self.release_cores(run.threads),
            Standing::GivesWay => {
                self.release_cores(run.threads);
                self.giving_way -= 1;
            }
            Standing::Guest => self.guests -= 1,
        }
    }
}

impl Scheduler {
    /// `cores` is the budget that all running windows share.
    pub fn new(cores: usize, watchdog: Watchdog, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            queue: Mutex::new(Queue::new()),
            cores: cores.max(1),
            watchdog,
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The core budget.
    pub fn cores(&self) -> usize {
        self.shared.cores
    }

    /// Windows waiting now.
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Runs a window when its turn comes.
    ///
    /// # Errors
    ///
    /// `Died` or `Hung` after the last attempt, `Window` as the engine says, `Unavailable` when the model's
    /// engines are broken.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes the window out of the queue, or stops its run.
    pub async fn run(&self, task: WindowTask) -> Result<WindowTranscript, EngineError> {
        let (reply, result) = oneshot::channel();
        let mut seats_changed = task.model.changes();
        self.lock().push(
            task.request,
            task.batch,
            Waiting {
                task,
                attempts: 0,
                reply,
            },
        );
        self.pump();
        let mut result = result;
        loop {
            tokio::select! {
                outcome = &mut result => {
                    return outcome.unwrap_or(Err(EngineError::Cancelled));
                }
                // An engine became ready or broken: somebody may run, or must be told that nobody will.
                () = seats_changed.changed() => self.pump(),
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue<Waiting>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts whatever may run now.
    fn pump(&self) {
        let mut queue = self.lock();
        queue.retain(|waiting| !waiting.reply.is_closed());
        loop {
            let free = self.shared.cores.saturating_sub(queue.used_cores());
            if free == 0 {
                self.start_guest(&mut queue);
                break;
            }
            let mut refused = None;
            let next = queue.take_next(|waiting| match waiting.task.model.place() {
                Place::Free(_) => true,
                Place::None { reason } => {
                    refused = Some(reason);
                    true
                }
                Place::Wait => false,
            });
            let Some(waiting) = next else { break };
            if let Some(reason) = refused {
                let _ = waiting.reply.send(Err(EngineError::Unavailable { reason }));
                continue;
            }
            // The lock is held, so nobody took the seat in between; if its engine died just now, wait.
            let Place::Free(seat) = waiting.task.model.place() else {
                queue.push_front(waiting.task.request, waiting.task.batch, waiting);
                break;
            };
            let others = queue.any(|w| matches!(w.task.model.place(), Place::Free(_)));
            let run = Run {
                threads: if seat.is_gpu() || others { 1 } else { free },
                standing: if waiting.task.first || seat.is_gpu() {
                    Standing::Usual
                } else {
                    Standing::GivesWay
                },
            };
            self.launch(&mut queue, waiting, seat, run);
        }
        self.shared
            .metrics
            .windows_waiting
            .add(queue.len() as i64 - self.shared.metrics.windows_waiting.value());
    }

    /// All cores are taken. Where one of the running windows gives way, a request's first window runs all the same.
    fn start_guest(&self, queue: &mut Queue<Waiting>) {
        if self.shared.cores < 2 || queue.guests > 0 || queue.giving_way == 0 {
            return;
        }
        let mut seat = None;
        let next = queue.take_next(|waiting| {
            if waiting.task.first && !waiting.task.batch {
                seat = waiting.task.model.place_guest();
            }
            seat.is_some()
        });
        if let (Some(waiting), Some(seat)) = (next, seat) {
            let run = Run {
                threads: 1,
                standing: Standing::Guest,
            };
            self.launch(queue, waiting, seat, run);
        }
    }

    fn launch(&self, queue: &mut Queue<Waiting>, waiting: Waiting, seat: SeatGuard, run: Run) {
        queue.begin(run);
        let scheduler = self.clone();
        tokio::spawn(async move { scheduler.execute(waiting, seat, run).await });
    }

    async fn execute(&self, mut waiting: Waiting, seat: SeatGuard, run: Run) {
        let metrics = &self.shared.metrics;
        metrics.windows_running.add(1);
        let seconds = waiting.task.samples.len() as f64 / f64::from(SAMPLE_RATE_HZ);
        let limit = self.limit(&seat, seconds);
        let began = Instant::now();
        let work = seat.engine().run(
            &waiting.task.samples,
            &waiting.task.options,
            run.threads as u32,
            run.standing,
        );
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, work) => outcome,
            () = waiting.reply.closed() => Ok(Err(EngineError::Cancelled)),
        };
        let outcome = outcome.unwrap_or_else(|_| {
            metrics.watchdog_kills.add(1);
            let error = EngineError::Hung {
                seconds: limit.as_secs_f64(),
            };
            tracing::warn!(seconds, ?limit, "a window hangs; its engine is killed");
            seat.engine().kill(&error);
            Err(error)
        });
        metrics.windows_running.add(-1);
        if let Ok(transcript) = &outcome {
            seat.measured(began.elapsed().as_secs_f64() * run.threads as f64, seconds);
            metrics.windows.add(1);
            metrics
                .inference_us
                .add((f64::from(transcript.inference_seconds) * 1e6) as u64);
            metrics.speech_us.add((seconds * 1e6) as u64);
            metrics
                .full_context_retries
                .add(u64::from(transcript.full_context_retry));
        }
        drop(seat);

        waiting.attempts += 1;
        let allowed = match &outcome {
            Err(EngineError::Died { .. }) => MAX_ATTEMPTS,
            Err(EngineError::Hung { .. }) => 2,
            _ => 0,
        };
        let again = waiting.attempts < allowed && !waiting.reply.is_closed();
        let mut queue = self.lock();
        queue.end(run);
        if again {
            metrics.window_retries.add(1);
            queue.push_front(waiting.task.request, waiting.task.batch, waiting);
        } else {
            let _ = waiting.reply.send(outcome);
        }
        drop(queue);
        self.pump();
    }

    fn limit(&self, seat: &SeatGuard, seconds: f64) -> Duration {
        let Some(rate) = seat.seconds_per_second() else {
            return self.shared.watchdog.minimum * UNMEASURED_FACTOR;
        };
        let expected = rate * seconds.max(5.0) * self.shared.watchdog.factor;
        self.shared
            .watchdog
            .minimum
            .max(Duration::from_secs_f64(expected.min(86_400.0)))
    }
}

/// Cores this process may use: affinity and cgroup quota, not the machine's count.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
