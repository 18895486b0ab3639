//! Which model serves which name, when its engines are started, and which ones stay in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::default_model::{DefaultModel, Found, Search, in_folder};
use super::gpus::{GpuSearch, Gpus};
use super::known::{KnownModels, is_live};
use super::memory;
use super::model::Model;
use super::replica::{EnginePlan, Placement};
use super::room::Room;
use super::{Lease, ModelState, ServingError};
use crate::config::{Config, Count, Switch};
use crate::engine::EngineSpec;
use crate::engine::process::Launcher;
use crate::metrics::Metrics;
use crate::models::{Progress, Store};

/// Most decoders a state is warmed for (openai-whisper `best_of`).
const MAX_DECODERS: u32 = 5;

/// How often is looked whether a model that was replaced is still held.
const LOOK: Duration = Duration::from_millis(250);

/// All models of this server.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: Arc<Config>,
    /// The configuration's folder.
    pub(super) folder: PathBuf,
    pub(super) store: Store,
    launcher: Launcher,
    cores: usize,
    metrics: Arc<Metrics>,
    default: watch::Sender<DefaultModel>,
    /// `[deployments]`: name → model path or catalogue name.
    deployments: RwLock<BTreeMap<String, String>>,
    gpus: GpuSearch,
    known: Arc<KnownModels>,
    /// Name → model, so that a model in memory is found without looking at the disk.
    names: Mutex<HashMap<String, Arc<Model>>>,
    /// One load at a time decides about memory.
    loading: tokio::sync::Mutex<()>,
    room: Arc<Room>,
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
        let known = Arc::<KnownModels>::default();
        Arc::new(Self {
            store: Store::new(folder.join(&config.models.folder)),
            deployments: RwLock::new(config.deployments.clone()),
            config,
            folder,
            launcher,
            cores,
            metrics,
            default: watch::channel(DefaultModel::Searching).0,
            gpus: GpuSearch::new(),
            room: Room::new(bound, &known),
            known,
            names: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
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

    /// What is known of GPUs.
    pub fn gpus(&self) -> Gpus {
        self.gpus.known()
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
            self.gpus.run(&self.config, &self.launcher).await;
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

    /// The one model of a file.
    fn model_of(&self, name: &str, file: &Path, multilingual: bool) -> Arc<Model> {
        self.known.of(name, file, multilingual, &self.metrics)
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
        let Some(gpus) = self.gpus.searched().await else {
            return;
        };
        let _turn = self.loading.lock().await;
        let room = if let Gpus::Found(devices) = gpus {
            let weights = memory::weights(&model.file);
            let (config, launcher) = (&self.config, &self.launcher);
            let on_gpus = self.gpus.room(devices, weights, config, launcher, &self.known);
            let (placements, slots) = on_gpus.await;
            Ok((placements, slots, None))
        } else {
            let slots = self.cpu_slots();
            let charge = self.room.take(&model.file, slots).await;
            charge.map(|charge| (vec![Placement::Cpu], slots, Some(charge)))
        };
        if self.stopping.load(Ordering::Relaxed) {
            return model.refuse("the server is stopping".to_owned());
        }
        match room {
            Ok((placements, slots, charge)) => model.live(&self.plan(model, slots), &placements, charge),
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
            room: Some(self.room.clone()),
        }
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
                retry_after: fetch.retry_after(),
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
        let target = self.deployments().get(name).cloned();
        let found = match target {
            Some(target) => {
                let target = in_folder(&self.folder, &target);
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

    pub(super) fn deployments(&self) -> BTreeMap<String, String> {
        let deployments = self.deployments.read();
        deployments.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other `[deployments]`; requests that were resolved keep their models.
    pub fn set_deployments(&self, deployments: BTreeMap<String, String>) {
        *self.deployments.write().unwrap_or_else(PoisonError::into_inner) = deployments;
        lock(&self.names).clear();
    }

    /// Serves another model under names that nobody knows, from when it is ready on; until then the old one serves, which
    /// is unloaded when nobody holds it any more. Fetches the model if need be.
    ///
    /// # Errors
    ///
    /// Why the new one cannot be had; the old one goes on.
    pub async fn change_default(self: &Arc<Self>, config: Arc<Config>) -> Result<(), String> {
        let mut default = self.default.subscribe();
        let settled =
            |state: &DefaultModel| matches!(state, DefaultModel::Known { .. } | DefaultModel::Failed { .. });
        let _ = default.wait_for(settled).await;
        let registry = self.clone();
        let search = tokio::task::spawn_blocking(move || {
            let quiet = crate::models::Silent;
            Search {
                config: &config,
                folder: &registry.folder,
                store: &registry.store,
                progress: &quiet,
                // The old model's state is what everybody sees meanwhile.
                state: &watch::channel(DefaultModel::Searching).0,
                cancel: Arc::default(),
            }
            .configured()
        });
        let found = search.await.unwrap_or_else(|panic| Err(panic.to_string()))?;
        let model = self.model_of(&found.name, &found.path, found.multilingual);
        let lease = self.lease(&model);
        lease.ready().await.map_err(|error| error.to_string())?;
        let new = DefaultModel::Known {
            model: model.clone(),
            instead: None,
        };
        if let DefaultModel::Known { model: old, .. } = self.default.send_replace(new)
            && !Arc::ptr_eq(&old, &model)
        {
            let registry = self.clone();
            tokio::spawn(async move {
                while !registry.stopping.load(Ordering::Relaxed)
                    && is_live(&old)
                    && !old.retire(Duration::ZERO)
                {
                    tokio::time::sleep(LOOK).await;
                }
                tracing::info!(model = %old.name, "unloaded: another model serves in its place");
            });
        }
        Ok(())
    }

    /// Models whose engines run or load now.
    pub fn loaded(&self) -> Vec<Arc<Model>> {
        self.known.live()
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
        for model in self.known.all() {
            model.evict();
        }
    }
}

/// Whether a client's name could mean a place outside the model folder.
fn is_path(name: &str) -> bool {
    name.contains(['/', '\\'])
        || name.starts_with('.')
        || Path::new(name).extension().is_some_and(|e| e == "bin")
}
