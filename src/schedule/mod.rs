//! Which window runs when, where, and on how many cores.
//!
//! Round robin goes over requests, not over windows, so that a long file never holds up a short clip for longer than the
//! windows already running, and class by class ([`PriorityClass`]). [`dispatch`] decides, [`blame`] says what becomes of a
//! window whose engine ended; this file carries both out.

mod blame;
mod class;
mod dispatch;
mod queue;
mod task;
#[cfg(test)]
mod tests;

/// What [`dispatch`] is made of: a test swaps it for a model checker's.
mod sync {
    pub(super) use crate::serving::{Need, Offer};
    pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
    pub(super) use tokio::time::Instant;
}

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub use class::PriorityClass;
pub use queue::RequestId;
pub use task::{Deadline, WindowTask};

use blame::{Finding, History, Verdict};
use dispatch::{Action, Dispatcher, Job, Key, Remote, Shape};

use crate::audio::SAMPLE_RATE_HZ;
use crate::engine::{DecodeOptions, EngineError, WindowEvent, WindowRemote};
use crate::metrics::{Metrics, Waiter};
use crate::serving::{EngineSlot, Lease, ModelState, Need, Offer};
use crate::transcript::WindowTranscript;

/// Before anything was measured, a window gets so many times the minimum (a large model on a slow processor).
const UNMEASURED_FACTOR: u32 = 8;

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
    dispatcher: Dispatcher<Waiting>,
    watchdog: Watchdog,
    progress: Mutex<Progress>,
    metrics: Arc<Metrics>,
}

/// A window on its way, and what has happened to it.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    class: PriorityClass,
    first: bool,
    lease: Lease,
    samples: Arc<Vec<f32>>,
    options: DecodeOptions,
    deadline: Deadline,
    history: History,
    /// With a request's first window, until it begins.
    waiter: Option<Waiter>,
    queued: Instant,
    /// As the one who waits sees it.
    troubled: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<WindowTranscript, EngineError>>,
}

impl Waiting {
    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE_HZ)
    }
}

impl Job for Waiting {
    type Slot = EngineSlot;
    type Remote = WindowRemote;

    fn request(&self) -> RequestId {
        self.request
    }

    fn class(&self) -> PriorityClass {
        self.class
    }

    fn first(&self) -> bool {
        self.first
    }

    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn model(&self) -> usize {
        Arc::as_ptr(self.lease.model()) as usize
    }

    fn runs_alone(&self) -> bool {
        self.history.runs_alone()
    }

    fn need(&self, others_wait: bool) -> Need {
        self.history.need(others_wait)
    }

    fn offer(&self, need: Need) -> Offer<EngineSlot> {
        self.lease.model().offer(need)
    }

    fn free_slots(&self) -> usize {
        self.lease.model().free_slots()
    }

    fn shape(slot: &EngineSlot) -> Shape {
        Shape {
            gpu: slot.is_gpu(),
            windows_per_core: slot.windows_per_core(),
        }
    }
}

impl Remote for WindowRemote {
    fn pause(&self) {
        self.pause();
    }

    fn resume(&self) {
        self.resume();
    }

    fn set_threads(&self, threads: usize) {
        self.set_threads(threads);
    }
}

/// Whether windows finish.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// When a window finished last, or the first began to wait.
    since: Instant,
    /// What the watchdog allowed the last window that was started.
    allowed: Duration,
}

/// Takes a window out of the queue when nobody waits for it any more.
struct Leaving<'s>(&'s Scheduler);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // Without a runtime nothing runs any more, and the queue goes with the scheduler.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.0.pump();
        }
    }
}

impl Scheduler {
    /// `cores` is the budget that all running windows share.
    pub fn new(cores: usize, watchdog: Watchdog, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            dispatcher: Dispatcher::new(cores),
            watchdog,
            progress: Mutex::new(Progress {
                since: Instant::now(),
                allowed: Duration::MAX,
            }),
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The core budget.
    pub fn cores(&self) -> usize {
        self.shared.dispatcher.cores()
    }

    /// Windows waiting now.
    pub fn waiting(&self) -> usize {
        self.shared.dispatcher.waiting()
    }

    /// How long windows have waited while none has finished, when that is longer than the watchdog allows one.
    pub fn stalled_for(&self) -> Option<Duration> {
        if self.waiting() == 0 {
            return None;
        }
        let progress = *self.progress();
        let idle = progress.since.elapsed();
        (idle > progress.allowed).then_some(idle)
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.shared
            .progress
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs a window when its turn comes. An engine that ends or restarts is waited for.
    ///
    /// # Errors
    ///
    /// `Died` or `Hung` when the window is to blame for it, `Window` as the engine says, `Unavailable` when the model's
    /// engines cannot be started, `Deadline` when something failed and nothing came back in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes the window out of the queue, or stops its run.
    pub async fn run(&self, task: WindowTask) -> Result<WindowTranscript, EngineError> {
        let model = task.lease.model().clone();
        let mut changes = model.changes();
        let deadline = task.deadline.clone();
        let troubled = Arc::new(AtomicBool::new(false));
        // Declared before the receiver: dropped after it, when the queue can see that nobody waits.
        let leaving = Leaving(self);
        let (reply, mut result) = oneshot::channel();
        if self.waiting() == 0 {
            self.progress().since = Instant::now();
        }
        self.shared.dispatcher.push(Waiting {
            request: task.request,
            class: task.class,
            first: task.first,
            lease: task.lease,
            samples: Arc::new(task.samples),
            options: task.options,
            deadline: task.deadline,
            history: History::default(),
            waiter: task.waiter,
            queued: Instant::now(),
            troubled: troubled.clone(),
            reply,
        });
        self.pump();
        let mut until = deadline.at();
        loop {
            tokio::select! {
                outcome = &mut result => {
                    std::mem::forget(leaving);
                    return outcome.unwrap_or(Err(EngineError::Cancelled));
                }
                // An engine became ready or broken: somebody may run, or must be told that nobody will.
                Ok(()) = changes.changed() => self.pump(),
                () = tokio::time::sleep_until(until) => {
                    let over = deadline.at() <= Instant::now();
                    let failing = troubled.load(Ordering::Relaxed) || model.state() != ModelState::Ready;
                    if over && failing {
                        return Err(EngineError::Deadline { seconds: deadline.limit().as_secs_f64() });
                    }
                    // Behind others in the queue, or there was progress.
                    until = if over { Instant::now() + deadline.limit() } else { deadline.at() };
                }
            }
        }
    }

    /// Starts whatever may run now.
    fn pump(&self) {
        let dispatcher = &self.shared.dispatcher;
        for action in dispatcher.pump() {
            match action {
                Action::Start {
                    job,
                    slot,
                    threads,
                    key,
                } => {
                    let scheduler = self.clone();
                    tokio::spawn(async move { scheduler.execute(job, slot, threads, key).await });
                }
                Action::Refuse { job, reason } => {
                    let _ = job.reply.send(Err(EngineError::Unavailable { reason }));
                }
            }
        }
        let metrics = &self.shared.metrics;
        let preempted = dispatcher.preemptions();
        metrics
            .preemptions
            .add(preempted.saturating_sub(metrics.preemptions.value()));
    }

    async fn execute(&self, mut waiting: Waiting, slot: EngineSlot, threads: usize, key: Key) {
        let metrics = &self.shared.metrics;
        metrics.windows_running.add(1);
        metrics.window_wait.observe(waiting.queued.elapsed());
        if let Some(waiter) = waiting.waiter.take() {
            waiter.served();
        }
        let outcome = self.attend(&mut waiting, &slot, threads, key).await;
        metrics.windows_running.add(-1);
        let on_gpu = slot.is_gpu();
        drop(slot);
        self.shared.dispatcher.finish(key);
        match outcome {
            Ok(transcript) => {
                metrics.windows.add(1);
                metrics
                    .inference_us
                    .add((f64::from(transcript.inference_seconds) * 1e6) as u64);
                metrics.speech_us.add((waiting.seconds() * 1e6) as u64);
                metrics
                    .full_context_retries
                    .add(u64::from(transcript.full_context_retry));
                waiting.deadline.progressed();
                let _ = waiting.reply.send(Ok(transcript));
            }
            Err(error) => self.failed(waiting, error, on_gpu),
        }
        self.pump();
    }

    /// Runs the window again, or answers with the error.
    fn failed(&self, mut waiting: Waiting, error: EngineError, on_gpu: bool) {
        let metrics = &self.shared.metrics;
        let finding = Finding::of(&error);
        match finding {
            Finding::Charged => metrics.windows_charged.add(1),
            Finding::Suspected => metrics.window_suspects.add(1),
            Finding::Interrupted | Finding::Final => {}
        }
        let verdict = waiting.history.judge(finding, on_gpu);
        if verdict == Verdict::GiveUp || waiting.reply.is_closed() {
            if finding == Finding::Charged {
                tracing::error!(%error, "a window ended its engine again; its request is given up");
            }
            let _ = waiting.reply.send(Err(error));
            return;
        }
        tracing::debug!(%error, ?finding, "a window runs again");
        metrics.window_retries.add(1);
        waiting.queued = Instant::now();
        waiting
            .troubled
            .store(waiting.history.is_troubled(), Ordering::Relaxed);
        self.shared.dispatcher.push_again(waiting);
    }

    /// From the engine's hand to its answer. The slot and the cores are the window's until the engine says that it has
    /// ended, also when nobody wants it any more.
    async fn attend(
        &self,
        waiting: &mut Waiting,
        slot: &EngineSlot,
        threads: usize,
        key: Key,
    ) -> Result<WindowTranscript, EngineError> {
        let dispatcher = &self.shared.dispatcher;
        let limit = self.limit(slot, waiting.seconds());
        self.progress().allowed = limit;
        let options = DecodeOptions {
            urgent: waiting.first && waiting.class != PriorityClass::Batch,
            ..waiting.options.clone()
        };
        let mut window = slot.engine().submit(
            waiting.samples.clone(),
            options,
            u32::try_from(threads).unwrap_or(u32::MAX),
        );
        let remote = window.remote();
        dispatcher.started(key, remote.clone());
        // It may have all cores, and can be asked for some only now.
        self.pump();
        let mut began = Instant::now();
        let mut started = false;
        let mut cancelled = false;
        // A window that waits for a slot in the engine is watched too, by the same measure.
        let mut until = began + limit;
        loop {
            tokio::select! {
                event = window.next() => match event {
                    WindowEvent::Started => {
                        started = true;
                        began = Instant::now();
                        until = began + limit;
                    }
                    WindowEvent::Threads(now) => {
                        dispatcher.uses_threads(key, now);
                        self.pump();
                    }
                    WindowEvent::Ended(Ok(transcript)) => {
                        let (paused, _) = dispatcher.paused(key);
                        let busy = began.elapsed().saturating_sub(paused);
                        self.progress().since = Instant::now();
                        self.shared.metrics.window_infer.observe(busy);
                        slot.completed(busy.as_secs_f64() * threads as f64, waiting.seconds());
                        return Ok(transcript);
                    }
                    WindowEvent::Ended(Err(error)) => return Err(error),
                },
                () = waiting.reply.closed(), if !cancelled => {
                    cancelled = true;
                    remote.cancel();
                }
                () = tokio::time::sleep_until(until) => {
                    let (paused, now) = dispatcher.paused(key);
                    if now || began + limit + paused > Instant::now() {
                        until = (began + limit + paused).max(Instant::now() + Duration::from_millis(100));
                        continue;
                    }
                    self.shared.metrics.watchdog_kills.add(1);
                    tracing::warn!(?limit, started, "a window hangs; its engine is ended");
                    slot.engine().kill("another window in it hung");
                    return Err(EngineError::Hung { seconds: limit.as_secs_f64() });
                }
            }
        }
    }

    fn limit(&self, slot: &EngineSlot, seconds: f64) -> Duration {
        let Some(rate) = slot.rate().value() else {
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
