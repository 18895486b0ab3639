//! Bytes of any recording in, mono 16 kHz samples out, as a stream of bounded memory.
//!
//! The server hands a recording to a child process ([`Decoders`], [`Recording`]); in the child, [`child`] runs the
//! decoding itself ([`AudioStream`]).
//!
//! Knows nothing of HTTP, of Whisper or of async: callers run it on a blocking thread.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod aac;
mod aiff;
#[cfg(feature = "amr")]
mod amr;
mod au;
mod blocks;
mod caf;
pub mod child;
mod decode;
mod decoder;
mod decoders;
mod demux;
mod downmix;
mod ebml;
mod error;
mod ffmpeg;
mod lacing;
mod matroska;
mod matroska_tracks;
mod mp4;
mod mp4_pcm;
mod mpeg;
mod names;
mod pipe;
mod recording;
mod resample;
mod riff;
mod sniff;
mod source;
mod spool;
mod track;
mod upload;
mod wire;

pub use decode::AudioStream;
pub use decoders::{DecoderSettings, Decoders};
pub use error::AudioError;
pub use recording::{Recording, StopDecoding};
pub use sniff::{Container, Sniffed};
pub use spool::{Spool, SpoolFolder};
pub use upload::UploadedAudio;

pub use crate::domain::SAMPLE_RATE_HZ;

/// Bounds on what one recording may ask for. Each has an error of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AudioLimits {
    /// Longest decoded recording.
    pub max_duration: Duration,
    /// Most channels in the chosen track.
    pub max_channels: u16,
    /// Highest sample rate in Hz.
    pub max_sample_rate_hz: u32,
    /// Most tracks in a container.
    pub max_tracks: usize,
    /// Most bytes of metadata (tags, pictures) read.
    pub max_metadata_bytes: usize,
}

/// What becomes of several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ChannelMode {
    /// One stream: the mean of all channels.
    #[default]
    Mixed,
    /// One stream for each channel, on one clock (call recordings).
    Separate,
}

/// What the container says of the chosen track.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AudioInfo {
    /// Container's short name, for example `wav` or `mp4`.
    pub container: String,
    /// Codec's short name, for example `pcm_s16le` or `aac`.
    pub codec: String,
    /// Frames per second before resampling.
    pub sample_rate_hz: u32,
    /// Channels before downmixing.
    pub channels: u16,
    /// Duration the container claims, when it does; never trusted.
    pub declared_duration: Option<Duration>,
}

/// A few seconds of samples; every channel holds the same number.
#[derive(Debug, Clone, Default)]
pub struct PcmBlock {
    /// One vector with [`ChannelMode::Mixed`], else one a channel; f32 from -1 to 1 at [`SAMPLE_RATE_HZ`].
    pub channels: Vec<Vec<f32>>,
}
