//! `/gpu-status`, `/metrics`, `/models`, `/languages`, beside [`health`] and [`stats`].
//!
//! Where keys are configured, all but `/health` and what is below it ask for one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::{health, stats};
use crate::languages::LANGUAGES;
use crate::locale::Locale;
use crate::serving::ModelInfo;
use crate::status::{ExpositionFormat, Status};

/// The diagnostic routes. `/metrics` may have a listener of its own, and is then not among them.
pub fn router(status: Arc<Status>) -> Router {
    let router = if status.config().metrics.listen.is_empty() {
        Router::new().route("/metrics", get(metrics))
    } else {
        Router::new()
    };
    router
        .merge(health::routes())
        .merge(stats::routes())
        .route("/gpu-status", get(gpu_status))
        .route("/models", get(models))
        .route("/languages", get(languages))
        .with_state(status)
}

/// `/metrics` alone, for a listener of its own.
pub fn metrics_router(status: Arc<Status>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(status)
}

async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let format = ExpositionFormat::of(accept);
    let body = status.exposition(format);
    ([(header::CONTENT_TYPE, format.content_type())], body).into_response()
}

async fn gpu_status(State(status): State<Arc<Status>>) -> Response {
    let locale = Locale::new(status.config().server.locale);
    Json(status.gpu_report(locale).await).into_response()
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
