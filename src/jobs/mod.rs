//! One request's walk from upload to transcript, as a stream of events.

mod decoding;
pub mod runner;
mod second_look;

use crate::serving::{ModelInfo, ServingError};
use crate::transcript::wording::{ProfanityMode, TranscribeStyle};
use crate::transcript::{Segment, Task, Transcript};

pub use crate::config::LanguageMode;

/// What a request asks of the model; how to show the answer is `http`'s business.
#[derive(Debug, Clone, Default)]
pub struct TranscribeOptions {
    /// Deployment or model name as the client wrote it.
    pub deployment: String,
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
    /// Silence in milliseconds that ends a stretch of speech; `None` takes the configuration's.
    pub vad_min_silence_ms: Option<u32>,
    /// Transcribe every channel by itself.
    pub separate_channels: bool,
    /// With `separate_channels`: only these, counted from 0.
    pub only_channels: Option<Vec<u16>>,
    /// Waits behind interactive requests when true.
    pub batch: bool,
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

/// The prompt with the keywords at its end, where the model's memory of a prompt is surest.
pub fn prompt_with_keywords(prompt: Option<&str>, keywords: &[String]) -> Option<String> {
    let keywords = keywords.join(", ");
    let prompt = prompt.filter(|prompt| !prompt.trim().is_empty());
    match (prompt, keywords.is_empty()) {
        (None, true) => None,
        (Some(prompt), true) => Some(prompt.to_owned()),
        (None, false) => Some(keywords),
        (Some(prompt), false) => Some(format!("{} {keywords}", prompt.trim_end())),
    }
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
    /// No model serves the name.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// Engines failed on this recording more often than is retried.
    #[error("transcription failed: {detail}")]
    Failed {
        /// For the log.
        detail: String,
    },
    /// The client left or the server stops.
    #[error("cancelled")]
    Cancelled,
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Busy {
    /// When a place is likely to be free, from the measured rate; at least one second.
    pub retry_after: std::time::Duration,
}

/// A place among the requests in service. Held until the work ends, not until the client leaves.
#[derive(Debug, Clone)]
pub struct Ticket {
    permit: std::sync::Arc<dyn std::any::Any + Send + Sync>,
}

impl Ticket {
    /// Wraps whatever frees the place when the last clone is dropped.
    pub fn new(permit: impl std::any::Any + Send + Sync) -> Self {
        Self {
            permit: std::sync::Arc::new(permit),
        }
    }

    /// How many hold this place.
    pub fn holders(&self) -> usize {
        std::sync::Arc::strong_count(&self.permit)
    }
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
    /// Takes a place before an upload is read.
    fn admit(&self) -> Result<Ticket, Busy>;
    /// Checks a deployment or model name before an upload is read; `Ok` names the model that will serve it.
    fn resolve(&self, name: &str) -> Result<String, ServingError>;
    /// Starts the work; returns at once.
    fn start(
        &self,
        audio: crate::audio::UploadedAudio,
        options: TranscribeOptions,
        ticket: Ticket,
    ) -> JobHandle;
    /// Everything that `/models` lists.
    fn models(&self) -> Vec<ModelInfo>;
}
