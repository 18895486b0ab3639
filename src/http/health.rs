//! `/health`, `/health/live`, `/health/ready`: who asks whether this server can be used. None of them needs a key.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::DeviceReport;
use crate::status::{self, SpeedAdvice, Standing, Status};

pub(super) fn routes() -> Router<Arc<Status>> {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
}

/// Body of `GET /health`.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
    pub slow_model: Option<SlowModel>,
    /// Device that serves now: `name` and `backend` are ggml's own.
    pub device: Option<HealthDevice>,
    /// The engine.
    pub engine: HealthEngine,
    /// Version of this program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: f64,
}

/// A model that is slower than 1.5 times real time.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SlowModel {
    /// Seconds of audio a second, with every core at work.
    pub times_real_time: f64,
    /// The largest model that would reach three times real time; none when not even the smallest would.
    pub model: Option<&'static str>,
}

/// Device in `/health`.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
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

/// Body of `GET /health/live`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Liveness {
    /// `ok`
    pub status: &'static str,
}

/// Body of `GET /health/ready`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Readiness {
    /// `ok`, `starting`, `stopping` or `unavailable`.
    pub status: &'static str,
    /// What is going on, when it is not `ok`.
    pub reason: Option<String>,
}

impl From<status::Health> for Health {
    fn from(health: status::Health) -> Self {
        let engines = &health.engines;
        let said = |field: fn(&DeviceReport) -> &String| first_said(engines, field);
        Self {
            status: word(health.standing),
            engine: HealthEngine {
                name: said(|r| &r.engine),
                precision: said(|r| &r.precision),
                isa: said(|r| &r.isa),
                state: health.reason.clone().unwrap_or_else(|| "ready".to_owned()),
                pids: engines.iter().map(|r| r.pid).collect(),
                slots: engines.iter().map(|r| r.slots).sum(),
            },
            device: engines.first().map(|r| HealthDevice {
                gpu: r.gpu,
                backend: r.backend.clone(),
                name: r.device.clone(),
                description: r.description.clone(),
            }),
            reason: health.reason,
            model: health.model,
            model_notice: health.model_notice,
            slow_model: health.slow_model.map(SlowModel::from),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: health.uptime.as_secs_f64(),
        }
    }
}

impl From<SpeedAdvice> for SlowModel {
    fn from(advice: SpeedAdvice) -> Self {
        Self {
            times_real_time: advice.times_real_time,
            model: advice.model,
        }
    }
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Serving => "ok",
        Standing::Starting => "starting",
        Standing::Stopping => "stopping",
        Standing::Unavailable => "unavailable",
    }
}

/// What the first engine says, if it says anything.
pub(super) fn first_said(engines: &[DeviceReport], field: fn(&DeviceReport) -> &String) -> Option<String> {
    let text = engines.first().map(field)?;
    (!text.is_empty()).then(|| text.clone())
}

fn code(health: &status::Health) -> StatusCode {
    if health.is_serving() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn health(State(status): State<Arc<Status>>) -> Response {
    let health = status.health();
    (code(&health), Json(Health::from(health))).into_response()
}

/// For probes that restart: as long as this is answered, a restart mends nothing.
async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok" })
}

/// For probes that send traffic: not while the server stops, while no window can be served, or while none finishes.
async fn ready(State(status): State<Arc<Status>>) -> Response {
    let health = status.health();
    let body = Readiness {
        status: word(health.standing),
        reason: health.reason.clone(),
    };
    (code(&health), Json(body)).into_response()
}
