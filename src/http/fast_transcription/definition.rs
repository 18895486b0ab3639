//! `definition`: the JSON part that says what is wanted of the recording in `audio`.

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::jobs::{TranscribeOptions, WordingRequest};
use crate::render::{Family, FastTranscription, Presentation, ResponseFormat, locale_language};
use crate::transcript::Task;
use crate::transcript::wording::{LONGEST_PHRASE_BYTES, MOST_PHRASES, ProfanityMode, TranscribeStyle};

/// An object of the definition. Keys that are not asked for are read over, as the service does; null is as good as absent.
type Object = Map<String, Value>;

/// The value at the end of the path `param`, of the object that it stands in.
fn value<'o, T>(
    object: &'o Object,
    param: &'static str,
    expected: &str,
    read: impl FnOnce(&'o Value) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let key = param.rsplit('.').next().unwrap_or(param);
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(param, format!("{expected} is expected."))),
        },
    }
}

fn text<'o>(object: &'o Object, param: &'static str) -> Result<Option<&'o str>, ApiError> {
    value(object, param, "a text", Value::as_str)
}

fn boolean(object: &Object, param: &'static str) -> Result<Option<bool>, ApiError> {
    value(object, param, "true or false", Value::as_bool)
}

fn texts(object: &Object, param: &'static str) -> Result<Vec<String>, ApiError> {
    let list = value(object, param, "an array of texts", |value| {
        let texts = value.as_array()?.iter();
        texts.map(|text| text.as_str().map(str::to_owned)).collect()
    })?;
    Ok(list.unwrap_or_default())
}

/// An empty object where there is none.
fn object(parent: &Object, param: &'static str) -> Result<Object, ApiError> {
    Ok(value(parent, param, "a JSON object", Value::as_object)?
        .cloned()
        .unwrap_or_default())
}

/// Reads the definition. `has_audio` tells whether the recording came with it.
pub(in crate::http) fn read(
    json: Option<&str>,
    has_audio: bool,
) -> Result<(TranscribeOptions, Presentation), ApiError> {
    let definition = parse(json.unwrap_or_default())?;
    if !has_audio && text(&definition, "audioUrl")?.is_some() {
        return Err(wrong(
            "audioUrl",
            "this server fetches nothing for its clients. Send the recording in the form's part 'audio'."
                .to_owned(),
        ));
    }
    refuse_speakers(&object(&definition, "diarization")?)?;
    let locales = texts(&definition, "locales")?;
    let mut languages: Vec<String> = Vec::new();
    for locale in &locales {
        let Some(code) = locale_language(locale) else {
            return Err(wrong(
                "locales",
                format!(
                    "'{}' is no locale of a language that Whisper knows, such as 'en-US'.",
                    short(locale)
                ),
            ));
        };
        if !languages.iter().any(|known| known == code) {
            languages.push(code.to_owned());
        }
    }
    let channels = channels(&definition)?;
    let mut enhanced = object(&definition, "enhancedMode")?;
    if boolean(&enhanced, "enhancedMode.enabled")? == Some(false) {
        enhanced.clear();
    }
    let task = task(&enhanced)?;
    let prompt = texts(&enhanced, "enhancedMode.prompt")?.join(" ");
    let model = object(&enhanced, "enhancedMode.modelOptions")?;
    let style = text(&enhanced, "enhancedMode.transcribeStyle")?
        .or(text(&model, "enhancedMode.modelOptions.transcribeStyle")?);
    let list = object(&definition, "phraseList")?;
    let keywords = keywords(texts(&list, "phraseList.phrases")?)?;
    let single = (languages.len() == 1 && task == Task::Transcribe).then(|| languages[0].clone());
    let prompt = Some(prompt).filter(|prompt| !prompt.trim().is_empty());
    if prompt.as_ref().is_some_and(|prompt| prompt.contains('\0')) {
        return Err(wrong(
            "enhancedMode.prompt",
            "it holds a NUL character.".to_owned(),
        ));
    }
    let prompt_bytes = prompt.as_ref().map_or(0, String::len);
    let options = TranscribeOptions {
        task,
        candidate_languages: if single.is_some() || task == Task::Translate {
            Vec::new()
        } else {
            languages
        },
        language: single.clone(),
        prompt,
        keywords,
        keyword_weight: weight(&list)?,
        wording: WordingRequest {
            style: transcribe_style(style)?,
            profanity: profanity(text(&definition, "profanityFilterMode")?)?,
            ..WordingRequest::default()
        },
        word_times: true,
        separate_channels: channels.is_some(),
        only_channels: channels.clone(),
        ..TranscribeOptions::default()
    };
    let presentation = Presentation {
        format: ResponseFormat::FastTranscription,
        stream: false,
        segments: true,
        words: true,
        logprobs: false,
        family: Family::Whisper,
        task,
        language: single,
        prompt_bytes,
        subtitles: None,
        fast: FastTranscription {
            locales,
            channels: channels.is_some(),
        },
    };
    Ok((options, presentation))
}

fn parse(json: &str) -> Result<Object, ApiError> {
    // Windows editors begin a file with a byte order mark.
    let json = json.trim_start_matches('\u{feff}').trim();
    // The service's own curl samples put the object in quotes once more, which shells pass on.
    let bare = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inner| inner.trim_start().starts_with('{'))
        .unwrap_or(json);
    if bare.is_empty() {
        return Ok(Object::new());
    }
    serde_json::from_str(bare).map_err(|error| {
        wrong(
            "definition",
            format!("it is not the JSON object that is expected ({error})."),
        )
    })
}

fn wrong(param: &'static str, detail: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(param, format!("Invalid value for '{param}': {detail}"))
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn refuse_speakers(asked: &Object) -> Result<(), ApiError> {
    let speakers = value(asked, "diarization.maxSpeakers", "a whole number", Value::as_u64)?;
    // The SDK leaves `enabled` out when `maxSpeakers` is set.
    if !boolean(asked, "diarization.enabled")?.unwrap_or(speakers.is_some()) {
        return Ok(());
    }
    Err(ApiError::Field {
        param: Some("diarization"),
        code: Some("unsupported_value"),
        message:
            "'diarization' is not supported: this server does not tell speakers apart. With one speaker a \
                  channel, 'channels' does."
                .to_owned(),
    })
}

fn channels(definition: &Object) -> Result<Option<Vec<u16>>, ApiError> {
    let list: Option<Vec<u16>> = value(definition, "channels", "an array of indices from 0", |value| {
        let indices = value.as_array()?.iter();
        indices
            .map(|index| index.as_u64().and_then(|index| index.try_into().ok()))
            .collect()
    })?;
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let mut unique = list.clone();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() != list.len() || list.len() > 32 {
        return Err(wrong(
            "channels",
            "indices from 0, each once, are accepted.".to_owned(),
        ));
    }
    Ok(Some(unique))
}

fn task(enhanced: &Object) -> Result<Task, ApiError> {
    match text(enhanced, "enhancedMode.task")? {
        None | Some("" | "transcribe") => Ok(Task::Transcribe),
        Some("translate") => match text(enhanced, "enhancedMode.targetLanguage")? {
            None => Ok(Task::Translate),
            Some(target) if locale_language(target) == Some("en") => Ok(Task::Translate),
            Some(target) => Err(wrong(
                "enhancedMode.targetLanguage",
                format!(
                    "'{}'. Whisper translates into English: 'en' is accepted.",
                    short(target)
                ),
            )),
        },
        Some(other) => Err(wrong(
            "enhancedMode.task",
            format!(
                "'{}'. Supported values are: 'transcribe' and 'translate'.",
                short(other)
            ),
        )),
    }
}

fn keywords(phrases: Vec<String>) -> Result<Vec<String>, ApiError> {
    if phrases.len() > MOST_PHRASES
        || phrases
            .iter()
            .any(|phrase| phrase.len() > LONGEST_PHRASE_BYTES || phrase.contains('\0'))
    {
        return Err(wrong(
            "phraseList",
            format!("at most {MOST_PHRASES} phrases of at most {LONGEST_PHRASE_BYTES} bytes are accepted."),
        ));
    }
    Ok(phrases
        .into_iter()
        .filter(|phrase| !phrase.trim().is_empty())
        .collect())
}

fn weight(list: &Object) -> Result<Option<f32>, ApiError> {
    let asked = value(list, "phraseList.biasingWeight", "a number", Value::as_f64)?;
    match asked {
        Some(weight) if !(0.0..=2.0).contains(&weight) => Err(wrong(
            "phraseList.biasingWeight",
            format!("{weight}. Numbers from 0 to 2 are accepted."),
        )),
        other => Ok(other.map(|weight| weight as f32)),
    }
}

fn transcribe_style(asked: Option<&str>) -> Result<Option<TranscribeStyle>, ApiError> {
    match asked {
        None => Ok(None),
        Some(style) if style.eq_ignore_ascii_case("verbatim") => Ok(Some(TranscribeStyle::Verbatim)),
        Some(style) if style.eq_ignore_ascii_case("clean") => Ok(Some(TranscribeStyle::Clean)),
        Some(other) => Err(wrong(
            "enhancedMode.transcribeStyle",
            format!(
                "'{}'. Supported values are: 'verbatim' and 'clean'.",
                short(other)
            ),
        )),
    }
}

fn profanity(asked: Option<&str>) -> Result<Option<ProfanityMode>, ApiError> {
    match asked {
        None => Ok(None),
        Some("None") => Ok(Some(ProfanityMode::None)),
        Some("Masked") => Ok(Some(ProfanityMode::Masked)),
        Some("Removed") => Ok(Some(ProfanityMode::Removed)),
        Some("Tags") => Ok(Some(ProfanityMode::Tags)),
        Some(other) => Err(wrong(
            "profanityFilterMode",
            format!(
                "'{}'. Supported values are: 'None', 'Masked', 'Removed' and 'Tags'.",
                short(other)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> (TranscribeOptions, Presentation) {
        read(Some(text), true).unwrap()
    }

    fn refused(text: &str) -> &'static str {
        match read(Some(text), true) {
            Err(ApiError::Field { param, .. }) => param.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        let (read, shown) = options(
            r#"{"locales":["en-GB"],"channels":[1,0],"profanityFilterMode":"Masked",
                "phraseList":{"phrases":["Contoso","Rehaan"],"biasingWeight":1.5},
                "enhancedMode":{"enabled":true,"task":"transcribe","prompt":["A call.","Formal."],"modelOptions":{"transcribeStyle":"clean"}},
                "models":{"en-GB":"x"},"somethingNew":1}"#,
        );
        assert_eq!(read.language.as_deref(), Some("en"));
        assert_eq!(read.only_channels, Some(vec![0, 1]));
        assert_eq!(read.keywords, ["Contoso", "Rehaan"]);
        assert_eq!(read.keyword_weight, Some(1.5));
        assert_eq!(read.prompt.as_deref(), Some("A call. Formal."));
        assert_eq!(read.wording.style, Some(TranscribeStyle::Clean));
        assert_eq!(read.wording.profanity, Some(ProfanityMode::Masked));
        assert!(read.word_times && read.separate_channels);
        assert_eq!(shown.fast.locales, ["en-GB"]);
    }

    #[test]
    fn several_locales_are_candidates_and_a_translation_has_none() {
        let (read, _) = options(r#"{"locales":["en-US","ja-JP","en-GB"]}"#);
        assert_eq!(
            (read.language, read.candidate_languages),
            (None, vec!["en".to_owned(), "ja".to_owned()])
        );
        let (read, _) =
            options(r#"{"locales":["ja-JP"],"enhancedMode":{"task":"translate","targetLanguage":"en"}}"#);
        assert_eq!((read.task, read.language), (Task::Translate, None));
        let (read, _) = options(r#"{"enhancedMode":{"enabled":false,"task":"translate"}}"#);
        assert_eq!(read.task, Task::Transcribe);
    }

    #[test]
    fn the_quoted_definition_of_the_documented_curl_command() {
        let (read, _) = options("\"{\n    \"locales\":[\"en-US\"]}\"");
        assert_eq!(read.language.as_deref(), Some("en"));
        assert!(options("").0.language.is_none());
        let marked = "\u{feff}{\"locales\":[\"en-US\"],\"channels\":null}";
        assert_eq!(options(marked).0.language.as_deref(), Some("en"));
    }

    #[test]
    fn what_is_refused_names_its_field() {
        for (text, param) in [
            ("[]", "definition"),
            (r#"{"locales":"en-US"}"#, "locales"),
            (r#"{"locales":[1]}"#, "locales"),
            (r#"{"channels":[-1]}"#, "channels"),
            (r#"{"channels":[70000]}"#, "channels"),
            (r#"{"phraseList":[]}"#, "phraseList"),
            (r#"{"phraseList":{"phrases":"x"}}"#, "phraseList.phrases"),
            (
                r#"{"phraseList":{"biasingWeight":"1"}}"#,
                "phraseList.biasingWeight",
            ),
            (r#"{"diarization":true}"#, "diarization"),
            (r#"{"enhancedMode":{"prompt":"x"}}"#, "enhancedMode.prompt"),
            (r#"{"profanityFilterMode":5}"#, "profanityFilterMode"),
            (r#"{"locales":["xx-XX"]}"#, "locales"),
            (r#"{"channels":[0,0]}"#, "channels"),
            (r#"{"diarization":{"enabled":true}}"#, "diarization"),
            (r#"{"diarization":{"maxSpeakers":2}}"#, "diarization"),
            (r#"{"profanityFilterMode":"Loud"}"#, "profanityFilterMode"),
            (
                r#"{"phraseList":{"biasingWeight":3}}"#,
                "phraseList.biasingWeight",
            ),
            (r#"{"enhancedMode":{"task":"sing"}}"#, "enhancedMode.task"),
            (
                r#"{"enhancedMode":{"task":"translate","targetLanguage":"fr"}}"#,
                "enhancedMode.targetLanguage",
            ),
            (
                r#"{"enhancedMode":{"transcribeStyle":"loud"}}"#,
                "enhancedMode.transcribeStyle",
            ),
        ] {
            assert_eq!(refused(text), param, "{text}");
        }
        assert!(read(Some(r#"{"diarization":{"enabled":false,"maxSpeakers":2}}"#), true).is_ok());
        let url = r#"{"audioUrl":"https://example.org/x.wav"}"#;
        assert!(read(Some(url), true).is_ok(), "the recording itself goes first");
        assert!(matches!(
            read(Some(url), false),
            Err(ApiError::Field {
                param: Some("audioUrl"),
                ..
            })
        ));
    }
}
