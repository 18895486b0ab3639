//! One model: its replicas, and which of them takes the next window.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use super::isolation::Isolation;
use super::offer::{Need, Offer};
use super::replica::{EnginePlan, Placement, Rate, ReadyEngine, Replica, ReplicaState, Shared};
use super::residency::{Hold, Residence, Residency};
use super::room::RoomCharge;
use super::slots::SlotPermit;
use super::{Lease, ModelState};
use crate::domain::{DeviceMove, DeviceReport};
use crate::engine::Engine;
use crate::metrics::Metrics;

/// The engines of a model that is loaded.
#[derive(Debug)]
pub(crate) struct Engines {
    replicas: Vec<Replica>,
    isolation: Isolation,
}

pub(crate) type ModelHold = Hold<Engines>;

/// A model that can be served, loaded or not.
#[derive(Debug)]
pub struct Model {
    /// Name it is shown under, for example `base-q8_0`.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// Whether it knows languages other than English, from its header.
    pub multilingual: bool,
    residency: Arc<Residency<Engines>>,
    shared: Shared,
}

/// A slot in use; frees itself.
#[derive(Debug)]
pub(crate) struct EngineSlot {
    ready: ReadyEngine,
    permit: SlotPermit,
}

impl EngineSlot {
    pub(super) fn new(ready: ReadyEngine, permit: SlotPermit) -> Self {
        Self { ready, permit }
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.ready.engine
    }

    pub(crate) fn is_gpu(&self) -> bool {
        self.ready.engine.report().gpu
    }

    /// Windows that share one core on this engine.
    pub(crate) fn windows_per_core(&self) -> usize {
        self.ready.engine.report().windows_per_core.max(1)
    }

    /// The window was transcribed; core seconds spent for so many seconds of audio.
    pub(crate) fn completed(&self, core_seconds: f64, audio_seconds: f64) {
        self.permit.complete();
        self.ready.rate.measured(core_seconds, audio_seconds);
    }

    pub(crate) fn rate(&self) -> &Rate {
        &self.ready.rate
    }
}

impl Model {
    pub(super) fn new(name: String, file: PathBuf, multilingual: bool, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            name,
            file,
            multilingual,
            residency: Arc::default(),
            shared: Shared::new(metrics),
        })
    }

    /// A model with engines that were not chosen by a registry: for whoever brings their own.
    pub fn start(
        name: String,
        plan: &EnginePlan,
        placements: &[Placement],
        metrics: &Arc<Metrics>,
    ) -> (Arc<Self>, Lease) {
        let model = Self::new(name, plan.spec.model.clone(), true, metrics.clone());
        let (hold, _) = model.residency.hold();
        model.live(plan, placements, None);
        let lease = Lease::new(model.clone(), hold);
        (model, lease)
    }

    /// Starts an engine for each placement; `charge` is the memory of one on the processor.
    pub(super) fn live(&self, plan: &EnginePlan, placements: &[Placement], mut charge: Option<RoomCharge>) {
        let replicas = placements
            .iter()
            .map(|placement| Replica::start(plan.clone(), *placement, charge.take(), self.shared.clone()))
            .collect();
        let isolation = Isolation::new(plan.clone(), self.shared.clone());
        self.residency.place(Engines { replicas, isolation });
        self.shared.changed();
    }

    pub(super) fn hold(&self) -> (ModelHold, bool) {
        self.residency.hold()
    }

    pub(super) fn residency(&self) -> &Residency<Engines> {
        &self.residency
    }

    /// There is no room for it.
    pub(super) fn refuse(&self, reason: String) {
        self.residency.refuse(reason);
        self.shared.changed();
    }

    /// Lets its engines go when nobody has held it for `idle`; true when it did.
    pub(super) fn retire(&self, idle: std::time::Duration) -> bool {
        let engines = self.residency.retire(idle);
        let retired = engines.is_some();
        drop(engines);
        if retired {
            self.shared.changed();
        }
        retired
    }

    /// Ends its engines, whoever holds it.
    pub(super) fn evict(&self) {
        drop(self.residency.evict());
        self.shared.changed();
    }

    /// Tries GPUs on probation now.
    pub(super) fn probe_now(&self) {
        self.shared.probe_now.notify_waiters();
    }

    /// Changes of anything that [`Model::state`] or an offer depends on, from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// A slot for a window. Whoever asks serialises the calls.
    pub(crate) fn offer(&self, need: Need) -> Offer<EngineSlot> {
        self.residency.look(|residence| match residence {
            Residence::Live(engines) => engines.offer(need),
            Residence::Loading | Residence::Absent => Offer::Wait,
            Residence::Refused(reason) => Offer::Broken(reason.clone()),
        })
    }

    /// Windows that could begin now beside those that run.
    pub(crate) fn free_slots(&self) -> usize {
        self.ready_engines()
            .iter()
            .map(|ready| ready.slots.free(ready.engine.report().slots.max(1)))
            .sum()
    }

    /// What it is doing.
    pub fn state(&self) -> ModelState {
        self.residency.look(|residence| match residence {
            Residence::Absent => ModelState::Absent,
            Residence::Loading => ModelState::Loading,
            Residence::Refused(reason) => ModelState::Broken(reason.clone()),
            Residence::Live(engines) => engines.state(),
        })
    }

    /// Whether an engine of it takes memory of the processor's.
    pub(super) fn is_on_processor(&self) -> bool {
        self.residency.look(|residence| match residence {
            Residence::Live(engines) => engines.replicas.iter().any(Replica::is_on_processor),
            _ => false,
        })
    }

    /// Waits until a window can run or none ever will.
    ///
    /// # Errors
    ///
    /// Why no engine can be started.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn settled(&self) -> Result<(), String> {
        let mut changes = self.changes();
        loop {
            match self.state() {
                ModelState::Ready => return Ok(()),
                ModelState::Broken(reason) => return Err(reason),
                _ => {}
            }
            if changes.changed().await.is_err() {
                return Err(ModelState::Retiring.to_string());
            }
        }
    }

    /// Reports of the engines that are ready, GPUs first.
    pub fn reports(&self) -> Vec<DeviceReport> {
        let mut reports: Vec<_> = self
            .ready_engines()
            .iter()
            .map(|ready| ready.engine.report().clone())
            .collect();
        reports.sort_by_key(|r| !r.gpu);
        reports
    }

    fn ready_engines(&self) -> Vec<ReadyEngine> {
        self.residency.look(|residence| match residence {
            Residence::Live(engines) => engines
                .replicas
                .iter()
                .filter_map(|replica| replica.state().ready().cloned())
                .collect(),
            _ => Vec::new(),
        })
    }

    /// Moves between devices so far.
    pub fn fallbacks(&self) -> Vec<DeviceMove> {
        let fallbacks = self.shared.fallbacks.lock();
        fallbacks.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Windows running on its engines now.
    pub fn running(&self) -> usize {
        self.ready_engines().iter().map(|ready| ready.slots.taken()).sum()
    }

    /// Seconds of one core for each second of audio, when measured.
    pub fn core_seconds_per_second(&self) -> Option<f64> {
        self.ready_engines().iter().find_map(|ready| ready.rate.value())
    }
}

impl Engines {
    fn offer(&self, need: Need) -> Offer<EngineSlot> {
        let states: Vec<ReplicaState> = self.replicas.iter().map(Replica::state).collect();
        if need == Need::Isolated {
            return match self.isolation.offer() {
                // Without room for a second engine the first one has to do, by itself.
                Offer::Broken(_) => Self::replicas(&states, Need::Exclusive { drain: true }),
                offer => offer,
            };
        }
        Self::replicas(&states, need)
    }

    /// The least loaded engine; one on the CPU, after trouble with its GPU, only when all GPUs are full.
    fn replicas(states: &[ReplicaState], need: Need) -> Offer<EngineSlot> {
        let mut ready: Vec<&ReadyEngine> = states.iter().filter_map(ReplicaState::ready).collect();
        ready.sort_by_key(|one| (!one.engine.report().gpu, one.slots.taken()));
        for one in ready {
            let report = one.engine.report();
            let slots = report.slots.max(1);
            let permit = match need {
                Need::Shared | Need::Isolated => one.slots.take(slots),
                Need::Extra if report.gpu => None,
                Need::Extra => one.slots.take(slots + 1),
                Need::Exclusive { .. } => one.slots.take_alone(),
            };
            if let Some(permit) = permit {
                return Offer::Slot(EngineSlot::new(one.clone(), permit));
            }
        }
        let broken = states.iter().find_map(|state| match state {
            ReplicaState::Broken(reason) => Some(reason.clone()),
            _ => None,
        });
        let waits = states.iter().any(|state| {
            matches!(
                state,
                ReplicaState::Starting | ReplicaState::Ready(_) | ReplicaState::Restarting
            )
        });
        match (broken, waits, need) {
            (Some(reason), false, _) => Offer::Broken(reason),
            (None, false, _) => Offer::Broken(ModelState::Retiring.to_string()),
            (_, _, Need::Exclusive { drain: true }) => Offer::Drain,
            _ => Offer::Wait,
        }
    }

    fn state(&self) -> ModelState {
        let states: Vec<ReplicaState> = self.replicas.iter().map(Replica::state).collect();
        if states.iter().any(|state| state.ready().is_some()) {
            return ModelState::Ready;
        }
        let mut out = ModelState::Retiring;
        for state in states {
            match state {
                // An engine that has just ended is about to restart.
                ReplicaState::Restarting | ReplicaState::Ready(_) => return ModelState::Restarting,
                ReplicaState::Starting => out = ModelState::Loading,
                ReplicaState::Broken(reason) if out != ModelState::Loading => {
                    out = ModelState::Broken(reason);
                }
                ReplicaState::Broken(_) | ReplicaState::Stopped => {}
            }
        }
        out
    }
}
