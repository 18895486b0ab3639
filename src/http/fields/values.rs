//! The form's text fields as they came: which are known, how long they may be, and one value as text, list, truth
//! or number.

use crate::http::error::ApiError;

/// Bytes that most text fields may hold: names, numbers, truths.
const SHORT_BYTES: usize = 4 << 10;
/// Bytes of text for the model and of lists; what the model cannot hold is cut later.
const LONG_BYTES: usize = 128 << 10;
/// Text bytes of one form, all fields together.
pub(in crate::http) const FORM_TEXT_BYTES: usize = 256 << 10;

/// A field this server reads besides `file`.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Known {
    /// Its name, without brackets.
    pub(in crate::http) name: &'static str,
    /// Bytes one value may hold.
    pub(in crate::http) bytes: usize,
    /// Only the last value counts.
    single: bool,
}

const fn single(name: &'static str, bytes: usize) -> Known {
    Known {
        name,
        bytes,
        single: true,
    }
}

const fn list(name: &'static str, bytes: usize) -> Known {
    Known {
        name,
        bytes,
        single: false,
    }
}

/// Every field this server reads besides `file`. Others are read over and forgotten, as the service does.
pub(in crate::http) const KNOWN: [Known; 28] = [
    single("model", SHORT_BYTES),
    single("language", SHORT_BYTES),
    list("languages", SHORT_BYTES),
    list("keywords", LONG_BYTES),
    single("prompt", LONG_BYTES),
    single("response_format", SHORT_BYTES),
    single("temperature", SHORT_BYTES),
    list("timestamp_granularities", SHORT_BYTES),
    list("include", SHORT_BYTES),
    single("stream", SHORT_BYTES),
    list("chunking_strategy", SHORT_BYTES),
    single("filename", SHORT_BYTES),
    // Extensions of this server.
    single("beam_size", SHORT_BYTES),
    single("vad", SHORT_BYTES),
    single("priority", SHORT_BYTES),
    single("separate_channels", SHORT_BYTES),
    single("language_mode", SHORT_BYTES),
    single("keyword_weight", SHORT_BYTES),
    single("max_line_width", SHORT_BYTES),
    single("max_line_count", SHORT_BYTES),
    single("max_words_per_line", SHORT_BYTES),
    single("max_cps", SHORT_BYTES),
    single("subtitle_style", SHORT_BYTES),
    single("transcribe_style", SHORT_BYTES),
    single("replacements", LONG_BYTES),
    single("profanity", SHORT_BYTES),
    list("profanity_words", LONG_BYTES),
    // Azure's fast transcription puts everything into this one.
    single("definition", LONG_BYTES),
];

/// Fields of the service that are refused as soon as their part begins: megabytes may follow.
pub(in crate::http) const REFUSED: [&str; 2] = ["known_speaker_names", "known_speaker_references"];

/// Refuses a part by its name.
pub(in crate::http) fn refuse(name: &str) -> Result<(), ApiError> {
    let (base, _) = split_name(name);
    let Some(param) = REFUSED.iter().find(|refused| **refused == base) else {
        return Ok(());
    };
    Err(ApiError::Field {
        param: Some(param),
        code: Some("unsupported_value"),
        message: format!(
            "'{param}' is not supported: this server does not tell speakers apart. With one speaker a channel, \
             'separate_channels' does."
        ),
    })
}

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

/// The known field of that name; `None` when the part is to be skipped.
pub(in crate::http) fn known(name: &str) -> Option<Known> {
    let (base, _) = split_name(name);
    KNOWN.iter().find(|known| known.name == base).copied()
}

impl Fields {
    /// Adds a part. Empty values are the same as absent ones; a later value of a single-valued field takes the
    /// earlier one's place.
    pub(in crate::http) fn push(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        let Some(Known {
            name: base, single, ..
        }) = known(name)
        else {
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
            if single {
                self.pairs.retain(|(held, ..)| *held != base);
            }
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
