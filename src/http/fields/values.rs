//! The form's text fields as they came: which are known, how long they may be, and one value as text, list, truth
//! or number.

use crate::http::error::ApiError;

/// Bytes that most text fields may hold: prompts are cut by the model long before.
const TEXT_BYTES: usize = 1 << 20;
/// Bytes of one `known_speaker_references[]`: a data URL with up to ten seconds of uncompressed audio.
const REFERENCE_BYTES: usize = 16 << 20;
/// Text bytes of one form, all fields together.
pub(in crate::http) const FORM_TEXT_BYTES: usize = 80 << 20;

/// Every field this server reads besides `file`, and the bytes it may hold. Others are read over and forgotten, as
/// the service does.
pub(in crate::http) const KNOWN: [(&str, usize); 30] = [
    ("model", TEXT_BYTES),
    ("language", TEXT_BYTES),
    ("languages", TEXT_BYTES),
    ("keywords", TEXT_BYTES),
    ("prompt", TEXT_BYTES),
    ("response_format", TEXT_BYTES),
    ("temperature", TEXT_BYTES),
    ("timestamp_granularities", TEXT_BYTES),
    ("include", TEXT_BYTES),
    ("stream", TEXT_BYTES),
    ("chunking_strategy", TEXT_BYTES),
    ("known_speaker_names", TEXT_BYTES),
    ("known_speaker_references", REFERENCE_BYTES),
    ("filename", TEXT_BYTES),
    // Extensions of this server.
    ("beam_size", TEXT_BYTES),
    ("vad", TEXT_BYTES),
    ("priority", TEXT_BYTES),
    ("separate_channels", TEXT_BYTES),
    ("language_mode", TEXT_BYTES),
    ("keyword_weight", TEXT_BYTES),
    ("max_line_width", TEXT_BYTES),
    ("max_line_count", TEXT_BYTES),
    ("max_words_per_line", TEXT_BYTES),
    ("max_cps", TEXT_BYTES),
    ("subtitle_style", TEXT_BYTES),
    ("transcribe_style", TEXT_BYTES),
    ("replacements", TEXT_BYTES),
    ("profanity", TEXT_BYTES),
    ("profanity_words", TEXT_BYTES),
    // Azure's fast transcription puts everything into this one.
    ("definition", TEXT_BYTES),
];

/// A form's text fields.
#[derive(Debug, Default)]
pub(in crate::http) struct Fields {
    /// Base name, what stood in brackets, value.
    pairs: Vec<(&'static str, Option<String>, String)>,
}

/// `x[key]` → `x` and `key`.
fn split_name(name: &str) -> (&str, Option<&str>) {
    match name.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
        Some((base, key)) => (base, Some(key)),
        None => (name, None),
    }
}

/// The known field of that name and the bytes it may hold; `None` when the part is to be skipped.
pub(in crate::http) fn known(name: &str) -> Option<(&'static str, usize)> {
    let (base, _) = split_name(name);
    KNOWN.iter().find(|(known, _)| *known == base).copied()
}

impl Fields {
    /// Adds a part. Empty values are the same as absent ones.
    pub(in crate::http) fn push(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        let Some((base, _)) = known(name) else {
            return Ok(());
        };
        if value.contains('\0') {
            return Err(ApiError::invalid(
                base,
                format!("Invalid value for '{base}': it holds a NUL character."),
            ));
        }
        if !value.is_empty() {
            let key = split_name(name).1.map(str::to_owned);
            self.pairs.push((base, key, value));
        }
        Ok(())
    }

    /// The last value of a field.
    pub(in crate::http) fn single(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(base, ..)| *base == name)
            .map(|(_, _, value)| value.as_str())
    }

    /// The values of a field with what stood in brackets behind its name.
    pub(super) fn with_keys(&self, name: &'static str) -> impl Iterator<Item = (Option<&str>, &str)> {
        self.pairs
            .iter()
            .filter(move |(base, ..)| *base == name)
            .map(|(_, key, value)| (key.as_deref(), value.as_str()))
    }

    /// All values of an array field. One value may hold a JSON array or, when `commas`, a list.
    pub(super) fn list(&self, name: &'static str, commas: bool) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        for (.., value) in self.pairs.iter().filter(|(base, ..)| *base == name) {
            let text = value.trim();
            if text.starts_with('[') {
                let items: Vec<String> = serde_json::from_str(text).map_err(|_| {
                    ApiError::invalid(
                        name,
                        format!("Invalid value for '{name}': not a JSON array of strings."),
                    )
                })?;
                all.extend(items);
            } else if commas {
                all.extend(text.split(',').map(str::to_owned));
            } else {
                all.push(text.to_owned());
            }
        }
        for item in &mut all {
            *item = item.trim().to_owned();
        }
        all.retain(|item| !item.is_empty());
        if all.iter().any(|item| item.contains('\0')) {
            return Err(ApiError::invalid(
                name,
                format!("Invalid value for '{name}': it holds a NUL character."),
            ));
        }
        Ok(all)
    }

    pub(super) fn boolean(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.single(name) else {
            return Ok(None);
        };
        match value.trim().to_ascii_lowercase().as_str() {
            "" => Ok(None),
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(unknown_value(name, value, "'true' or 'false'")),
        }
    }
}

pub(super) fn unknown_value(name: &'static str, value: &str, accepted: &str) -> ApiError {
    let value: String = value.chars().take(100).collect();
    ApiError::invalid(
        name,
        format!("Invalid value for '{name}': '{value}'. Supported values are: {accepted}."),
    )
}

/// A whole number within bounds.
pub(super) fn whole_number(
    fields: &Fields,
    name: &'static str,
    least: u32,
    most: u32,
) -> Result<Option<u32>, ApiError> {
    match number(fields, name, least.into(), most.into())? {
        Some(value) if value.fract() == 0.0 => Ok(Some(value as u32)),
        Some(value) => Err(unknown_value(
            name,
            &value.to_string(),
            &format!("whole numbers from {least} to {most}"),
        )),
        None => Ok(None),
    }
}

/// A number within bounds.
pub(super) fn number(
    fields: &Fields,
    name: &'static str,
    least: f64,
    most: f64,
) -> Result<Option<f64>, ApiError> {
    let Some(value) = fields
        .single(name)
        .map(str::trim)
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    match value.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(unknown_value(
            name,
            value,
            &format!("numbers from {least} to {most}"),
        )),
    }
}
