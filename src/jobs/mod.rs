//! One request's walk from upload to transcript, as a stream of events.

mod decoding;
mod request;
pub mod runner;
mod second_look;
mod service;
#[cfg(test)]
mod tests;

pub use decoding::decoder_settings;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::admission::Admitted;
use crate::audio::UploadedAudio;
use crate::serving::{Lease, ModelInfo, ServingError};
use crate::transcript::wording::{ProfanityMode, TranscribeStyle};
use crate::transcript::{Segment, Task, Transcript};

pub use crate::config::LanguageMode;

/// What a request asks of the model; how to show the answer is `http`'s business.
#[derive(Debug, Clone, Default)]
pub struct TranscribeOptions {
    /// Transcribe or translate.
    pub task: Task,
    /// ISO 639-1 code known to [`crate::languages`]; `None` detects.
    pub language: Option<String>,
    /// When detecting, only these codes may win; empty allows all.
    pub candidate_languages: Vec<String>,
    /// Whether each window may have a language of its own; `None` takes that for a list of two candidates or more,
    /// and else the configuration's choice.
    pub language_mode: Option<LanguageMode>,
    /// Text that the model is told came before; no NUL inside.
    pub prompt: Option<String>,
    /// Names and terms that are likely; no NUL inside.
    pub keywords: Vec<String>,
    /// How strongly keywords are preferred, 0 to 2; `None` takes the configuration's.
    pub keyword_weight: Option<f32>,
    /// What becomes of the text after decoding.
    pub wording: WordingRequest,
    /// 0 to 1.
    pub temperature: f32,
    /// Beam width; `None` takes the configuration's.
    pub beam_size: Option<u32>,
    /// Fill [`Segment::words`].
    pub word_times: bool,
    /// `None` takes the configuration's choice about voice activity detection.
    pub vad: Option<bool>,
    /// Voice probability from 0 to 1 at which speech begins; `None` takes the configuration's.
    pub vad_threshold: Option<f32>,
    /// Milliseconds kept before and after speech; `None` takes the configuration's.
    pub vad_padding_ms: Option<u32>,
    /// Silence in milliseconds that ends a speech segment; `None` takes the configuration's.
    pub vad_min_silence_ms: Option<u32>,
    /// Transcribe every channel by itself.
    pub separate_channels: bool,
    /// With `separate_channels`: only these, counted from 0.
    pub only_channels: Option<Vec<u16>>,
}

/// What a request says about wording. What is absent takes the configuration's; lists come on top of its lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordingRequest {
    /// Hesitations.
    pub style: Option<TranscribeStyle>,
    /// Phrase and what is written in its place.
    pub replacements: Vec<(String, String)>,
    /// What to do with the words of the list.
    pub profanity: Option<ProfanityMode>,
    /// More words for the list.
    pub profanity_words: Vec<String>,
}

/// Most bytes of prompt that reach a model. It remembers the last 223 tokens of it (half its text context less one,
/// `n_text_ctx / 2 - 1` in openai-whisper's `decoding.py`); English takes four to five bytes a token, Japanese two to
/// three.
const PROMPT_BYTES: usize = 1536;

/// The end of a prompt, as much of it as can reach a model; `None` of a blank one.
pub fn end_of_prompt(prompt: Option<&str>) -> Option<String> {
    let prompt = prompt.filter(|prompt| !prompt.trim().is_empty())?;
    let mut start = prompt.len().saturating_sub(PROMPT_BYTES);
    while !prompt.is_char_boundary(start) {
        start += 1;
    }
    Some(prompt[start..].to_owned())
}

/// Bytes of a prompt with keywords behind it, as far as they can reach a model.
pub fn prompt_bytes(prompt: Option<&str>, keywords: &[String]) -> usize {
    let listed: usize = keywords.iter().map(|keyword| keyword.len() + ", ".len()).sum();
    let listed = listed.saturating_sub(", ".len());
    let prompt = match prompt {
        Some(prompt) if listed > 0 => prompt.trim_end().len() + " ".len(),
        prompt => prompt.map_or(0, str::len),
    };
    (prompt + listed).min(PROMPT_BYTES)
}

/// What a running request tells its client.
#[derive(Debug)]
pub enum JobEvent {
    /// Segments of the next window, in time order.
    Segments(Vec<Segment>),
    /// The end; holds every segment again.
    Finished(Box<Transcript>),
}

/// Why a request got no transcript.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The recording is at fault, or the disk.
    #[error(transparent)]
    Audio(#[from] crate::audio::AudioError),
    /// A channel was asked for that the recording does not have.
    #[error("channel {asked} was asked for; the recording has {count}, counted from 0")]
    NoSuchChannel {
        /// Counted from 0.
        asked: u16,
        /// Channels of the recording.
        count: u16,
    },
    /// No model serves the name.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// Engines failed on this recording more often than is retried.
    #[error("transcription failed: {detail}")]
    Failed {
        /// For the log.
        detail: String,
    },
    /// Our own code broke.
    #[error("internal error: {detail}")]
    Internal {
        /// For the log.
        detail: String,
    },
    /// The model was not ready for so long that waiting was given up.
    #[error("no progress for {seconds} s")]
    Deadline {
        /// Time allowed without progress.
        seconds: u64,
    },
    /// The client left or the server stops.
    #[error("cancelled")]
    Cancelled,
}

/// A running request. Dropping it cancels the work.
#[derive(Debug)]
pub struct JobHandle {
    /// Segments while they come, then one `Finished` or one error, then the end.
    pub events: tokio::sync::mpsc::Receiver<Result<JobEvent, JobError>>,
    /// Cancels the job when dropped.
    pub cancel: tokio_util::sync::DropGuard,
}

/// What `http` needs of the rest. The real one is `jobs::runner::Jobs`; tests may script one.
pub trait JobRunner: Send + Sync + 'static {
    /// The model that will serve a deployment or model name, before an upload is read; its loading begins.
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Lease, ServingError>>;
    /// Name of the model behind a name, for lists: nothing is loaded. May read files.
    fn lookup(&self, name: &str) -> Result<String, ServingError>;
    /// Starts the work; returns at once.
    fn start(&self, request: Arc<Admitted>, audio: UploadedAudio, options: TranscribeOptions) -> JobHandle;
    /// Everything that `/models` lists. May read files.
    fn models(&self) -> Vec<ModelInfo>;
}
