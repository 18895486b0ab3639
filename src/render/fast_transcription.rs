//! Azure Speech's fast transcription: the body of `transcriptions:transcribe`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::transcript::{Segment, Transcript, locate};

/// What a request decides about that body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FastTranscription {
    /// Locales the client named; a phrase gets the one of its language.
    pub locales: Vec<String>,
    /// Channels were asked for: phrases name theirs.
    pub channels: bool,
}

/// The body. Times in whole milliseconds from the start of the recording.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FastTranscriptionResult {
    /// Length of the recording.
    pub duration_milliseconds: u64,
    /// The whole text, one entry a channel; none when nothing was said.
    pub combined_phrases: Vec<CombinedPhrase>,
    /// The text in pieces.
    pub phrases: Vec<Phrase>,
}

/// All that was said on a channel.
#[derive(Debug, Serialize, ToSchema)]
pub struct CombinedPhrase {
    /// Counted from 0, when channels were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub channel: Option<u16>,
    /// The text.
    pub text: String,
}

/// A piece of text with its place.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phrase {
    /// Counted from 0, when channels were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub channel: Option<u16>,
    /// Start.
    pub offset_milliseconds: u64,
    /// Length.
    pub duration_milliseconds: u64,
    /// The text.
    pub text: String,
    /// Its words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<PhraseWord>,
    /// Language and region, for example `en-US`.
    pub locale: String,
    /// Mean probability of its tokens, 0 to 1.
    pub confidence: f64,
}

/// A word in its display form: with the punctuation that touches it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhraseWord {
    /// The word.
    pub text: String,
    /// Start.
    pub offset_milliseconds: u64,
    /// Length.
    pub duration_milliseconds: u64,
}

/// The locale that the service names first for a language, where it has several (its list of supported locales).
const LOCALES: [(&str, &str); 38] = [
    ("ar", "ar-SA"),
    ("bg", "bg-BG"),
    ("ca", "ca-ES"),
    ("cs", "cs-CZ"),
    ("da", "da-DK"),
    ("de", "de-DE"),
    ("el", "el-GR"),
    ("en", "en-US"),
    ("es", "es-ES"),
    ("et", "et-EE"),
    ("fi", "fi-FI"),
    ("fr", "fr-FR"),
    ("he", "he-IL"),
    ("hi", "hi-IN"),
    ("hr", "hr-HR"),
    ("hu", "hu-HU"),
    ("id", "id-ID"),
    ("it", "it-IT"),
    ("ja", "ja-JP"),
    ("ko", "ko-KR"),
    ("lt", "lt-LT"),
    ("lv", "lv-LV"),
    ("ms", "ms-MY"),
    ("nl", "nl-NL"),
    ("no", "nb-NO"),
    ("pl", "pl-PL"),
    ("pt", "pt-BR"),
    ("ro", "ro-RO"),
    ("ru", "ru-RU"),
    ("sk", "sk-SK"),
    ("sl", "sl-SI"),
    ("sv", "sv-SE"),
    ("th", "th-TH"),
    ("tl", "fil-PH"),
    ("tr", "tr-TR"),
    ("uk", "uk-UA"),
    ("vi", "vi-VN"),
    ("zh", "zh-CN"),
];

/// Codes that locales write otherwise than Whisper does.
const CODES: [(&str, &str); 4] = [("nb", "no"), ("fil", "tl"), ("iw", "he"), ("jv", "jw")];

/// The language code of a locale, as Whisper writes it; `None` for languages it does not know.
pub fn locale_language(locale: &str) -> Option<&'static str> {
    let language = locale.trim().split(['-', '_']).next().unwrap_or_default();
    let same = CODES.iter().find(|(code, _)| code.eq_ignore_ascii_case(language));
    crate::languages::code(same.map_or(language, |(_, code)| code))
}

fn locale(segment: &Segment, transcript: &Transcript, asked: &FastTranscription) -> String {
    let code = match transcript.task {
        crate::transcript::Task::Translate => "en",
        crate::transcript::Task::Transcribe => segment
            .language
            .as_deref()
            .or(transcript.language.as_deref())
            .unwrap_or("en"),
    };
    let named = asked
        .locales
        .iter()
        .find(|locale| locale_language(locale) == Some(code));
    match named {
        Some(locale) => locale.clone(),
        None => LOCALES
            .iter()
            .find(|(known, _)| *known == code)
            .map_or(code, |(_, locale)| *locale)
            .to_owned(),
    }
}

/// Makes the body.
pub(crate) fn fast_transcription(
    transcript: &Transcript,
    asked: &FastTranscription,
) -> FastTranscriptionResult {
    let spoken: Vec<&Segment> = transcript
        .segments
        .iter()
        .filter(|segment| !segment.text.trim().is_empty())
        .collect();
    let channel = |segment: &Segment| asked.channels.then(|| segment.channel.unwrap_or(0));
    let mut channels: Vec<Option<u16>> = spoken.iter().map(|segment| channel(segment)).collect();
    channels.sort_unstable();
    channels.dedup();
    let combined_phrases = channels
        .into_iter()
        .map(|wanted| {
            let texts = spoken.iter().filter(|segment| channel(segment) == wanted);
            let whole: String = texts.map(|segment| segment.text.as_str()).collect();
            CombinedPhrase {
                channel: wanted,
                text: whole.trim().to_owned(),
            }
        })
        .collect();
    let phrases = spoken
        .iter()
        .map(|segment| {
            let (offset, duration) = span(segment.start, segment.end);
            Phrase {
                channel: channel(segment),
                offset_milliseconds: offset,
                duration_milliseconds: duration,
                text: segment.text.trim().to_owned(),
                words: words(segment),
                locale: locale(segment, transcript, asked),
                confidence: confidence(segment.avg_logprob),
            }
        })
        .collect();
    FastTranscriptionResult {
        duration_milliseconds: milliseconds(transcript.duration),
        combined_phrases,
        phrases,
    }
}

/// The words with what stands between them and the next one's beginning.
fn words(segment: &Segment) -> Vec<PhraseWord> {
    let ranges = locate(&segment.text, &segment.words);
    let starts: Vec<usize> = ranges
        .iter()
        .enumerate()
        .map(|(index, range)| {
            if index == 0 {
                return 0;
            }
            // An opening mark goes with the word behind it.
            let before = ranges[index - 1].end.min(range.start);
            let between = &segment.text[before..range.start];
            let opening = between.trim_end_matches(|c: char| !c.is_whitespace()).len();
            if between.contains(char::is_whitespace) {
                before + opening
            } else {
                range.start
            }
        })
        .collect();
    segment
        .words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let end = starts.get(index + 1).copied().unwrap_or(segment.text.len());
            let text = segment.text.get(starts[index]..end).unwrap_or_default().trim();
            let (offset, duration) = span(word.start, word.end);
            PhraseWord {
                text: if text.is_empty() {
                    word.text.clone()
                } else {
                    text.to_owned()
                },
                offset_milliseconds: offset,
                duration_milliseconds: duration,
            }
        })
        .collect()
}

/// Start and length; both ends are rounded, so that neighbours still touch.
fn span(start: f32, end: f32) -> (u64, u64) {
    let from = milliseconds(start);
    (from, milliseconds(end).saturating_sub(from))
}

fn milliseconds(seconds: f32) -> u64 {
    (f64::from(seconds).max(0.0) * 1000.0).round() as u64
}

/// Eight digits, as the service's numbers have.
fn confidence(avg_logprob: f32) -> f64 {
    let probability = f64::from(avg_logprob).exp().clamp(0.0, 1.0);
    if probability.is_finite() {
        (probability * 1e8).round() / 1e8
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::Word;

    fn segment(text: &str, words: &[(&str, f32, f32)], language: &str, channel: Option<u16>) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start: words.first().map_or(0.0, |w| w.1),
            end: words.last().map_or(0.0, |w| w.2),
            text: text.to_owned(),
            tokens: Vec::new(),
            temperature: 0.0,
            avg_logprob: -0.066_616_38,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: words
                .iter()
                .map(|(text, start, end)| Word {
                    text: (*text).to_owned(),
                    start: *start,
                    end: *end,
                })
                .collect(),
            logprobs: Vec::new(),
            channel,
            language: Some(language.to_owned()),
        }
    }

    fn body(segments: Vec<Segment>, asked: &FastTranscription) -> String {
        let transcript = Transcript {
            duration: 182.439,
            segments,
            ..Transcript::default()
        };
        serde_json::to_string(&fast_transcription(&transcript, asked)).unwrap()
    }

    /// The first phrase of the service's documented answer, key for key.
    #[test]
    fn the_bytes_of_the_documented_answer() {
        let said = segment(
            " Good afternoon.",
            &[("Good", 0.96, 1.2), ("afternoon", 1.2, 1.6)],
            "en",
            None,
        );
        assert_eq!(
            body(vec![said], &FastTranscription::default()),
            r#"{"durationMilliseconds":182439,"combinedPhrases":[{"text":"Good afternoon."}],"phrases":[{"offsetMilliseconds":960,"durationMilliseconds":640,"text":"Good afternoon.","words":[{"text":"Good","offsetMilliseconds":960,"durationMilliseconds":240},{"text":"afternoon.","offsetMilliseconds":1200,"durationMilliseconds":400}],"locale":"en-US","confidence":0.93555403}]}"#
        );
    }

    #[test]
    fn channels_and_locales_are_the_clients() {
        let asked = FastTranscription {
            locales: vec!["en-GB".to_owned(), "zh-TW".to_owned()],
            channels: true,
        };
        let text = body(
            vec![
                segment(
                    " Hello \"dear\" (friend).",
                    &[("Hello", 0.0, 0.4), ("dear", 0.4, 0.8), ("friend", 0.8, 1.0)],
                    "en",
                    Some(1),
                ),
                segment("你好。", &[("你", 1.0, 1.2), ("好", 1.2, 1.4)], "zh", Some(0)),
            ],
            &asked,
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["combinedPhrases"][0]["channel"], 0);
        assert_eq!(value["combinedPhrases"][0]["text"], "你好。");
        assert_eq!(value["phrases"][0]["locale"], "en-GB");
        assert_eq!(value["phrases"][1]["locale"], "zh-TW");
        let words: Vec<&str> = value["phrases"][0]["words"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word["text"].as_str().unwrap())
            .collect();
        assert_eq!(words, ["Hello", "\"dear\"", "(friend)."]);
        assert_eq!(value["phrases"][1]["words"][1]["text"], "好。");
    }

    #[test]
    fn locales_that_write_a_language_otherwise() {
        for (locale, code) in [
            ("en-US", "en"),
            ("nb-NO", "no"),
            ("fil-PH", "tl"),
            ("JA", "ja"),
            ("zh-HK", "zh"),
        ] {
            assert_eq!(locale_language(locale), Some(code), "{locale}");
        }
        assert_eq!(locale_language("xx-XX"), None);
        assert_eq!(locale_language(""), None);
    }
}
