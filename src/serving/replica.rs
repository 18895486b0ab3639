//! One engine kept running on one device: started, started again when it ends, moved to the CPU when its GPU keeps
//! failing, and back when the GPU can be trusted again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::complaints::{out_of_memory, silent_reason};
use super::error::BROKEN_RETRY;
use super::probation::probe_gpu;
use super::room::{Room, RoomCharge};
use super::slots::Slots;
use crate::domain::DeviceMove;
use crate::engine::{Engine, EngineError, EngineSpec, StartEngine};
use crate::metrics::Metrics;

/// A large model on a slow disk with shader compilation takes minutes.
pub(super) const START_LIMIT: Duration = Duration::from_secs(600);
/// Deaths in a row on a GPU, without a window transcribed between them, before the CPU takes over.
const GPU_DEATHS: u32 = 2;
/// Starts in a row that ended without a word before the model counts as broken for a while.
const START_DEATHS: u32 = 3;
/// An engine that lived so long starts with a clean record.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Pause before an engine that ended is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// So many starts in a row have that pause; then it grows by a fifth each time. Whatever ends engines every few seconds
/// leaves most time to one that starts at once; memory that is short comes back in minutes.
const QUICK_STARTS: u32 = 10;
/// The pauses grow to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// When a GPU that was given up is tried again: so long after the last failure, the last one for ever after.
const PROBATION: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
];

/// Where an engine shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The GPU with this number in ggml's count.
    Gpu(u32),
    /// The processor.
    Cpu,
}

impl std::fmt::Display for Placement {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpu(number) => write!(out, "gpu {number}"),
            Self::Cpu => out.write_str("cpu"),
        }
    }
}

/// How engines of one model are made.
#[derive(Debug, Clone)]
pub struct EnginePlan {
    /// The model and everything but the device.
    pub spec: EngineSpec,
    /// Slots when on the CPU.
    pub cpu_slots: usize,
    /// Flash attention when on the CPU.
    pub cpu_flash_attention: bool,
    /// Starts engines.
    pub starter: Arc<dyn StartEngine>,
    /// Where engines on the processor find memory; without one they just take it.
    pub room: Option<Arc<Room>>,
}

impl EnginePlan {
    /// Scripted engines with so many slots, of a model that is no file.
    #[cfg(test)]
    pub(crate) fn scripted(workshop: &Arc<crate::engine::workshop::Workshop>, slots: usize) -> Self {
        use crate::engine::{EngineSetting, PrecisionSetting, workshop::Starter};

        Self {
            spec: EngineSpec {
                model: "none".into(),
                gpu_device: None,
                slots,
                flash_attention: false,
                max_decoders: 1,
                threads: 1,
                engine: EngineSetting::default(),
                precision: PrecisionSetting::default(),
            },
            cpu_slots: slots,
            cpu_flash_attention: false,
            starter: Arc::new(Starter(workshop.clone())),
            room: None,
        }
    }

    /// The specification for a device.
    pub(super) fn spec_for(&self, placement: Placement, gpu_slots: usize) -> EngineSpec {
        match placement {
            Placement::Gpu(number) => EngineSpec {
                gpu_device: Some(number),
                slots: gpu_slots,
                ..self.spec.clone()
            },
            Placement::Cpu => EngineSpec {
                gpu_device: None,
                slots: self.cpu_slots,
                flash_attention: self.cpu_flash_attention,
                ..self.spec.clone()
            },
        }
    }
}

fn lock(charge: &Mutex<Option<RoomCharge>>) -> MutexGuard<'_, Option<RoomCharge>> {
    charge.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine that can take windows, and the count of those it has.
#[derive(Debug, Clone)]
pub(crate) struct ReadyEngine {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) rate: Arc<Rate>,
}

/// Core seconds for each second of audio, measured.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<Option<f64>>);

/// How fast old measurements fade.
const RATE_WEIGHT: f64 = 0.2;

impl Rate {
    pub(crate) fn value(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn measured(&self, core_seconds: f64, audio_seconds: f64) {
        let fresh = core_seconds / audio_seconds.max(1.0);
        let mut rate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *rate = Some(rate.map_or(fresh, |old| old + RATE_WEIGHT * (fresh - old)));
    }
}

/// What a replica is doing.
#[derive(Debug, Clone)]
pub(crate) enum ReplicaState {
    /// The first engine loads.
    Starting,
    /// Windows can run.
    Ready(ReadyEngine),
    /// An engine ended; the next one loads.
    Restarting,
    /// Nothing can be served until the next try.
    Broken(String),
    /// Told to end.
    Stopped,
}

impl ReplicaState {
    /// The engine that takes windows, unless it has just ended.
    pub(crate) fn ready(&self) -> Option<&ReadyEngine> {
        match self {
            Self::Ready(ready) if ready.engine.death().is_none() => Some(ready),
            _ => None,
        }
    }
}

/// What the replicas of a model share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) changes: Arc<watch::Sender<u64>>,
    pub(crate) fallbacks: Arc<Mutex<Vec<DeviceMove>>>,
    pub(crate) probe_now: Arc<Notify>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Shared {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            changes: Arc::new(watch::channel(0).0),
            fallbacks: Arc::default(),
            probe_now: Arc::default(),
            metrics,
        }
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    fn moved(&self, from: Placement, to: Placement, reason: &str) {
        let fallback = DeviceMove {
            at: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            from: from.to_string(),
            to: to.to_string(),
            reason: reason.to_owned(),
        };
        self.fallbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fallback);
    }
}

/// One engine's place: a device now, another after trouble. Dropping it ends its engine.
#[derive(Debug)]
pub(crate) struct Replica {
    state: watch::Receiver<ReplicaState>,
    stop: watch::Sender<bool>,
    charge: Arc<Mutex<Option<RoomCharge>>>,
}

impl Replica {
    /// Starts supervising in the background.
    pub(super) fn start(
        plan: EnginePlan,
        home: Placement,
        charge: Option<RoomCharge>,
        shared: Shared,
    ) -> Self {
        let charge = Arc::new(Mutex::new(charge));
        let (state, seen) = watch::channel(ReplicaState::Starting);
        let (stop, stopped) = watch::channel(false);
        let supervisor = Supervisor {
            gpu_slots: plan.spec.slots.max(1),
            plan,
            home,
            placement: home,
            state,
            stop: stopped,
            charge: charge.clone(),
            shared,
            deaths: 0,
            failed_probes: 0,
            next_probe: None,
            rates: [Arc::default(), Arc::default()],
        };
        tokio::spawn(supervisor.run());
        Self {
            state: seen,
            stop,
            charge,
        }
    }

    pub(crate) fn state(&self) -> ReplicaState {
        self.state.borrow().clone()
    }

    /// Whether its engine takes memory of the processor's.
    pub(super) fn is_on_processor(&self) -> bool {
        lock(&self.charge).is_some()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        // Whoever ended it for want of room finds the room at once.
        drop(lock(&self.charge).take());
    }
}

struct Supervisor {
    plan: EnginePlan,
    home: Placement,
    placement: Placement,
    gpu_slots: usize,
    state: watch::Sender<ReplicaState>,
    stop: watch::Receiver<bool>,
    /// Memory of an engine on the processor, while it runs there.
    charge: Arc<Mutex<Option<RoomCharge>>>,
    shared: Shared,
    /// In a row, without a window transcribed between them.
    deaths: u32,
    failed_probes: usize,
    next_probe: Option<Instant>,
    /// On the CPU, on the GPU.
    rates: [Arc<Rate>; 2],
}

/// Why an engine no longer serves.
enum Left {
    Gone,
    Stopped,
    /// A GPU on probation gave the CPU's words.
    Proved(Arc<dyn Engine>),
}

impl Supervisor {
    async fn run(mut self) {
        let mut next: Option<Arc<dyn Engine>> = None;
        loop {
            let began = Instant::now();
            let started = if let Some(engine) = next.take() {
                Ok(engine)
            } else {
                match self.find_room().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(reason) => {
                        tracing::warn!(%reason, "no room on the processor; trying again in {BROKEN_RETRY:?}");
                        self.show(ReplicaState::Broken(reason));
                        if self.pause(BROKEN_RETRY).await {
                            continue;
                        }
                        break;
                    }
                }
                let spec = self.plan.spec_for(self.placement, self.gpu_slots);
                tokio::select! {
                    started = self.plan.starter.start(&spec, START_LIMIT) => started,
                    _ = self.stop.wait_for(|stop| *stop) => break,
                }
            };
            let while_starting = started.is_err();
            let trouble = match started {
                Ok(engine) if self.placement != Placement::Cpu && !engine.report().gpu => {
                    // ggml went on with the CPU without an error: the classic silent fallback.
                    let reason = silent_reason(engine.report());
                    self.give_up(&reason);
                    continue;
                }
                Ok(engine) => {
                    let ready = ReadyEngine {
                        engine: engine.clone(),
                        slots: Arc::default(),
                        rate: self.rates[usize::from(engine.report().gpu)].clone(),
                    };
                    self.show(ReplicaState::Ready(ready.clone()));
                    let left = self.serve(&ready).await;
                    if ready.slots.completed() > 0 || began.elapsed() > LONG_LIFE {
                        self.deaths = 0;
                    }
                    match left {
                        Left::Gone => {}
                        Left::Stopped => {
                            engine.kill("the model is being unloaded");
                            break;
                        }
                        Left::Proved(gpu) => {
                            // Windows that run on the old engine keep it until they end.
                            self.placement = self.home;
                            drop(lock(&self.charge).take());
                            self.deaths = 0;
                            next = Some(gpu);
                            continue;
                        }
                    }
                    self.show(ReplicaState::Restarting);
                    let death = engine.death().unwrap_or_else(|| EngineError::outside("ended"));
                    self.shared.metrics.engine_restarts.add(1);
                    let outside = u64::from(death.is_outside());
                    self.shared.metrics.engine_restarts_outside.add(outside);
                    death
                }
                Err(error) => error,
            };
            if trouble.is_outside() {
                self.shared.metrics.outside_deaths.add(1);
            }
            if !self.after(&trouble, while_starting).await {
                break;
            }
        }
        self.show(ReplicaState::Stopped);
    }

    fn show(&self, state: ReplicaState) {
        let _ = self.state.send_replace(state);
        self.shared.changed();
    }

    /// Decides what comes after an engine's end, and pauses; false when the replica is to stop.
    async fn after(&mut self, trouble: &EngineError, while_starting: bool) -> bool {
        self.deaths += 1;
        let refused = matches!(trouble, EngineError::StartFailed { .. });
        let mut pause = pause(self.deaths);
        match self.placement {
            // Fewer windows side by side need less memory; only one is the last thing to try before the CPU.
            Placement::Gpu(number) if self.gpu_slots > 1 && out_of_memory(trouble) => {
                self.gpu_slots /= 2;
                tracing::warn!(gpu = number, slots = self.gpu_slots, %trouble, "GPU memory is short: fewer slots");
                self.deaths = 0;
            }
            // A start that fails on the GPU does not get better by itself; a death may have been the window's fault.
            Placement::Gpu(_) if self.deaths >= GPU_DEATHS || refused => {
                self.give_up(&trouble.to_string());
                return !*self.stop.borrow();
            }
            Placement::Cpu
                if refused || (while_starting && !trouble.is_outside() && self.deaths >= START_DEATHS) =>
            {
                tracing::error!(%trouble, "the model cannot be served; trying again in {BROKEN_RETRY:?}");
                self.show(ReplicaState::Broken(trouble.to_string()));
                pause = BROKEN_RETRY;
            }
            _ => {}
        }
        self.pause(pause).await
    }

    /// False when the replica is to stop.
    async fn pause(&mut self, length: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(length) => true,
            _ = self.stop.wait_for(|stop| *stop) => false,
        }
    }

    /// Memory for an engine on the processor, where that is where the next one starts; false when the replica is to stop.
    async fn find_room(&mut self) -> Result<bool, String> {
        let Some(room) = self.plan.room.clone() else {
            return Ok(true);
        };
        if self.placement != Placement::Cpu || lock(&self.charge).is_some() {
            return Ok(true);
        }
        let charge = tokio::select! {
            charge = room.take(&self.plan.spec.model, self.plan.cpu_slots) => charge?,
            _ = self.stop.wait_for(|stop| *stop) => return Ok(false),
        };
        *lock(&self.charge) = Some(charge);
        // A replica that was dropped meanwhile has given back what it had then.
        if *self.stop.borrow() {
            drop(lock(&self.charge).take());
            return Ok(false);
        }
        Ok(true)
    }

    /// The CPU takes over; the GPU is on probation.
    fn give_up(&mut self, reason: &str) {
        tracing::warn!(from = %self.placement, %reason, "GPU → CPU");
        self.shared.metrics.fallbacks.add(1);
        self.shared.moved(self.placement, Placement::Cpu, reason);
        self.placement = Placement::Cpu;
        self.deaths = 0;
        self.failed_probes = 0;
        self.next_probe = Some(Instant::now() + PROBATION[0]);
    }

    /// Until the engine is gone, the replica is to stop, or a better device is there.
    async fn serve(&mut self, ready: &ReadyEngine) -> Left {
        let mut gone = ready.engine.watch();
        let shared = self.shared.clone();
        loop {
            let due = self.next_probe;
            let probe = async {
                match due {
                    Some(at) => {
                        tokio::select! {
                            () = tokio::time::sleep_until(at) => {}
                            () = shared.probe_now.notified() => {}
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = gone.wait_for(|gone| *gone) => return Left::Gone,
                _ = self.stop.wait_for(|stop| *stop) => return Left::Stopped,
                () = probe => {}
            }
            let spec = self.plan.spec_for(self.home, self.gpu_slots);
            let proved = tokio::select! {
                proved = probe_gpu(self.plan.starter.as_ref(), &spec, &ready.engine) => proved,
                _ = gone.wait_for(|gone| *gone) => return Left::Gone,
                _ = self.stop.wait_for(|stop| *stop) => return Left::Stopped,
            };
            self.shared.metrics.gpu_probes.add(1);
            match proved {
                Ok(engine) => {
                    tracing::info!(to = %self.home, "the GPU gives the CPU's words: it serves again");
                    self.shared
                        .moved(Placement::Cpu, self.home, "it gave the CPU's words again");
                    self.next_probe = None;
                    return Left::Proved(engine);
                }
                Err(reason) => {
                    self.failed_probes += 1;
                    let wait = PROBATION[self.failed_probes.min(PROBATION.len() - 1)];
                    tracing::warn!(gpu = %self.home, %reason, "still not to be trusted; the next try is in {wait:?}");
                    self.next_probe = Some(Instant::now() + wait);
                }
            }
        }
    }
}

/// Grows from death to death, so that a machine that is short of memory gets time.
fn pause(deaths: u32) -> Duration {
    let factor = 1.2_f64.powi(deaths.saturating_sub(QUICK_STARTS).min(64) as i32);
    FIRST_PAUSE.mul_f64(factor).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(QUICK_STARTS), FIRST_PAUSE);
        assert!(pause(QUICK_STARTS + 5) > pause(QUICK_STARTS + 4));
        assert_eq!(pause(1000), LONGEST_PAUSE);
    }
}
