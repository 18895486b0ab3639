//! What surrounds every request: its id, its key, its error envelope, its headers, its line in the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::dialect::Dialect;
use super::error::{ApiError, Failure, answer};
use super::trace::TraceContext;
use super::{AppState, Observer, auth, drain, realtime};
use crate::keys::{Client, Keys, RequestsLeft};
use crate::metrics::Route;

/// What the layers learn of a request and handlers may want.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Unique; in the log, in `x-request-id`, and in what users report.
    pub id: Arc<str>,
    /// Which surface was asked.
    pub dialect: Dialect,
    /// Who asks.
    pub client: Client,
    /// Where in whose trace it stands.
    pub trace: TraceContext,
    /// Bytes of body the client announced; chunked bodies announce none.
    pub content_length: Option<u64>,
}

/// What became of a request, for metrics.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was asked for.
    pub route: Route,
    /// Status answered; none when the client left before.
    pub status: Option<StatusCode>,
    /// Time until the head of the answer was ready.
    pub took: Duration,
}

/// Tells of a request's end, also when its client leaves.
struct Told {
    observe: Option<Observer>,
    route: Route,
    started: Instant,
    status: Option<StatusCode>,
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(observe) = &self.observe {
            observe(&Outcome {
                route: self.route,
                status: self.status,
                took: self.started.elapsed(),
            });
        }
    }
}

/// The outermost layer but CORS.
pub(super) async fn surround(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let headers = request.headers();
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let agent = text("user-agent");
    let echo = headers.get("x-ms-client-request-id").cloned();
    let content_length = text("content-length").and_then(|text| text.parse().ok());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let dialect = Dialect::of(uri.path());
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "unmatched".to_owned(),
    };
    let trace = TraceContext::of(headers);
    let mut told = Told {
        observe: app.observe.clone(),
        route: Route::of(uri.path()),
        started,
        status: None,
    };
    let keys = app.admission.keys().clone();
    let client = auth::check(
        &keys,
        |key| {
            let realtime = app.realtime.as_ref()?;
            realtime::PATHS
                .contains(&uri.path())
                .then(|| realtime.issued(key))?
        },
        app.config.server.strict_api_version,
        dialect,
        &method,
        &uri,
        request.headers(),
    );
    let context = RequestContext {
        id: uuid::Uuid::new_v4().to_string().into(),
        dialect,
        client: *client.as_ref().unwrap_or(&Client::Anonymous),
        trace,
        content_length,
    };
    request.extensions_mut().insert(context.clone());

    let span = tracing::info_span!(
        "request",
        id = %context.id,
        %method,
        %route,
        trace_id = %trace.trace_id(),
        span_id = %trace.span_id(),
        parent_id = trace.parent_id(),
    );
    async move {
        let accepted_bytes = app.config.server.max_file_size_mb.saturating_mul(1 << 20);
        let (request, kept) = drain::share(request, accepted_bytes);
        let response = match client {
            Err(error) => error.into_response(),
            Ok(_) => AssertUnwindSafe(next.run(request))
                .catch_unwind()
                .await
                .unwrap_or_else(|panic| {
                    ApiError::Internal {
                        detail: format!("panic: {}", panic_text(&*panic)),
                        permanent: false,
                    }
                    .into_response()
                }),
        };
        // A body that stopped coming is not waited for again.
        if let Some(body) = kept
            && response.status() != StatusCode::REQUEST_TIMEOUT
        {
            body.drain();
        }
        let mut response = in_dialect(response, dialect, agent.as_deref(), &method, &uri);
        add_headers(&mut response, &context, echo, started);
        add_limits(&mut response, &keys, context.client);
        let (status, seconds) = (response.status(), started.elapsed().as_secs_f64());
        tracing::info!(
            status = status.as_u16(),
            ms = (seconds * 1000.0).round() as u64,
            "answered"
        );
        told.status = Some(status);
        drop(told);
        response
    }
    .instrument(span)
    .await
}

/// Says an error in the words of the surface that was asked, whoever made it: the framework's own plain-text
/// answers (405, extractors) become JSON here.
fn in_dialect(
    mut response: Response,
    dialect: Dialect,
    agent: Option<&str>,
    method: &Method,
    uri: &Uri,
) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let error = match response.extensions_mut().remove::<Failure>() {
        Some(Failure(error)) => error,
        None if is_json(&response) => return response,
        None => Arc::new(framework_error(status, method, uri)),
    };
    if let Some(detail) = error.detail() {
        tracing::error!(%detail, "request failed");
    }
    let mut answer = answer(&error, dialect, agent);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow);
    }
    answer
}

fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn framework_error(status: StatusCode, method: &Method, uri: &Uri) -> ApiError {
    let request = format!("{method} {}", uri.path().chars().take(200).collect::<String>());
    match status {
        StatusCode::NOT_FOUND => ApiError::UnknownPath { request },
        StatusCode::METHOD_NOT_ALLOWED => ApiError::MethodNotAllowed { request },
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::NotMultipart { found: String::new() },
        status if status.is_client_error() => ApiError::Form {
            detail: status.canonical_reason().unwrap_or("bad request").to_owned(),
        },
        status => ApiError::Internal {
            detail: format!("framework answered {status}"),
            permanent: false,
        },
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}

/// Request ids and the informational headers of each dialect.
fn add_headers(
    response: &mut Response,
    context: &RequestContext,
    echo: Option<HeaderValue>,
    started: Instant,
) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        headers.insert("x-request-id", id.clone());
        if context.dialect.is_azure() {
            headers.insert("apim-request-id", id);
        }
    }
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if context.dialect.is_azure() {
        headers.insert("x-ms-region", HeaderValue::from_static("local"));
        if let Some(echo) = echo {
            headers.insert("x-ms-client-request-id", echo);
        }
    } else {
        let milliseconds = HeaderValue::from(started.elapsed().as_millis() as u64);
        headers.insert("openai-processing-ms", milliseconds);
        headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    }
}

/// What is left of the key's requests a minute, in the names and units of the service (`6ms`, `12s`).
fn add_limits(response: &mut Response, keys: &Keys, client: Client) {
    let Some(RequestsLeft {
        limit,
        remaining,
        reset,
    }) = keys.requests_left(client, Instant::now())
    else {
        return;
    };
    let reset = match reset.as_millis() {
        ms @ 0..1000 => format!("{ms}ms"),
        ms => format!("{}s", ms.div_ceil(1000)),
    };
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit-requests", HeaderValue::from(limit));
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from(remaining));
    if let Ok(reset) = HeaderValue::from_str(&reset) {
        headers.insert("x-ratelimit-reset-requests", reset);
    }
}

/// Answer headers that scripts in browsers may read.
pub(super) const EXPOSED: [HeaderName; 10] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("apim-request-id"),
    HeaderName::from_static("x-ms-client-request-id"),
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("x-should-retry"),
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
    header::RETRY_AFTER,
];
