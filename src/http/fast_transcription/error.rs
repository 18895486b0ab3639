//! Errors as the Speech services write them: `code`, `message`, `innerError`. What its gateway answers (keys, unknown
//! paths, throttling) is in Azure's common envelope instead.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::{ApiError, Wire};

/// Body of an error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct SpeechError {
    /// Kind of error, for example `InvalidRequest`.
    code: &'static str,
    /// What is wrong, and what would be right.
    message: String,
    /// The key of the definition or the part of the form at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    target: Option<&'static str>,
    /// The same, in more detail.
    inner_error: InnerError,
}

/// Detail of an error.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct InnerError {
    /// For example `InvalidLocale`.
    code: &'static str,
    /// As outside.
    message: String,
}

/// The body, where this is an error of the service itself; `None` where its gateway answers. The codes are those of the
/// `ErrorCode` and `DetailedErrorCode` lists of version 2024-11-15.
pub(in crate::http) fn body(error: &ApiError, wire: &Wire) -> Option<Vec<u8>> {
    let (code, detail) = match error {
        ApiError::NoKey
        | ApiError::WrongKey { .. }
        | ApiError::UnknownPath { .. }
        | ApiError::MethodNotAllowed { .. }
        | ApiError::UnknownApiVersion
        | ApiError::Busy { .. } => return None,
        _ => match wire.status.as_u16() {
            415 => ("UnsupportedMediaType", "InvalidRequestBodyFormat"),
            404 => ("NotFound", "InvalidModel"),
            500 => ("InternalServerError", "InternalServerError"),
            503 => ("ServiceUnavailable", "ServiceUnavailable"),
            _ => ("InvalidRequest", detail(wire.error.param)),
        },
    };
    let body = SpeechError {
        code,
        message: wire.error.message.clone(),
        target: wire.error.param,
        inner_error: InnerError {
            code: detail,
            message: wire.error.message.clone(),
        },
    };
    serde_json::to_vec(&body).ok()
}

fn detail(param: Option<&str>) -> &'static str {
    match param {
        Some("locales") => "InvalidLocale",
        Some("channels") => "InvalidChannels",
        Some("definition") | None => "InvalidPayload",
        Some("audio") => "EmptyRequest",
        Some(_) => "InvalidParameterValue",
    }
}
