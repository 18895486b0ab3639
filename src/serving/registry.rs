//! Which model serves which name, when its engines are started, and which ones stay in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::default_model::{DefaultModel, Found, Search, in_folder};
use super::memory;
use super::model::Model;
use super::replica::{EnginePlan, Placement};
use super::residency::Residence;
use super::{Lease, ModelInfo, ModelState, ServingError};
use crate::config::{Config, Count, GpuDevices, Switch};
use crate::engine::message::GpuDevice;
use crate::engine::process::{Launcher, NoGpu};
use crate::engine::{EngineSetting, EngineSpec};
use crate::metrics::Metrics;
use crate::models::{Languages, Progress, Store};

/// Most decoders a state is warmed for (openai-whisper `best_of`).
const MAX_DECODERS: u32 = 5;
/// A model waits so long for memory that others hold before its requests are refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks meanwhile.
const ROOM_LOOK: Duration = Duration::from_millis(250);
/// What a GPU had free is asked anew after this long.
const GPU_MEMORY_FRESH: Duration = Duration::from_secs(5);
/// Clients whose model is being fetched are told to come back after this long.
const FETCH_RETRY: Duration = Duration::from_secs(15);

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

/// All models of this server.
#[derive(Debug)]
pub struct Registry {
    config: Arc<Config>,
    /// The configuration's folder.
    folder: PathBuf,
    store: Store,
    launcher: Launcher,
    cores: usize,
    metrics: Arc<Metrics>,
    default: watch::Sender<DefaultModel>,
    gpus: watch::Sender<(Gpus, Instant)>,
    /// By canonical path: one file is one model, whatever it is called.
    models: Mutex<HashMap<PathBuf, Arc<Model>>>,
    /// Name → model, so that a model in memory is found without looking at the disk.
    names: Mutex<HashMap<String, Arc<Model>>>,
    /// One load at a time decides about memory.
    loading: tokio::sync::Mutex<()>,
    /// Bytes that models on the processor may take.
    bound: Option<u64>,
    stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Nothing is loaded yet; see [`Registry::open_default`].
    pub fn new(
        config: Arc<Config>,
        folder: PathBuf,
        launcher: Launcher,
        cores: usize,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let bound = match config.whisper.max_loaded_mb {
            Count::Auto => memory::automatic_bound(),
            Count::Fixed(mebibytes) => Some((mebibytes as u64).saturating_mul(1 << 20)),
        };
        Arc::new(Self {
            store: Store::new(folder.join("models")),
            config,
            folder,
            launcher,
            cores,
            metrics,
            default: watch::channel(DefaultModel::Searching).0,
            gpus: watch::channel((Gpus::Unknown, Instant::now())).0,
            models: Mutex::default(),
            names: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            bound,
            stopping: AtomicBool::new(false),
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

    /// What the default model is doing.
    pub fn default_state(&self) -> ModelState {
        match self.default_model() {
            DefaultModel::Searching => ModelState::Loading,
            DefaultModel::Fetching(fetch) => ModelState::Fetching(fetch),
            DefaultModel::Known { model, .. } => model.state(),
            DefaultModel::Failed { reason } => ModelState::Broken(reason),
        }
    }

    /// Changes of [`Registry::default_model`].
    pub fn watch_default(&self) -> watch::Receiver<DefaultModel> {
        self.default.subscribe()
    }

    /// What is known of GPUs.
    pub fn gpus(&self) -> Gpus {
        self.gpus.borrow().0.clone()
    }

    /// Looks for GPUs, finds or fetches the configured model, and waits until it serves or cannot.
    /// Runs beside the server. Ends early when `stop` fires.
    pub async fn open_default(
        self: &Arc<Self>,
        progress: Arc<dyn Progress + Send + Sync>,
        stop: &CancellationToken,
    ) {
        let cancel = Arc::new(AtomicBool::new(false));
        let open = async {
            self.find_gpus().await;
            let (registry, flag) = (self.clone(), cancel.clone());
            let search = tokio::task::spawn_blocking(move || {
                let search = Search {
                    config: &registry.config,
                    folder: &registry.folder,
                    store: &registry.store,
                    progress: progress.as_ref(),
                    state: &registry.default,
                    cancel: flag,
                };
                search.run()
            });
            let found = search.await.unwrap_or_else(|panic| Err(panic.to_string()));
            self.serve_default(found).await;
        };
        tokio::select! {
            () = open => {}
            () = stop.cancelled() => cancel.store(true, Ordering::Relaxed),
        }
    }

    async fn serve_default(self: &Arc<Self>, found: Result<Found, String>) {
        let found = match found {
            Ok(found) => found,
            Err(reason) => {
                self.default.send_replace(DefaultModel::Failed { reason });
                return;
            }
        };
        let model = self.model_of(&found.name, &found.path, found.multilingual);
        let lease = self.lease(&model);
        self.default.send_replace(DefaultModel::Known {
            model,
            instead: found.instead,
        });
        // What goes wrong is in the model's state, which whoever waits looks at.
        let _ = lease.ready().await;
    }

    /// Looks for GPUs in a child process, when they are wanted and built in.
    async fn find_gpus(&self) {
        let whisper = &self.config.whisper;
        // The native engine runs on the processor alone.
        let wanted = whisper.enable_gpu && gpu_compiled() && whisper.engine != EngineSetting::Native;
        let found = if wanted {
            match self.launcher.list_gpus().await {
                Ok(devices) => match choose(&self.config.whisper.gpu_devices, devices) {
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
        let _ = self.gpus.send_replace((found, Instant::now()));
    }

    /// The one model of a file.
    fn model_of(&self, name: &str, file: &Path, multilingual: bool) -> Arc<Model> {
        let key = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        lock(&self.models)
            .entry(key)
            .or_insert_with_key(|key| {
                Model::new(name.to_owned(), key.clone(), multilingual, self.metrics.clone())
            })
            .clone()
    }

    /// A hold on the model; whoever finds it unloaded begins to load it.
    fn lease(self: &Arc<Self>, model: &Arc<Model>) -> Lease {
        let (hold, load) = model.hold();
        if load {
            let (registry, model) = (self.clone(), model.clone());
            tokio::spawn(async move { registry.load(&model).await });
        }
        Lease::new(model.clone(), hold)
    }

    /// Makes room and starts the engines.
    async fn load(&self, model: &Arc<Model>) {
        let mut known = self.gpus.subscribe();
        if known
            .wait_for(|(gpus, _)| !matches!(gpus, Gpus::Unknown))
            .await
            .is_err()
        {
            return;
        }
        let _turn = self.loading.lock().await;
        let weights = std::fs::metadata(&model.file).map_or(0, |m| m.len());
        let room = match self.gpus() {
            Gpus::Found(devices) => self.room_on_gpus(devices, weights).await,
            _ => self.room_in_memory(model, weights).await.map(|()| self.on_cpu()),
        };
        if self.stopping.load(Ordering::Relaxed) {
            return model.refuse("the server is stopping".to_owned());
        }
        match room {
            Ok((placements, slots)) => model.live(&self.plan(model, slots), &placements),
            Err(reason) => {
                tracing::warn!(model = %model.name, %reason, "not loaded");
                model.refuse(reason);
            }
        }
    }

    fn cpu_slots(&self) -> usize {
        let slots = self.config.performance.slots.or(self.cores);
        slots.clamp(1, self.cores.max(1))
    }

    fn on_cpu(&self) -> (Vec<Placement>, usize) {
        (vec![Placement::Cpu], self.cpu_slots())
    }

    fn plan(&self, model: &Model, gpu_slots: usize) -> EnginePlan {
        let flash = self.config.whisper.flash_attention;
        EnginePlan {
            spec: EngineSpec {
                model: model.file.clone(),
                gpu_device: None,
                slots: gpu_slots,
                flash_attention: flash != Switch::Off,
                max_decoders: MAX_DECODERS.max(self.config.whisper.beam_size.or(1) as u32),
                threads: self.cores as u32,
                engine: self.config.whisper.engine,
                precision: self.config.whisper.precision,
            },
            cpu_slots: self.cpu_slots(),
            cpu_flash_attention: flash == Switch::On,
            starter: Arc::new(self.launcher.clone()),
        }
    }

    /// Waits until the models in memory and this one are below the bound, ending those that nobody holds, the one
    /// that was used least recently first. A model alone is always let in: whether it fits is for the system to say.
    async fn room_in_memory(&self, model: &Arc<Model>, weights: u64) -> Result<(), String> {
        let Some(bound) = self.bound else { return Ok(()) };
        let slots = self.cpu_slots();
        let needed = memory::engine_bytes(weights, slots);
        let began = Instant::now();
        loop {
            let others = self.others_in_memory(model);
            let taken: u64 = others
                .iter()
                .map(|other| {
                    memory::engine_bytes(std::fs::metadata(&other.file).map_or(0, |m| m.len()), slots)
                })
                .sum();
            if others.is_empty() || taken + needed <= bound {
                return Ok(());
            }
            if Self::retire_oldest(&others) {
                continue;
            }
            if began.elapsed() > ROOM_PATIENCE {
                return Err(format!(
                    "`{}` needs {} MiB beside {} models in use that take {} of {} MiB (whisper.max_loaded_mb)",
                    model.name,
                    needed >> 20,
                    others.len(),
                    taken >> 20,
                    bound >> 20,
                ));
            }
            tokio::time::sleep(ROOM_LOOK).await;
        }
    }

    /// Slots by what is free now; models that nobody holds make room.
    async fn room_on_gpus(
        &self,
        mut devices: Vec<GpuDevice>,
        weights: u64,
    ) -> Result<(Vec<Placement>, usize), String> {
        let mut known_at = self.gpus.borrow().1;
        loop {
            if known_at.elapsed() > GPU_MEMORY_FRESH {
                // A search that fails now leaves the old numbers: the engine says itself when it does not fit.
                if let Ok(fresh) = self.launcher.list_gpus().await {
                    devices = choose(&self.config.whisper.gpu_devices, fresh).unwrap_or(devices);
                }
            }
            let least = devices.iter().map(|d| d.memory_free_bytes).min().unwrap_or(0);
            let known = devices.iter().any(|d| d.memory_total_bytes > 0);
            let others: Vec<_> = lock(&self.models).values().cloned().collect();
            if known && !memory::fits_gpu(least, weights) && Self::retire_oldest(&others) {
                // Its memory is free when its process has ended.
                tokio::time::sleep(ROOM_LOOK).await;
                known_at -= GPU_MEMORY_FRESH * 2;
                continue;
            }
            let slots = match self.config.performance.slots {
                Count::Fixed(n) => n,
                Count::Auto => memory::gpu_slots(least, weights),
            };
            return Ok((devices.iter().map(|d| Placement::Gpu(d.number)).collect(), slots));
        }
    }

    fn others_in_memory(&self, model: &Arc<Model>) -> Vec<Arc<Model>> {
        let models = lock(&self.models);
        models
            .values()
            .filter(|other| !Arc::ptr_eq(other, model) && is_live(other))
            .cloned()
            .collect()
    }

    /// Ends the engines of the model that was used least recently; false when all are in use.
    fn retire_oldest(models: &[Arc<Model>]) -> bool {
        let mut idle: Vec<_> = models
            .iter()
            .filter_map(|model| Some((model.residency().idle_since()?, model)))
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        let retired = idle.iter().find(|(_, model)| model.retire(Duration::ZERO));
        if let Some((_, model)) = retired {
            tracing::info!(model = %model.name, "unloaded to make room for another model");
        }
        retired.is_some()
    }

    /// The model that serves a name, held for a request: the one answer to what serves it. Loading begins here.
    ///
    /// # Errors
    ///
    /// `UnknownDeployment` where names are strict, `Fetching` while the file comes, `Unavailable` when no engine starts.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn resolve(self: &Arc<Self>, name: &str) -> Result<Lease, ServingError> {
        // What is in memory is served without a look at the disk.
        let known = lock(&self.names).get(name).cloned().filter(is_live);
        let found = if known.is_some() {
            known
        } else {
            let (registry, name) = (self.clone(), name.to_owned());
            tokio::task::spawn_blocking(move || registry.look_up(&name))
                .await
                .unwrap_or_else(|panic| Err(ServingError::unavailable(panic.to_string())))?
        };
        let model = match found {
            Some(model) => model,
            None => self.default_once_known().await?,
        };
        let broken = matches!(model.state(), ModelState::Broken(_));
        let lease = self.lease(&model);
        match lease.state() {
            // Known before the body is read; a model that was refused for want of room is tried again.
            ModelState::Broken(reason) if broken => Err(ServingError::unavailable(reason)),
            _ => Ok(lease),
        }
    }

    async fn default_once_known(&self) -> Result<Arc<Model>, ServingError> {
        let mut default = self.default.subscribe();
        let known = default
            .wait_for(|state| !matches!(state, DefaultModel::Searching))
            .await
            .map_err(|_| ServingError::unavailable("the server is stopping".to_owned()))?;
        match &*known {
            DefaultModel::Known { model, .. } => Ok(model.clone()),
            DefaultModel::Fetching(fetch) => Err(ServingError::Fetching {
                doing: fetch.to_string(),
                retry_after: FETCH_RETRY,
            }),
            DefaultModel::Failed { reason } => Err(ServingError::unavailable(reason.clone())),
            DefaultModel::Searching => Err(ServingError::unavailable(ModelState::Loading.to_string())),
        }
    }

    /// The model that a deployment or model name means, or `None` for the default. Reads headers: off the async threads.
    /// A client's name never reaches the file system but as the name of a file in the model folder.
    fn look_up(&self, name: &str) -> Result<Option<Arc<Model>>, ServingError> {
        // Some calls name no model: the command line's, Azure's fast transcription.
        if name.is_empty() {
            return Ok(None);
        }
        let found = match self.config.deployments.get(name) {
            Some(target) => {
                let target = in_folder(&self.folder, target);
                let found = self.store.resolve(&target);
                Some(found.map_err(|e| ServingError::unavailable(format!("deployment `{name}`: {e}")))?)
            }
            None if is_path(name) => None,
            None => self.store.resolve(name).ok(),
        };
        if let Some(found) = found {
            let model = self.model_of(&found.name, &found.path, found.header.multilingual());
            lock(&self.names).insert(name.to_owned(), model.clone());
            return Ok(Some(model));
        }
        let default = match &*self.default.borrow() {
            DefaultModel::Known { model, .. } => Some(model.name.clone()),
            _ => None,
        };
        if self.config.server.strict_deployments && default.as_deref() != Some(name) {
            return Err(ServingError::UnknownDeployment {
                name: name.to_owned(),
            });
        }
        Ok(None)
    }

    /// The name of the model that serves a name, for lists. Reads headers: off the async threads.
    ///
    /// # Errors
    ///
    /// As [`Registry::resolve`].
    pub fn lookup(&self, name: &str) -> Result<String, ServingError> {
        if let Some(model) = self.look_up(name)? {
            return Ok(model.name.clone());
        }
        match &*self.default.borrow() {
            DefaultModel::Known { model, .. } => Ok(model.name.clone()),
            DefaultModel::Searching => Ok(self.config.whisper.model_path.clone()),
            DefaultModel::Fetching(fetch) => Ok(fetch.model.clone()),
            DefaultModel::Failed { reason } => Err(ServingError::unavailable(reason.clone())),
        }
    }

    /// Models whose engines run or load now.
    pub fn loaded(&self) -> Vec<Arc<Model>> {
        lock(&self.models)
            .values()
            .filter(|m| is_live(m))
            .cloned()
            .collect()
    }

    /// Ends engines that nobody has held for `limit`.
    pub fn unload_idle(&self, limit: Duration) {
        for model in self.loaded() {
            if model.retire(limit) {
                tracing::info!(model = %model.name, "unloaded after {limit:?} without work");
            }
        }
    }

    /// Tries GPUs that were given up now, not when their time comes.
    pub fn probe_gpus(&self) {
        for model in self.loaded() {
            model.probe_now();
        }
    }

    /// Ends every engine.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for model in lock(&self.models).values() {
            model.evict();
        }
    }

    /// Everything that can be asked for by name. Reads headers: off the async threads.
    pub fn list(&self) -> Vec<ModelInfo> {
        let default = match self.default_model() {
            DefaultModel::Known { model, .. } => Some(model),
            _ => None,
        };
        let default_file = default.as_ref().map(|model| model.file.clone());
        let loaded: Vec<PathBuf> = self
            .loaded()
            .iter()
            .filter(|m| m.state() == ModelState::Ready)
            .map(|m| m.file.clone())
            .collect();
        let mut out = Vec::new();
        let mut shown = false;
        // A folder that cannot be read holds no models; `doctor` says why.
        for known in self.store.list().unwrap_or_default() {
            let path = known.path.filter(|_| known.problem.is_none());
            let key = path.as_ref().and_then(|p| std::fs::canonicalize(p).ok());
            let is_default = key.is_some() && key == default_file;
            shown |= is_default;
            out.push(ModelInfo {
                id: known.name,
                created: created(path.as_deref()),
                file: path.as_ref().map(|p| p.display().to_string()),
                bytes: Some(known.bytes),
                installed: path.is_some(),
                loaded: key.as_ref().is_some_and(|p| loaded.contains(p)),
                default: is_default,
                deployment: false,
                multilingual: known.languages != Some(Languages::English),
            });
        }
        if let (Some(model), false) = (&default, shown) {
            out.push(info(&model.name, &model.file, model.multilingual, &loaded));
            if let Some(last) = out.last_mut() {
                last.default = true;
            }
        }
        for (name, target) in &self.config.deployments {
            let Ok(model) = self.store.resolve(&in_folder(&self.folder, target)) else {
                continue;
            };
            let key = std::fs::canonicalize(&model.path).unwrap_or(model.path);
            out.push(ModelInfo {
                default: default_file.as_ref() == Some(&key),
                deployment: true,
                ..info(name, &key, model.header.multilingual(), &loaded)
            });
        }
        out
    }
}

fn is_live(model: &Arc<Model>) -> bool {
    model
        .residency()
        .look(|residence| matches!(residence, Residence::Live(_)))
}

/// Whether a client's name could mean a place outside the model folder.
fn is_path(name: &str) -> bool {
    name.contains(['/', '\\'])
        || name.starts_with('.')
        || Path::new(name).extension().is_some_and(|e| e == "bin")
}

fn info(name: &str, file: &Path, multilingual: bool, loaded: &[PathBuf]) -> ModelInfo {
    ModelInfo {
        id: name.to_owned(),
        created: created(Some(file)),
        file: Some(file.display().to_string()),
        bytes: std::fs::metadata(file).ok().map(|m| m.len()),
        installed: true,
        loaded: loaded.iter().any(|p| p == file),
        default: false,
        deployment: false,
        multilingual,
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
