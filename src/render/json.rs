//! JSON bodies and stream events, keys in the order the service writes them.

use std::fmt::Write as _;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Family, Presentation};
use crate::languages;
use crate::transcript::{Segment, Task, TokenLogprob, Transcript, Word, locate};

/// What the request is billed by elsewhere; here it tells how much was heard.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Usage {
    /// Whisper and `gpt-transcribe`.
    Duration {
        /// Seconds of audio, rounded up.
        seconds: u64,
    },
    /// The names that begin with `gpt-4o-`.
    Tokens {
        /// Sum of both.
        total_tokens: u64,
        /// Audio at ten tokens a second, and the prompt.
        input_tokens: u64,
        /// The two parts of `input_tokens`.
        input_token_details: InputTokens,
        /// Tokens of text.
        output_tokens: u64,
    },
}

/// The parts of `input_tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct InputTokens {
    /// Estimated from the prompt's length.
    pub text_tokens: u64,
    /// Ten a second, as recorded responses have it.
    pub audio_tokens: u64,
}

/// Log probability of one token.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(clippy::struct_field_names, reason = "the service's names")]
pub struct Logprob {
    /// The token's text; bytes that are no UTF-8 by themselves stand as `\xNN`.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f64,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

/// A language.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LanguageCode {
    /// ISO 639-1.
    pub code: &'static str,
}

/// Body of `response_format=json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transcription {
    /// The whole text.
    pub text: String,
    /// Log probabilities, when `include[]=logprobs` asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub logprobs: Option<Vec<Logprob>>,
    /// Languages heard; for the name `gpt-transcribe`, and where a recording's windows may differ in language.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub languages: Option<Vec<LanguageCode>>,
    /// Absent for translations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<Usage>,
}

/// Body of `response_format=verbose_json`. Seconds count from the start of the recording.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerboseTranscription {
    /// `transcribe` or `translate`.
    #[schema(value_type = String)]
    pub task: Task,
    /// English name of the language, lower case; of the first one where there are several.
    pub language: &'static str,
    /// All languages heard, in the order in which they come, with `language_mode=per_window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub languages: Option<Vec<LanguageCode>>,
    /// Seconds of audio.
    pub duration: f64,
    /// The whole text.
    pub text: String,
    /// Unless only words were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub segments: Option<Vec<VerboseSegment>>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub words: Option<Vec<VerboseWord>>,
    /// Absent for translations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<Usage>,
}

/// A segment in `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerboseSegment {
    /// Counts from 0.
    pub id: u32,
    /// Start of the segment's window in steps of 10 ms.
    pub seek: u32,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Keeps its leading space.
    pub text: String,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Temperature that gave it.
    pub temperature: f64,
    /// Mean log probability of its tokens.
    pub avg_logprob: f64,
    /// Above 2.4 the text repeats itself.
    pub compression_ratio: f64,
    /// Probability that there was no speech.
    pub no_speech_prob: f64,
    /// Channel of the recording, with `separate_channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub channel: Option<u16>,
    /// Code of the language spoken in it, with `language_mode=per_window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub language: Option<&'static str>,
}

/// A word in `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerboseWord {
    /// Without spaces and punctuation round it.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// A segment in a stream of `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamSegment {
    /// As in the whole body.
    #[serde(flatten)]
    segment: VerboseSegment,
    /// Its words, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    words: Option<Vec<StreamWord>>,
}

/// A word in a stream of `verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamWord {
    /// As in the whole body.
    #[serde(flatten)]
    word: VerboseWord,
    /// Probability of the least likely token that the word has letters of, from 0 to 1; absent where replacements
    /// changed the word.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    probability: Option<f64>,
}

/// One `data:` frame of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum StreamEvent {
    /// More text.
    #[serde(rename = "transcript.text.delta")]
    Delta {
        /// All deltas together are the final text.
        delta: String,
        /// When `include[]=logprobs` asks for them.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// With `response_format=verbose_json`: the segment that the text is of.
        #[serde(skip_serializing_if = "Option::is_none")]
        segment: Option<Box<StreamSegment>>,
    },
    /// The end.
    #[serde(rename = "transcript.text.done")]
    Done {
        /// The whole text.
        text: String,
        /// When `include[]=logprobs` asks for them.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// For the name `gpt-transcribe`.
        #[serde(skip_serializing_if = "Option::is_none")]
        languages: Option<Vec<LanguageCode>>,
        /// How much was heard.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// With `response_format=verbose_json`: everything else of that body.
        #[serde(skip_serializing_if = "Option::is_none")]
        verbose: Option<Box<VerboseTranscription>>,
    },
}

/// A number every client can parse: an f32 widened, as the service sends them; NaN and infinities, which JSON
/// cannot hold, become 0 and the largest f32.
fn number(value: f32) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        f64::from(value.clamp(f32::MIN, f32::MAX))
    }
}

/// `usage`; translations have none.
pub(crate) fn usage(transcript: &Transcript, shown: &Presentation) -> Option<Usage> {
    if shown.task == Task::Translate {
        return None;
    }
    let duration = number(transcript.duration).max(0.0);
    Some(match shown.family {
        Family::Whisper | Family::GptTranscribe => Usage::Duration {
            seconds: duration.ceil() as u64,
        },
        Family::Gpt4o | Family::Diarize => {
            let audio_tokens = (duration * 10.0).floor() as u64;
            let text_tokens = (shown.prompt_bytes as u64).div_ceil(4);
            let output_tokens = transcript
                .segments
                .iter()
                .map(|segment| segment.logprobs.len() as u64)
                .sum();
            let input_tokens = audio_tokens + text_tokens;
            Usage::Tokens {
                total_tokens: input_tokens + output_tokens,
                input_tokens,
                input_token_details: InputTokens {
                    text_tokens,
                    audio_tokens,
                },
                output_tokens,
            }
        }
    })
}

/// Log probabilities of one or more segments.
pub(crate) fn logprobs<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Vec<Logprob> {
    segments
        .into_iter()
        .flat_map(|segment| &segment.logprobs)
        .map(logprob)
        .collect()
}

fn logprob(token: &TokenLogprob) -> Logprob {
    let mut text = String::new();
    for chunk in token.bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Logprob {
        token: text,
        logprob: number(token.logprob),
        bytes: token.bytes.clone(),
    }
}

/// `languages`, which only `gpt-transcribe` has, and answers whose windows may differ in language.
pub(crate) fn heard(transcript: &Transcript, shown: &Presentation) -> Option<Vec<LanguageCode>> {
    if let Some(codes) = &transcript.languages {
        return Some(codes_of(codes));
    }
    (shown.family == Family::GptTranscribe && shown.task == Task::Transcribe).then(|| {
        let code = transcript.language.as_deref().and_then(languages::code);
        code.into_iter().map(|code| LanguageCode { code }).collect()
    })
}

fn codes_of(codes: &[String]) -> Vec<LanguageCode> {
    let codes = codes.iter().filter_map(|code| languages::code(code));
    codes.map(|code| LanguageCode { code }).collect()
}

/// Body of `json`.
pub(crate) fn transcription(transcript: &Transcript, shown: &Presentation) -> Transcription {
    Transcription {
        text: transcript.text(),
        logprobs: shown.logprobs.then(|| logprobs(&transcript.segments)),
        languages: heard(transcript, shown),
        usage: usage(transcript, shown),
    }
}

/// Body of `verbose_json`.
pub(crate) fn verbose(transcript: &Transcript, shown: &Presentation) -> VerboseTranscription {
    let heard = transcript.language.as_deref().or(shown.language.as_deref());
    // A translation's text is English, whatever was spoken (the published schema says `english`).
    let language = match shown.task {
        Task::Translate => "english",
        Task::Transcribe => heard.and_then(languages::name).unwrap_or("english"),
    };
    VerboseTranscription {
        task: shown.task,
        language,
        languages: transcript.languages.as_deref().map(codes_of),
        duration: number(transcript.duration),
        text: transcript.text(),
        segments: shown.segments.then(|| {
            transcript
                .segments
                .iter()
                .map(|s| segment(s, transcript.languages.is_some()))
                .collect()
        }),
        words: shown.words.then(|| {
            let words = transcript.segments.iter().flat_map(|segment| &segment.words);
            words.map(word).collect()
        }),
        usage: usage(transcript, shown),
    }
}

fn word(word: &Word) -> VerboseWord {
    VerboseWord {
        word: word.text.clone(),
        start: number(word.start),
        end: number(word.end),
    }
}

/// A segment on its way, before the whole is known.
pub(crate) fn stream_segment(segment: &Segment, shown: &Presentation) -> StreamSegment {
    StreamSegment {
        segment: self::segment(segment, true),
        words: shown.words.then(|| {
            let probabilities = probabilities(segment);
            let words = segment.words.iter().zip(probabilities);
            words
                .map(|(word, probability)| StreamWord {
                    word: self::word(word),
                    probability,
                })
                .collect()
        }),
    }
}

/// For each word of a segment the probability of its least likely token.
fn probabilities(segment: &Segment) -> Vec<Option<f64>> {
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(segment.logprobs.len());
    for token in &segment.logprobs {
        bytes.extend_from_slice(&token.bytes);
        ends.push(bytes.len());
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return vec![None; segment.words.len()];
    };
    let least = |range: std::ops::Range<usize>| {
        let first = ends.partition_point(|end| *end <= range.start);
        let last = ends.partition_point(|end| *end < range.end);
        let tokens = segment.logprobs.get(first..=last)?;
        let least = tokens.iter().map(|token| token.logprob).fold(0.0_f32, f32::min);
        (!range.is_empty()).then(|| number(least.exp()))
    };
    locate(&text, &segment.words).into_iter().map(least).collect()
}

fn segment(segment: &Segment, with_language: bool) -> VerboseSegment {
    VerboseSegment {
        id: segment.id,
        seek: segment.seek,
        start: number(segment.start),
        end: number(segment.end),
        text: segment.text.clone(),
        tokens: segment.tokens.clone(),
        temperature: number(segment.temperature),
        avg_logprob: number(segment.avg_logprob),
        compression_ratio: number(segment.compression_ratio),
        no_speech_prob: number(segment.no_speech_prob),
        channel: segment.channel,
        language: segment
            .language
            .as_deref()
            .filter(|_| with_language)
            .and_then(languages::code),
    }
}
