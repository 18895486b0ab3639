//! Which model serves which name, and when its engines are started.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::model::Model;
use super::supervisor::{EnginePlan, Placement};
use super::{ModelInfo, ServingError};
use crate::config::{Config, Count, GpuDevices, Switch};
use crate::engine::EngineSpec;
use crate::engine::message::GpuDevice;
use crate::engine::process::{Launcher, NoGpu};
use crate::metrics::Metrics;
use crate::models::{Languages, Store};

/// Most decoders a state is warmed for (openai-whisper `best_of`).
const MAX_DECODERS: u32 = 5;
/// More windows side by side than this never paid on one GPU.
const MAX_GPU_SLOTS: usize = 8;

/// What serves names that nobody knows.
#[derive(Debug, Clone)]
pub enum DefaultModel {
    /// Being fetched or loaded.
    Starting {
        /// What is going on, for `/health`.
        doing: String,
    },
    /// Started; its engines may still load.
    Started {
        /// The model.
        model: Arc<Model>,
        /// Why it is not the one asked for, when it is not.
        instead: Option<String>,
    },
    /// None can be had.
    Failed {
        /// One sentence.
        reason: String,
    },
}

/// What is known of the GPUs.
#[derive(Debug, Clone)]
pub enum Gpus {
    /// Not asked for, or not built for one.
    Off,
    /// Usable, in ggml's order.
    Found(Vec<GpuDevice>),
    /// Asked for and not to be had.
    Missing(NoGpu),
}

/// All models of this server.
#[derive(Debug)]
pub struct Registry {
    config: Arc<Config>,
    store: Store,
    launcher: Launcher,
    cores: usize,
    script: Option<PathBuf>,
    metrics: Arc<Metrics>,
    default: watch::Sender<DefaultModel>,
    gpus: watch::Sender<Gpus>,
    loaded: Mutex<HashMap<PathBuf, (Arc<Model>, Instant)>>,
    /// Name → model name and file.
    resolved: Mutex<HashMap<String, (String, PathBuf)>>,
}

impl Registry {
    /// Nothing is loaded yet; see [`Registry::set_default`].
    pub fn new(
        config: Arc<Config>,
        store: Store,
        launcher: Launcher,
        cores: usize,
        script: Option<PathBuf>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (default, _) = watch::channel(DefaultModel::Starting {
            doing: "starting".to_owned(),
        });
        let (gpus, _) = watch::channel(Gpus::Off);
        Arc::new(Self {
            config,
            store,
            launcher,
            cores,
            script,
            metrics,
            default,
            gpus,
            loaded: Mutex::default(),
            resolved: Mutex::default(),
        })
    }

    /// The model files on disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What serves unknown names, now.
    pub fn default_model(&self) -> DefaultModel {
        self.default.borrow().clone()
    }

    /// Changes of [`Registry::default_model`].
    pub fn watch_default(&self) -> watch::Receiver<DefaultModel> {
        self.default.subscribe()
    }

    /// What is known of GPUs.
    pub fn gpus(&self) -> Gpus {
        self.gpus.borrow().clone()
    }

    /// Says what goes on before a model is there.
    pub fn report_start(&self, state: DefaultModel) {
        let _ = self.default.send_replace(state);
    }

    /// Looks for GPUs in a child process, when they are wanted and built in.
    pub async fn find_gpus(&self) {
        let wanted = self.config.whisper.enable_gpu && gpu_compiled() && self.script.is_none();
        let found = if wanted {
            match self.launcher.list_gpus().await {
                Ok(devices) => match self.chosen(devices) {
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
        let _ = self.gpus.send_replace(found);
    }

    fn chosen(&self, devices: Vec<GpuDevice>) -> Result<Vec<GpuDevice>, String> {
        choose(&self.config.whisper.gpu_devices, devices)
    }

    /// Starts (or finds) the engines of a file.
    pub fn load(&self, name: &str, file: &Path) -> Arc<Model> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((model, used)) = loaded.get_mut(file) {
            *used = Instant::now();
            return model.clone();
        }
        let weights = std::fs::metadata(file).map_or(0, |m| m.len());
        let cpu_slots = self
            .config
            .performance
            .slots
            .or(self.cores)
            .clamp(1, self.cores.max(1));
        let (placements, gpu_slots) = match self.gpus() {
            Gpus::Found(devices) => {
                let least = devices.iter().map(|d| d.memory_free_bytes).min().unwrap_or(0);
                let slots = match self.config.performance.slots {
                    Count::Fixed(n) => n,
                    Count::Auto => gpu_slots(least, weights),
                };
                (devices.iter().map(|d| Placement::Gpu(d.number)).collect(), slots)
            }
            Gpus::Off | Gpus::Missing(_) => (vec![Placement::Cpu], cpu_slots),
        };
        let flash = self.config.whisper.flash_attention;
        let plan = EnginePlan {
            spec: EngineSpec {
                model: file.to_owned(),
                gpu_device: None,
                slots: gpu_slots,
                flash_attention: flash != Switch::Off,
                max_decoders: MAX_DECODERS.max(self.config.whisper.beam_size),
                threads: self.cores as u32,
                script: self.script.clone(),
            },
            cpu_slots,
            cpu_flash_attention: flash == Switch::On,
            launcher: self.launcher.clone(),
        };
        let model = Model::start(name.to_owned(), &plan, &placements, &self.metrics);
        loaded.insert(file.to_owned(), (model.clone(), Instant::now()));
        model
    }

    /// The file that a deployment or model name means, or `None` for the default.
    fn named(&self, name: &str) -> Result<Option<(String, PathBuf)>, ServingError> {
        // Resolving reads the file's headers; once is enough while the file is there.
        let known = self
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        if let Some(known) = known.filter(|(_, path)| path.exists()) {
            return Ok(Some(known));
        }
        let found = self.look_up(name)?;
        if let Some(found) = &found {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.insert(name.to_owned(), found.clone());
        }
        Ok(found)
    }

    fn look_up(&self, name: &str) -> Result<Option<(String, PathBuf)>, ServingError> {
        if let Some(target) = self.config.deployments.get(name) {
            let model = self
                .store
                .resolve(target)
                .map_err(|e| ServingError::Unavailable {
                    reason: format!("deployment `{name}`: {e}"),
                })?;
            return Ok(Some((model.name, model.path)));
        }
        if let Ok(model) = self.store.resolve(name)
            && !name.contains(['/', '\\'])
        {
            return Ok(Some((model.name, model.path)));
        }
        let default = match &*self.default.borrow() {
            DefaultModel::Started { model, .. } => Some(model.name.clone()),
            _ => None,
        };
        if self.config.server.strict_deployments && default.as_deref() != Some(name) {
            return Err(ServingError::UnknownDeployment {
                name: name.to_owned(),
            });
        }
        Ok(None)
    }

    /// The name of the model that serves a name.
    pub fn resolve(&self, name: &str) -> Result<String, ServingError> {
        if let Some((model, _)) = self.named(name)? {
            return Ok(model);
        }
        match &*self.default.borrow() {
            DefaultModel::Started { model, .. } => Ok(model.name.clone()),
            DefaultModel::Starting { doing } => Ok(doing.clone()),
            DefaultModel::Failed { reason } => Err(ServingError::Unavailable {
                reason: reason.clone(),
            }),
        }
    }

    /// The model that serves a name, loaded and ready.
    ///
    /// # Cancel safety
    ///
    /// Safe; loading goes on.
    pub async fn ready_model(&self, name: &str) -> Result<Arc<Model>, ServingError> {
        let model = match self.named(name)? {
            Some((name, file)) => self.load(&name, &file),
            None => self.default_ready()?,
        };
        model
            .settled()
            .await
            .map_err(|reason| ServingError::Unavailable { reason })?;
        Ok(model)
    }

    fn default_ready(&self) -> Result<Arc<Model>, ServingError> {
        let state = self.default_model();
        match state {
            DefaultModel::Started { model, .. } => {
                let stopped = !self
                    .loaded
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains_key(&model.file);
                if !stopped {
                    return Ok(self.load(&model.name, &model.file));
                }
                let fresh = self.load(&model.name, &model.file);
                let _ = self.default.send_if_modified(|state| {
                    if let DefaultModel::Started { model, .. } = state {
                        *model = fresh.clone();
                    }
                    true
                });
                Ok(fresh)
            }
            DefaultModel::Starting { doing } => Err(ServingError::Unavailable { reason: doing }),
            DefaultModel::Failed { reason } => Err(ServingError::Unavailable { reason }),
        }
    }

    /// Models whose engines run or load now.
    pub fn loaded(&self) -> Vec<Arc<Model>> {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|(m, _)| m.clone())
            .collect()
    }

    /// Ends engines that nobody used for `limit`.
    pub fn unload_idle(&self, limit: Duration) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, (model, used)| {
            let idle = model.running() == 0 && used.elapsed() > limit;
            if idle {
                tracing::info!(model = %model.name, "unloaded after {limit:?} without work");
                model.stop();
            }
            !idle
        });
    }

    /// Ends every engine.
    pub fn stop(&self) {
        for (_, (model, _)) in self.loaded.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            model.stop();
        }
    }

    /// Everything that can be asked for by name.
    pub fn list(&self) -> Vec<ModelInfo> {
        let default = match self.default_model() {
            DefaultModel::Started { model, .. } => Some(model.file.clone()),
            _ => None,
        };
        let loaded: Vec<PathBuf> = self
            .loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, (m, _))| m.ready().is_ok())
            .map(|(file, _)| file.clone())
            .collect();
        let mut out = Vec::new();
        let mut shown = false;
        // A folder that cannot be read holds no models; `doctor` says why.
        for known in self.store.list().unwrap_or_default() {
            let path = known.path.filter(|_| known.problem.is_none());
            let is_default = path.is_some() && path == default;
            shown |= is_default;
            out.push(ModelInfo {
                id: known.name,
                created: created(path.as_deref()),
                file: path.as_ref().map(|p| p.display().to_string()),
                bytes: Some(known.bytes),
                installed: path.is_some(),
                loaded: path.as_ref().is_some_and(|p| loaded.contains(p)),
                default: is_default,
                deployment: false,
                multilingual: known.languages != Some(Languages::English),
            });
        }
        if let (Some(path), false) = (&default, shown) {
            out.push(info(path, &loaded, true, None));
        }
        for (name, target) in &self.config.deployments {
            let Ok(model) = self.store.resolve(target) else {
                continue;
            };
            let is_default = default.as_deref() == Some(model.path.as_path());
            out.push(info(&model.path, &loaded, is_default, Some(name)));
        }
        out
    }
}

fn info(path: &Path, loaded: &[PathBuf], default: bool, deployment: Option<&String>) -> ModelInfo {
    let stem = path
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    ModelInfo {
        id: deployment.cloned().unwrap_or(stem),
        created: created(Some(path)),
        file: Some(path.display().to_string()),
        bytes: std::fs::metadata(path).ok().map(|m| m.len()),
        installed: true,
        loaded: loaded.iter().any(|p| p == path),
        default,
        deployment: deployment.is_some(),
        multilingual: !path.to_string_lossy().contains(".en"),
    }
}

fn created(path: Option<&Path>) -> i64 {
    /// 2022-09-21, the release of Whisper: for files that are not there.
    const WHISPER_RELEASE: i64 = 1_663_718_400;
    path.and_then(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(WHISPER_RELEASE, |d| d.as_secs() as i64)
}

/// True when this build holds a GPU backend.
pub fn gpu_compiled() -> bool {
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

/// Slots that fit beside the weights. A state costs about a third of an f16 model's bytes, at least 256 MiB.
fn gpu_slots(free_bytes: u64, weights: u64) -> usize {
    let each = (weights / 3).max(256 << 20);
    let room = free_bytes.saturating_sub(weights + weights / 10);
    ((room / each) as usize).clamp(1, MAX_GPU_SLOTS)
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

    #[test]
    fn slots_follow_free_memory() {
        const GIB: u64 = 1 << 30;
        assert_eq!(gpu_slots(80 * GIB, GIB), MAX_GPU_SLOTS);
        assert_eq!(gpu_slots(2 * GIB, 3 * GIB), 1);
        assert_eq!(gpu_slots(3 * GIB, 150 << 20), 8);
        assert_eq!(gpu_slots(GIB, 150 << 20), 3);
    }
}
