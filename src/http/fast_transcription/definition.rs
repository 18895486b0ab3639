//! `definition`: the JSON part that says what is wanted of the recording in `audio`.

use serde::Deserialize;

use crate::http::error::ApiError;
use crate::jobs::{TranscribeOptions, WordingRequest};
use crate::render::{Family, FastTranscription, Presentation, ResponseFormat, locale_language};
use crate::transcript::Task;
use crate::transcript::wording::{LONGEST_PHRASE_BYTES, MOST_PHRASES, ProfanityMode, TranscribeStyle};

/// What is read of it; other keys are read over, as the service does.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Definition {
    locales: Option<Vec<String>>,
    audio_url: Option<String>,
    channels: Option<Vec<u16>>,
    profanity_filter_mode: Option<String>,
    diarization: Option<Diarization>,
    phrase_list: Option<PhraseList>,
    enhanced_mode: Option<EnhancedMode>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Diarization {
    enabled: Option<bool>,
    max_speakers: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PhraseList {
    phrases: Option<Vec<String>>,
    biasing_weight: Option<f32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnhancedMode {
    enabled: Option<bool>,
    task: Option<String>,
    target_language: Option<String>,
    prompt: Option<Vec<String>>,
    transcribe_style: Option<String>,
    model_options: Option<ModelOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ModelOptions {
    transcribe_style: Option<String>,
}

/// Reads the definition. `has_audio` tells whether the recording came with it.
pub(in crate::http) fn read(
    text: Option<&str>,
    has_audio: bool,
) -> Result<(TranscribeOptions, Presentation), ApiError> {
    let definition = parse(text.unwrap_or_default())?;
    if !has_audio && definition.audio_url.is_some() {
        return Err(wrong(
            "audioUrl",
            "this server fetches nothing for its clients. Send the recording in the form's part 'audio'."
                .to_owned(),
        ));
    }
    refuse_speakers(definition.diarization.as_ref())?;
    let locales = definition.locales.unwrap_or_default();
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
    let channels = channels(definition.channels)?;
    let enhanced = definition.enhanced_mode.unwrap_or_default();
    let enhanced = if enhanced.enabled == Some(false) {
        EnhancedMode::default()
    } else {
        enhanced
    };
    let task = task(&enhanced)?;
    let prompt = enhanced.prompt.unwrap_or_default().join(" ");
    let style = enhanced.transcribe_style.or(enhanced
        .model_options
        .and_then(|options| options.transcribe_style));
    let phrases = definition.phrase_list.unwrap_or_default();
    let keywords = keywords(phrases.phrases.unwrap_or_default())?;
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
        keyword_weight: weight(phrases.biasing_weight)?,
        wording: WordingRequest {
            style: transcribe_style(style.as_deref())?,
            profanity: profanity(definition.profanity_filter_mode.as_deref())?,
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

fn parse(text: &str) -> Result<Definition, ApiError> {
    let text = text.trim();
    // The service's own curl samples put the object in quotes once more, which shells pass on.
    let bare = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inner| inner.trim_start().starts_with('{'))
        .unwrap_or(text);
    if bare.is_empty() {
        return Ok(Definition::default());
    }
    // Through a map: serde would take an array for the struct's fields in order.
    let object: Result<serde_json::Map<_, _>, _> = serde_json::from_str(bare);
    let definition = object.and_then(|object| serde_json::from_value(object.into()));
    definition.map_err(|error| {
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

fn refuse_speakers(asked: Option<&Diarization>) -> Result<(), ApiError> {
    let Some(asked) = asked else { return Ok(()) };
    // The SDK leaves `enabled` out when `maxSpeakers` is set.
    if !asked.enabled.unwrap_or(asked.max_speakers.is_some()) {
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

fn channels(asked: Option<Vec<u16>>) -> Result<Option<Vec<u16>>, ApiError> {
    let Some(list) = asked.filter(|list| !list.is_empty()) else {
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

fn task(enhanced: &EnhancedMode) -> Result<Task, ApiError> {
    match enhanced.task.as_deref() {
        None | Some("" | "transcribe") => Ok(Task::Transcribe),
        Some("translate") => match enhanced.target_language.as_deref() {
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

fn weight(asked: Option<f32>) -> Result<Option<f32>, ApiError> {
    match asked {
        Some(weight) if !(0.0..=2.0).contains(&weight) => Err(wrong(
            "phraseList.biasingWeight",
            format!("{weight}. Numbers from 0 to 2 are accepted."),
        )),
        other => Ok(other),
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
    }

    #[test]
    fn what_is_refused_names_its_field() {
        for (text, param) in [
            ("[]", "definition"),
            (r#"{"locales":"en-US"}"#, "definition"),
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
