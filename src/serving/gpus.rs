//! Which GPUs there are, which of them serve, and what fits on them.

use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::known::KnownModels;
use super::memory;
use super::replica::Placement;
use super::room::LOOK;
use crate::config::{Config, Count, GpuDevices};
use crate::engine::EngineSetting;
use crate::engine::message::GpuDevice;
use crate::engine::process::{Launcher, NoGpu};

/// What a GPU had free is asked anew after this long.
const MEMORY_FRESH: Duration = Duration::from_secs(5);

/// What is known of the GPUs.
#[derive(Debug, Clone)]
pub enum Gpus {
    /// Nobody has looked yet.
    Unknown,
    /// Not asked for, or not built for one.
    Off,
    /// Usable, in ggml's order.
    Found(Vec<GpuDevice>),
    /// Asked for and not to be had.
    Missing(NoGpu),
}

/// The search for GPUs, and when it ended.
#[derive(Debug)]
pub(super) struct GpuSearch {
    found: watch::Sender<(Gpus, Instant)>,
}

impl GpuSearch {
    pub(super) fn new() -> Self {
        Self {
            found: watch::channel((Gpus::Unknown, Instant::now())).0,
        }
    }

    /// What is known now.
    pub(super) fn known(&self) -> Gpus {
        self.found.borrow().0.clone()
    }

    /// Waits until somebody has looked; `None` when nobody ever will.
    pub(super) async fn searched(&self) -> Option<Gpus> {
        let mut found = self.found.subscribe();
        let known = found.wait_for(|(gpus, _)| !matches!(gpus, Gpus::Unknown)).await;
        known.ok().map(|known| known.0.clone())
    }

    /// Looks in a child process, when GPUs are wanted and built in.
    pub(super) async fn run(&self, config: &Config, launcher: &Launcher) {
        let whisper = &config.whisper;
        // The native engine runs on the processor alone.
        let wanted = whisper.enable_gpu && gpu_compiled() && whisper.engine != EngineSetting::Native;
        let found = if wanted {
            match launcher.list_gpus().await {
                Ok(devices) => match choose(&whisper.gpu_devices, devices) {
                    Ok(devices) => Gpus::Found(devices),
                    Err(reason) => Gpus::Missing(NoGpu::because(reason)),
                },
                Err(none) => Gpus::Missing(none),
            }
        } else {
            Gpus::Off
        };
        if let Gpus::Missing(NoGpu { reason, .. }) = &found {
            tracing::warn!(%reason, "no GPU; the CPU serves");
        }
        let _ = self.found.send_replace((found, Instant::now()));
    }

    /// Slots by what is free now; models that nobody holds make room.
    pub(super) async fn room(
        &self,
        mut devices: Vec<GpuDevice>,
        weights: u64,
        config: &Config,
        launcher: &Launcher,
        known_models: &KnownModels,
    ) -> (Vec<Placement>, usize) {
        let mut known_at = self.found.borrow().1;
        loop {
            if known_at.elapsed() > MEMORY_FRESH {
                // A search that fails now leaves the old numbers: the engine says itself when it does not fit.
                if let Ok(fresh) = launcher.list_gpus().await {
                    devices = choose(&config.whisper.gpu_devices, fresh).unwrap_or(devices);
                }
            }
            let least = devices.iter().map(|d| d.memory_free_bytes).min().unwrap_or(0);
            let known = devices.iter().any(|d| d.memory_total_bytes > 0);
            if known
                && !memory::fits_gpu(least, weights)
                && known_models.retire_oldest(|model| !model.is_on_processor())
            {
                // Its memory is free when its process has ended.
                tokio::time::sleep(LOOK).await;
                known_at -= MEMORY_FRESH * 2;
                continue;
            }
            let slots = match config.performance.slots {
                Count::Fixed(n) => n,
                Count::Auto => memory::gpu_slots(least, weights),
            };
            let placements = devices.iter().map(|d| Placement::Gpu(d.number)).collect();
            return (placements, slots);
        }
    }
}

/// True when this build holds a GPU backend.
pub(super) fn gpu_compiled() -> bool {
    cfg!(any(
        feature = "cuda",
        feature = "vulkan",
        feature = "opencl",
        feature = "hipblas",
        feature = "metal"
    ))
}

/// The GPUs that serve. `all` takes each card once, and leaves a processor's own graphics alone beside a real card:
/// a window that landed there would take many times as long. Numbers take exactly those.
fn choose(wanted: &GpuDevices, devices: Vec<GpuDevice>) -> Result<Vec<GpuDevice>, String> {
    let GpuDevices::List(numbers) = wanted else {
        let cards = devices.iter().any(|d| !d.integrated);
        return Ok(devices
            .into_iter()
            .filter(|d| d.same_as.is_none() && !(cards && d.integrated))
            .collect());
    };
    let names: Vec<_> = devices
        .iter()
        .map(|d| format!("{} ({})", d.number, d.description))
        .collect();
    let names = names.join(", ");
    let chosen: Vec<_> = devices
        .into_iter()
        .filter(|d| numbers.contains(&d.number))
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "whisper.gpu_devices = {numbers:?} names no GPU that ggml lists: {names}"
        ));
    }
    for absent in numbers.iter().filter(|n| chosen.iter().all(|d| d.number != **n)) {
        tracing::warn!("whisper.gpu_devices names GPU {absent}, but ggml lists {names}");
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_means_each_card_once_and_numbers_mean_what_they_say() {
        let device = |number: u32, integrated: bool, same_as: Option<u32>| GpuDevice {
            number,
            integrated,
            same_as,
            ..GpuDevice::default()
        };
        let listed = vec![
            device(0, false, None),
            device(1, false, None),
            device(2, false, Some(0)),
            device(3, true, None),
        ];
        let numbers = |wanted: &GpuDevices, listed: &[GpuDevice]| {
            choose(wanted, listed.to_vec()).map(|l| l.iter().map(|d| d.number).collect::<Vec<_>>())
        };
        let all = GpuDevices::All(crate::config::AllWord::All);
        assert_eq!(numbers(&all, &listed), Ok(vec![0, 1]));
        assert_eq!(
            numbers(&all, &listed[3..]),
            Ok(vec![3]),
            "a processor's graphics serve where they are all there is"
        );
        assert_eq!(numbers(&GpuDevices::List(vec![1, 3, 9]), &listed), Ok(vec![1, 3]));
        let reason = numbers(&GpuDevices::List(vec![7]), &listed).unwrap_err();
        assert!(reason.contains("[7]"), "{reason}");
    }
}
