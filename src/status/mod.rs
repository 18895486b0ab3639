//! What runs, on what, and how it goes: the facts behind the diagnostic routes.

mod speed;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admission::Admission;
use crate::config::Config;
use crate::diagnostics::{self, ActualDevice, EngineFacts, GpuReport, MachineFacts};
use crate::engine::DeviceReport;
use crate::jobs::{JobRunner as _, runner::Jobs};
use crate::locale::{Banner, Locale};
use crate::metrics::Metrics;
use crate::schedule::{PriorityClass, Scheduler};
use crate::serving::registry::Gpus;
use crate::serving::{DefaultModel, Model, ModelInfo, ModelState, Registry};

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

/// Body of `GET /health`.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// `ok`, `starting`, `stopping` or `unavailable`.
    pub status: &'static str,
    /// What is going on, when it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the default model.
    pub model: Option<String>,
    /// Why it is not the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_notice: Option<String>,
    /// Where the model does not keep up: how fast it is, and the largest one that would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_model: Option<SpeedAdvice>,
    /// Device that serves now: `name` and `backend` are ggml's own.
    pub device: Option<HealthDevice>,
    /// The engine.
    pub engine: HealthEngine,
    /// Version of this program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: f64,
}

/// Device in `/health`.
#[derive(Debug, Clone, Serialize)]
pub struct HealthDevice {
    /// True on a GPU.
    pub gpu: bool,
    /// ggml's backend.
    pub backend: String,
    /// ggml's device name.
    pub name: String,
    /// The device's own words.
    pub description: String,
}

/// Engine in `/health`.
#[derive(Debug, Clone, Serialize)]
pub struct HealthEngine {
    /// `native`, this program's own, or `whisper.cpp`; absent while none runs.
    pub name: Option<String>,
    /// Number format of the native engine's products.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Instruction set of its kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
    /// `ready`, or what it is doing.
    pub state: String,
    /// Process ids of the engines of the default model.
    pub pids: Vec<u32>,
    /// Windows run side by side.
    pub slots: usize,
}

/// Body of `GET /stats`.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// Requests by outcome.
    pub requests: RequestStats,
    /// Answers of every route by class of status.
    pub answers: AnswerStats,
    /// Seconds of audio in finished requests.
    pub audio_seconds: f64,
    /// Seconds of audio that reached the model.
    pub speech_seconds: f64,
    /// Seconds that engines worked, summed over windows.
    pub inference_seconds: f64,
    /// Seconds of service ÷ seconds of audio, over finished requests; below 1 is faster than live.
    pub real_time_factor: Option<f64>,
    /// What waits and runs now.
    pub queue: QueueStats,
    /// Requests inside and what they keep.
    pub admission: AdmissionStats,
    /// Windows so far.
    pub windows: WindowStats,
    /// Engines so far.
    pub engine: EngineStats,
    /// Live transcription.
    pub realtime: RealtimeStats,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Moves from a GPU to the CPU.
    pub fallbacks: u64,
}

/// Requests by outcome.
#[derive(Debug, Clone, Serialize)]
pub struct RequestStats {
    /// All that were admitted and ended.
    pub total: u64,
    /// Answered with a transcript.
    pub succeeded: u64,
    /// The recording or the name was at fault.
    pub rejected: u64,
    /// Refused for want of a place (429).
    pub busy: u64,
    /// Our fault.
    pub failed: u64,
    /// The client left.
    pub cancelled: u64,
    /// In service or waiting now.
    pub in_flight: i64,
}

/// Answers by class of status.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerStats {
    /// 2xx.
    pub ok: u64,
    /// 4xx: wrong keys, bad fields, unknown paths.
    pub client_errors: u64,
    /// 5xx.
    pub server_errors: u64,
}

/// What waits and runs now.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStats {
    /// Windows waiting for a core or slot.
    pub windows_waiting: usize,
    /// Windows running.
    pub windows_running: i64,
    /// Cores that all windows share.
    pub cores: usize,
}

/// Requests inside and what they keep.
#[derive(Debug, Clone, Serialize)]
pub struct AdmissionStats {
    /// Requests inside, from before their body until their answer.
    pub places: usize,
    /// Requests that may be inside; one more gets 429.
    pub places_limit: usize,
    /// Requests in service.
    pub in_service: usize,
    /// Requests that wait for their turn, by priority class.
    pub waiting: std::collections::BTreeMap<&'static str, usize>,
    /// Bytes of recordings kept.
    pub spool_bytes: u64,
    /// Bytes of text fields kept.
    pub form_bytes: u64,
}

/// Windows so far.
#[derive(Debug, Clone, Serialize)]
pub struct WindowStats {
    /// Transcribed.
    pub total: u64,
    /// Run again because their engine died.
    pub retries: u64,
    /// Run alone because their engine ended with others in it.
    pub suspects: u64,
    /// Found to end or hang the engine in which they were alone.
    pub charged: u64,
    /// Paused for the first window of another request.
    pub preempted: u64,
    /// Encoded again over the full context.
    pub full_context_retries: u64,
    /// Segments not delivered because they repeat or were hallucinated.
    pub segments_dropped: u64,
}

/// Live transcription.
#[derive(Debug, Clone, Serialize)]
pub struct RealtimeStats {
    /// Sessions open now.
    pub sessions: i64,
    /// Passes of the model that sessions asked for.
    pub passes: u64,
    /// Times that a session had to do without partial results.
    pub degraded: u64,
}

/// Engines so far.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStats {
    /// `native` or `whisper.cpp`; absent while none runs.
    pub name: Option<String>,
    /// Number format of the native engine's products.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Processes that ended and were started again.
    pub restarts: u64,
    /// Ended by a signal that was sent or by the out-of-memory killer.
    pub outside_deaths: u64,
    /// Looks at GPUs that had been given up.
    pub gpu_probes: u64,
    /// Stopped by the watchdog.
    pub watchdog_kills: u64,
    /// Seconds of one core for each second of audio.
    pub core_seconds_per_second: Option<f64>,
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

    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        self.metrics.answered(status);
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

    /// What keeps a server whose model is ready from serving.
    fn stopped(&self) -> Option<(&'static str, String)> {
        if self.admission.is_closed() {
            return Some(("stopping", "the server is stopping".to_owned()));
        }
        let stalled = self.scheduler.stalled_for()?;
        let seconds = stalled.as_secs();
        let why = format!("windows wait, and no window has finished for {seconds} s");
        Some(("unavailable", why))
    }

    /// `/health`; true when a window can be served.
    pub fn health(&self) -> (bool, Health) {
        let (model, instead) = self.model();
        let reports = model.as_ref().map(|m| m.reports()).unwrap_or_default();
        let state = self.registry.default_state();
        let (status, reason) = match &state {
            // An engine that was ended for idleness comes back with the next request: that is health.
            ModelState::Ready | ModelState::Absent | ModelState::Retiring => ("ok", None),
            ModelState::Fetching(_) | ModelState::Loading | ModelState::Restarting => {
                ("starting", Some(state.to_string()))
            }
            ModelState::Broken(reason) => ("unavailable", Some(reason.clone())),
        };
        let (status, reason) = match self.stopped() {
            Some((stopped, why)) if status == "ok" => (stopped, Some(why)),
            _ => (status, reason),
        };
        let ok = status == "ok";
        let said = |field: fn(&DeviceReport) -> &String| first_said(&reports, field);
        let health = Health {
            status,
            model: model.map(|m| m.name.clone()),
            model_notice: instead,
            slow_model: self.speed_advice(),
            device: reports.first().map(|r| HealthDevice {
                gpu: r.gpu,
                backend: r.backend.clone(),
                name: r.device.clone(),
                description: r.description.clone(),
            }),
            engine: HealthEngine {
                name: said(|r| &r.engine),
                precision: said(|r| &r.precision),
                isa: said(|r| &r.isa),
                state: reason.clone().unwrap_or_else(|| "ready".to_owned()),
                pids: reports.iter().map(|r| r.pid).collect(),
                slots: reports.iter().map(|r| r.slots).sum(),
            },
            reason,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
        };
        (ok, health)
    }

    /// `/stats`.
    pub fn stats(&self) -> Stats {
        let m = &self.metrics;
        let reports = self.model().0.map(|m| m.reports()).unwrap_or_default();
        let said = |field: fn(&DeviceReport) -> &String| first_said(&reports, field);
        let seconds = |us: u64| us as f64 / 1e6;
        let audio = seconds(m.audio_us.value());
        let requests = RequestStats {
            total: m.succeeded.value() + m.rejected.value() + m.failed.value() + m.cancelled.value(),
            succeeded: m.succeeded.value(),
            rejected: m.rejected.value(),
            busy: m.busy.value(),
            failed: m.failed.value(),
            cancelled: m.cancelled.value(),
            in_flight: m.in_flight.value(),
        };
        Stats {
            requests,
            answers: AnswerStats {
                ok: m.answers[0].value(),
                client_errors: m.answers[1].value(),
                server_errors: m.answers[2].value(),
            },
            audio_seconds: audio,
            speech_seconds: seconds(m.speech_us.value()),
            inference_seconds: seconds(m.inference_us.value()),
            real_time_factor: (audio > 0.0).then(|| seconds(m.request_us.value()) / audio),
            queue: QueueStats {
                windows_waiting: self.scheduler.waiting(),
                windows_running: m.windows_running.value(),
                cores: self.scheduler.cores(),
            },
            admission: self.occupancy(),
            windows: WindowStats {
                total: m.windows.value(),
                retries: m.window_retries.value(),
                suspects: m.window_suspects.value(),
                charged: m.windows_charged.value(),
                preempted: m.preemptions.value(),
                full_context_retries: m.full_context_retries.value(),
                segments_dropped: m.segments_dropped.value(),
            },
            engine: EngineStats {
                name: said(|r| &r.engine),
                precision: said(|r| &r.precision),
                restarts: m.engine_restarts.value(),
                outside_deaths: m.outside_deaths.value(),
                gpu_probes: m.gpu_probes.value(),
                watchdog_kills: m.watchdog_kills.value(),
                core_seconds_per_second: self.model().0.and_then(|m| m.core_seconds_per_second()),
            },
            realtime: RealtimeStats {
                sessions: m.realtime_sessions.value(),
                passes: m.realtime_passes.value(),
                degraded: m.realtime_degraded.value(),
            },
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            fallbacks: m.fallbacks.value(),
        }
    }

    fn occupancy(&self) -> AdmissionStats {
        let now = self.admission.occupancy();
        let names = PriorityClass::ALL.map(PriorityClass::name);
        AdmissionStats {
            places: now.places,
            places_limit: now.places_limit,
            in_service: now.in_service,
            waiting: names.into_iter().zip(now.waiting).collect(),
            spool_bytes: now.spool_bytes,
            form_bytes: now.form_bytes,
        }
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
            .filter(|f| f.to == "cpu")
            .map(|f| diagnostics::GpuFallback {
                at: f.at as i64,
                reason: f.reason,
            });
        EngineFacts {
            requested: self.config.whisper.enable_gpu,
            actual: reports.first().map(actual_device),
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
    pub fn models(&self, jobs: &Jobs) -> Vec<ModelInfo> {
        jobs.models()
    }

    /// The same without a job runner at hand.
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

/// What the first engine says, if it says anything.
fn first_said(reports: &[DeviceReport], field: fn(&DeviceReport) -> &String) -> Option<String> {
    let text = reports.first().map(field)?;
    (!text.is_empty()).then(|| text.clone())
}

fn actual_device(report: &DeviceReport) -> ActualDevice {
    ActualDevice {
        gpu: report.gpu,
        backend: report.backend.clone(),
        name: report.description.clone(),
        engine: report.engine.clone(),
        precision: report.precision.clone(),
        isa: report.isa.clone(),
        memory_total_bytes: report.memory_total_bytes,
        memory_free_bytes: report.memory_free_bytes,
        weights_bytes: report.weights_bytes.clone(),
    }
}
