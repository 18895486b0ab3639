//! How an answer is to be shown.

use crate::transcript::Task;

/// Which generation of models a name belongs to, when it is literally one of the service's. It decides wording and
/// the form of `usage`; abilities are a local Whisper model's in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `whisper-1` and every name that is not the service's.
    Whisper,
    /// `gpt-4o-transcribe` and its smaller forms.
    Gpt4o,
    /// `gpt-4o-transcribe-diarize`.
    Diarize,
    /// `gpt-transcribe`.
    GptTranscribe,
}

impl Family {
    /// Reads it from the name the client asked for.
    pub fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "gpt-4o-transcribe" | "gpt-4o-mini-transcribe" | "gpt-4o-mini-transcribe-2025-12-15" => {
                Self::Gpt4o
            }
            "gpt-4o-transcribe-diarize" => Self::Diarize,
            "gpt-transcribe" => Self::GptTranscribe,
            _ => Self::Whisper,
        }
    }
}

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
    /// Azure Speech's fast transcription.
    FastTranscription,
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
    /// Lines and times of srt and vtt; `None` writes each segment as a cue, as the service does.
    pub subtitles: Option<super::SubtitleRules>,
    /// With [`ResponseFormat::FastTranscription`].
    pub fast: super::FastTranscription,
}
