//! HTTP: who are you, what do you ask, how do you want it. The only module that knows statuses.
//!
//! A request meets, in this order: path clean-up ([`dialect`]), CORS, [`edge`] (id, key, error envelope, headers,
//! log line, draining of what a refusal leaves unread), the handler of its route ([`transcriptions`], [`models`]),
//! its form ([`form`], [`fields`]), and [`crate::render`] or [`stream`].

mod auth;
mod connection;
mod connections;
pub mod diagnostics;
mod dialect;
mod drain;
mod edge;
mod error;
mod fast_transcription;
mod fields;
mod form;
pub mod health;
mod models;
mod openapi;
mod page;
mod realtime;
mod serve;
mod stats;
mod stream;
mod trace;
mod transcriptions;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::from_fn_with_state;
use tower::ServiceBuilder;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

pub use connection::Transfer;
pub use connections::Connections;
pub use dialect::Dialect;
pub use edge::{Outcome, RequestContext};
pub use error::{ApiError, ErrorBody, ErrorObject, Retry, Wire};
pub use form::TranscriptionRequest;
pub use realtime::Realtime;
pub use serve::{HEAD_TIMEOUT, serve};
pub use trace::{TRACEPARENT, TraceContext};

use crate::admission::Admission;
use crate::audio::SpoolFolder;
use crate::config::Config;
use crate::jobs::JobRunner;

/// Told of every answer.
pub type Observer = Arc<dyn Fn(&Outcome) + Send + Sync>;

/// What handlers share: cheap handles.
#[derive(Clone)]
pub struct AppState {
    /// Does the work.
    pub jobs: Arc<dyn JobRunner>,
    /// Who may come in.
    pub admission: Admission,
    /// Where uploads are kept.
    pub spool_folder: Arc<SpoolFolder>,
    /// The effective configuration.
    pub config: Arc<Config>,
    /// Counts answers; none in most tests.
    pub observe: Option<Observer>,
    /// Live transcription; none in most tests.
    pub realtime: Option<Arc<Realtime>>,
    /// Longest silence of a stream before a comment keeps it alive.
    pub keep_alive: std::time::Duration,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").finish_non_exhaustive()
    }
}

impl AppState {
    /// State without an observer.
    pub fn new(jobs: Arc<dyn JobRunner>, admission: Admission, config: Arc<Config>) -> Self {
        let spool_folder = SpoolFolder::choose(config.audio.spool_dir.as_deref());
        Self {
            jobs,
            admission,
            spool_folder: Arc::new(spool_folder),
            config,
            observe: None,
            realtime: None,
            keep_alive: stream::KEEP_ALIVE,
        }
    }
}

/// The whole HTTP side. Callable by `tower::ServiceExt::oneshot`, servable by `axum::serve`.
pub fn router(state: AppState) -> Router {
    router_with(state, Router::new())
}

/// The same with more routes inside the same layers.
pub fn router_with(state: AppState, more: Router) -> Router {
    let cors = cors(&state.config.server.cors_origins);
    let surround = from_fn_with_state(state.clone(), edge::surround);
    let routes = Router::new()
        .merge(transcriptions::routes())
        .merge(models::routes())
        .merge(realtime::routes())
        .merge(openapi::routes())
        .merge(page::routes(state.config.server.page))
        .fallback(|| async { axum::http::StatusCode::NOT_FOUND })
        .with_state(state)
        .merge(more)
        .layer(surround)
        .layer(cors);
    // Layers of a router run after it has chosen a route: cleaning the path needs a router round the router.
    let cleaned = ServiceBuilder::new().map_request(clean_path).service(routes);
    Router::new().fallback_service(cleaned)
}

fn clean_path(mut request: Request) -> Request {
    if let Some(uri) = dialect::normalise(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// Browsers may call from the configured origins, with whatever headers SDKs add (`api-key`, `x-stainless-*`).
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(Any)
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(edge::EXPOSED)
        .max_age(std::time::Duration::from_secs(3600))
}
