//! `/health`, `/gpu-status`, `/stats`, `/models`, `/languages`.
//!
//! Where keys are configured, all but `/health` and what is below it ask for one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::languages::LANGUAGES;
use crate::locale::Locale;
use crate::serving::ModelInfo;
use crate::status::Status;

/// The diagnostic routes.
pub fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/gpu-status", get(gpu_status))
        .route("/stats", get(stats))
        .route("/models", get(models))
        .route("/languages", get(languages))
        .with_state(status)
}

async fn health(State(status): State<Arc<Status>>) -> Response {
    let (ok, body) = status.health();
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}

/// For probes that restart: as long as this is answered, a restart mends nothing.
async fn live() -> Response {
    Json(serde_json::json!({ "status": "ok" })).into_response()
}

/// For probes that send traffic: not while the server stops, while no window can be served, or while none finishes.
async fn ready(State(status): State<Arc<Status>>) -> Response {
    let (ok, health) = status.health();
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "status": health.status, "reason": health.reason });
    (code, Json(body)).into_response()
}

async fn gpu_status(State(status): State<Arc<Status>>) -> Response {
    let locale = Locale::new(status.config().server.locale);
    Json(status.gpu_report(locale).await).into_response()
}

async fn stats(State(status): State<Arc<Status>>) -> Response {
    Json(status.stats()).into_response()
}

#[derive(Serialize)]
struct Models {
    object: &'static str,
    data: Vec<ModelInfo>,
}

async fn models(State(status): State<Arc<Status>>) -> Response {
    // Listing reads the model folder.
    let data = tokio::task::spawn_blocking(move || status.model_list())
        .await
        .unwrap_or_default();
    Json(Models { object: "list", data }).into_response()
}

#[derive(Serialize)]
struct Language {
    code: &'static str,
    name: &'static str,
}

async fn languages() -> Response {
    let all: Vec<Language> = LANGUAGES
        .iter()
        .map(|(code, name)| Language { code, name })
        .collect();
    Json(serde_json::json!({ "object": "list", "data": all })).into_response()
}
