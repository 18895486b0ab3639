//! Text fields of the form → what to ask of the model and how to show the answer. Pure; reads no body.

mod chunking;
mod subtitles;
mod values;
mod wording;

use super::error::ApiError;
use crate::jobs::{TranscribeOptions, end_of_prompt, prompt_bytes};
use crate::languages;
use crate::render::{Family, FastTranscription, Presentation, ResponseFormat};
use crate::schedule::PriorityClass;
use crate::transcript::Task;
use chunking::chunking;
pub(super) use values::{FORM_TEXT_BYTES, Fields, known, refuse};
#[cfg(test)]
pub(super) use values::{KNOWN, REFUSED};
use values::{number, unknown_value, whole_number};

/// Reads all fields.
///
/// `name` is the deployment or model asked for. `stream_whisper_1 = false` ignores `stream` for the literal name
/// `whisper-1`, as the service does.
pub(super) fn read(
    fields: &Fields,
    task: Task,
    name: &str,
    stream_whisper_1: bool,
) -> Result<(TranscribeOptions, Presentation, PriorityClass), ApiError> {
    let family = Family::of(name);
    let transcribe = task == Task::Transcribe;
    let format = response_format(fields, name)?;
    let (segments, words) = granularities(fields, format, transcribe)?;
    let stream = fields.boolean("stream")?.unwrap_or(false)
        && (stream_whisper_1 || !name.eq_ignore_ascii_case("whisper-1"));

    let language = if transcribe { language(fields)? } else { None };
    let candidate_languages = if transcribe {
        candidates(fields, language.as_deref())?
    } else {
        Vec::new()
    };
    let prompt = end_of_prompt(fields.single("prompt"));
    let keywords = wording::keywords(fields)?;
    let subtitles = subtitles::subtitles(fields, format)?;
    if family == Family::Diarize && (prompt.is_some() || !keywords.is_empty()) {
        return Err(ApiError::Field {
            param: Some("prompt"),
            code: Some("unsupported_parameter"),
            message: "Prompt is not supported for diarization models".to_owned(),
        });
    }

    let chunking = chunking(fields)?;
    let options = TranscribeOptions {
        task,
        language: language.clone(),
        candidate_languages,
        language_mode: if transcribe {
            wording::language_mode(fields)?
        } else {
            None
        },
        prompt: prompt.clone(),
        keywords: keywords.clone(),
        keyword_weight: wording::keyword_weight(fields)?,
        wording: wording::wording(fields)?,
        temperature: number(fields, "temperature", 0.0, 1.0)?.unwrap_or(0.0) as f32,
        beam_size: whole_number(fields, "beam_size", 1, 8)?,
        // Lines are laid out by the words' times.
        word_times: words || subtitles.is_some(),
        vad: fields.boolean("vad")?.or(chunking.is_some().then_some(true)),
        vad_threshold: chunking.as_ref().and_then(|c| c.threshold),
        vad_padding_ms: chunking.as_ref().and_then(|c| c.prefix_padding_ms),
        vad_min_silence_ms: chunking.as_ref().and_then(|c| c.silence_duration_ms),
        separate_channels: fields.boolean("separate_channels")?.unwrap_or(false),
        only_channels: None,
    };
    let presentation = Presentation {
        format,
        stream,
        segments,
        words,
        logprobs: logprobs(fields, format)?,
        family,
        task,
        language,
        prompt_bytes: prompt_bytes(prompt.as_deref(), &keywords),
        subtitles,
        fast: FastTranscription::default(),
    };
    Ok((options, presentation, priority(fields)?))
}

fn response_format(fields: &Fields, model: &str) -> Result<ResponseFormat, ApiError> {
    match fields.single("response_format").unwrap_or("json").trim() {
        "json" | "" => Ok(ResponseFormat::Json),
        "text" => Ok(ResponseFormat::Text),
        "srt" => Ok(ResponseFormat::Srt),
        "vtt" => Ok(ResponseFormat::Vtt),
        "verbose_json" => Ok(ResponseFormat::VerboseJson),
        "diarized_json" => {
            let model: String = model.chars().take(100).collect();
            Err(ApiError::Field {
                param: Some("response_format"),
                code: Some("unsupported_value"),
                message: format!(
                    "response_format 'diarized_json' is not compatible with model '{model}'. Use 'json', 'text', \
                     'srt', 'verbose_json' or 'vtt' instead."
                ),
            })
        }
        other => Err(unknown_value(
            "response_format",
            other,
            "'json', 'text', 'srt', 'verbose_json' and 'vtt'",
        )),
    }
}

/// `(segments, words)` of `verbose_json`.
fn granularities(
    fields: &Fields,
    format: ResponseFormat,
    transcribe: bool,
) -> Result<(bool, bool), ApiError> {
    const NAME: &str = "timestamp_granularities";
    let verbose = format == ResponseFormat::VerboseJson;
    if !transcribe {
        return Ok((verbose, false));
    }
    let (mut segments, mut words) = (false, false);
    for item in fields.list(NAME, true)? {
        match item.as_str() {
            "segment" => segments = true,
            "word" => words = true,
            other => return Err(unknown_value(NAME, other, "'word' and 'segment'")),
        }
    }
    if (segments || words) && !verbose {
        return Err(ApiError::invalid(
            NAME,
            "Invalid value for 'timestamp_granularities': it needs response_format 'verbose_json'.",
        ));
    }
    Ok((verbose && (segments || !words), words))
}

fn logprobs(fields: &Fields, format: ResponseFormat) -> Result<bool, ApiError> {
    let mut wanted = false;
    for item in fields.list("include", true)? {
        if item != "logprobs" {
            return Err(unknown_value("include", &item, "'logprobs'"));
        }
        wanted = true;
    }
    if wanted && format != ResponseFormat::Json {
        return Err(ApiError::invalid(
            "include",
            "Invalid value for 'include': 'logprobs' needs response_format 'json'.",
        ));
    }
    Ok(wanted)
}

fn language(fields: &Fields) -> Result<Option<String>, ApiError> {
    let Some(value) = fields
        .single("language")
        .map(str::trim)
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    if let Some(code) = languages::code(value) {
        return Ok(Some(code.to_owned()));
    }
    let value: String = value.chars().take(100).collect();
    Err(ApiError::Field {
        param: Some("language"),
        code: Some("invalid_language_format"),
        message: format!(
            "Invalid language '{value}'. Language parameter must be specified in ISO-639-1 format."
        ),
    })
}

fn candidates(fields: &Fields, language: Option<&str>) -> Result<Vec<String>, ApiError> {
    let mut codes: Vec<String> = Vec::new();
    for item in fields.list("languages", true)? {
        let Some(code) = languages::code(&item) else {
            return Err(unknown_value(
                "languages",
                &item,
                "ISO-639-1 codes, one in each 'languages[]'",
            ));
        };
        if !codes.iter().any(|known| known == code) {
            codes.push(code.to_owned());
        }
    }
    match language {
        Some(language) if !codes.is_empty() && !codes.iter().any(|code| code == language) => {
            Err(ApiError::invalid(
                "languages",
                format!(
                    "Invalid value for 'languages': 'language' is '{language}', which is not among them."
                ),
            ))
        }
        // A named language leaves nothing to choose from.
        Some(_) => Ok(Vec::new()),
        None => Ok(codes),
    }
}

/// Who goes before the request.
fn priority(fields: &Fields) -> Result<PriorityClass, ApiError> {
    match fields.single("priority").map(str::trim) {
        None | Some("" | "interactive") => Ok(PriorityClass::Interactive),
        Some("batch") => Ok(PriorityClass::Batch),
        Some(other) => Err(unknown_value("priority", other, "'interactive' and 'batch'")),
    }
}

#[cfg(test)]
mod tests;
