//! `chunking_strategy`, the one field that comes as text, as JSON and as bracketed keys.

use super::values::{Fields, unknown_value};
use crate::http::error::ApiError;

/// `server_vad`'s settings; what is absent takes the configuration's.
#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Chunking {
    r#type: String,
    pub(super) threshold: Option<f32>,
    pub(super) prefix_padding_ms: Option<u32>,
    pub(super) silence_duration_ms: Option<u32>,
}

/// Longest padding or silence that makes sense within a window of 30 s.
const MOST_VAD_MS: u32 = 30_000;

/// Reads `chunking_strategy` in its three forms: `auto`, JSON text (.NET), bracketed keys (Python, npm).
pub(super) fn chunking(fields: &Fields) -> Result<Option<Chunking>, ApiError> {
    const NAME: &str = "chunking_strategy";
    let wrong = |detail: String| ApiError::invalid(NAME, format!("Invalid value for '{NAME}': {detail}"));
    let mut chunking: Option<Chunking> = None;
    for (key, value) in fields.with_keys(NAME) {
        let value = value.trim();
        match key {
            None | Some("") if value.is_empty() => {}
            None | Some("") if value.starts_with('{') => {
                let parsed = serde_json::from_str(value).map_err(|error| wrong(format!("{error}.")))?;
                chunking = Some(parsed);
            }
            None | Some("") => {
                let r#type = value.trim_matches('"').to_owned();
                chunking = Some(Chunking {
                    r#type,
                    ..chunking.unwrap_or_default()
                });
            }
            Some(key) => {
                let chunking = chunking.get_or_insert_with(Chunking::default);
                let bad = || wrong(format!("'{key}' is '{value}', not a number."));
                match key {
                    "type" => value.clone_into(&mut chunking.r#type),
                    "threshold" => {
                        chunking.threshold = Some(value.parse().map_err(|_| bad())?);
                    }
                    "prefix_padding_ms" | "silence_duration_ms" => {
                        let number = value.parse().map_err(|_| bad())?;
                        if key == "prefix_padding_ms" {
                            chunking.prefix_padding_ms = Some(number);
                        } else {
                            chunking.silence_duration_ms = Some(number);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let Some(chunking) = chunking else { return Ok(None) };
    if !matches!(chunking.r#type.as_str(), "auto" | "server_vad") {
        return Err(unknown_value(
            NAME,
            &chunking.r#type,
            "'auto', and an object whose 'type' is 'server_vad'",
        ));
    }
    if chunking
        .threshold
        .is_some_and(|threshold| !(0.0..=1.0).contains(&threshold))
    {
        return Err(wrong("'threshold' must be a number from 0 to 1.".to_owned()));
    }
    for (key, value) in [
        ("prefix_padding_ms", chunking.prefix_padding_ms),
        ("silence_duration_ms", chunking.silence_duration_ms),
    ] {
        if value.is_some_and(|value| value > MOST_VAD_MS) {
            return Err(wrong(format!(
                "'{key}' must be a whole number from 0 to {MOST_VAD_MS}."
            )));
        }
    }
    Ok(Some(chunking))
}
