//! Start: settings → models → engines → listen. Stop: no new requests → drain → end the engines.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Loaded};
use crate::engine::process::Launcher;
use crate::http::{self, AppState};
use crate::jobs::runner::Jobs;
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::models::{ModelError, Progress, PullOptions, Store};
use crate::schedule::{Scheduler, Watchdog, available_cores};
use crate::serving::registry::{DefaultModel, Registry};
use crate::status::Status;

/// Everything that runs, tied together.
#[derive(Debug, Clone)]
pub struct App {
    /// The effective settings.
    pub config: Arc<Config>,
    /// Requests.
    pub jobs: Jobs,
    /// What `/health`, `/gpu-status` and `/stats` show.
    pub status: Arc<Status>,
    /// Language of messages.
    pub locale: Locale,
    folder: PathBuf,
}

impl App {
    /// Builds the parts; nothing is loaded yet.
    ///
    /// # Errors
    ///
    /// When this program's own path cannot be found.
    pub fn new(loaded: &Loaded) -> anyhow::Result<Self> {
        let config = Arc::new(loaded.config.clone());
        let folder = loaded.folder();
        let locale = Locale::new(config.server.locale);
        let metrics = Arc::new(Metrics::default());
        let cores = config
            .performance
            .whisper_threads
            .or(available_cores())
            .min(available_cores())
            .max(1);
        let watchdog = Watchdog {
            factor: config.performance.watchdog_factor,
            minimum: Duration::from_secs_f64(config.performance.watchdog_min_seconds),
        };
        let scheduler = Scheduler::new(cores, watchdog, metrics.clone());
        let launcher = Launcher::this_program().context("cannot find this program's own file")?;
        // Tests reach rare states of the engine through a script; see `engine/child.rs`.
        let script = std::env::var_os("WHISPER_BACKEND_TEST_ENGINE").map(PathBuf::from);
        let registry = Registry::new(
            config.clone(),
            Store::new(folder.join("models")),
            launcher,
            cores,
            script,
            metrics.clone(),
        );
        let status = Arc::new(Status::new(
            config.clone(),
            registry.clone(),
            scheduler.clone(),
            metrics.clone(),
        ));
        let jobs = Jobs::new(config.clone(), registry, scheduler, metrics, locale);
        Ok(Self {
            config,
            jobs,
            status,
            locale,
            folder,
        })
    }

    /// Finds or fetches the model and starts its engines. Runs beside the server, which answers 503 until then.
    pub async fn load(&self, progress: Arc<dyn Progress + Send + Sync>) {
        let registry = self.jobs.registry().clone();
        registry.find_gpus().await;
        let (config, folder, locale) = (self.config.clone(), self.folder.clone(), self.locale);
        let store_registry = registry.clone();
        let found = tokio::task::spawn_blocking(move || {
            find_model(
                &config,
                &folder,
                store_registry.store(),
                locale,
                progress.as_ref(),
                |doing| {
                    store_registry.report_start(DefaultModel::Starting {
                        doing: doing.to_owned(),
                    });
                },
            )
        })
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()));
        match found {
            Ok(found) => {
                let model = registry.load(&found.name, &found.path);
                let started = DefaultModel::Started {
                    model: model.clone(),
                    instead: found.instead,
                };
                registry.report_start(started);
                if let Err(reason) = model.settled().await {
                    tracing::error!(%reason, "no engine could be started");
                }
            }
            Err(reason) => {
                tracing::error!("{}: {reason}", locale.model_missing());
                registry.report_start(DefaultModel::Failed { reason });
            }
        }
    }

    /// Serves until `stop` fires, then lets running requests finish within the grace time.
    ///
    /// # Errors
    ///
    /// When the listener breaks.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let mut state = AppState::new(Arc::new(self.jobs.clone()), self.config.clone());
        let status = self.status.clone();
        state.observe = Some(Arc::new(move |outcome: &http::Outcome| {
            status.answered(outcome.status.as_u16());
        }));
        let diagnostics = http::diagnostics::router(self.status.clone());
        let router = http::router_with(state, diagnostics);
        let grace = Duration::from_secs(self.config.server.shutdown_grace_seconds);
        let idle = self.config.whisper.idle_unload_seconds;
        if idle > 0 {
            let registry = self.jobs.registry().clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let limit = Duration::from_secs(idle);
                while !stop.is_cancelled() {
                    tokio::time::sleep(limit.min(Duration::from_secs(5)).max(Duration::from_millis(200)))
                        .await;
                    registry.unload_idle(limit);
                }
            });
        }
        tokio::select! {
            () = http::serve(listener, router, http::HEAD_TIMEOUT, stop.clone()) => {}
            () = async {
                stop.cancelled().await;
                let began = Instant::now();
                while self.jobs.in_flight() > 0 && began.elapsed() < grace {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // Answers still have to leave; connections kept alive do not.
                tokio::time::sleep(Duration::from_millis(300)).await;
            } => {}
        }
        let left = self.jobs.in_flight();
        if left > 0 {
            tracing::warn!(
                requests = left,
                "the grace time is over; running requests are given up"
            );
        }
        self.jobs.registry().stop();
        Ok(())
    }
}

struct Found {
    name: String,
    path: PathBuf,
    instead: Option<String>,
}

/// The configured model, fetched if need be, or the fallback.
fn find_model(
    config: &Config,
    folder: &std::path::Path,
    store: &Store,
    locale: Locale,
    progress: &dyn Progress,
    doing: impl Fn(&str),
) -> Result<Found, String> {
    if std::env::var_os("WHISPER_BACKEND_TEST_ENGINE").is_some() {
        return Ok(Found {
            name: "scripted".to_owned(),
            path: folder.join("scripted"),
            instead: None,
        });
    }
    let wanted = &config.whisper.model_path;
    let reason = match one_model(config, folder, store, wanted, progress, &doing) {
        Ok((name, path)) => {
            return Ok(Found {
                name,
                path,
                instead: None,
            });
        }
        Err(error) => error.to_string(),
    };
    tracing::warn!("{}: {wanted}: {reason}", locale.model_missing());
    let fallback = &config.whisper.fallback_model;
    match one_model(config, folder, store, fallback, progress, &doing) {
        Ok((name, path)) => {
            let instead = format!("`{wanted}` cannot be had ({reason}); `{name}` is served instead");
            tracing::warn!("{instead}");
            Ok(Found {
                name,
                path,
                instead: Some(instead),
            })
        }
        Err(error) => Err(format!(
            "neither `{wanted}` ({reason}) nor `{fallback}` ({error}) can be had"
        )),
    }
}

fn one_model(
    config: &Config,
    folder: &std::path::Path,
    store: &Store,
    wanted: &str,
    progress: &dyn Progress,
    doing: &impl Fn(&str),
) -> Result<(String, PathBuf), ModelError> {
    // Paths count from the configuration's folder.
    let direct = folder.join(wanted);
    let name = if direct.is_file() {
        direct.to_string_lossy().into_owned()
    } else {
        wanted.to_owned()
    };
    let missing = match store.resolve(&name) {
        Ok(model) => return Ok((model.name, model.path)),
        Err(error @ (ModelError::NotInstalled { .. } | ModelError::NoSuchFile { .. })) => error,
        Err(error) => return Err(error),
    };
    // `models/ggml-NAME.bin` of a catalogue model is as good as its name.
    let stem = std::path::Path::new(wanted)
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_default();
    let bare = stem.strip_prefix("ggml-").unwrap_or(&stem);
    let bare = bare.strip_suffix(".bin").unwrap_or(bare);
    if !config.whisper.auto_download || store.catalogue().find(bare).is_none() {
        return Err(missing);
    }
    doing(&format!("fetching the model `{bare}`"));
    tracing::info!("fetching the model `{bare}`");
    let path = store.pull(bare, &PullOptions::default(), progress)?;
    doing("loading the model");
    Ok((bare.to_owned(), path))
}
