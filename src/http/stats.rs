//! `/stats`: counters and times since the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::health::first_said;
use crate::admission::Occupancy;
use crate::domain::DeviceReport;
use crate::keys::Usage;
use crate::metrics::{Answered, Metrics};
use crate::schedule::PriorityClass;
use crate::status::{Activity, Status};

pub(super) fn routes() -> Router<Arc<Status>> {
    Router::new().route("/stats", get(stats))
}

async fn stats(State(status): State<Arc<Status>>) -> Json<Stats> {
    Json(Stats::new(status.metrics(), &status.activity()))
}

/// Body of `GET /stats`.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
    /// What each named key was used for, where `metrics.by_key` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub keys: Option<Vec<KeyStats>>,
}

/// What a named key was used for since the start.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeyStats {
    /// The key's name.
    pub name: String,
    /// Requests admitted.
    pub requests: u64,
    /// Requests refused for a limit of the key.
    pub refused: u64,
    /// Seconds of audio in finished requests.
    pub audio_seconds: f64,
    /// Requests inside now.
    pub inside: usize,
}

impl From<&Usage> for KeyStats {
    fn from(usage: &Usage) -> Self {
        Self {
            name: usage.name.clone(),
            requests: usage.requests,
            refused: usage.refused,
            audio_seconds: usage.audio_seconds,
            inside: usage.inside,
        }
    }
}

/// Requests by outcome.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AnswerStats {
    /// 2xx.
    pub ok: u64,
    /// 4xx: wrong keys, bad fields, unknown paths.
    pub client_errors: u64,
    /// 5xx.
    pub server_errors: u64,
    /// None: the client left before.
    pub cancelled: u64,
}

/// What waits and runs now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct QueueStats {
    /// Windows waiting for a core or slot.
    pub windows_waiting: usize,
    /// Windows running.
    pub windows_running: i64,
    /// Cores that all windows share.
    pub cores: usize,
}

/// Requests inside and what they keep.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AdmissionStats {
    /// Requests inside, from before their body until their answer.
    pub places: usize,
    /// Requests that may be inside; one more gets 429.
    pub places_limit: usize,
    /// Requests in service.
    pub in_service: usize,
    /// Requests that wait for their turn, by priority class.
    #[schema(value_type = BTreeMap<String, usize>)]
    pub waiting: BTreeMap<&'static str, usize>,
    /// Bytes of recordings kept.
    pub spool_bytes: u64,
    /// Bytes of text fields kept.
    pub form_bytes: u64,
}

/// Windows so far.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RealtimeStats {
    /// Sessions open now.
    pub sessions: i64,
    /// Passes of the model that sessions asked for.
    pub passes: u64,
    /// Times that a session had to do without partial results.
    pub degraded: u64,
}

/// Engines so far.
#[derive(Debug, Clone, Serialize, ToSchema)]
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

impl Stats {
    fn new(m: &Metrics, now: &Activity) -> Self {
        let said = |field: fn(&DeviceReport) -> &String| first_said(&now.engines, field);
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
        Self {
            requests,
            answers: AnswerStats {
                ok: m.answers.sum(Answered::Ok),
                client_errors: m.answers.sum(Answered::Rejected) + m.answers.sum(Answered::Busy),
                server_errors: m.answers.sum(Answered::Unavailable) + m.answers.sum(Answered::Failed),
                cancelled: m.answers.sum(Answered::Cancelled),
            },
            audio_seconds: audio,
            speech_seconds: seconds(m.speech_us.value()),
            inference_seconds: seconds(m.inference_us.value()),
            real_time_factor: (audio > 0.0).then(|| seconds(m.request_us.value()) / audio),
            queue: QueueStats {
                windows_waiting: now.windows_waiting,
                windows_running: m.windows_running.value(),
                cores: now.cores,
            },
            admission: now.occupancy.into(),
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
                core_seconds_per_second: now.core_seconds_per_second,
            },
            realtime: RealtimeStats {
                sessions: m.realtime_sessions.value(),
                passes: m.realtime_passes.value(),
                degraded: m.realtime_degraded.value(),
            },
            uptime_seconds: now.uptime.as_secs_f64(),
            fallbacks: m.fallbacks.value(),
            keys: now
                .keys
                .as_ref()
                .map(|keys| keys.iter().map(KeyStats::from).collect()),
        }
    }
}

impl From<Occupancy> for AdmissionStats {
    fn from(now: Occupancy) -> Self {
        let names = PriorityClass::ALL.map(PriorityClass::name);
        Self {
            places: now.places,
            places_limit: now.places_limit,
            in_service: now.in_service,
            waiting: names.into_iter().zip(now.waiting).collect(),
            spool_bytes: now.spool_bytes,
            form_bytes: now.form_bytes,
        }
    }
}
