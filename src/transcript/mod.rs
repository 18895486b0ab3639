//! What the engine says of one window, and how windows become one transcript. Knows neither HTTP nor engines.

mod assemble;
mod locate;
pub mod wording;
mod words;

use std::io::Write;

use serde::{Deserialize, Serialize};

pub use assemble::{Assembler, Place, believed};
pub use locate::locate;
pub use words::{is_punctuation, is_unspaced};

/// Bytes ÷ bytes after zlib (openai-whisper `utils.py`, `compression_ratio`); 0 for nothing. High is repetitive.
pub fn compression_ratio(text: &[u8]) -> f32 {
    if text.is_empty() {
        return 0.0;
    }
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    match zlib.write_all(text).and_then(|()| zlib.finish()) {
        Ok(compressed) => text.len() as f32 / compressed.len().max(1) as f32,
        Err(_) => 0.0, // writing to memory does not fail
    }
}

/// What to do with speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Text in the language spoken.
    #[default]
    Transcribe,
    /// Text in English.
    Translate,
}

/// One token as the model gave it. Times count from the start of its window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowToken {
    /// Id in the model's vocabulary.
    pub id: i32,
    /// The token's bytes: a piece of UTF-8, not always whole characters. Empty for timestamp tokens.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability, finite, at most 0.
    pub logprob: f32,
    /// Onset in seconds by attention alignment; absent when word times were not asked for.
    pub onset: Option<f32>,
}

/// One segment as the model gave it. Times in seconds from the start of its window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowSegment {
    /// First moment.
    pub start: f32,
    /// Last moment.
    pub end: f32,
    /// Text tokens with the timestamp tokens round them, in order.
    pub tokens: Vec<WindowToken>,
    /// Probability from 0 to 1 that there was no speech.
    pub no_speech_prob: f32,
}

/// One window's result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowTranscript {
    /// Segments in time order.
    pub segments: Vec<WindowSegment>,
    /// Language code the model worked in, for example `en`.
    pub language: Option<String>,
    /// Probability from 0 to 1 of that language among those allowed; absent when it was given.
    #[serde(default)]
    pub language_probability: Option<f32>,
    /// Temperature that gave this result.
    pub temperature: f32,
    /// Seconds of wall time the engine spent.
    pub inference_seconds: f32,
    /// True when the shortened encoder context gave a doubtful result and the full one ran.
    pub full_context_retry: bool,
    /// Set by drafts only: the result deserves a second look.
    pub doubtful: bool,
}

/// A word with its place in the recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// The word without spaces or punctuation round it.
    pub text: String,
    /// Seconds from the start of the recording.
    pub start: f32,
    /// Seconds from the start of the recording, at least `start`.
    pub end: f32,
}

/// Log probability of one token, as `include[]=logprobs` reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm, finite.
    pub logprob: f32,
}

/// A piece of text with its place in the recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Counts from 0 over the whole recording.
    pub id: u32,
    /// Start of the segment's window in steps of 10 ms.
    pub seek: u32,
    /// Seconds from the start of the recording.
    pub start: f32,
    /// Seconds from the start of the recording, at least `start`.
    pub end: f32,
    /// Valid UTF-8, usually with a leading space.
    pub text: String,
    /// Token ids, timestamp tokens included.
    pub tokens: Vec<i32>,
    /// Temperature that gave it.
    pub temperature: f32,
    /// Mean log probability of its tokens, finite.
    pub avg_logprob: f32,
    /// Bytes of text ÷ bytes of it compressed with zlib (openai-whisper `compression_ratio`).
    pub compression_ratio: f32,
    /// Probability from 0 to 1 that there was no speech.
    pub no_speech_prob: f32,
    /// Words, when asked for.
    pub words: Vec<Word>,
    /// Text tokens with their log probabilities.
    pub logprobs: Vec<TokenLogprob>,
    /// Channel of the recording, when channels were transcribed apart.
    pub channel: Option<u16>,
    /// Language code of its window.
    pub language: Option<String>,
}

/// The whole recording's text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    /// What was done.
    pub task: Task,
    /// Language code, for example `en`; absent when there was no speech.
    pub language: Option<String>,
    /// Seconds of audio.
    pub duration: f32,
    /// Segments in time order.
    pub segments: Vec<Segment>,
    /// Codes of all languages in the order of their first words, when each window had its own.
    pub languages: Option<Vec<String>>,
}

impl Transcript {
    /// All text, outer spaces removed. The same as the deltas of a stream put together.
    pub fn text(&self) -> String {
        let whole: String = self.segments.iter().map(|s| s.text.as_str()).collect();
        whole.trim().to_owned()
    }
}
