//! `/metrics`: what [`Metrics`] counts and what the rest says of itself, read when it is asked for. Every series is there
//! from the start; labels are of fixed sets, but for the names of keys, which are shown only where that is asked for.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Status;
use crate::metrics::{Answered, Durations, Route};

/// How the series are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl ExpositionFormat {
    /// What an `Accept` header asks for.
    pub fn of(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The body of `/metrics`.
pub(super) fn write(status: &Arc<Status>, format: ExpositionFormat) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Series(status.clone())));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match format {
        ExpositionFormat::Prometheus => prometheus_text::encode(&mut out, &registry),
        ExpositionFormat::OpenMetrics => text::encode(&mut out, &registry),
    };
    out
}

#[derive(Debug)]
struct Series(Arc<Status>);

impl Collector for Series {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut out = Writer(encoder);
        let status = &self.0;
        requests(status, &mut out)?;
        queue(status, &mut out)?;
        windows(status, &mut out)?;
        engines(status, &mut out)?;
        keys(status, &mut out)?;
        process(&mut out)
    }
}

/// One label and its value.
type Label<'a> = [(&'a str, &'a str); 1];

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, f64, f64>(&value, None)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Label<'l>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (label, value) in values {
            let mut metric = family.encode_family(&label)?;
            metric.encode_counter::<NoLabelSet, f64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Label<'l>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, value) in values {
            family.encode_family(&label)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, durations: &Durations) -> Result<(), Error> {
        let metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        durations.histogram().encode(metric)
    }
}

fn requests(status: &Status, out: &mut Writer) -> Result<(), Error> {
    let m = &status.metrics;
    let mut family = out.0.encode_descriptor(
        "whisper_requests",
        "Answers by what was asked and what became of it.",
        None,
        MetricType::Counter,
    )?;
    for route in Route::ALL {
        for answered in Answered::ALL {
            let labels = [("route", route.name()), ("outcome", answered.name())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&m.answers.value(route, answered), None)?;
        }
    }
    out.durations(
        "whisper_request_seconds",
        "From the head of a request with a recording to the head of its answer.",
        &m.answers.seconds,
    )?;
    out.gauge(
        "whisper_requests_in_flight",
        "Requests with a recording inside now, from before their body until their answer.",
        m.in_flight.value() as f64,
    )?;
    let seconds = |us: u64| us as f64 / 1e6;
    let audio = seconds(m.audio_us.value());
    out.counter(
        "whisper_audio_seconds",
        "Seconds of audio in finished requests.",
        audio,
    )?;
    out.counter(
        "whisper_speech_seconds",
        "Seconds of audio that reached the model.",
        seconds(m.speech_us.value()),
    )?;
    out.gauge(
        "whisper_real_time_factor",
        "Seconds of service per second of audio over all finished requests; below 1 is faster than live.",
        if audio > 0.0 {
            seconds(m.request_us.value()) / audio
        } else {
            0.0
        },
    )
}

fn queue(status: &Status, out: &mut Writer) -> Result<(), Error> {
    let m = &status.metrics;
    let (waiting, oldest) = m.waiters.now();
    out.durations(
        "whisper_queue_wait_seconds",
        "From a request's admission to the start of its first window.",
        m.waiters.waits(),
    )?;
    out.gauge(
        "whisper_queue_requests",
        "Admitted requests of which no window runs yet.",
        waiting as f64,
    )?;
    out.gauge(
        "whisper_queue_oldest_seconds",
        "How long the first of them has waited.",
        oldest.map_or(0.0, |waited| waited.as_secs_f64()),
    )?;
    let now = status.admission.occupancy();
    out.gauges(
        "whisper_places",
        "Places for requests: taken, and all.",
        [
            ([("state", "taken")], now.places as f64),
            ([("state", "limit")], now.places_limit as f64),
        ],
    )?;
    out.gauge(
        "whisper_spool_bytes",
        "Bytes of recordings kept now.",
        now.spool_bytes as f64,
    )
}

fn windows(status: &Status, out: &mut Writer) -> Result<(), Error> {
    let m = &status.metrics;
    out.counter(
        "whisper_windows",
        "Windows of at most 30 s transcribed.",
        m.windows.value() as f64,
    )?;
    out.gauge(
        "whisper_windows_waiting",
        "Windows that wait for a core or slot now.",
        status.scheduler.waiting() as f64,
    )?;
    out.gauge(
        "whisper_windows_running",
        "Windows that run now.",
        m.windows_running.value() as f64,
    )?;
    let mut family = out.0.encode_descriptor(
        "whisper_window_seconds",
        "Time of a window by stage: decoding its audio, waiting for a core or slot, inference.",
        None,
        MetricType::Histogram,
    )?;
    for (stage, durations) in [
        ("decode", &m.window_decode),
        ("wait", &m.window_wait),
        ("infer", &m.window_infer),
    ] {
        let label = [("stage", stage)];
        durations.histogram().encode(family.encode_family(&label)?)?;
    }
    out.counters(
        "whisper_second_looks",
        "Windows that ran once more, by reason.",
        [
            ([("reason", "engine_ended")], m.window_retries.value() as f64),
            (
                [("reason", "full_context")],
                m.full_context_retries.value() as f64,
            ),
            ([("reason", "language")], m.language_retries.value() as f64),
            ([("reason", "vocabulary")], m.vocabulary_retries.value() as f64),
        ],
    )?;
    out.counter(
        "whisper_windows_preempted",
        "Windows paused for the first window of another request.",
        m.preemptions.value() as f64,
    )?;
    out.counter(
        "whisper_segments_dropped",
        "Segments not delivered because they repeat or were hallucinated.",
        m.segments_dropped.value() as f64,
    )?;
    out.gauge(
        "whisper_realtime_sessions",
        "Live sessions open now.",
        m.realtime_sessions.value() as f64,
    )?;
    out.counter(
        "whisper_realtime_passes",
        "Passes of the model that live sessions asked for.",
        m.realtime_passes.value() as f64,
    )?;
    out.counter(
        "whisper_realtime_degraded",
        "Times that a live session had to do without partial results.",
        m.realtime_degraded.value() as f64,
    )?;
    out.durations(
        "whisper_realtime_delay_seconds",
        "From asking for a pass of the model to its words.",
        &m.realtime_delay,
    )
}

fn engines(status: &Status, out: &mut Writer) -> Result<(), Error> {
    let m = &status.metrics;
    let ready = status.health().is_serving();
    out.gauge(
        "whisper_ready",
        "1 while /health/ready answers 200.",
        f64::from(u8::from(ready)),
    )?;
    let models = status.registry.loaded();
    let reports: Vec<_> = models.iter().flat_map(|model| model.reports()).collect();
    let slots: usize = reports.iter().map(|report| report.slots).sum();
    let busy: usize = models.iter().map(|model| model.running()).sum();
    out.gauges(
        "whisper_slots",
        "Windows that loaded engines can run side by side, by state.",
        [
            ([("state", "busy")], busy as f64),
            ([("state", "free")], slots.saturating_sub(busy) as f64),
        ],
    )?;
    out.gauge(
        "whisper_models_loaded",
        "Models whose engines run or load now.",
        models.len() as f64,
    )?;
    let restarts = m.engine_restarts.value();
    let outside = m.engine_restarts_outside.value();
    out.counters(
        "whisper_engine_restarts",
        "Engine processes that ended and were started again, by who ended them.",
        [
            ([("cause", "own")], restarts.saturating_sub(outside) as f64),
            ([("cause", "outside")], outside as f64),
        ],
    )?;
    out.counter(
        "whisper_watchdog_kills",
        "Engines ended because a window hung.",
        m.watchdog_kills.value() as f64,
    )?;
    out.counter(
        "whisper_fallback",
        "Moves from a GPU to the processor.",
        m.fallbacks.value() as f64,
    )?;
    let sum = |of: &dyn Fn(&crate::domain::DeviceReport) -> u64| reports.iter().map(of).sum::<u64>() as f64;
    out.gauges(
        "whisper_engine_memory_bytes",
        "Memory of loaded engines: their weights, what their processes have resident, and what their GPUs have.",
        [
            ([("kind", "weights")], sum(&|r| r.weights_bytes.values().sum())),
            ([("kind", "resident")], sum(&|r| resident_bytes(&r.pid.to_string()))),
            ([("kind", "device_total")], sum(&|r| gpu(r, r.memory_total_bytes))),
            ([("kind", "device_free")], sum(&|r| gpu(r, r.memory_free_bytes))),
        ],
    )?;
    let backends = [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "vulkan"), "vulkan"),
        (cfg!(feature = "hipblas"), "rocm"),
        (cfg!(feature = "opencl"), "opencl"),
        (cfg!(feature = "metal"), "metal"),
    ];
    let backends = backends.iter().find(|(there, _)| *there);
    let mut info = out.0.encode_descriptor(
        "whisper_build_info",
        "The program: always 1.",
        None,
        MetricType::Gauge,
    )?;
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("backend", backends.map_or("cpu", |(_, name)| *name)),
    ];
    info.encode_family(&labels)?.encode_gauge(&1_i64)
}

fn gpu(report: &crate::domain::DeviceReport, bytes: Option<u64>) -> u64 {
    if report.gpu { bytes.unwrap_or(0) } else { 0 }
}

fn keys(status: &Status, out: &mut Writer) -> Result<(), Error> {
    let usage = status.key_usage();
    out.gauge(
        "whisper_keys",
        "Keys that are accepted.",
        status.admission.keys().count() as f64,
    )?;
    let Some(usage) = usage else { return Ok(()) };
    let series = |value: fn(&crate::keys::Usage) -> f64| {
        usage
            .iter()
            .map(move |key| ([("key", key.name.as_str())], value(key)))
            .collect::<Vec<_>>()
    };
    out.counters(
        "whisper_key_requests",
        "Requests admitted, by key.",
        series(|key| key.requests as f64),
    )?;
    out.counters(
        "whisper_key_refused",
        "Requests refused for a limit of their key, by key.",
        series(|key| key.refused as f64),
    )?;
    out.counters(
        "whisper_key_audio_seconds",
        "Seconds of audio in finished requests, by key.",
        series(|key| key.audio_seconds),
    )
}

/// The customary series about this process, as far as the system tells.
fn process(out: &mut Writer) -> Result<(), Error> {
    let Some(own) = OwnProcess::look() else {
        return Ok(());
    };
    out.counter(
        "process_cpu_seconds",
        "Processor time of the server without its engines.",
        own.cpu_seconds,
    )?;
    out.gauge(
        "process_resident_memory_bytes",
        "Resident memory of the server without its engines.",
        own.resident_bytes,
    )?;
    out.gauge("process_open_fds", "Open file descriptors.", own.open_files)?;
    out.gauge(
        "process_max_fds",
        "Most file descriptors that may be open.",
        own.most_files,
    )?;
    out.gauge(
        "process_start_time_seconds",
        "Start in seconds since 1970.",
        own.started,
    )
}

struct OwnProcess {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: f64,
    most_files: f64,
    started: f64,
}

impl OwnProcess {
    #[cfg(target_os = "linux")]
    fn look() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold anything; fields are counted behind it (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            resident_bytes: resident_bytes("self") as f64,
            open_files: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            most_files: limit.map_or(f64::INFINITY, |most| most as f64),
            started: boot + field(22)? / ticks,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn look() -> Option<Self> {
        None
    }
}

/// Resident memory of a process; 0 where the system does not tell.
fn resident_bytes(pid: &str) -> u64 {
    let read = || {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    #[cfg(unix)]
    let page = rustix::param::page_size() as u64;
    #[cfg(not(unix))]
    let page = 4096;
    read().unwrap_or(0) * page
}
