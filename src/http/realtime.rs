//! `…/realtime`: who may open a session, and with what; the rest is [`crate::realtime`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::AppState;
use super::auth::shown_keys;
use super::dialect::query_value;
use super::edge::RequestContext;
use super::error::ApiError;
use crate::admission::Refusal as Refused;
use crate::config::Config;
use crate::keys::Client;
use crate::metrics::Metrics;
use crate::realtime::events::Refusal;
use crate::realtime::secrets::{Secrets, unix_seconds};
use crate::realtime::session::{Opening, Session, SpeechSettings};
use crate::realtime::settings::{Dialect, Settings};
use crate::realtime::socket::{self, MAX_MESSAGE_BYTES, Terms};
use crate::realtime::windows::Recognizer;
use crate::serving::{BROKEN_RETRY, ServingError};
use crate::speech::LiveVoice;

/// Paths of sessions. The last one is MAI-Transcribe's: it also shows the words that may still change.
pub(super) const PATHS: [&str; 4] = ["/v1/realtime", "/openai/v1/realtime", "/openai/realtime", MAI];
const MAI: &str = "/mai/v1/realtime";
/// Paths that issue short-lived keys.
pub(super) const SECRET_PATHS: [&str; 2] = [
    "/v1/realtime/client_secrets",
    "/openai/v1/realtime/client_secrets",
];
/// Lifetime of a short-lived key in seconds where the client names none (the service's), and the bounds it keeps.
const SECRET_SECONDS: u64 = 600;
const SECRET_BOUNDS: std::ops::RangeInclusive<u64> = 10..=7200;
/// Rate of `audio/pcm` where the client names none.
const DEFAULT_RATE_HZ: u32 = 24_000;
/// Ends of names that only a local network gives.
const LOCAL_DOMAINS: [&str; 4] = [".localhost", ".local", ".home.arpa", ".internal"];
/// Digits of a session's id after `sess_`.
const ID_DIGITS: usize = 21;

/// What all sessions share.
pub struct Realtime {
    engine: Arc<dyn Recognizer>,
    secrets: Secrets,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Realtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Realtime").finish_non_exhaustive()
    }
}

impl Realtime {
    /// Sessions end when `stop` fires.
    pub fn new(engine: Arc<dyn Recognizer>, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        Self {
            engine,
            secrets: Secrets::default(),
            stop,
            metrics,
        }
    }

    /// Whose sessions this key opens, where it was issued for that and lives.
    pub(super) fn issued(&self, key: &str) -> Option<Client> {
        self.secrets.redeem(key).map(|(_, client)| client)
    }
}

pub(super) fn routes() -> Router<AppState> {
    let router = PATHS
        .iter()
        .fold(Router::new(), |router, path| router.route(path, get(connect)));
    SECRET_PATHS
        .iter()
        .fold(router, |router, path| router.route(path, post(issue_secret)))
}

async fn connect(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let realtime = available(&app)?;
    let keys = app.admission.keys();
    let upgrade = upgrade.map_err(|rejection| ApiError::Field {
        param: None,
        code: Some("websocket_required"),
        message: format!("This address speaks WebSocket (RFC 6455): {rejection}."),
    })?;
    let from_page = app.config.server.page && is_own_page(&headers, !app.admission.keys().is_open());
    if !from_page && !origin_is_allowed(&app.config.server.cors_origins, headers.get(header::ORIGIN)) {
        return Err(ApiError::ForeignOrigin);
    }
    let model = ["model", "deployment"]
        .iter()
        .find_map(|name| query_value(&uri, name));
    let model = model.filter(|name| !name.trim().is_empty());
    if let Some(name) = model.as_ref().filter(|name| !keys.may_use(context.client, name)) {
        return Err(ApiError::UnknownModel { name: name.clone() });
    }
    if realtime.stop.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    let place = app
        .admission
        .enter_session(context.client, realtime.engine.capacity())
        .map_err(|refusal| match refusal {
            Refused::NoPlace { retry_after } => ApiError::Busy {
                taken: "every place for a live session is taken",
                retry_after,
            },
            other => other.into(),
        })?;
    let hold = match realtime.engine.hold(model.clone()).await {
        Ok(hold) => Some(hold),
        Err(error @ ServingError::UnknownDeployment { .. }) => return Err(error.into()),
        // A model that is being fetched or restarted may be there when the first turn ends.
        Err(_) => None,
    };

    let mai = uri.path() == MAI;
    let shown = shown_keys(&headers, &uri);
    let issued = shown.iter().find_map(|key| realtime.secrets.redeem(key));
    let issued = issued.map(|(settings, _)| settings);
    let beta = headers
        .get("openai-beta")
        .is_some_and(|value| value.as_bytes().starts_with(b"realtime"));
    let lifetime = Duration::from_secs(app.config.realtime.max_session_seconds);
    let opening = Opening {
        id: session_id(),
        settings: issued.unwrap_or_else(|| Settings::new(model, DEFAULT_RATE_HZ, !mai)),
        dialect: if beta { Dialect::Beta } else { Dialect::Current },
        intermediate: mai,
        expires_at: unix_seconds() + lifetime.as_secs(),
        speech: speech_settings(&app.config),
    };
    let session =
        Session::new(opening, Box::new(LiveVoice::default())).map_err(|detail| ApiError::Internal {
            detail,
            permanent: true,
        })?;
    let terms = Terms {
        stop: realtime.stop.clone(),
        end: place.cancel.clone(),
        lifetime,
        allows: {
            let (keys, client) = (keys.clone(), context.client);
            Arc::new(move |name: &str| keys.may_use(client, name))
        },
        metrics: realtime.metrics.clone(),
    };
    let engine = realtime.engine.clone();
    let span = tracing::info_span!("session", id = %context.id);
    let response = upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .protocols(["realtime"])
        .on_upgrade(move |socket| {
            let work = async move {
                tracing::info!("a realtime session begins");
                socket::serve(socket, session, engine, hold, terms).await;
                tracing::info!("a realtime session has ended");
                drop(place);
            };
            tracing::Instrument::instrument(work, span)
        });
    Ok(response)
}

fn available(app: &AppState) -> Result<&Arc<Realtime>, ApiError> {
    app.realtime.as_ref().ok_or_else(|| ApiError::Unavailable {
        reason: "this server has no live transcription".to_owned(),
        retry_after: BROKEN_RETRY,
    })
}

fn session_id() -> String {
    let digits = uuid::Uuid::new_v4().simple().to_string();
    format!("sess_{}", &digits[..ID_DIGITS])
}

fn speech_settings(config: &Config) -> SpeechSettings {
    let speech = &config.speech;
    SpeechSettings {
        threshold: speech.threshold,
        threshold_end: speech.threshold_end,
        min_speech: Duration::from_millis(u64::from(speech.min_speech_ms)),
        max_window: Duration::from_secs_f32(speech.max_window_seconds.clamp(2.0, 28.0)),
    }
}

/// Browsers apply no rule of their own to WebSockets: without this any page could use the server of whoever visits it.
fn origin_is_allowed(allowed: &[String], origin: Option<&HeaderValue>) -> bool {
    let Some(origin) = origin else {
        return true; // no browser
    };
    allowed
        .iter()
        .any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
}

/// Whether the server's own page asks: its origin is the host that the request names.
///
/// Without keys that is believed only of names that no stranger can point at this machine (DNS rebinding): addresses,
/// `localhost`, names without a dot, and those kept for local networks (RFC 6762, RFC 8375, ICANN's `internal`).
fn is_own_page(headers: &HeaderMap, has_keys: bool) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    let same = origin
        .split_once("://")
        .is_some_and(|(scheme, from)| matches!(scheme, "http" | "https") && from.eq_ignore_ascii_case(host));
    let Some(name) = host
        .parse::<Authority>()
        .ok()
        .map(|host| host.host().to_ascii_lowercase())
    else {
        return false;
    };
    let is_local = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || LOCAL_DOMAINS.iter().any(|domain| name.ends_with(domain));
    same && (has_keys || is_local)
}

/// What a short-lived key is to be.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; `issue_secret` reads it field by field"
)]
pub(super) struct ClientSecretRequest {
    /// How long it opens sessions; absent: 600 seconds.
    #[schema(required = false, value_type = ExpiresAfter)]
    expires_after: (),
    /// What its sessions begin with, as in `session.update`.
    #[schema(required = false, value_type = Object)]
    session: (),
}

/// A lifetime.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
pub(super) struct ExpiresAfter {
    /// `created_at`, if anything.
    #[schema(required = false)]
    anchor: String,
    /// 10 to 7200.
    #[schema(required = false, minimum = 10, maximum = 7200)]
    seconds: u64,
}

/// A short-lived key.
#[derive(Serialize, ToSchema)]
pub(super) struct ClientSecret {
    /// The key; it opens sessions and nothing else.
    #[schema(example = "ek_0123456789abcdef")]
    value: String,
    /// Seconds since 1970.
    expires_at: u64,
    /// What its sessions begin with.
    #[schema(value_type = Object)]
    session: Value,
}

/// `POST …/realtime/client_secrets`
async fn issue_secret(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let realtime = available(&app)?;
    let invalid = |param: &'static str, message: String| ApiError::invalid(param, message);
    let body: Map<String, Value> = if body.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(&body).map_err(|error| ApiError::Field {
            param: None,
            code: Some("invalid_json"),
            message: format!("The body is not a JSON object: {error}."),
        })?
    };
    let seconds = match body.get("expires_after") {
        None | Some(Value::Null) => SECRET_SECONDS,
        Some(after) => match after.get("seconds").map(Value::as_u64) {
            None => SECRET_SECONDS,
            Some(Some(seconds)) if SECRET_BOUNDS.contains(&seconds) => seconds,
            Some(_) => {
                let (least, most) = (SECRET_BOUNDS.start(), SECRET_BOUNDS.end());
                let message =
                    format!("`expires_after.seconds` must be a whole number from {least} to {most}.");
                return Err(invalid("expires_after", message));
            }
        },
    };
    let settings = Settings::new(None, DEFAULT_RATE_HZ, true);
    let settings =
        match body.get("session") {
            None | Some(Value::Null) => settings,
            Some(Value::Object(session)) => settings.patched(Dialect::Current, session).map_err(
                |Refusal { param, message, .. }| {
                    invalid("session", format!("{}: {message}", param.unwrap_or_default()))
                },
            )?,
            Some(_) => return Err(invalid("session", "`session` must be an object.".to_owned())),
        };
    let session = settings.to_json(Dialect::Current, &session_id(), 0);
    let lifetime = Duration::from_secs(seconds);
    let (value, expires_at) = realtime.secrets.issue(settings, context.client, lifetime);
    let answer = ClientSecret {
        value,
        expires_at,
        session,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(origin: &str, host: &str, has_keys: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        is_own_page(&headers, has_keys)
    }

    #[test]
    fn the_own_page_and_no_other() {
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "studio:8080",
            "studio.local",
            "192.168.1.7:80",
        ] {
            assert!(own(&format!("http://{host}"), host, false), "{host}");
        }
        assert!(own("https://whisper.example.com", "whisper.example.com", true));
        // A stranger's name that was pointed at this machine.
        assert!(!own(
            "http://evil.example.com:8080",
            "evil.example.com:8080",
            false
        ));
        assert!(!own("http://evil.example.com", "localhost:8080", true));
        assert!(!own("http://localhost:3000", "localhost:8080", false));
        assert!(!own("null", "localhost:8080", false));
        assert!(!own("file://localhost:8080", "localhost:8080", false));
    }
}
