//! Time and failure with a clock that stands still while nothing waits: a busy loop would never let it go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::engine::DeathCause;
use crate::engine::workshop::{Scripted, Workshop};
use crate::serving::{EnginePlan, Model, Placement};

struct Bench {
    workshop: Arc<Workshop>,
    scheduler: Scheduler,
    model: Arc<Model>,
    lease: Lease,
    metrics: Arc<Metrics>,
}

impl Bench {
    async fn new(cores: usize, slots: usize, placement: Placement) -> Self {
        let workshop = Arc::new(Workshop::default());
        let metrics = Arc::new(Metrics::default());
        let plan = EnginePlan::scripted(&workshop, slots);
        let (model, lease) = Model::start("scripted".to_owned(), &plan, &[placement], &metrics);
        lease.ready().await.unwrap();
        let watchdog = Watchdog {
            factor: 10.0,
            minimum: Duration::from_secs(30),
        };
        Self {
            scheduler: Scheduler::new(cores, watchdog, metrics.clone()),
            workshop,
            model,
            lease,
            metrics,
        }
    }

    fn submit(
        &self,
        act: &str,
        first: bool,
    ) -> tokio::task::JoinHandle<Result<WindowTranscript, EngineError>> {
        self.submit_until(act, first, Duration::from_secs(3600))
    }

    fn submit_until(
        &self,
        act: &str,
        first: bool,
        limit: Duration,
    ) -> tokio::task::JoinHandle<Result<WindowTranscript, EngineError>> {
        self.submit_to(self.lease.clone(), act, first, limit)
    }

    fn submit_to(
        &self,
        lease: Lease,
        act: &str,
        first: bool,
        limit: Duration,
    ) -> tokio::task::JoinHandle<Result<WindowTranscript, EngineError>> {
        let task = WindowTask {
            waiter: None,
            request: RequestId::next(),
            class: PriorityClass::Interactive,
            first,
            lease,
            samples: vec![0.0; 16_000],
            options: DecodeOptions {
                prompt: Some(act.to_owned()),
                ..DecodeOptions::default()
            },
            deadline: Deadline::new(limit),
        };
        let scheduler = self.scheduler.clone();
        tokio::spawn(async move { scheduler.run(task).await })
    }

    fn engine(&self) -> Arc<Scripted> {
        self.workshop.alive.lock().unwrap().last().unwrap().clone()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_window_that_ends_its_engine_is_the_only_one_that_fails() {
    let bench = Bench::new(8, 8, Placement::Cpu).await;
    let clean: Vec<_> = (0..7).map(|_| bench.submit("ok", true)).collect();
    let poison = bench.submit("abort", true);
    for window in clean {
        window.await.unwrap().unwrap();
    }
    let error = poison.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::Died { .. }), "{error}");
    // Seven neighbours once, the poison three times less its last.
    assert!(
        bench.metrics.window_retries.value() <= 7 + 2,
        "{}",
        bench.metrics.window_retries.value()
    );
    assert_eq!(bench.metrics.windows_charged.value(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_hangs_is_charged_and_its_neighbour_runs_again_free() {
    let bench = Bench::new(8, 8, Placement::Cpu).await;
    let hung = bench.submit("hang", true);
    pass(235).await;
    let neighbour = bench.submit("ok", true);
    neighbour.await.unwrap().unwrap();
    let error = hung.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::Hung { .. }), "{error}");
    assert_eq!(bench.metrics.watchdog_kills.value(), 2);
    assert_eq!(bench.metrics.windows_charged.value(), 2);
}

#[tokio::test(start_paused = true)]
async fn deaths_from_outside_blame_nobody_however_many() {
    let bench = Bench::new(2, 2, Placement::Cpu).await;
    let windows = [bench.submit("ok", true), bench.submit("ok", true)];
    for _ in 0..20 {
        pass(5).await;
        bench.engine().die(DeathCause::Outside);
    }
    for window in windows {
        window.await.unwrap().unwrap();
    }
    assert_eq!(bench.metrics.windows_charged.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_free_when_the_engine_says_so_and_not_before() {
    let bench = Bench::new(4, 1, Placement::Cpu).await;
    let began = Instant::now();
    let left = bench.submit("deaf", true);
    pass(1).await;
    left.abort();
    let next = bench.submit("ok", false);
    next.await.unwrap().unwrap();
    assert_eq!(
        began.elapsed().as_secs(),
        20,
        "it began before the other had ended"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_window_that_listens_makes_room_at_once() {
    let bench = Bench::new(4, 1, Placement::Cpu).await;
    let began = Instant::now();
    let left = bench.submit("ok", true);
    pass(1).await;
    left.abort();
    bench.submit("ok", false).await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 11);
    assert_eq!(bench.model.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_waited_for_without_work() {
    let bench = Bench::new(2, 2, Placement::Cpu).await;
    bench.workshop.start_seconds.store(1000, Ordering::Relaxed);
    bench.engine().die(DeathCause::Outside);
    // A loop that never sleeps would keep the clock from moving, and this test from ending.
    let windows: Vec<_> = (0..4).map(|_| bench.submit("ok", true)).collect();
    pass(1).await;
    assert_eq!(bench.model.state(), ModelState::Restarting);
    for window in windows {
        window.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_comes_back_is_given_up_at_the_deadline() {
    let bench = Bench::new(2, 2, Placement::Cpu).await;
    bench.workshop.dies_at_start.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let window = bench.submit_until("ok", true, Duration::from_secs(600));
    pass(1).await;
    bench.engine().die(DeathCause::Outside);
    let error = window.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::Deadline { .. }), "{error}");
    assert_eq!(began.elapsed().as_secs(), 600);
    // The pauses grow: a start every few milliseconds would be thousands.
    let started = bench.workshop.started.load(Ordering::Relaxed);
    assert!((5..100).contains(&started), "{started}");
    assert_eq!(bench.scheduler.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_was_given_up_is_tried_again_and_serves_again() {
    let bench = Bench::new(2, 2, Placement::Gpu(0)).await;
    bench.workshop.gpu_is_broken.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        bench.submit("ok", true).await.unwrap().unwrap();
    }
    assert_eq!(bench.model.fallbacks().len(), 1, "{:?}", bench.model.fallbacks());
    assert!(!bench.model.reports()[0].gpu);
    pass(90).await;
    assert!(!bench.model.reports()[0].gpu, "the probe ended with its engine");
    bench.workshop.gpu_is_broken.store(false, Ordering::Relaxed);
    pass(200).await;
    assert!(
        !bench.model.reports()[0].gpu,
        "the next try is five minutes after the first"
    );
    pass(200).await;
    assert!(bench.model.reports()[0].gpu);
    assert_eq!(bench.model.fallbacks().last().unwrap().to, "gpu 0");
    bench.submit("ok", true).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lone_window_has_all_cores_and_shares_them_with_the_next() {
    let bench = Bench::new(4, 4, Placement::Cpu).await;
    let one = bench.submit("ok", true);
    pass(1).await;
    let other = bench.submit("ok", true);
    pass(1).await;
    assert_eq!(*bench.workshop.threads.lock().unwrap(), [4, 2]);
    assert_eq!(*bench.workshop.orders.lock().unwrap(), ["threads 2"]);
    one.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_window_of_a_longer_recording_pauses_for_the_first_of_another_request() {
    let bench = Bench::new(2, 2, Placement::Cpu).await;
    let long = [bench.submit("ok", false), bench.submit("ok", false)];
    pass(1).await;
    let clip = bench.submit("ok", true);
    pass(1).await;
    let running = bench.metrics.windows_running.value();
    assert_eq!(running, 3);
    clip.await.unwrap().unwrap();
    for window in long {
        window.await.unwrap().unwrap();
    }
    let orders = bench.workshop.orders.lock().unwrap().clone();
    assert!(
        orders.ends_with(&["pause".to_owned(), "resume".to_owned()]),
        "{orders:?}"
    );
    assert_eq!(bench.metrics.watchdog_kills.value(), 0);
}

/// Two engines know nothing of each other: who pauses is for the scheduler to say, and it says so to the engine that has
/// a window to pause.
#[tokio::test(start_paused = true)]
async fn a_window_of_one_model_pauses_for_the_first_window_of_another() {
    let bench = Bench::new(2, 2, Placement::Cpu).await;
    let other = Arc::new(Workshop::default());
    let plan = EnginePlan::scripted(&other, 2);
    let (_, lease) = Model::start("other".to_owned(), &plan, &[Placement::Cpu], &bench.metrics);
    lease.ready().await.unwrap();
    let long = [bench.submit("ok", false), bench.submit("ok", false)];
    pass(1).await;
    bench.workshop.orders.lock().unwrap().clear();
    let clip = bench.submit_to(lease, "ok", true, Duration::from_secs(3600));
    pass(1).await;
    assert_eq!(bench.metrics.windows_running.value(), 3);
    assert_eq!(*bench.workshop.orders.lock().unwrap(), ["pause"]);
    assert_eq!(*other.threads.lock().unwrap(), [1]);
    clip.await.unwrap().unwrap();
    pass(1).await;
    let orders = bench.workshop.orders.lock().unwrap().clone();
    assert_eq!(
        orders.iter().filter(|order| *order == "resume").count(),
        1,
        "{orders:?}"
    );
    for window in long {
        window.await.unwrap().unwrap();
    }
    assert!(!other.orders.lock().unwrap().contains(&"pause".to_owned()));
}
