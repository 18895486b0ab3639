//! One request's walk from upload to transcript, as a stream of events.

use crate::transcript::{Segment, Task, Transcript};

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
    /// Text that the model is told came before; no NUL inside.
    pub prompt: Option<String>,
    /// 0 to 1.
    pub temperature: f32,
    /// Beam width; `None` takes the configuration's.
    pub beam_size: Option<u32>,
    /// Fill [`Segment::words`].
    pub word_times: bool,
    /// `None` takes the configuration's choice about voice activity detection.
    pub vad: Option<bool>,
    /// Transcribe every channel by itself.
    pub separate_channels: bool,
    /// Waits behind interactive requests when true.
    pub batch: bool,
}

/// What a running request tells its client.
#[derive(Debug)]
pub enum JobEvent {
    /// Segments of the next window, in time order.
    Segments(Vec<Segment>),
    /// The end; holds every segment again.
    Finished(Box<Transcript>),
}
