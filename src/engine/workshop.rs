//! Engines for tests of time and failure, under a clock that stands still while nothing waits.
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::domain::DeviceReport;
use crate::engine::message::ToEngine;
use crate::engine::{
    DeathCause, DecodeOptions, Engine, EngineError, EngineSpec, RunningWindow, StartEngine, WindowEvent,
};
use crate::transcript::{WindowSegment, WindowToken, WindowTranscript};

/// Engines whose windows do what their prompt says: `ok`, `abort`, `hang`, `deaf` (ignores cancellation), and take
/// ten seconds for it.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    pub(crate) gpu_is_broken: AtomicBool,
    pub(crate) start_seconds: AtomicU64,
    pub(crate) dies_at_start: AtomicBool,
    pub(crate) started: AtomicUsize,
    pub(crate) alive: Mutex<Vec<Arc<Scripted>>>,
    pub(crate) threads: Mutex<Vec<u32>>,
    pub(crate) orders: Mutex<Vec<String>>,
}

#[derive(Debug)]
pub(crate) struct Scripted {
    report: DeviceReport,
    workshop: Arc<Workshop>,
    dead: watch::Sender<bool>,
    death: Mutex<Option<EngineError>>,
    windows: Mutex<HashMap<u64, mpsc::UnboundedSender<WindowEvent>>>,
    next: AtomicU64,
    me: std::sync::Weak<Scripted>,
}

pub(crate) const WORK: Duration = Duration::from_secs(10);

impl Scripted {
    pub(crate) fn die(&self, cause: DeathCause) {
        let windows = std::mem::take(&mut *self.windows.lock().unwrap());
        let error = EngineError::Died {
            status: "scripted".to_owned(),
            cause,
            in_flight: windows.len(),
            log: Vec::new(),
        };
        *self.death.lock().unwrap() = Some(error.clone());
        for events in windows.into_values() {
            let _ = events.send(WindowEvent::Ended(Err(error.clone())));
        }
        let _ = self.dead.send(true);
    }

    fn answer(&self, id: u64, outcome: Result<WindowTranscript, EngineError>) {
        if let Some(events) = self.windows.lock().unwrap().remove(&id) {
            let _ = events.send(WindowEvent::Ended(outcome));
        }
    }
}

impl Engine for Scripted {
    fn report(&self) -> &DeviceReport {
        &self.report
    }

    fn submit(&self, _samples: Arc<Vec<f32>>, options: DecodeOptions, threads: u32) -> RunningWindow {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (orders, mut received) = mpsc::unbounded_channel::<super::Order>();
        let (events, seen) = mpsc::unbounded_channel();
        let _ = events.send(WindowEvent::Started);
        self.windows.lock().unwrap().insert(id, events.clone());
        self.workshop.threads.lock().unwrap().push(threads);
        let me = self.me.upgrade().unwrap();
        let act = options.prompt.unwrap_or_default();
        let broken = self.report.gpu && self.workshop.gpu_is_broken.load(Ordering::Relaxed);
        tokio::spawn(async move {
            let mut left = WORK;
            let mut paused = false;
            let mut cancelled = false;
            loop {
                let began = Instant::now();
                tokio::select! {
                    () = tokio::time::sleep(left), if !paused && act != "hang" => break,
                    order = received.recv() => {
                        let Some(order) = order else { return };
                        left = left.saturating_sub(if paused { Duration::ZERO } else { began.elapsed() });
                        let orders = &me.workshop.orders;
                        match order.message {
                            ToEngine::Cancel { .. } if act == "deaf" => cancelled = true,
                            ToEngine::Cancel { .. } => return me.answer(id, Err(EngineError::Cancelled)),
                            ToEngine::Pause { .. } => { paused = true; orders.lock().unwrap().push("pause".to_owned()); }
                            ToEngine::Resume { .. } => { paused = false; orders.lock().unwrap().push("resume".to_owned()); }
                            ToEngine::Threads { threads, .. } => {
                                orders.lock().unwrap().push(format!("threads {threads}"));
                                let _ = events.send(WindowEvent::Threads(threads as usize));
                            }
                            _ => {}
                        }
                    }
                }
            }
            if act == "abort" || broken {
                return me.die(DeathCause::Own);
            }
            let text = WindowTranscript {
                segments: vec![WindowSegment {
                    start: 0.0,
                    end: 1.0,
                    tokens: vec![WindowToken {
                        id: 0,
                        bytes: act.into_bytes(),
                        logprob: 0.0,
                        onset: None,
                    }],
                    no_speech_prob: 0.0,
                }],
                ..WindowTranscript::default()
            };
            me.answer(
                id,
                if cancelled {
                    Err(EngineError::Cancelled)
                } else {
                    Ok(text)
                },
            );
        });
        RunningWindow::new(id, orders, seen)
    }

    fn kill(&self, _status: &str) {
        self.die(DeathCause::Outside);
    }

    fn death(&self) -> Option<EngineError> {
        self.death.lock().unwrap().clone()
    }

    fn watch(&self) -> watch::Receiver<bool> {
        self.dead.subscribe()
    }
}

#[derive(Debug)]
pub(crate) struct Starter(pub(crate) Arc<Workshop>);

impl StartEngine for Starter {
    fn start<'a>(
        &'a self,
        spec: &'a EngineSpec,
        _limit: Duration,
    ) -> super::Boxed<'a, Result<Arc<dyn Engine>, EngineError>> {
        Box::pin(async move {
            self.0.started.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(self.0.start_seconds.load(Ordering::Relaxed))).await;
            if self.0.dies_at_start.load(Ordering::Relaxed) {
                return Err(EngineError::outside("killed"));
            }
            let engine = Arc::new_cyclic(|me| Scripted {
                report: DeviceReport {
                    gpu: spec.gpu_device.is_some(),
                    slots: spec.slots,
                    ..DeviceReport::default()
                },
                workshop: self.0.clone(),
                dead: watch::channel(false).0,
                death: Mutex::default(),
                windows: Mutex::default(),
                next: AtomicU64::new(0),
                me: me.clone(),
            });
            self.0.alive.lock().unwrap().push(engine.clone());
            Ok(engine as Arc<dyn Engine>)
        })
    }
}
