//! Start: settings → models → engines → listen. Stop: no new requests → drain → end the engines.

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
use crate::models::Progress;
use crate::schedule::{Scheduler, Watchdog, available_cores};
use crate::serving::Registry;
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
        let registry = Registry::new(config.clone(), folder, launcher, cores, metrics.clone());
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
        })
    }

    /// Finds or fetches the model and starts its engines. Runs beside the server, which answers 503 until then.
    pub async fn load(&self, progress: Arc<dyn Progress + Send + Sync>, stop: &CancellationToken) {
        self.jobs.registry().open_default(progress, stop).await;
    }

    /// Runs one short window of noise through the default model, unless its speed is known already: the advice about a
    /// model that does not keep up needs a measurement.
    pub async fn measure_speed(&self) {
        if let Err(reason) = self.jobs.measure_speed().await {
            tracing::debug!(%reason, "the speed could not be measured");
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
