//! Requests through turns, windows and engines, with a clock that stands still while nothing waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decoding::DecoderMessage;
use super::request::{Request, WINDOWS_AHEAD};
use super::service::Service;
use super::{JobError, JobEvent, TranscribeOptions};
use crate::admission::{Admission, Admitted, Limits};
use crate::audio::SAMPLE_RATE_HZ;
use crate::config::Config;
use crate::engine::workshop::{WORK, Workshop};
use crate::keys::{Client, Keys};
use crate::metrics::Metrics;
use crate::schedule::{PriorityClass, Scheduler, Watchdog};
use crate::serving::{EnginePlan, Lease, Model, Placement};
use crate::speech::Window;
use crate::transcript::Transcript;

/// Events a client may leave unread.
const EVENTS: usize = 4;

/// One engine with one slot, and turns.
struct Bench {
    config: Arc<Config>,
    scheduler: Scheduler,
    metrics: Arc<Metrics>,
    admission: Admission,
    workshop: Arc<Workshop>,
    lease: Lease,
}

/// A request under way.
struct Running {
    windows: mpsc::Sender<DecoderMessage>,
    events: mpsc::Receiver<Result<JobEvent, JobError>>,
    cancel: CancellationToken,
    task: JoinHandle<(Result<Transcript, JobError>, Instant)>,
}

impl Bench {
    async fn new(turns: usize) -> Self {
        let workshop = Arc::new(Workshop::default());
        let metrics = Arc::new(Metrics::default());
        let plan = EnginePlan::scripted(&workshop, 1);
        let (_, lease) = Model::start("scripted".to_owned(), &plan, &[Placement::Cpu], &metrics);
        lease.ready().await.unwrap();
        let watchdog = Watchdog {
            factor: 100.0,
            minimum: Duration::from_secs(300),
        };
        let limits = Limits {
            in_service: turns,
            ..Limits::default()
        };
        Self {
            config: Arc::default(),
            scheduler: Scheduler::new(1, watchdog, metrics.clone()),
            admission: Admission::new(limits, Keys::default(), CancellationToken::new(), metrics.clone()),
            metrics,
            workshop,
            lease,
        }
    }

    fn admit(&self, class: PriorityClass) -> Arc<Admitted> {
        let arrival = self
            .admission
            .enter("id".into(), Client::Anonymous, None)
            .unwrap();
        arrival.admit(class, self.lease.clone())
    }

    /// A request whose decoder is the test.
    fn start(&self, class: PriorityClass) -> Running {
        let request = self.admit(class);
        let cancel = request.cancel.clone();
        let (windows, messages) = mpsc::channel(WINDOWS_AHEAD);
        let (events, received) = mpsc::channel(EVENTS);
        let (config, scheduler, metrics) =
            (self.config.clone(), self.scheduler.clone(), self.metrics.clone());
        let task = tokio::spawn(async move {
            let waiter = metrics.waiters.enter();
            let turn = request.turn().await;
            let options = TranscribeOptions {
                language: Some("en".to_owned()),
                prompt: Some("ok".to_owned()),
                ..TranscribeOptions::default()
            };
            let mut walk = Request::new(&config, &scheduler, &metrics, request.clone(), waiter, options);
            let service = Service::new(&request, turn);
            let outcome = tokio::select! {
                outcome = walk.consume(service, messages, &events) => outcome,
                () = request.cancel.cancelled() => Err(JobError::Cancelled),
            };
            (outcome, Instant::now())
        });
        Running {
            windows,
            events: received,
            cancel,
            task,
        }
    }
}

/// The window with this number of a recording that is one long sentence.
fn window(number: usize) -> DecoderMessage {
    let length = 20 * SAMPLE_RATE_HZ as usize;
    DecoderMessage::Window {
        channel: 0,
        channels: 1,
        window: Window {
            start_sample: (number * length) as u64,
            samples: vec![0.0; length],
            speech: std::iter::once(0..length).collect(),
        },
    }
}

/// A decoder that has `count` windows, at once.
fn decode(running: &Running, count: usize) {
    let out = running.windows.clone();
    tokio::spawn(async move {
        for number in 0..count {
            if out.send(window(number)).await.is_err() {
                return;
            }
        }
        let _ = out.send(DecoderMessage::End { samples: 1 }).await;
    });
}

/// Lets the recording end when its decoder has, and reads what comes.
async fn finish(running: Running) -> (Transcript, Instant) {
    let Running {
        windows,
        mut events,
        task,
        ..
    } = running;
    drop(windows);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let (outcome, at) = task.await.unwrap();
    (outcome.unwrap(), at)
}

#[tokio::test(start_paused = true)]
async fn a_clip_waits_for_one_window_of_a_long_recording() {
    let bench = Bench::new(1).await;
    let began = Instant::now();
    let long = bench.start(PriorityClass::Interactive);
    decode(&long, 30);
    tokio::time::sleep(WORK / 2).await;
    let clip = bench.start(PriorityClass::Interactive);
    decode(&clip, 1);
    let (_, clip_at) = finish(clip).await;
    let waited = clip_at - began;
    assert!(waited <= WORK * 4, "{waited:?} of {:?}", WORK * 31);
    let (transcript, _) = finish(long).await;
    assert_eq!(transcript.segments.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn batch_is_served_when_nobody_else_wants_to_be() {
    let bench = Bench::new(1).await;
    let began = Instant::now();
    let batch: Vec<Running> = (0..16).map(|_| bench.start(PriorityClass::Batch)).collect();
    for running in &batch {
        decode(running, 10);
    }
    tokio::time::sleep(WORK * 2).await;
    let clip = bench.start(PriorityClass::Interactive);
    decode(&clip, 2);
    let (_, clip_at) = finish(clip).await;
    let waited = clip_at - began;
    assert!(waited <= WORK * 7, "{waited:?}");
    for running in batch {
        let (transcript, _) = finish(running).await;
        assert_eq!(transcript.segments.len(), 10, "nothing is lost to turns");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_turn_keeps_few_windows() {
    let bench = Bench::new(1).await;
    let batch = bench.start(PriorityClass::Batch);
    decode(&batch, 100);
    tokio::time::sleep(WORK / 2).await;
    let clip = bench.start(PriorityClass::Interactive);
    // It has the turn and no window: a decoder that finds only silence.
    tokio::time::sleep(WORK * 3).await;
    assert_eq!(
        batch.windows.max_capacity() - batch.windows.capacity(),
        WINDOWS_AHEAD
    );
    assert_eq!(bench.scheduler.waiting(), 0);
    decode(&clip, 1);
    finish(clip).await;
    finish(batch).await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_reason_to_keep_others_of_the_class_waiting() {
    let bench = Bench::new(1).await;
    let began = Instant::now();
    let silent = bench.start(PriorityClass::Interactive);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let clip = bench.start(PriorityClass::Interactive);
    decode(&clip, 1);
    let (_, at) = finish(clip).await;
    assert!(at - began < WORK + Duration::from_secs(3), "{:?}", at - began);
    finish(silent).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_keeps_no_turn_and_loses_nothing() {
    let bench = Bench::new(1).await;
    let deaf = bench.start(PriorityClass::Interactive);
    decode(&deaf, 20);
    // Its events are full; its windows would go on for a long time.
    tokio::time::sleep(WORK * 12).await;
    assert_eq!(
        bench.admission.occupancy().in_service,
        0,
        "it pauses without a turn"
    );
    let began = Instant::now();
    let clip = bench.start(PriorityClass::Batch);
    decode(&clip, 1);
    let (_, at) = finish(clip).await;
    assert!(at - began <= WORK * 2, "{:?}", at - began);
    let (transcript, _) = finish(deaf).await;
    assert_eq!(transcript.segments.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_its_windows_along() {
    let bench = Bench::new(2).await;
    let gone = bench.start(PriorityClass::Interactive);
    decode(&gone, 20);
    tokio::time::sleep(WORK / 2).await;
    gone.cancel.cancel();
    let (outcome, at) = gone.task.await.unwrap();
    assert!(matches!(outcome, Err(JobError::Cancelled)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.scheduler.waiting(), 0);
    let clip = bench.start(PriorityClass::Interactive);
    decode(&clip, 1);
    let (_, clip_at) = finish(clip).await;
    assert!(clip_at - at <= WORK + Duration::from_secs(2));
    assert_eq!(bench.admission.occupancy().places, 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_ends_in_the_middle_costs_no_words() {
    let bench = Bench::new(1).await;
    let running = bench.start(PriorityClass::Interactive);
    decode(&running, 5);
    tokio::time::sleep(WORK + WORK / 2).await;
    let engine = bench.workshop.alive.lock().unwrap().last().unwrap().clone();
    engine.die(crate::engine::DeathCause::Outside);
    let (transcript, _) = finish(running).await;
    assert_eq!(transcript.segments.len(), 5);
    assert_eq!(bench.workshop.started.load(Ordering::Relaxed), 2);
    let mut starts: Vec<f32> = transcript.segments.iter().map(|segment| segment.start).collect();
    starts.dedup();
    assert_eq!(starts, [0.0, 20.0, 40.0, 60.0, 80.0]);
}
