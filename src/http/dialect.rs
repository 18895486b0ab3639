//! Which of the three dialects a path speaks, and the path's own quirks.

use axum::http::Uri;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::fast_transcription;

/// The surface a client was written for. They differ in the error envelope, in request-id headers, and in where
/// the model's name lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `/openai/deployments/{deployment}/…`: the path names the deployment, `api-version` is a query parameter.
    AzureClassic,
    /// `/openai/v1/…`: the form names the deployment.
    AzureV1,
    /// `/speechtotext/…`: Azure Speech, with errors of its own shape.
    AzureSpeech,
    /// `/v1/…`, and everything that is not Azure's.
    OpenAi,
}

impl Dialect {
    /// Reads it from a normalised path.
    pub fn of(path: &str) -> Self {
        // `/openai/audio/…` is what @ai-sdk/azure asks of a host that is not Azure's.
        if path == "/openai/v1" || path.starts_with("/openai/v1/") || path.starts_with("/openai/audio/") {
            Self::AzureV1
        } else if path == "/openai" || path.starts_with("/openai/") {
            Self::AzureClassic
        } else if path.starts_with("/speechtotext/") {
            Self::AzureSpeech
        } else {
            Self::OpenAi
        }
    }

    /// Errors made before the model is asked come in Azure's envelope.
    pub fn is_azure(self) -> bool {
        matches!(self, Self::AzureClassic | Self::AzureV1 | Self::AzureSpeech)
    }
}

/// The same address with runs of `/` collapsed and no slash at the end.
///
/// Python `openai` 1.x and npm 4.x send `//openai/…` when the endpoint was given with a slash at its end.
pub fn normalise(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path.len() < 2 || !path.ends_with('/')) {
        return None;
    }
    let mut clean = String::with_capacity(path.len());
    for piece in path.split('/').filter(|piece| !piece.is_empty()) {
        clean.push('/');
        clean.push_str(piece);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    if let Some(query) = uri.query() {
        clean.push('?');
        clean.push_str(query);
    }
    clean.parse().ok()
}

/// What a path below `/openai/deployments/` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum DeploymentPath {
    /// `{deployment}/audio/transcriptions`
    Transcriptions(String),
    /// `{deployment}/audio/translations`
    Translations(String),
    /// `{deployment}/models`: how Python 1.3.9 lists models.
    Models,
    /// An operation of models that do not transcribe, by the name the service gives it.
    Foreign {
        /// As the client wrote it.
        deployment: String,
        /// For example `chatCompletion`.
        operation: &'static str,
    },
    /// `{deployment}` alone.
    Deployment(String),
}

/// Operations of other kinds of deployment: path and the service's word for it.
const FOREIGN: [(&str, &str); 6] = [
    ("/chat/completions", "chatCompletion"),
    ("/completions", "completion"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "imageGeneration"),
    ("/images/edits", "imageEdit"),
    ("/audio/speech", "textToSpeech"),
];

impl DeploymentPath {
    /// Reads what follows `/openai/deployments/`. Deployment ids may hold slashes: Python 1.109 and 2.54 send them
    /// raw, 3.54 as `%2F`. Everything before the operation is the id, decoded once.
    pub fn parse(raw: &str) -> Self {
        if let Some(id) = raw.strip_suffix("/audio/transcriptions") {
            return Self::Transcriptions(decode(id));
        }
        if let Some(id) = raw.strip_suffix("/audio/translations") {
            return Self::Translations(decode(id));
        }
        if raw.ends_with("/models") {
            return Self::Models;
        }
        for (suffix, operation) in FOREIGN {
            if let Some(id) = raw.strip_suffix(suffix) {
                return Self::Foreign {
                    deployment: decode(id),
                    operation,
                };
            }
        }
        Self::Deployment(decode(raw))
    }
}

/// Percent-decodes once; bytes that are no UTF-8 become U+FFFD, which no deployment is called.
pub fn decode(raw: &str) -> String {
    percent_decode_str(raw).decode_utf8_lossy().into_owned()
}

/// Values of `api-version` that Azure's classic routes have had (REST specification folders and .NET's enum).
const KNOWN_VERSIONS: [&str; 24] = [
    "2022-12-01",
    "2023-03-15-preview",
    "2023-05-15",
    "2023-06-01-preview",
    "2023-07-01-preview",
    "2023-08-01-preview",
    "2023-09-01-preview",
    "2023-12-01-preview",
    "2024-02-01",
    "2024-02-15-preview",
    "2024-03-01-preview",
    "2024-04-01-preview",
    "2024-05-01-preview",
    "2024-06-01",
    "2024-07-01-preview",
    "2024-08-01-preview",
    "2024-09-01-preview",
    "2024-10-01-preview",
    "2024-10-21",
    "2024-12-01-preview",
    "2025-01-01-preview",
    "2025-02-01-preview",
    "2025-03-01-preview",
    "2025-04-01-preview",
];

/// Whether a request may go on with this `api-version`.
///
/// Lenient: none, or anything shaped like a version. Strict: what the service knows; Azure's classic routes then
/// need one.
pub fn version_is_acceptable(dialect: Dialect, version: Option<&str>, strict: bool) -> bool {
    let named = matches!(version, Some("v1" | "preview" | "latest"));
    match (dialect, version) {
        (Dialect::OpenAi, _) | (Dialect::AzureV1, None | Some("")) => true,
        (Dialect::AzureClassic | Dialect::AzureSpeech, None | Some("")) => !strict,
        (Dialect::AzureSpeech, Some(version)) if strict => fast_transcription::VERSIONS.contains(&version),
        (Dialect::AzureSpeech, Some(version)) => is_dated(version),
        (Dialect::AzureV1, Some(_)) if strict => named,
        (Dialect::AzureClassic, Some(version)) if strict => KNOWN_VERSIONS.contains(&version),
        (_, Some(version)) => named || is_dated(version),
    }
}

/// `YYYY-MM-DD`, or that with `-preview`.
fn is_dated(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version).as_bytes();
    date.len() == 10
        && date.iter().enumerate().all(|(i, byte)| match i {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// First value of a query parameter, decoded.
pub fn query_value(uri: &Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(&value.replace('+', " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_speak_their_dialect() {
        assert_eq!(
            Dialect::of("/openai/deployments/x/audio/transcriptions"),
            Dialect::AzureClassic
        );
        assert_eq!(Dialect::of("/openai/models"), Dialect::AzureClassic);
        assert_eq!(Dialect::of("/openai/v1/audio/transcriptions"), Dialect::AzureV1);
        assert_eq!(Dialect::of("/openai/audio/transcriptions"), Dialect::AzureV1);
        assert_eq!(Dialect::of("/v1/audio/transcriptions"), Dialect::OpenAi);
        assert_eq!(Dialect::of("/health"), Dialect::OpenAi);
        assert_eq!(Dialect::of("/openaix"), Dialect::OpenAi);
    }

    #[test]
    fn slashes_collapse_and_the_query_stays() {
        let clean = |text: &str| normalise(&text.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(
            clean("//openai/deployments//x/audio/transcriptions?api-version=2024-02-01//").as_deref(),
            Some("/openai/deployments/x/audio/transcriptions?api-version=2024-02-01//")
        );
        assert_eq!(clean("/v1/models/"), Some("/v1/models".to_owned()));
        assert_eq!(clean("///"), Some("/".to_owned()));
        assert_eq!(clean("/v1/models/a%2F%2Fb"), None);
    }

    #[test]
    fn deployment_ids_are_decoded_once_and_may_hold_slashes() {
        let parse = DeploymentPath::parse;
        assert_eq!(
            parse("my%20dep/%C3%A9/audio/transcriptions"),
            DeploymentPath::Transcriptions("my dep/é".to_owned())
        );
        assert_eq!(
            parse("a%252Fb/audio/translations"),
            DeploymentPath::Translations("a%2Fb".to_owned())
        );
        assert_eq!(parse("whisper/models"), DeploymentPath::Models);
        assert_eq!(
            parse("Systran%2Fx"),
            DeploymentPath::Deployment("Systran/x".to_owned())
        );
        assert_eq!(
            parse("d/chat/completions"),
            DeploymentPath::Foreign {
                deployment: "d".to_owned(),
                operation: "chatCompletion"
            }
        );
    }

    #[test]
    fn api_versions() {
        use Dialect::{AzureClassic as A, AzureSpeech as D, AzureV1 as B, OpenAi as C};
        for (dialect, version, lenient, strict) in [
            (A, Some("2024-02-01"), true, true),
            (A, Some("2025-04-01-preview"), true, true),
            (A, Some("2031-01-01"), true, false),
            (A, Some("nonsense"), false, false),
            (A, Some("2024-02-01-beta"), false, false),
            (A, None, true, false),
            (B, None, true, true),
            (B, Some("preview"), true, true),
            (B, Some("2024-02-01"), true, false),
            (B, Some("v2"), false, false),
            (C, Some("whatever"), true, true),
            (D, Some("2024-11-15"), true, true),
            (D, Some("2025-10-15"), true, true),
            (D, Some("2024-05-15-preview"), true, false),
            (D, Some("v3.2"), false, false),
            (D, None, true, false),
        ] {
            assert_eq!(
                version_is_acceptable(dialect, version, false),
                lenient,
                "lenient {dialect:?} {version:?}"
            );
            assert_eq!(
                version_is_acceptable(dialect, version, true),
                strict,
                "strict {dialect:?} {version:?}"
            );
        }
    }
}
