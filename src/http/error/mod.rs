//! Every failure a client can meet, and its status, code, type, param, message and retry advice in each dialect.
//!
//! All dialects get the same four keys under `error`: a superset of what Azure and OpenAI send, which every SDK
//! reads. The matches below are exhaustive on purpose: a new cause does not compile until it has a status.

mod audio;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::dialect::Dialect;
use super::fast_transcription;
use crate::admission::Refusal;
use crate::audio::AudioError;
use crate::jobs::JobError;
use crate::keys::{Exceeded, KeyLimit};
use crate::render::Family;
use crate::serving::{BROKEN_RETRY, ServingError};

/// Why a request is refused or fails.
#[derive(Debug)]
pub enum ApiError {
    /// 401: keys are configured and none was shown.
    NoKey,
    /// 401: a key that is not ours; masked.
    WrongKey {
        /// Enough to recognise it.
        masked: String,
    },
    /// 404: nobody serves that path.
    UnknownPath {
        /// Method and path for the message.
        request: String,
    },
    /// 405.
    MethodNotAllowed {
        /// Method and path for the message.
        request: String,
    },
    /// 404 on Azure's classic routes, 400 on its v1 routes.
    UnknownApiVersion,
    /// 404: `server.strict_deployments` is on and nobody has that name.
    UnknownModel {
        /// As the client wrote it.
        name: String,
    },
    /// 404 of `GET …/models/{id}`; its wording differs from the transcription routes'.
    UnknownModelId {
        /// As the client wrote it.
        name: String,
    },
    /// 400: a deployment is asked for something other than transcription.
    ForeignOperation {
        /// The service's word, for example `chatCompletion`.
        operation: &'static str,
        /// As the client wrote it.
        deployment: String,
    },
    /// 403: a page of another origin than `server.cors_origins` allows opens a WebSocket.
    ForeignOrigin,
    /// 429: there is no room.
    Busy {
        /// What is taken, and by whom.
        taken: &'static str,
        /// When there is likely to be room.
        retry_after: Duration,
    },
    /// 503: no engine can be had.
    Unavailable {
        /// One sentence.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// 503: the server stops.
    Stopping,
    /// 413.
    TooLarge {
        /// Largest accepted body in bytes.
        limit: u64,
        /// Bytes announced or read.
        seen: u64,
    },
    /// 408: the body stopped coming, or came slower than the floor.
    SlowBody {
        /// Bytes that came …
        bytes: u64,
        /// … in so many seconds.
        seconds: u64,
    },
    /// 415: the body is no form.
    NotMultipart {
        /// The `Content-Type` or `Content-Encoding` that was sent.
        found: String,
    },
    /// 400: the form is broken.
    Form {
        /// What is wrong with it.
        detail: String,
    },
    /// 400: one field is wrong or missing.
    Field {
        /// Name of the field, without `[]`.
        param: Option<&'static str>,
        /// OpenAI's short code.
        code: Option<&'static str>,
        /// The field, the value, what is accepted.
        message: String,
    },
    /// 400 mostly: the recording.
    Audio {
        /// What is wrong with it.
        error: AudioError,
        /// Which wording the client expects.
        family: Family,
        /// The file's name has an extension.
        has_extension: bool,
    },
    /// 500; the detail goes to the log only.
    Internal {
        /// For the log.
        detail: String,
        /// Trying again would fail again.
        permanent: bool,
    },
}

/// What to tell a client's retry logic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Retry {
    /// `x-should-retry: false`: the same upload would fail again.
    Never,
    /// `retry-after` and `retry-after-ms`.
    After(Duration),
    /// Nothing: the client's own rule serves.
    Default,
}

/// An error as it goes over the wire.
#[derive(Debug)]
pub struct Wire {
    /// HTTP status.
    pub status: StatusCode,
    /// Advice in headers.
    pub retry: Retry,
    /// The body's `error` object.
    pub error: ErrorObject,
}

/// `error` in every error body.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// What is wrong, and what would be right.
    pub message: String,
    /// Kind of error, for example `invalid_request_error`.
    pub r#type: &'static str,
    /// The field at fault, when there is one.
    #[schema(required = true)]
    pub param: Option<&'static str>,
    /// Short code, for example `invalid_language_format`; on Azure's routes sometimes the status.
    #[schema(required = true)]
    pub code: Option<&'static str>,
}

/// Body of every answer with a status of 400 or more.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// Longest time that is asked of a client: some ignore more than 60 s, some give up, one waits however long
/// (contract of the SDKs' retry logic).
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What is asked of a client whose server restarts, or whose disk may be emptied any moment.
const RESTART_RETRY: Duration = Duration::from_secs(5);

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl From<ServingError> for ApiError {
    fn from(error: ServingError) -> Self {
        match error {
            ServingError::UnknownDeployment { name } => Self::UnknownModel { name },
            ServingError::Fetching { doing, retry_after } => Self::Unavailable {
                reason: doing,
                retry_after,
            },
            ServingError::Unavailable { reason } => Self::Unavailable {
                reason,
                retry_after: BROKEN_RETRY,
            },
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoPlace { retry_after } => Self::Busy {
                taken: "every place of this server is taken",
                retry_after,
            },
            Refusal::NoBytes { retry_after } => Self::Busy {
                taken: "the uploads of others take all the room there is",
                retry_after,
            },
            Refusal::KeyLimit(exceeded) => exceeded.into(),
            Refusal::Stopping => Self::Stopping,
        }
    }
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        let taken = match exceeded.limit {
            KeyLimit::Requests => "this key has had its requests of this minute (requests_per_minute)",
            KeyLimit::Audio => "this key has had its audio of this hour (audio_minutes_per_hour)",
            KeyLimit::Concurrent => "this key has as many requests under way as it may have (concurrent)",
        };
        Self::Busy {
            taken,
            retry_after: exceeded.retry_after,
        }
    }
}

impl ApiError {
    /// One wrong field, with code `invalid_value`.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::Field {
            param: Some(param),
            code: Some("invalid_value"),
            message: message.into(),
        }
    }

    /// Gives a job's failure its place among the answers.
    pub fn from_job(error: JobError, family: Family, has_extension: bool) -> Self {
        match error {
            JobError::Audio(AudioError::Cancelled) | JobError::Cancelled => Self::Stopping,
            JobError::Audio(error) => Self::Audio {
                error,
                family,
                has_extension,
            },
            JobError::NoSuchChannel { .. } => {
                Self::invalid("channels", format!("Invalid value for 'channels': {error}."))
            }
            JobError::Serving(error) => error.into(),
            JobError::Internal { detail } => Self::Internal {
                detail,
                permanent: false,
            },
            JobError::Deadline { seconds } => Self::Unavailable {
                reason: format!("the model was not ready for {seconds} s"),
                retry_after: BROKEN_RETRY,
            },
            // Engines were changed and windows retried before this: the same recording would fail again.
            JobError::Failed { detail } => Self::Internal {
                detail,
                permanent: true,
            },
        }
    }

    /// What `dialect` says in this case.
    pub fn wire(&self, dialect: Dialect) -> Wire {
        let azure = dialect.is_azure();
        let (status, kind, code, message) = match self {
            Self::NoKey | Self::WrongKey { .. } if azure => {
                (401, INVALID, Some("401"), AZURE_DENIED.to_owned())
            }
            Self::NoKey => (401, INVALID, None, NO_KEY.to_owned()),
            Self::WrongKey { masked } => (
                401,
                INVALID,
                Some("invalid_api_key"),
                format!("Incorrect API key provided: {masked}. The keys this server takes are in `server.api_keys` of its configuration."),
            ),
            Self::UnknownPath { .. } if azure => (404, INVALID, Some("404"), NOT_FOUND.to_owned()),
            Self::UnknownPath { request } => (404, INVALID, None, format!("Invalid URL ({request})")),
            Self::MethodNotAllowed { request } => {
                let code = if azure { "405" } else { "method_not_allowed" };
                (405, INVALID, Some(code), format!("Method not allowed ({request})"))
            }
            Self::UnknownApiVersion if dialect == Dialect::AzureV1 => {
                (400, INVALID, Some("BadRequest"), "API version not supported".to_owned())
            }
            Self::UnknownApiVersion => (404, INVALID, Some("404"), NOT_FOUND.to_owned()),
            Self::UnknownModel { .. } if azure => {
                (404, INVALID, Some("DeploymentNotFound"), NO_DEPLOYMENT.to_owned())
            }
            Self::UnknownModel { name } => (
                404,
                INVALID,
                Some("model_not_found"),
                format!("The model `{}` does not exist or you do not have access to it.", short(name)),
            ),
            Self::UnknownModelId { name } => (
                404,
                INVALID,
                Some("model_not_found"),
                format!("The model '{}' does not exist", short(name)),
            ),
            Self::ForeignOperation { operation, deployment } => (
                400,
                INVALID,
                Some("OperationNotSupported"),
                format!(
                    "The {operation} operation does not work with the specified model, {}. Please choose different \
                     model and try again. This server transcribes and translates audio.",
                    short(deployment)
                ),
            ),
            Self::ForeignOrigin => (
                403,
                INVALID,
                Some(if azure { "403" } else { "origin_not_allowed" }),
                "Pages of this origin may not use this server; `server.cors_origins` names those that may.".to_owned(),
            ),
            Self::Busy { taken, retry_after } => {
                let seconds = retry_seconds(*retry_after);
                let code = if azure { "429" } else { "rate_limit_exceeded" };
                let message = format!(
                    "Rate limit reached: {taken}. Please retry after {seconds} seconds."
                );
                (429, "requests", Some(code), message)
            }
            Self::Unavailable { reason, .. } => {
                let code = if azure { "ServiceUnavailable" } else { "model_unavailable" };
                (503, "service_unavailable_error", Some(code), format!("No transcription is possible now: {reason}"))
            }
            Self::Stopping => {
                let code = if azure { "ServiceUnavailable" } else { "server_is_stopping" };
                (503, "service_unavailable_error", Some(code), "The server is stopping.".to_owned())
            }
            Self::TooLarge { limit, seen } => (413, SERVER, None, too_large(*limit, *seen)),
            Self::SlowBody { bytes, seconds } => (
                408,
                INVALID,
                Some(if azure { "Timeout" } else { "request_timeout" }),
                format!("The operation was timeout. The request body brought {bytes} bytes in {seconds} seconds, which is too slow."),
            ),
            Self::NotMultipart { found } => (
                415,
                INVALID,
                Some("unsupported_media_type"),
                format!("Unsupported media type '{}'; send multipart/form-data without content encoding.", short(found)),
            ),
            Self::Form { detail } => {
                (400, INVALID, Some("invalid_value"), format!("Could not parse multipart form: {detail}"))
            }
            Self::Field { code, message, .. } => (400, INVALID, *code, message.clone()),
            Self::Audio { error, family, has_extension } => audio::audio(error, *family, *has_extension, azure),
            Self::Internal { .. } => (
                500,
                SERVER,
                azure.then_some("InternalServerError"),
                "The server had an error while processing your request. Its log says more under the request's id."
                    .to_owned(),
            ),
        };
        Wire {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            retry: self.retry(),
            error: ErrorObject {
                message,
                r#type: kind,
                param: self.param(),
                code,
            },
        }
    }

    fn param(&self) -> Option<&'static str> {
        match self {
            Self::Field { param, .. } => *param,
            Self::UnknownModelId { .. } => Some("model"),
            Self::Audio { error, family, .. } => match error {
                AudioError::Empty
                | AudioError::TooShort { .. }
                | AudioError::Channels { .. }
                | AudioError::SampleRate { .. }
                | AudioError::Tracks { .. }
                | AudioError::Metadata { .. }
                | AudioError::Decoder { .. } => Some("file"),
                AudioError::Unrecognized
                | AudioError::UnsupportedContainer { .. }
                | AudioError::UnsupportedCodec { .. }
                | AudioError::NoAudioTrack { .. }
                | AudioError::Corrupt { .. } => (*family != Family::Whisper).then_some("file"),
                AudioError::TooLong { .. }
                | AudioError::TooLarge { .. }
                | AudioError::StorageFull
                | AudioError::Cancelled
                | AudioError::Internal { .. }
                | AudioError::Io(_) => None,
            },
            Self::NoKey
            | Self::WrongKey { .. }
            | Self::UnknownPath { .. }
            | Self::MethodNotAllowed { .. }
            | Self::UnknownApiVersion
            | Self::UnknownModel { .. }
            | Self::ForeignOperation { .. }
            | Self::ForeignOrigin
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::Stopping
            | Self::TooLarge { .. }
            | Self::SlowBody { .. }
            | Self::NotMultipart { .. }
            | Self::Form { .. }
            | Self::Internal { .. } => None,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Busy { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Retry::After(*retry_after)
            }
            Self::Stopping
            | Self::Audio {
                error: AudioError::StorageFull,
                ..
            } => Retry::After(RESTART_RETRY),
            Self::Internal { permanent: false, .. }
            | Self::SlowBody { .. }
            | Self::Audio {
                error: AudioError::Io(_),
                ..
            } => Retry::Default,
            Self::NoKey
            | Self::WrongKey { .. }
            | Self::UnknownPath { .. }
            | Self::MethodNotAllowed { .. }
            | Self::UnknownApiVersion
            | Self::UnknownModel { .. }
            | Self::UnknownModelId { .. }
            | Self::ForeignOperation { .. }
            | Self::ForeignOrigin
            | Self::TooLarge { .. }
            | Self::NotMultipart { .. }
            | Self::Form { .. }
            | Self::Field { .. }
            | Self::Audio { .. }
            | Self::Internal { permanent: true, .. } => Retry::Never,
        }
    }

    /// What the log should hold of a failure that is ours.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Internal { detail, .. } => Some(detail.clone()),
            Self::Audio {
                error: AudioError::Io(error),
                ..
            } => Some(format!("spool: {error}")),
            Self::Audio {
                error: error @ AudioError::StorageFull,
                ..
            } => Some(format!("spool: {error}")),
            Self::Unavailable { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    }
}

const AZURE_DENIED: &str = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.";
const NO_KEY: &str = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or in an api-key header.";
const NOT_FOUND: &str = "Resource not found";
const NO_DEPLOYMENT: &str = "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.";

fn too_large(limit: u64, seen: u64) -> String {
    format!("Maximum content size limit ({limit}) exceeded ({seen} bytes read)")
}

/// At most 100 characters of what a client wrote.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Whole seconds, 1 to 60.
fn retry_seconds(wait: Duration) -> u64 {
    wait.min(LONGEST_RETRY).as_secs_f64().ceil().max(1.0) as u64
}

/// The error behind a response, for the layer that knows the dialect.
#[derive(Debug, Clone)]
pub struct Failure(pub Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = answer(&self, Dialect::OpenAi, None);
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

/// Builds the answer for one dialect and client.
pub(super) fn answer(error: &ApiError, dialect: Dialect, user_agent: Option<&str>) -> Response {
    let wire = error.wire(dialect);
    let own = (dialect == Dialect::AzureSpeech)
        .then(|| fast_transcription::body(error, &wire))
        .flatten();
    let body =
        own.unwrap_or_else(|| serde_json::to_vec(&ErrorBody { error: wire.error }).unwrap_or_default());
    let mut response = (wire.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    let headers = response.headers_mut();
    // npm openai 4.x repeats a multipart request without its body and then waits for ten minutes.
    let hopeless = user_agent.is_some_and(|agent| agent.contains("OpenAI/JS 4."));
    if hopeless || wire.retry == Retry::Never {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if let Retry::After(wait) = wire.retry {
        let wait = wait.min(LONGEST_RETRY);
        let milliseconds = HeaderValue::from(wait.as_millis().max(1) as u64);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_seconds(wait)));
        headers.insert(HeaderName::from_static("retry-after-ms"), milliseconds.clone());
        headers.insert(HeaderName::from_static("x-ms-retry-after-ms"), milliseconds);
    }
    if matches!(error, ApiError::SlowBody { .. }) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
