//! Text fields of the form → what to ask of the model and how to show the answer. Pure; reads no body.

use super::error::{ApiError, Family};
use crate::jobs::TranscribeOptions;
use crate::languages;
use crate::transcript::Task;

/// Bytes that most text fields may hold: prompts are cut by the model long before.
const TEXT_BYTES: usize = 1 << 20;
/// Bytes of one `known_speaker_references[]`: a data URL with up to ten seconds of uncompressed audio.
const REFERENCE_BYTES: usize = 16 << 20;
/// Text bytes of one form, all fields together.
pub(super) const FORM_TEXT_BYTES: usize = 80 << 20;

/// Every field this server reads besides `file`, and the bytes it may hold. Others are read over and forgotten, as
/// the service does.
pub(super) const KNOWN: [(&str, usize); 18] = [
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
];

/// How to show the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFormat {
    /// `{"text": …}`
    Json,
    /// The text and a line end.
    Text,
    /// SubRip.
    Srt,
    /// WebVTT.
    Vtt,
    /// Segments, words and their numbers.
    VerboseJson,
}

/// Everything about the answer that the form decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Presentation {
    /// Which body.
    pub format: ResponseFormat,
    /// Server-sent events.
    pub stream: bool,
    /// `segments` in `verbose_json`.
    pub segments: bool,
    /// `words` in `verbose_json`.
    pub words: bool,
    /// `logprobs` in `json`.
    pub logprobs: bool,
    /// Form of `usage`, wording of errors.
    pub family: Family,
    /// Transcribe or translate.
    pub task: Task,
    /// Language the client named, for recordings without speech.
    pub language: Option<String>,
    /// Bytes of prompt, from which its tokens are estimated.
    pub prompt_bytes: usize,
}

/// A form's text fields.
#[derive(Debug, Default)]
pub(super) struct Fields {
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
pub(super) fn known(name: &str) -> Option<(&'static str, usize)> {
    let (base, _) = split_name(name);
    KNOWN.iter().find(|(known, _)| *known == base).copied()
}

impl Fields {
    /// Adds a part. Empty values are the same as absent ones.
    pub(super) fn push(&mut self, name: &str, value: String) -> Result<(), ApiError> {
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
    pub(super) fn single(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(base, ..)| *base == name)
            .map(|(_, _, value)| value.as_str())
    }

    /// All values of an array field. One value may hold a JSON array or, when `commas`, a list.
    fn list(&self, name: &'static str, commas: bool) -> Result<Vec<String>, ApiError> {
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

    fn boolean(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
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

fn unknown_value(name: &'static str, value: &str, accepted: &str) -> ApiError {
    let value: String = value.chars().take(100).collect();
    ApiError::invalid(
        name,
        format!("Invalid value for '{name}': '{value}'. Supported values are: {accepted}."),
    )
}

/// Reads all fields.
///
/// `name` is the deployment or model asked for. `stream_whisper_1 = false` ignores `stream` for the literal name
/// `whisper-1`, as the service does.
pub(super) fn read(
    fields: &Fields,
    task: Task,
    name: &str,
    stream_whisper_1: bool,
) -> Result<(TranscribeOptions, Presentation), ApiError> {
    let family = Family::of(name);
    let transcribe = task == Task::Transcribe;
    let format = response_format(fields, name)?;
    let (segments, words) = granularities(fields, format, transcribe)?;
    let stream = fields.boolean("stream")?.unwrap_or(false)
        && (stream_whisper_1 || !name.eq_ignore_ascii_case("whisper-1"));
    refuse_speakers(fields)?;

    let language = if transcribe { language(fields)? } else { None };
    let candidate_languages = if transcribe {
        candidates(fields, language.as_deref())?
    } else {
        Vec::new()
    };
    let prompt = prompt(fields)?;
    if family == Family::Diarize && prompt.is_some() {
        return Err(ApiError::Field {
            param: Some("prompt"),
            code: Some("unsupported_parameter"),
            message: "Prompt is not supported for diarization models".to_owned(),
        });
    }

    let chunking = chunking(fields)?;
    let options = TranscribeOptions {
        deployment: name.to_owned(),
        task,
        language: language.clone(),
        candidate_languages,
        prompt: prompt.clone(),
        temperature: number(fields, "temperature", 0.0, 1.0)?.unwrap_or(0.0) as f32,
        beam_size: beam_size(fields)?,
        word_times: words,
        vad: fields.boolean("vad")?.or(chunking.is_some().then_some(true)),
        vad_threshold: chunking.as_ref().and_then(|c| c.threshold),
        vad_padding_ms: chunking.as_ref().and_then(|c| c.prefix_padding_ms),
        vad_min_silence_ms: chunking.as_ref().and_then(|c| c.silence_duration_ms),
        separate_channels: fields.boolean("separate_channels")?.unwrap_or(false),
        batch: batch(fields)?,
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
        prompt_bytes: prompt.map_or(0, |prompt| prompt.len()),
    };
    Ok((options, presentation))
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

fn refuse_speakers(fields: &Fields) -> Result<(), ApiError> {
    for param in ["known_speaker_names", "known_speaker_references"] {
        if fields.single(param).is_some() {
            return Err(ApiError::Field {
                param: Some(param),
                code: Some("unsupported_value"),
                message: format!(
                    "'{param}' is not supported: this server does not tell speakers apart. With one speaker a \
                     channel, 'separate_channels' does."
                ),
            });
        }
    }
    Ok(())
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

/// The prompt with the keywords at its end, where the model's memory of a prompt is surest.
fn prompt(fields: &Fields) -> Result<Option<String>, ApiError> {
    let keywords = fields.list("keywords", false)?.join(", ");
    let prompt = fields.single("prompt").unwrap_or("");
    Ok(match (prompt.trim().is_empty(), keywords.is_empty()) {
        (true, true) => None,
        (false, true) => Some(prompt.to_owned()),
        (true, false) => Some(keywords),
        (false, false) => Some(format!("{} {keywords}", prompt.trim_end())),
    })
}

fn number(fields: &Fields, name: &'static str, least: f64, most: f64) -> Result<Option<f64>, ApiError> {
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

fn beam_size(fields: &Fields) -> Result<Option<u32>, ApiError> {
    match number(fields, "beam_size", 1.0, 8.0)? {
        Some(size) if size.fract() == 0.0 => Ok(Some(size as u32)),
        Some(size) => Err(unknown_value(
            "beam_size",
            &size.to_string(),
            "whole numbers from 1 to 8",
        )),
        None => Ok(None),
    }
}

fn batch(fields: &Fields) -> Result<bool, ApiError> {
    match fields.single("priority").map(str::trim) {
        None | Some("" | "interactive") => Ok(false),
        Some("batch") => Ok(true),
        Some(other) => Err(unknown_value("priority", other, "'interactive' and 'batch'")),
    }
}

/// `server_vad`'s settings; what is absent takes the configuration's.
#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
struct Chunking {
    r#type: String,
    threshold: Option<f32>,
    prefix_padding_ms: Option<u32>,
    silence_duration_ms: Option<u32>,
}

/// Longest padding or silence that makes sense within a window of 30 s.
const MOST_VAD_MS: u32 = 30_000;

/// Reads `chunking_strategy` in its three forms: `auto`, JSON text (.NET), bracketed keys (Python, npm).
fn chunking(fields: &Fields) -> Result<Option<Chunking>, ApiError> {
    const NAME: &str = "chunking_strategy";
    let wrong = |detail: String| ApiError::invalid(NAME, format!("Invalid value for '{NAME}': {detail}"));
    let mut chunking: Option<Chunking> = None;
    for (_, key, value) in fields.pairs.iter().filter(|(base, ..)| *base == NAME) {
        let value = value.trim();
        match key.as_deref() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::dialect::Dialect;

    type Pairs = &'static [(&'static str, &'static str)];

    fn form(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.push(name, (*value).to_owned()).unwrap();
        }
        fields
    }

    fn options(pairs: &[(&str, &str)]) -> (TranscribeOptions, Presentation) {
        read(&form(pairs), Task::Transcribe, "whisper-1", true).unwrap()
    }

    /// Rows of the table of validity rules: status 400, then param, code, start of the message.
    #[test]
    fn every_bad_value_has_its_error() {
        let rows: Vec<(&str, Pairs, &str, &str, &str)> = vec![
            (
                "whisper-1",
                &[("language", "XX")],
                "language",
                "invalid_language_format",
                "Invalid language 'XX'. Language parameter must be specified in ISO-639-1 format.",
            ),
            (
                "whisper-1",
                &[("language", "auto")],
                "language",
                "invalid_language_format",
                "Invalid language 'auto'.",
            ),
            (
                "whisper-1",
                &[("language", "zh-tw")],
                "language",
                "invalid_language_format",
                "Invalid language 'zh-tw'.",
            ),
            (
                "whisper-1",
                &[("language", "japanese")],
                "language",
                "invalid_language_format",
                "Invalid language 'japanese'.",
            ),
            (
                "gpt-transcribe",
                &[("languages[]", "en"), ("languages[]", "qq")],
                "languages",
                "invalid_value",
                "Invalid value for 'languages': 'qq'.",
            ),
            (
                "gpt-transcribe",
                &[("language", "fr"), ("languages[]", "en")],
                "languages",
                "invalid_value",
                "Invalid value for 'languages': 'language' is 'fr'",
            ),
            (
                "whisper-1",
                &[("response_format", "xml")],
                "response_format",
                "invalid_value",
                "Invalid value for 'response_format': 'xml'. Supported values are: 'json'",
            ),
            (
                "gpt-4o-transcribe",
                &[("response_format", "diarized_json")],
                "response_format",
                "unsupported_value",
                "response_format 'diarized_json' is not compatible with model 'gpt-4o-transcribe'. Use 'json'",
            ),
            (
                "whisper-1",
                &[("temperature", "warm")],
                "temperature",
                "invalid_value",
                "Invalid value for 'temperature': 'warm'.",
            ),
            (
                "whisper-1",
                &[("temperature", "1.01")],
                "temperature",
                "invalid_value",
                "Invalid value for 'temperature': '1.01'.",
            ),
            (
                "whisper-1",
                &[("temperature", "NaN")],
                "temperature",
                "invalid_value",
                "Invalid value for 'temperature'",
            ),
            (
                "whisper-1",
                &[("timestamp_granularities[]", "word")],
                "timestamp_granularities",
                "invalid_value",
                "Invalid value for 'timestamp_granularities': it needs",
            ),
            (
                "whisper-1",
                &[
                    ("timestamp_granularities[]", "line"),
                    ("response_format", "verbose_json"),
                ],
                "timestamp_granularities",
                "invalid_value",
                "Invalid value for 'timestamp_granularities': 'line'.",
            ),
            (
                "whisper-1",
                &[("include[]", "usage")],
                "include",
                "invalid_value",
                "Invalid value for 'include': 'usage'.",
            ),
            (
                "whisper-1",
                &[("include[]", "logprobs"), ("response_format", "srt")],
                "include",
                "invalid_value",
                "Invalid value for 'include': 'logprobs' needs",
            ),
            (
                "whisper-1",
                &[("stream", "maybe")],
                "stream",
                "invalid_value",
                "Invalid value for 'stream': 'maybe'.",
            ),
            (
                "gpt-4o-transcribe-diarize",
                &[("prompt", "hello")],
                "prompt",
                "unsupported_parameter",
                "Prompt is not supported for diarization models",
            ),
            (
                "gpt-4o-transcribe-diarize",
                &[("known_speaker_names[]", "Ann")],
                "known_speaker_names",
                "unsupported_value",
                "'known_speaker_names' is not supported",
            ),
            (
                "gpt-4o-transcribe-diarize",
                &[("known_speaker_references[]", "data:audio/wav;base64,AA==")],
                "known_speaker_references",
                "unsupported_value",
                "'known_speaker_references' is not supported",
            ),
            (
                "gpt-4o-transcribe",
                &[("chunking_strategy", "manual")],
                "chunking_strategy",
                "invalid_value",
                "Invalid value for 'chunking_strategy': 'manual'.",
            ),
            (
                "gpt-4o-transcribe",
                &[
                    ("chunking_strategy[type]", "server_vad"),
                    ("chunking_strategy[threshold]", "2"),
                ],
                "chunking_strategy",
                "invalid_value",
                "Invalid value for 'chunking_strategy': 'threshold'",
            ),
            (
                "gpt-4o-transcribe",
                &[("chunking_strategy", "{\"type\":")],
                "chunking_strategy",
                "invalid_value",
                "Invalid value for 'chunking_strategy': EOF",
            ),
            (
                "gpt-4o-transcribe",
                &[
                    ("chunking_strategy[type]", "server_vad"),
                    ("chunking_strategy[silence_duration_ms]", "-1"),
                ],
                "chunking_strategy",
                "invalid_value",
                "Invalid value for 'chunking_strategy': 'silence_duration_ms' is '-1'",
            ),
            (
                "whisper-1",
                &[("beam_size", "9")],
                "beam_size",
                "invalid_value",
                "Invalid value for 'beam_size': '9'.",
            ),
            (
                "whisper-1",
                &[("beam_size", "2.5")],
                "beam_size",
                "invalid_value",
                "Invalid value for 'beam_size': '2.5'.",
            ),
            (
                "whisper-1",
                &[("vad", "perhaps")],
                "vad",
                "invalid_value",
                "Invalid value for 'vad': 'perhaps'.",
            ),
            (
                "whisper-1",
                &[("priority", "urgent")],
                "priority",
                "invalid_value",
                "Invalid value for 'priority': 'urgent'.",
            ),
            (
                "whisper-1",
                &[("separate_channels", "2")],
                "separate_channels",
                "invalid_value",
                "Invalid value for 'separate_channels': '2'.",
            ),
            (
                "gpt-transcribe",
                &[("keywords[]", "[\"a\", 1]")],
                "keywords",
                "invalid_value",
                "Invalid value for 'keywords': not a JSON array",
            ),
        ];
        for (model, pairs, param, code, message) in rows {
            let Err(error) = read(&form(pairs), Task::Transcribe, model, true) else {
                panic!("{pairs:?} was accepted");
            };
            for dialect in [Dialect::AzureClassic, Dialect::AzureV1, Dialect::OpenAi] {
                let wire = error.wire(dialect);
                assert_eq!(wire.status.as_u16(), 400, "{pairs:?}");
                assert_eq!(wire.error.r#type, "invalid_request_error");
                assert_eq!(
                    (wire.error.param, wire.error.code),
                    (Some(param), Some(code)),
                    "{pairs:?}"
                );
                assert!(
                    wire.error.message.starts_with(message),
                    "{} / {message}",
                    wire.error.message
                );
            }
        }
        let mut fields = Fields::default();
        assert!(fields.push("prompt", "a\0b".to_owned()).is_err());
    }

    #[test]
    fn empty_values_are_absent() {
        let pairs: Pairs = &[
            ("language", ""),
            ("prompt", ""),
            ("temperature", ""),
            ("response_format", ""),
            ("stream", " "),
        ];
        let (options, presentation) = options(pairs);
        assert_eq!(options.language, None);
        assert_eq!(options.prompt, None);
        assert!(options.temperature.abs() < f32::EPSILON);
        assert_eq!(presentation.format, ResponseFormat::Json);
        assert!(!presentation.stream);
    }

    #[test]
    fn arrays_in_every_spelling() {
        for pairs in [
            &[
                ("timestamp_granularities[]", "word"),
                ("timestamp_granularities[]", "segment"),
            ] as Pairs,
            &[
                ("timestamp_granularities", "word"),
                ("timestamp_granularities", "segment"),
            ],
            &[
                ("timestamp_granularities[0]", "word"),
                ("timestamp_granularities[1]", "segment"),
            ],
            &[("timestamp_granularities", "[\"word\", \"segment\"]")],
            &[("timestamp_granularities[]", "word, segment")],
        ] {
            let mut pairs = pairs.to_vec();
            pairs.push(("response_format", "verbose_json"));
            let (read, shown) = options(&pairs);
            assert!(read.word_times && shown.words && shown.segments, "{pairs:?}");
        }
        let (_, shown) = options(&[("response_format", "verbose_json")]);
        assert!(shown.segments && !shown.words);
        let (_, shown) = options(&[
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ]);
        assert!(!shown.segments && shown.words);
        let (read, _) = options(&[
            ("languages[]", "EN"),
            ("languages[]", "ja"),
            ("languages[]", "en"),
        ]);
        assert_eq!(read.candidate_languages, ["en", "ja"]);
    }

    #[test]
    fn chunking_strategy_in_its_three_encodings() {
        for pairs in [
            &[(
                "chunking_strategy",
                "{\"type\":\"server_vad\",\"prefix_padding_ms\":100,\"silence_duration_ms\":150,\"threshold\":0.3}",
            )] as Pairs,
            &[
                ("chunking_strategy[type]", "server_vad"),
                ("chunking_strategy[prefix_padding_ms]", "100"),
                ("chunking_strategy[silence_duration_ms]", "150"),
                ("chunking_strategy[threshold]", "0.3"),
            ],
        ] {
            let (read, _) = options(pairs);
            assert_eq!(read.vad, Some(true));
            assert_eq!(
                (read.vad_padding_ms, read.vad_min_silence_ms),
                (Some(100), Some(150))
            );
            assert_eq!(read.vad_threshold, Some(0.3));
        }
        let (read, _) = options(&[("chunking_strategy", "auto")]);
        assert_eq!((read.vad, read.vad_threshold), (Some(true), None));
        let (read, _) = options(&[]);
        assert_eq!(read.vad, None);
    }

    #[test]
    fn keywords_go_to_the_end_of_the_prompt() {
        let (read, shown) = options(&[
            ("prompt", "A talk. "),
            ("keywords[]", "Kyōto"),
            ("keywords[]", "ggml"),
        ]);
        assert_eq!(read.prompt.as_deref(), Some("A talk. Kyōto, ggml"));
        assert_eq!(shown.prompt_bytes, "A talk. Kyōto, ggml".len());
    }

    #[test]
    fn translations_ignore_what_the_service_ignores_there() {
        let fields = form(&[
            ("language", "klingon"),
            ("timestamp_granularities[]", "word"),
            ("response_format", "verbose_json"),
        ]);
        let (read, shown) = read(&fields, Task::Translate, "whisper-1", true).unwrap();
        assert_eq!((read.language, read.word_times), (None, false));
        assert!(shown.segments && !shown.words);
    }

    #[test]
    fn whisper_1_streams_unless_the_service_is_imitated() {
        let fields = form(&[("stream", "True")]);
        for (model, imitate, streams) in [
            ("whisper-1", false, true),
            ("whisper-1", true, false),
            ("base", true, true),
        ] {
            let (_, shown) = read(&fields, Task::Transcribe, model, !imitate).unwrap();
            assert_eq!(shown.stream, streams, "{model} {imitate}");
        }
    }
}
