//! One model's engines: a seat for each device, and which of them takes the next window.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::supervisor::{EnginePlan, Fallback, Placement, Seat, SeatState};
use crate::engine::DeviceReport;
use crate::engine::process::EngineProcess;
use crate::metrics::Metrics;

/// How fast old measurements fade.
const RATE_WEIGHT: f64 = 0.2;

/// A model that is served.
#[derive(Debug)]
pub struct Model {
    /// Name it is shown under, for example `base-q8_0`.
    pub name: String,
    /// Its file.
    pub file: std::path::PathBuf,
    seats: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    seat: Seat,
    running: Arc<AtomicUsize>,
    rate: Arc<Mutex<Option<f64>>>,
}

/// Where a window could run now.
pub(crate) enum Place {
    /// Here.
    Free(SeatGuard),
    /// Later.
    Wait,
    /// Not at all.
    None {
        /// One sentence.
        reason: String,
    },
}

/// A slot in use; frees itself.
#[derive(Debug)]
pub(crate) struct SeatGuard {
    engine: Arc<EngineProcess>,
    running: Arc<AtomicUsize>,
    rate: Arc<Mutex<Option<f64>>>,
}

impl SeatGuard {
    pub(crate) fn engine(&self) -> &EngineProcess {
        &self.engine
    }

    pub(crate) fn is_gpu(&self) -> bool {
        self.engine.report().gpu
    }

    /// Core seconds spent for so many seconds of audio.
    pub(crate) fn measured(&self, core_seconds: f64, audio_seconds: f64) {
        let fresh = core_seconds / audio_seconds.max(1.0);
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        *rate = Some(rate.map_or(fresh, |old| old + RATE_WEIGHT * (fresh - old)));
    }

    pub(crate) fn seconds_per_second(&self) -> Option<f64> {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Changes of any seat of a model.
pub(crate) struct Changes(Vec<watch::Receiver<SeatState>>);

impl Changes {
    pub(crate) async fn changed(&mut self) {
        let waits: Vec<_> = self.0.iter_mut().map(|r| Box::pin(r.changed())).collect();
        if waits.is_empty() {
            std::future::pending::<()>().await;
        }
        let (result, _, _) = futures_util::future::select_all(waits).await;
        if result.is_err() {
            // Supervision has ended; nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Model {
    /// Starts an engine for each placement.
    pub fn start(
        name: String,
        plan: &EnginePlan,
        placements: &[Placement],
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let seats = placements
            .iter()
            .map(|placement| Entry {
                seat: Seat::start(plan.clone(), *placement, metrics.clone()),
                running: Arc::default(),
                rate: Arc::default(),
            })
            .collect();
        let file = plan.spec.model.clone();
        Arc::new(Self { name, file, seats })
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes(self.seats.iter().map(|e| e.seat.watch()).collect())
    }

    /// The least loaded engine with a free slot; one on the CPU, after trouble with its GPU, only when all GPUs are
    /// full. The caller serialises calls.
    pub(crate) fn place(&self) -> Place {
        self.place_beside(0)
    }

    /// The engine on the processor whose slots are all taken, for one window more.
    pub(crate) fn place_guest(&self) -> Option<SeatGuard> {
        match self.place_beside(1) {
            Place::Free(seat) if !seat.is_gpu() => Some(seat),
            _ => None,
        }
    }

    fn place_beside(&self, more: usize) -> Place {
        let mut best: Option<(&Entry, Arc<EngineProcess>, (bool, usize))> = None;
        let mut pending = false;
        let mut reason = String::from("the model is not loaded");
        for entry in &self.seats {
            match entry.seat.state() {
                SeatState::Ready(engine) if !engine.is_gone() => {
                    pending = true;
                    let slots = engine.report().slots.max(1) + more;
                    let running = entry.running.load(Ordering::Relaxed);
                    let rank = (!engine.report().gpu, running);
                    if running < slots && best.as_ref().is_none_or(|b| rank < b.2) {
                        best = Some((entry, engine, rank));
                    }
                }
                SeatState::Ready(_) | SeatState::Starting => pending = true,
                SeatState::Broken { reason: why } => reason = why,
                SeatState::Stopped => "the model was unloaded".clone_into(&mut reason),
            }
        }
        match best {
            Some((entry, engine, _)) => {
                entry.running.fetch_add(1, Ordering::Relaxed);
                Place::Free(SeatGuard {
                    engine,
                    running: entry.running.clone(),
                    rate: entry.rate.clone(),
                })
            }
            None if pending => Place::Wait,
            None => Place::None { reason },
        }
    }

    /// Reports of the engines that are ready, GPUs first.
    pub fn reports(&self) -> Vec<DeviceReport> {
        let mut reports: Vec<_> = self.seats.iter().filter_map(|e| e.seat.report()).collect();
        reports.sort_by_key(|r| !r.gpu);
        reports
    }

    /// Moves between devices so far.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.seats.iter().flat_map(|e| e.seat.fallbacks()).collect()
    }

    /// `Ok` when a window can be served now, else what is going on.
    pub fn ready(&self) -> Result<(), String> {
        let mut reason = None;
        for entry in &self.seats {
            match entry.seat.state() {
                SeatState::Ready(engine) if !engine.is_gone() => return Ok(()),
                SeatState::Ready(_) | SeatState::Starting => {
                    reason.get_or_insert_with(|| "the model is loading".to_owned());
                }
                SeatState::Broken { reason: why } => reason = Some(why),
                SeatState::Stopped => {}
            }
        }
        Err(reason.unwrap_or_else(|| "the model is not loaded".to_owned()))
    }

    /// Waits until an engine is ready or all are broken.
    pub async fn settled(&self) -> Result<(), String> {
        loop {
            let mut changes = self.changes();
            match self.ready() {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    let starting = self
                        .seats
                        .iter()
                        .any(|e| matches!(e.seat.state(), SeatState::Starting | SeatState::Ready(_)));
                    if !starting {
                        return Err(reason);
                    }
                }
            }
            changes.changed().await;
        }
    }

    /// Windows running on it now.
    pub fn running(&self) -> usize {
        self.seats.iter().map(|e| e.running.load(Ordering::Relaxed)).sum()
    }

    /// Seconds of one core for each second of audio, when measured.
    pub fn core_seconds_per_second(&self) -> Option<f64> {
        self.seats
            .iter()
            .find_map(|e| *e.rate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends its engines.
    pub fn stop(&self) {
        for entry in &self.seats {
            entry.seat.stop();
        }
    }
}
