//! Keeps a model served: starts its engines, restarts the dead, and moves from the GPU to the CPU.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::engine::process::{EngineProcess, Launcher};
use crate::engine::{DeviceReport, EngineError, EngineSpec};
use crate::metrics::Metrics;

/// A large model on a slow disk with shader compilation takes minutes.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Deaths in a row on a GPU before the CPU takes over.
const GPU_DEATHS: u32 = 2;
/// Deaths in a row on the CPU before the model counts as broken for a while.
const CPU_DEATHS: u32 = 5;
/// Pause before a broken model is tried again.
const BROKEN_PAUSE: Duration = Duration::from_secs(10);

/// Where an engine shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The GPU with this number in ggml's count.
    Gpu(u32),
    /// The processor.
    Cpu,
}

/// A move from one device to another.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Fallback {
    /// Seconds since 1970.
    pub at: u64,
    /// For example `gpu 0`.
    pub from: String,
    /// For example `cpu`.
    pub to: String,
    /// What happened, in one sentence.
    pub reason: String,
}

/// What a seat is doing.
#[derive(Debug, Clone)]
pub enum SeatState {
    /// The engine loads.
    Starting,
    /// Windows can run.
    Ready(Arc<EngineProcess>),
    /// Nothing can be served until the next try.
    Broken {
        /// One sentence.
        reason: String,
    },
    /// Told to end.
    Stopped,
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
    /// Starts children.
    pub launcher: Launcher,
}

/// One engine's place: a device now, another after trouble.
#[derive(Debug)]
pub struct Seat {
    state: watch::Receiver<SeatState>,
    stop: watch::Sender<bool>,
    fallbacks: Arc<Mutex<Vec<Fallback>>>,
}

impl Seat {
    /// Starts supervising in the background.
    pub fn start(plan: EnginePlan, placement: Placement, metrics: Arc<Metrics>) -> Self {
        let (send, state) = watch::channel(SeatState::Starting);
        let (stop, stopped) = watch::channel(false);
        let fallbacks = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(supervise(
            plan,
            placement,
            send,
            stopped,
            fallbacks.clone(),
            metrics,
        ));
        Self {
            state,
            stop,
            fallbacks,
        }
    }

    /// What it is doing now.
    pub fn state(&self) -> SeatState {
        self.state.borrow().clone()
    }

    /// Changes of [`Seat::state`].
    pub fn watch(&self) -> watch::Receiver<SeatState> {
        self.state.clone()
    }

    /// Moves that happened so far.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.fallbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The report of the engine that is ready now.
    pub fn report(&self) -> Option<DeviceReport> {
        match &*self.state.borrow() {
            SeatState::Ready(engine) => Some(engine.report().clone()),
            _ => None,
        }
    }

    /// Ends the engine for good.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn supervise(
    plan: EnginePlan,
    mut placement: Placement,
    state: watch::Sender<SeatState>,
    mut stop: watch::Receiver<bool>,
    fallbacks: Arc<Mutex<Vec<Fallback>>>,
    metrics: Arc<Metrics>,
) {
    let mut deaths = 0;
    let mut gpu_slots = plan.spec.slots.max(1);
    loop {
        let spec = spec_for(&plan, placement, gpu_slots);
        let started = tokio::select! {
            started = EngineProcess::start(&plan.launcher, &spec, START_LIMIT) => started,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let trouble = match started {
            Ok(engine) => {
                if let Placement::Gpu(_) = placement
                    && !engine.report().gpu
                {
                    // ggml went on with the CPU without an error: the classic silent fallback.
                    let reason = silent_reason(engine.report());
                    record(&fallbacks, &metrics, placement, &reason);
                    placement = Placement::Cpu;
                    drop(engine);
                    continue;
                }
                let engine = Arc::new(engine);
                let _ = state.send(SeatState::Ready(engine.clone()));
                let began = std::time::Instant::now();
                tokio::select! {
                    () = engine.gone() => {}
                    _ = stop.wait_for(|stop| *stop) => {
                        engine.kill(&EngineError::Cancelled);
                        break;
                    }
                }
                // An engine that worked for a while starts with a clean record.
                if began.elapsed() > Duration::from_secs(60) {
                    deaths = 0;
                }
                let _ = state.send(SeatState::Starting);
                metrics.engine_restarts.add(1);
                engine.death().unwrap_or(EngineError::Cancelled)
            }
            Err(error) => error,
        };
        deaths += 1;
        match placement {
            // Fewer windows side by side need less memory; only one is the last thing to try before the CPU.
            Placement::Gpu(number) if gpu_slots > 1 && out_of_memory(&trouble) => {
                gpu_slots /= 2;
                tracing::warn!(gpu = number, slots = gpu_slots, %trouble, "GPU memory is short: fewer slots");
                deaths = 0;
            }
            // A start that fails on the GPU does not get better by itself; a death may have been the window's fault.
            Placement::Gpu(_)
                if deaths >= GPU_DEATHS || matches!(trouble, EngineError::StartFailed { .. }) =>
            {
                record(&fallbacks, &metrics, placement, &trouble.to_string());
                placement = Placement::Cpu;
                deaths = 0;
            }
            Placement::Cpu if deaths >= CPU_DEATHS || matches!(trouble, EngineError::StartFailed { .. }) => {
                tracing::error!(%trouble, "the model cannot be served; trying again in {BROKEN_PAUSE:?}");
                let _ = state.send(SeatState::Broken {
                    reason: trouble.to_string(),
                });
                tokio::select! {
                    () = tokio::time::sleep(BROKEN_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(50 * u64::from(deaths))).await,
        }
    }
    let _ = state.send(SeatState::Stopped);
}

/// Words with which CUDA, Vulkan, ggml and whisper.cpp say that memory is short.
fn out_of_memory(trouble: &EngineError) -> bool {
    let said = match trouble {
        EngineError::Died { log, .. } => log.join("\n"),
        EngineError::StartFailed { reason } => reason.clone(),
        _ => return false,
    };
    let said = said.to_lowercase();
    [
        "out of memory",
        "failed to allocate",
        "outofdevicememory",
        "cannot set up a state",
        "alloc_buffer",
        "alloc_tensor",
    ]
    .iter()
    .any(|words| said.contains(words))
}

fn spec_for(plan: &EnginePlan, placement: Placement, gpu_slots: usize) -> EngineSpec {
    match placement {
        Placement::Gpu(number) => EngineSpec {
            gpu_device: Some(number),
            slots: gpu_slots,
            ..plan.spec.clone()
        },
        Placement::Cpu => EngineSpec {
            gpu_device: None,
            slots: plan.cpu_slots,
            flash_attention: plan.cpu_flash_attention,
            ..plan.spec.clone()
        },
    }
}

fn silent_reason(report: &DeviceReport) -> String {
    let said = report.device_log.iter().rev().find(|l| {
        ["fail", "rror", "nsupported", "no GPU", "No devices"]
            .iter()
            .any(|word| l.contains(word))
    });
    match said {
        Some(line) => format!("ggml went on with the CPU: {line}"),
        None => "ggml went on with the CPU without saying why".to_owned(),
    }
}

fn record(fallbacks: &Mutex<Vec<Fallback>>, metrics: &Metrics, from: Placement, reason: &str) {
    let from = match from {
        Placement::Gpu(number) => format!("gpu {number}"),
        Placement::Cpu => "cpu".to_owned(),
    };
    tracing::warn!(%from, %reason, "GPU → CPU");
    metrics.fallbacks.add(1);
    let at = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let fallback = Fallback {
        at,
        from,
        to: "cpu".to_owned(),
        reason: reason.to_owned(),
    };
    fallbacks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(fallback);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_trouble_is_told_from_other_trouble() {
        let died = |line: &str| EngineError::Died {
            status: "abort".to_owned(),
            log: vec![line.to_owned()],
        };
        assert!(out_of_memory(&died("CUDA error: out of memory")));
        assert!(out_of_memory(&died(
            "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 1"
        )));
        assert!(!out_of_memory(&died("an illegal memory access was encountered")));
        assert!(!out_of_memory(&EngineError::Cancelled));
    }

    #[test]
    fn flash_attention_and_slots_follow_the_device() {
        let plan = EnginePlan {
            spec: EngineSpec {
                model: "model".into(),
                gpu_device: None,
                slots: 8,
                flash_attention: true,
                max_decoders: 5,
                threads: 4,
                script: None,
            },
            cpu_slots: 2,
            cpu_flash_attention: false,
            launcher: Launcher {
                program: "program".into(),
                environment: Vec::new(),
            },
        };
        let gpu = spec_for(&plan, Placement::Gpu(1), 4);
        assert_eq!(
            (gpu.gpu_device, gpu.slots, gpu.flash_attention),
            (Some(1), 4, true)
        );
        let cpu = spec_for(&plan, Placement::Cpu, 4);
        assert_eq!((cpu.gpu_device, cpu.slots, cpu.flash_attention), (None, 2, false));
    }
}
