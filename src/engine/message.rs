//! What the server and an engine process say to each other, in frames ([`crate::process::frame`]) of which only
//! windows carry samples.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::DeviceReport;
use crate::transcript::{Task, WindowTranscript};

/// Which engine runs a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineSetting {
    /// `native` on the processor where it has kernels for it, `whisper.cpp` on GPUs.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// This program's own, in Rust, on the processor.
    #[serde(rename = "native")]
    Native,
    /// whisper.cpp, on the processor or a GPU.
    #[serde(rename = "whisper.cpp")]
    WhisperCpp,
}

/// The number format in which the native engine multiplies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionSetting {
    /// `int8-block`.
    #[default]
    Auto,
    /// 8-bit integers with one scale a row: the fastest.
    Int8,
    /// 8-bit integers with one scale for each 64 numbers.
    Int8Block,
    /// bfloat16.
    Bf16,
    /// 32-bit floats.
    Exact,
}

/// How an engine is to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineSpec {
    /// ggml model file, already checked by `models`.
    pub model: PathBuf,
    /// Device number in the backend's own count; `None` is the CPU.
    pub gpu_device: Option<u32>,
    /// Windows it runs side by side; one state each.
    pub slots: usize,
    /// Attention kernels that never hold the whole attention matrix.
    pub flash_attention: bool,
    /// Most decoders any window will ask for; every state is warmed with as many.
    pub max_decoders: u32,
    /// Threads for the warm-up; cores that the native engine spreads windows over.
    pub threads: u32,
    /// Which engine.
    #[serde(default)]
    pub engine: EngineSetting,
    /// Its number format, where it has several.
    #[serde(default)]
    pub precision: PrecisionSetting,
}

/// From the server to an engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToEngine {
    /// First message.
    Start(EngineSpec),
    /// Run the samples that follow.
    Window {
        /// Repeated in the answer.
        id: u64,
        /// Cores this run may use.
        threads: u32,
        /// What to do.
        options: DecodeOptions,
    },
    /// Nobody waits for this window any more. It is answered all the same: until then its slot and cores are taken.
    Cancel {
        /// As in `Window`.
        id: u64,
    },
    /// The window waits at its next step: another one has its cores.
    Pause {
        /// As in `Window`.
        id: u64,
    },
    /// The window goes on.
    Resume {
        /// As in `Window`.
        id: u64,
    },
    /// The window may use so many cores from its next step on; it is answered by `FromEngine::Threads`.
    Threads {
        /// As in `Window`.
        id: u64,
        /// Cores.
        threads: u32,
    },
    /// Are you there? Answered by a thread that runs no windows.
    Ping,
}

/// From an engine to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromEngine {
    /// Loaded and warm.
    Ready(Box<DeviceReport>),
    /// Cannot serve; the process ends after this.
    StartFailed {
        /// One sentence.
        reason: String,
    },
    /// A slot has taken the window: its time begins.
    Started {
        /// As in `Window`.
        id: u64,
    },
    /// The window uses so many cores now.
    Threads {
        /// As in `Window`.
        id: u64,
        /// Cores.
        threads: u32,
    },
    /// The process lives, whatever its windows do.
    Pong,
    /// A window's result.
    Done {
        /// As in `Window`.
        id: u64,
        /// The result.
        transcript: WindowTranscript,
    },
    /// A window that failed while the engine lives on.
    Failed {
        /// As in `Window`.
        id: u64,
        /// For the log.
        detail: String,
        /// True when `Cancel` ended it.
        cancelled: bool,
    },
}

/// How one window is to be decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecodeOptions {
    /// Transcribe or translate.
    pub task: Task,
    /// Language code; `None` detects.
    pub language: Option<String>,
    /// When detecting, only these may win; empty allows all.
    pub candidate_languages: Vec<String>,
    /// Text that came before; no NUL.
    pub prompt: Option<String>,
    /// First temperature, 0 to 1.
    pub temperature: f32,
    /// Texts followed side by side at temperature 0; 1 is greedy, 0 leaves it to the engine.
    pub beam_size: u32,
    /// Fill `WindowToken::onset`.
    pub word_times: bool,
    /// Run the encoder over the window's length instead of 30 s.
    pub short_context: bool,
    /// Ids of text tokens that the result begins with; the decoder only adds to them. Empty leaves it free. Honoured by
    /// greedy decoding at temperature 0 (`beam_size` 1, no word times).
    pub prefix: Vec<i32>,
    /// Somebody waits for its words: on an engine that runs several windows on a core, the others let it pass.
    #[serde(default)]
    pub urgent: bool,
    /// A first look only: a doubtful result is marked (`WindowTranscript::doubtful`), not decoded again.
    pub draft: bool,
    /// Its words are waited for while somebody speaks on: of the higher temperatures only one is tried.
    #[serde(default)]
    pub live: bool,
    /// Names and terms to prefer where they are likely; as many as there is room for also stand behind `prompt`.
    #[serde(default)]
    pub vocabulary: Option<VocabularyOptions>,
}

/// Names and terms that are likely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VocabularyOptions {
    /// As they are written; no NUL.
    pub phrases: Vec<String>,
    /// How strongly they are preferred: 0 to 2.
    pub weight: f32,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            task: Task::Transcribe,
            language: None,
            candidate_languages: Vec::new(),
            prompt: None,
            temperature: 0.0,
            beam_size: 1,
            word_times: false,
            short_context: true,
            prefix: Vec::new(),
            urgent: false,
            draft: false,
            live: false,
            vocabulary: None,
        }
    }
}

/// A GPU as ggml lists it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuDevice {
    /// Number that `gpu_device` takes.
    pub number: u32,
    /// For example `CUDA0`.
    pub name: String,
    /// For example `NVIDIA H100 80GB HBM3`.
    pub description: String,
    /// ggml's backend.
    pub backend: String,
    /// Bytes free now.
    pub memory_free_bytes: u64,
    /// Bytes in all; 0 when it does not say.
    pub memory_total_bytes: u64,
    /// Part of the processor, with the processor's memory.
    #[serde(default)]
    pub integrated: bool,
    /// Number of another device in the list that is the same card through another backend.
    #[serde(default)]
    pub same_as: Option<u32>,
}
