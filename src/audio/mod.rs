//! Bytes of any recording in, mono 16 kHz samples out, as a stream of bounded memory.
//!
//! Knows nothing of HTTP, of Whisper or of async: callers run it on a blocking thread.

use std::time::Duration;

/// Sample rate in Hz of every Whisper model (whisper.cpp `WHISPER_SAMPLE_RATE`).
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// Bounds on what one recording may ask of this process. Each has an error of its own.
#[derive(Debug, Clone)]
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
    /// Decoding may take this many seconds of wall time per second of audio, plus ten seconds.
    pub max_decode_seconds_per_second: f64,
}

/// What becomes of several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelMode {
    /// One stream: the mean of all channels.
    #[default]
    Mixed,
    /// One stream for each channel, on one clock (call recordings).
    Separate,
}

/// An upload on its way in: memory below a threshold, then an unnamed temporary file.
#[derive(Debug)]
pub struct Spool {}

/// A complete upload.
#[derive(Debug)]
pub struct UploadedAudio {}

/// What the container says of the chosen track.
#[derive(Debug, Clone)]
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

/// A recording being decoded.
#[derive(Debug)]
pub struct AudioStream {}

/// Why a recording cannot be decoded. Every variant but the last two is the sender's to mend.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// Not one byte.
    #[error("the file is empty")]
    Empty,
    /// No container's signature is in its bytes, and its name is no help.
    #[error("the file is not a recording in a format this server knows")]
    Unrecognized,
    /// A container that is known by sight but not read here.
    #[error("`{found}` files are not supported")]
    UnsupportedContainer {
        /// Short name of what the bytes are.
        found: String,
    },
    /// A readable container with an unreadable track.
    #[error("`{codec}` audio in `{container}` files is not supported")]
    UnsupportedCodec {
        /// Container's short name.
        container: String,
        /// Codec's short name.
        codec: String,
    },
    /// A readable container without audio.
    #[error("the `{container}` file has no audio track")]
    NoAudioTrack {
        /// Container's short name.
        container: String,
    },
    /// Broken before the first sample.
    #[error("the `{container}` file is damaged: {detail}")]
    Corrupt {
        /// Container's short name.
        container: String,
        /// What the decoder met.
        detail: String,
    },
    /// Less than 0.1 s of sound.
    #[error("the recording is {seconds:.3} s long; at least 0.1 s is needed")]
    TooShort {
        /// Decoded length.
        seconds: f64,
    },
    /// More than `audio.max_duration_seconds`.
    #[error("the recording is longer than {limit_seconds} s")]
    TooLong {
        /// The limit.
        limit_seconds: u64,
    },
    /// More than `audio.max_channels`, or none.
    #[error("the recording has {found} channels; 1 to {limit} are accepted")]
    Channels {
        /// What the header says.
        found: u64,
        /// The limit.
        limit: u16,
    },
    /// More than `audio.max_sample_rate_hz`, or none.
    #[error("the recording has a sample rate of {found} Hz; 1 to {limit} are accepted")]
    SampleRate {
        /// What the header says.
        found: u64,
        /// The limit.
        limit: u32,
    },
    /// More than `audio.max_tracks`.
    #[error("the file has {found} tracks; at most {limit} are accepted")]
    Tracks {
        /// What the container says.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More than `audio.max_metadata_mb`.
    #[error("the file's metadata is larger than {limit_bytes} bytes")]
    Metadata {
        /// The limit.
        limit_bytes: usize,
    },
    /// Decoding takes far longer than the audio is worth.
    #[error("the recording takes too long to decode ({seconds:.0} s for {audio_seconds:.0} s of audio)")]
    TooSlow {
        /// Wall time spent.
        seconds: f64,
        /// Audio gained.
        audio_seconds: f64,
    },
    /// More than the largest accepted upload.
    #[error("the upload is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
        /// Bytes seen so far.
        seen_bytes: u64,
    },
    /// The request ended while its recording was decoded.
    #[error("cancelled")]
    Cancelled,
    /// The spool's disk.
    #[error("cannot keep the upload: {0}")]
    Io(#[from] std::io::Error),
}
