//! What runs, on what, and how it goes: the facts behind the diagnostic routes.

mod exposition;
mod speed;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{Admission, Occupancy};
use crate::config::Config;
use crate::diagnostics::{self, EngineFacts, GpuReport, MachineFacts};
use crate::domain::DeviceReport;

use crate::keys::Usage;
use crate::locale::{Banner, Locale};
use crate::metrics::Metrics;
use crate::schedule::Scheduler;
use crate::serving::{DefaultModel, Gpus, Model, ModelInfo, ModelState, Registry};

pub use exposition::ExpositionFormat;
pub use speed::SpeedAdvice;

/// Facts of the machine are looked at anew after this long; `nvidia-smi` takes up to seconds.
const FACTS_FRESH: Duration = Duration::from_secs(15);

/// Models from this size on are measured at the start: the smallest file of `small` (q5_1). Smaller ones keep up nearly
/// everywhere, and their first recording tells.
const MEASURED_FROM_BYTES: u64 = 190_000_000;

/// Answers the diagnostic routes. Never waits for an engine.
#[derive(Debug)]
pub struct Status {
    config: Arc<Config>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    admission: Admission,
    metrics: Arc<Metrics>,
    began: Instant,
    facts: tokio::sync::Mutex<Option<(Instant, Arc<MachineFacts>)>>,
}

/// Whether windows can be served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Serving,
    /// Not yet: the model is fetched or loads.
    Starting,
    /// No: the server ends.
    Stopping,
    /// No, and nobody knows when.
    Unavailable,
}

/// How the server does.
#[derive(Debug, Clone)]
pub struct Health {
    /// Whether windows can be served now.
    pub standing: Standing,
    /// What is going on, where it is not [`Standing::Serving`].
    pub reason: Option<String>,
    /// Name of the default model.
    pub model: Option<String>,
    /// Why it is not the configured one.
    pub model_notice: Option<String>,
    /// Where the model does not keep up.
    pub slow_model: Option<SpeedAdvice>,
    /// What the engines of the default model say of themselves.
    pub engines: Vec<DeviceReport>,
    /// Time since the start.
    pub uptime: Duration,
}

impl Health {
    /// Whether a window can be served.
    pub fn is_serving(&self) -> bool {
        self.standing == Standing::Serving
    }
}

/// What goes on now; what went on so far is in [`Status::metrics`].
#[derive(Debug, Clone)]
pub struct Activity {
    /// Requests inside and what they keep.
    pub occupancy: Occupancy,
    /// Windows waiting for a core or slot.
    pub windows_waiting: usize,
    /// Cores that all windows share.
    pub cores: usize,
    /// What the engines of the default model say of themselves.
    pub engines: Vec<DeviceReport>,
    /// Seconds of one core that the default model takes for each second of audio; `None` before the first window.
    pub core_seconds_per_second: Option<f64>,
    /// Time since the start.
    pub uptime: Duration,
    /// What each named key was used for, where `metrics.by_key` asks for it.
    pub keys: Option<Vec<Usage>>,
}

impl Status {
    /// Counts the uptime from now.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        scheduler: Scheduler,
        admission: Admission,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config,
            registry,
            scheduler,
            admission,
            metrics,
            began: Instant::now(),
            facts: tokio::sync::Mutex::default(),
        }
    }

    /// The effective settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The default model, and why it is not the configured one.
    fn model(&self) -> (Option<Arc<Model>>, Option<String>) {
        match self.registry.default_model() {
            DefaultModel::Known { model, instead } => (Some(model), instead),
            DefaultModel::Searching | DefaultModel::Fetching(_) | DefaultModel::Failed { .. } => (None, None),
        }
    }

    /// Whether the default model's speed was measured: after the first window.
    pub fn speed_is_known(&self) -> bool {
        let model = self.model().0;
        model.is_some_and(|model| model.core_seconds_per_second().is_some())
    }

    /// Whether the default model is so large that its speed is worth a run before anybody asks for one.
    pub fn may_be_slow(&self) -> bool {
        let size = self.model().0.and_then(|model| model.file.metadata().ok());
        size.is_some_and(|file| file.len() >= MEASURED_FROM_BYTES)
    }

    /// What to say of a default model that does not keep up; `None` before anything was measured.
    pub fn speed_advice(&self) -> Option<SpeedAdvice> {
        let model = self.model().0?;
        // Engines on a GPU do not share the cores.
        let cores = if model.reports().first().is_some_and(|r| r.gpu) {
            1
        } else {
            self.scheduler.cores()
        };
        let speed = cores as f64 / model.core_seconds_per_second()?;
        SpeedAdvice::new(&model.file.file_name()?.to_string_lossy(), speed)
    }

    /// Counters since the start.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn engines(&self) -> Vec<DeviceReport> {
        self.model().0.map(|model| model.reports()).unwrap_or_default()
    }

    /// Whether windows wait and none finishes.
    pub fn is_stalled(&self) -> bool {
        self.scheduler.stalled_for().is_some()
    }

    /// `/metrics`.
    pub fn exposition(self: &Arc<Self>, format: ExpositionFormat) -> String {
        exposition::write(self, format)
    }

    /// What keeps a server whose model is ready from serving.
    fn stopped(&self) -> Option<(Standing, String)> {
        if self.admission.is_closed() {
            return Some((Standing::Stopping, "the server is stopping".to_owned()));
        }
        let stalled = self.scheduler.stalled_for()?;
        let seconds = stalled.as_secs();
        let why = format!("windows wait, and no window has finished for {seconds} s");
        Some((Standing::Unavailable, why))
    }

    /// Whether windows can be served, by what, and why not.
    pub fn health(&self) -> Health {
        let (model, instead) = self.model();
        let state = self.registry.default_state();
        let (standing, reason) = match &state {
            // An engine that was ended for idleness comes back with the next request: that is health.
            ModelState::Ready | ModelState::Absent | ModelState::Retiring => (Standing::Serving, None),
            ModelState::Fetching(_) | ModelState::Loading | ModelState::Restarting => {
                (Standing::Starting, Some(state.to_string()))
            }
            ModelState::Broken(reason) => (Standing::Unavailable, Some(reason.clone())),
        };
        let (standing, reason) = match self.stopped() {
            Some((stopped, why)) if standing == Standing::Serving => (stopped, Some(why)),
            _ => (standing, reason),
        };
        Health {
            standing,
            reason,
            model: model.map(|m| m.name.clone()),
            model_notice: instead,
            slow_model: self.speed_advice(),
            engines: self.engines(),
            uptime: self.began.elapsed(),
        }
    }

    /// What goes on now.
    pub fn activity(&self) -> Activity {
        Activity {
            occupancy: self.admission.occupancy(),
            windows_waiting: self.scheduler.waiting(),
            cores: self.scheduler.cores(),
            engines: self.engines(),
            core_seconds_per_second: self.model().0.and_then(|m| m.core_seconds_per_second()),
            uptime: self.began.elapsed(),
            keys: self.key_usage(),
        }
    }

    /// What named keys were used for, where that is to be shown.
    fn key_usage(&self) -> Option<Vec<Usage>> {
        let shown = self.config.metrics.by_key;
        shown.then(|| self.admission.keys().usage())
    }

    /// What the engines of the default model really do.
    pub fn engine_facts(&self) -> EngineFacts {
        let (model, _) = self.model();
        let reports = model.as_ref().map(|m| m.reports()).unwrap_or_default();
        let mut log = Vec::new();
        if let Gpus::Missing(none) = self.registry.gpus() {
            log.extend(none.log);
            log.push(none.reason);
        }
        log.extend(reports.iter().flat_map(|r| r.device_log.iter().cloned()));
        if let ModelState::Broken(reason) = self.registry.default_state() {
            log.push(reason);
        }
        let fallbacks = model
            .iter()
            .flat_map(|m| m.fallbacks())
            .filter(|moved| moved.to == "cpu");
        EngineFacts {
            requested: self.config.whisper.enable_gpu,
            actual: reports.into_iter().next(),
            log,
            fallbacks: fallbacks.collect(),
        }
    }

    /// `/gpu-status`. Looks at the machine at most every few seconds, off the async threads.
    pub async fn gpu_report(&self, locale: Locale) -> GpuReport {
        let mut cached = self.facts.lock().await;
        let known = cached.as_ref().filter(|(at, _)| at.elapsed() < FACTS_FRESH);
        let facts = if let Some((_, facts)) = known {
            facts.clone()
        } else {
            let fresh = tokio::task::spawn_blocking(diagnostics::probe)
                .await
                .unwrap_or_default();
            let fresh = Arc::new(fresh);
            *cached = Some((Instant::now(), fresh.clone()));
            fresh
        };
        drop(cached);
        GpuReport::new(&facts, &self.engine_facts(), locale == Locale::Japanese)
    }

    /// `/models`.
    pub fn model_list(&self) -> Vec<ModelInfo> {
        self.registry.list()
    }

    /// What the start banner shows, with `reason` from the report.
    pub fn banner(&self, report: &GpuReport) -> Banner {
        let (model, _) = self.model();
        let reports = model.as_ref().map(|m| m.reports()).unwrap_or_default();
        let backends = report
            .compiled_backends
            .iter()
            .map(|b| display_name(b).to_owned())
            .collect::<Vec<_>>();
        Banner {
            gpu_enabled: self.config.whisper.enable_gpu,
            use_gpu: self.config.whisper.enable_gpu && !backends.is_empty(),
            whisper_cublas: std::env::var("WHISPER_CUBLAS").ok(),
            compiled_backends: backends,
            actual: reports.first().map(|r| (r.gpu, describe(r))),
            reason: Some(report.reason.clone()),
            model: model.map(|m| m.file.display().to_string()).unwrap_or_default(),
        }
    }
}

fn display_name(feature: &str) -> &str {
    match feature {
        "cuda" => "CUDA",
        "opencl" => "OpenCL",
        "vulkan" => "Vulkan",
        "hipblas" => "HIP",
        "metal" => "Metal",
        other => other,
    }
}

fn describe(report: &DeviceReport) -> String {
    if report.gpu {
        format!("{}: {}", report.device, report.description)
    } else if report.isa.is_empty() {
        report.description.clone()
    } else {
        format!("{} [{} {}]", report.description, report.isa, report.precision)
    }
}
