//! Start: settings → models → engines → listen. Stop: no new requests → drain → end the engines.

mod reload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Limits};
use crate::audio::Decoders;
use crate::config::{Config, Loaded, mebibytes};
use crate::engine::process::Launcher;
use crate::http::{self, AppState, Realtime};
use crate::jobs::decoder_settings;
use crate::jobs::runner::Jobs;
use crate::keys::Keys;
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::models::Progress;
use crate::process;
use crate::realtime::windows::LiveWindows;
use crate::schedule::{Scheduler, Watchdog, available_cores};
use crate::serving::Registry;
use crate::status::Status;
use crate::tls::Tls;

/// Part of the grace time in which given-up requests get their answers and engines end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connections that read `/metrics` at once, where that has a listener of its own: a few collectors.
const METRICS_CONNECTIONS: usize = 32;

/// Everything that runs, tied together.
#[derive(Debug, Clone)]
pub struct App {
    /// The effective settings.
    pub config: Arc<Config>,
    /// The one way in.
    pub admission: Admission,
    /// Requests.
    pub jobs: Jobs,
    /// What `/health`, `/gpu-status` and `/stats` show.
    pub status: Arc<Status>,
    /// Language of messages.
    pub locale: Locale,
    /// Ends every request.
    work: CancellationToken,
    live: LiveWindows,
    metrics: Arc<Metrics>,
    /// The settings in effect, reloads included.
    current: Arc<tokio::sync::Mutex<Config>>,
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
        let decoders = Decoders::new(decoder_settings(&config, std::env::current_exe()?))
            .context("cannot start the thread that starts decoders")?;
        let registry = Registry::new(config.clone(), folder, launcher, cores, metrics.clone());
        let work = CancellationToken::new();
        let limits = Limits {
            in_service: config.performance.max_concurrent_requests.max(1),
            waiting: config.performance.queue_length,
            spool_bytes: mebibytes(config.performance.max_spool_mb),
            deadline: Duration::from_secs(config.server.request_deadline_seconds),
            ..Limits::default()
        };
        let admission = Admission::new(limits, Keys::new(&config), work.clone(), metrics.clone());
        let status = Arc::new(Status::new(
            config.clone(),
            registry.clone(),
            scheduler.clone(),
            admission.clone(),
            metrics.clone(),
        ));
        let live = LiveWindows::new(config.clone(), registry.clone(), scheduler.clone());
        let jobs = Jobs::new(
            config.clone(),
            registry,
            scheduler,
            admission.clone(),
            decoders,
            metrics.clone(),
            locale,
        );
        Ok(Self {
            current: Arc::new(tokio::sync::Mutex::new((*config).clone())),
            config,
            admission,
            jobs,
            status,
            locale,
            work,
            live,
            metrics,
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

    /// Serves until `stop` fires, then lets running requests finish; all is over within the grace time.
    /// `metrics` is the listener of `metrics.listen`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        metrics: Option<TcpListener>,
        stop: CancellationToken,
    ) {
        if let Some(tls) = tls.clone() {
            let stop = stop.clone();
            tokio::spawn(async move { tls.follow(stop).await });
        }
        let mut state = AppState::new(
            Arc::new(self.jobs.clone()),
            self.admission.clone(),
            self.config.clone(),
        );
        let swept = state.spool_folder.sweep();
        if swept > 0 {
            tracing::info!(files = swept, "removed what a killed server left of uploads");
        }
        let status = self.status.clone();
        state.observe = Some(Arc::new(move |outcome: &http::Outcome| {
            let answered = outcome.status.map(|status| status.as_u16());
            status
                .metrics()
                .answers
                .add(outcome.route, answered, outcome.took);
        }));
        state.realtime = Some(Arc::new(Realtime::new(
            Arc::new(self.live.clone()),
            stop.clone(),
            self.metrics.clone(),
        )));
        let diagnostics = http::diagnostics::router(self.status.clone());
        let transfer = http::Transfer {
            period: Duration::from_secs(self.config.server.body_idle_timeout_seconds.max(1)),
            bytes_per_second: self.config.server.min_transfer_bytes_per_second,
        };
        let router = http::router_with(state, diagnostics);
        let most = http::Connections::MOST_FILES;
        let files = process::raise_open_files(most).unwrap_or(most);
        let connections = http::Connections::by_open_files(files, self.admission.places_limit());
        tracing::debug!(most = connections.most(), "connections");
        if let Some(listener) = metrics {
            let router = http::diagnostics::metrics_router(self.status.clone());
            let few = http::Connections::new(METRICS_CONNECTIONS);
            let serving = http::serve(
                listener,
                router,
                http::HEAD_TIMEOUT,
                transfer,
                None,
                few,
                stop.clone(),
            );
            tokio::spawn(serving);
        }
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
            () = http::serve(listener, router, http::HEAD_TIMEOUT, transfer, tls, connections, stop.clone()) => {}
            () = async {
                stop.cancelled().await;
                self.drain().await;
            } => {}
        }
        self.work.cancel();
        self.jobs.registry().stop();
    }

    /// Nobody new comes in; who is inside may finish within the grace time, and is told to end shortly before it is over.
    async fn drain(&self) {
        self.admission.close();
        let grace = Duration::from_secs(self.config.server.shutdown_grace_seconds);
        let last = grace.min(LAST_WORDS * 4) / 4;
        let inside = || self.admission.in_flight() + self.admission.sessions();
        empty(grace.saturating_sub(last), inside).await;
        let left = inside();
        if left > 0 {
            tracing::warn!(
                requests = left,
                "the grace time is over; running requests are given up"
            );
            self.work.cancel();
            empty(last / 2, inside).await;
        }
        // Answers still have to leave; connections kept alive do not.
        tokio::time::sleep((last / 2).min(Duration::from_millis(300))).await;
    }
}

/// Waits until nobody is inside, or for so long.
async fn empty(limit: Duration, inside: impl Fn() -> usize) {
    let began = Instant::now();
    while inside() > 0 && began.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
