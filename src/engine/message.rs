//! What the server and an engine process say to each other.
//!
//! A frame on the pipe is two little-endian `u32`, the length of a JSON header and the number of samples,
//! then the header, then the samples as little-endian `f32`. Only windows carry samples.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::transcript::{Task, WindowTranscript};

/// Longest header accepted, in bytes; a transcript of 30 s is a few KiB.
const MAX_HEADER_BYTES: u32 = 64 << 20;
/// Most samples accepted: a window has at most 30 s (480,000).
const MAX_SAMPLES: u32 = 1 << 22;

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
    /// Threads for the warm-up.
    pub threads: u32,
    /// Scripted engine for tests of rare states; `None` runs whisper.cpp.
    #[serde(default)]
    pub script: Option<PathBuf>,
}

/// How a window stands to the others of its engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It neither waits for others nor makes them wait.
    #[default]
    Usual,
    /// It waits between two decoder steps while a guest runs.
    GivesWay,
    /// It runs beside as many windows as there are cores; one of those that give way waits for it.
    Guest,
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
        /// How it stands to the others.
        standing: Standing,
        /// What to do.
        options: DecodeOptions,
    },
    /// Nobody waits for this window any more.
    Cancel {
        /// As in `Window`.
        id: u64,
    },
}

/// From an engine to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromEngine {
    /// Loaded and warm.
    Ready(DeviceReport),
    /// Cannot serve; the process ends after this.
    StartFailed {
        /// One sentence.
        reason: String,
    },
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
    /// Decoders searched in parallel at temperature 0; 1 is greedy.
    pub beam_size: u32,
    /// Fill `WindowToken::onset`.
    pub word_times: bool,
    /// Run the encoder over the window's length instead of 30 s.
    pub short_context: bool,
    /// Ids of text tokens that the result begins with; the decoder only adds to them. Empty leaves it free. Honoured by
    /// greedy decoding at temperature 0 (`beam_size` 1, no word times).
    pub prefix: Vec<i32>,
    /// A first look only: a doubtful result is marked (`WindowTranscript::doubtful`), not decoded again.
    pub draft: bool,
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
            draft: false,
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

/// What an engine really runs on, read from ggml, never from the flag that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// True when the weights and the work are on a GPU.
    pub gpu: bool,
    /// ggml's backend, for example `CPU`, `CUDA`, `Vulkan`.
    pub backend: String,
    /// ggml's device name, for example `CUDA0`; `CPU` without a GPU.
    pub device: String,
    /// The device's own description, for example `NVIDIA H100 80GB HBM3`.
    pub description: String,
    /// Bytes of memory on the device, when it says.
    pub memory_total_bytes: Option<u64>,
    /// Bytes of it free after loading.
    pub memory_free_bytes: Option<u64>,
    /// Where the weights lie: bytes by ggml's device name. More than one entry: some tensors stayed on the CPU.
    #[serde(default)]
    pub weights_bytes: BTreeMap<String, u64>,
    /// whisper.cpp's `print_system_info`.
    pub system_info: String,
    /// Lines ggml and whisper.cpp logged as errors or about devices while starting.
    pub device_log: Vec<String>,
    /// Whether the model knows languages other than English.
    pub multilingual: bool,
    /// Size class, for example `base`.
    pub model_type: String,
    /// Weights' type, as ggml's file type number.
    pub model_ftype: i32,
    /// Seconds from start to loaded and warm.
    pub load_seconds: f32,
    /// Whether word times by attention can be had from this model.
    pub word_times: bool,
    /// Attention without the whole matrix is in use.
    pub flash_attention: bool,
    /// Windows it runs side by side.
    pub slots: usize,
    /// Process id of the engine.
    pub pid: u32,
}

/// Writes one frame and flushes.
pub fn write_frame(out: &mut impl Write, message: &impl Serialize, samples: &[f32]) -> io::Result<()> {
    out.write_all(&encode_frame(message, samples)?)?;
    out.flush()
}

/// One frame as bytes.
pub fn encode_frame(message: &impl Serialize, samples: &[f32]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(8 + header.len() + samples.len() * 4);
    let too_long = |_| io::Error::other("frame too long");
    frame.extend_from_slice(&u32::try_from(header.len()).map_err(too_long)?.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(samples.len()).map_err(too_long)?.to_le_bytes());
    frame.extend_from_slice(&header);
    for sample in samples {
        frame.extend_from_slice(&sample.to_le_bytes());
    }
    Ok(frame)
}

/// Reads one frame; `None` at a clean end.
pub fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<(T, Vec<f32>)>> {
    let mut lengths = [0u8; 8];
    match input.read_exact(&mut lengths) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (header_bytes, samples) = frame_lengths(lengths)?;
    let mut header = vec![0u8; header_bytes];
    input.read_exact(&mut header)?;
    let mut bytes = vec![0u8; samples * 4];
    input.read_exact(&mut bytes)?;
    Ok(Some((
        serde_json::from_slice(&header)?,
        samples_from_bytes(&bytes),
    )))
}

/// Splits and checks a frame's first eight bytes: header bytes, samples.
pub fn frame_lengths(lengths: [u8; 8]) -> io::Result<(usize, usize)> {
    let both = u64::from_le_bytes(lengths);
    let (header, samples) = (both as u32, (both >> 32) as u32);
    if header > MAX_HEADER_BYTES || samples > MAX_SAMPLES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame"));
    }
    Ok((header as usize, samples as usize))
}

fn samples_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|c| f32::from_le_bytes(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_pipe() {
        let message = ToEngine::Window {
            id: 7,
            threads: 2,
            standing: Standing::Guest,
            options: DecodeOptions::default(),
        };
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &message, &[0.5, -1.0]).unwrap();
        let (back, samples) = read_frame::<ToEngine>(&mut pipe.as_slice()).unwrap().unwrap();
        assert_eq!(back, message);
        assert_eq!(samples, [0.5, -1.0]);
    }

    #[test]
    fn a_stray_line_on_the_pipe_is_refused_not_allocated() {
        let mut pipe: &[u8] = b"whisper_init: loading model";
        assert!(read_frame::<ToEngine>(&mut pipe).is_err());
    }
}
