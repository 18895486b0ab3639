//! Fields about languages, vocabulary and wording: extensions of this server.

use super::values::{Fields, number, unknown_value};
use crate::http::error::ApiError;
use crate::jobs::{LanguageMode, WordingRequest};
use crate::transcript::wording::{LONGEST_PHRASE_BYTES, MOST_PHRASES, ProfanityMode, TranscribeStyle};

/// `language_mode`; `None` leaves it to `languages[]` and the configuration.
pub(super) fn language_mode(fields: &Fields) -> Result<Option<LanguageMode>, ApiError> {
    const NAME: &str = "language_mode";
    match fields.single(NAME).map(str::trim) {
        None | Some("") => Ok(None),
        Some("per_file") => Ok(Some(LanguageMode::PerFile)),
        Some("per_window") => Ok(Some(LanguageMode::PerWindow)),
        Some(other) => Err(unknown_value(NAME, other, "'per_file' and 'per_window'")),
    }
}

/// `keywords[]`, in order.
pub(super) fn keywords(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let list = fields.list("keywords", false)?;
    phrases("keywords", &list)?;
    Ok(list)
}

/// How strongly keywords are preferred; `None` takes the configuration's weight.
pub(super) fn keyword_weight(fields: &Fields) -> Result<Option<f32>, ApiError> {
    Ok(number(fields, "keyword_weight", 0.0, 2.0)?.map(|weight| weight as f32))
}

/// Style, replacements and hidden words; what is absent takes the configuration's.
pub(super) fn wording(fields: &Fields) -> Result<WordingRequest, ApiError> {
    let style = match fields.single("transcribe_style").map(str::trim) {
        None | Some("") => None,
        Some("verbatim") => Some(TranscribeStyle::Verbatim),
        Some("clean") => Some(TranscribeStyle::Clean),
        Some(other) => return Err(unknown_value("transcribe_style", other, "'verbatim' and 'clean'")),
    };
    let profanity = match fields
        .single("profanity")
        .map(|mode| mode.trim().to_ascii_lowercase())
    {
        None => None,
        Some(mode) => match mode.as_str() {
            "" => None,
            "none" => Some(ProfanityMode::None),
            "masked" => Some(ProfanityMode::Masked),
            "removed" => Some(ProfanityMode::Removed),
            "tags" => Some(ProfanityMode::Tags),
            other => {
                return Err(unknown_value(
                    "profanity",
                    other,
                    "'none', 'masked', 'removed' and 'tags'",
                ));
            }
        },
    };
    let profanity_words = fields.list("profanity_words", false)?;
    phrases("profanity_words", &profanity_words)?;
    Ok(WordingRequest {
        style,
        replacements: replacements(fields)?,
        profanity,
        profanity_words,
    })
}

/// `replacements`: a JSON object, phrase to replacement.
fn replacements(fields: &Fields) -> Result<Vec<(String, String)>, ApiError> {
    const NAME: &str = "replacements";
    let Some(text) = fields.single(NAME).map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let table: std::collections::BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| {
        ApiError::invalid(
            NAME,
            format!("Invalid value for '{NAME}': not a JSON object of strings, such as {{\"say\":\"write\"}} ({error})."),
        )
    })?;
    let table: Vec<(String, String)> = table.into_iter().collect();
    let both: Vec<String> = table
        .iter()
        .flat_map(|(from, to)| [from.clone(), to.clone()])
        .collect();
    if table.iter().any(|(from, _)| from.trim().is_empty()) {
        return Err(ApiError::invalid(
            NAME,
            format!("Invalid value for '{NAME}': an empty phrase cannot be replaced."),
        ));
    }
    phrases(NAME, &both)?;
    Ok(table)
}

fn phrases(name: &'static str, list: &[String]) -> Result<(), ApiError> {
    if list.len() > MOST_PHRASES {
        return Err(ApiError::invalid(
            name,
            format!(
                "Invalid value for '{name}': {} phrases; at most {MOST_PHRASES} are accepted.",
                list.len()
            ),
        ));
    }
    match list.iter().find(|phrase| phrase.len() > LONGEST_PHRASE_BYTES) {
        Some(long) => Err(ApiError::invalid(
            name,
            format!(
                "Invalid value for '{name}': a phrase of {} bytes; at most {LONGEST_PHRASE_BYTES} are accepted.",
                long.len()
            ),
        )),
        None => Ok(()),
    }
}
