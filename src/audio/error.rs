//! Why a recording cannot be decoded.

use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a recording cannot be decoded. Every variant but the last three is the sender's to mend.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
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
    /// It ended the process that decoded it, or took more than that may take.
    #[error("the recording cannot be decoded: {detail}")]
    Decoder {
        /// What it did.
        detail: String,
    },
    /// More than the largest accepted upload.
    #[error("the upload is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
        /// Bytes seen so far.
        seen_bytes: u64,
    },
    /// The disk that keeps uploads has no room.
    #[error("no room to keep the upload")]
    StorageFull,
    /// The request ended while its recording was decoded.
    #[error("cancelled")]
    Cancelled,
    /// The spool's disk.
    #[error("cannot keep the upload: {0}")]
    Io(
        #[from]
        #[serde(serialize_with = "write_io", deserialize_with = "read_io")]
        io::Error,
    ),
    /// A fault of this program, or of the machine.
    #[error("the recording could not be decoded here: {detail}")]
    Internal {
        /// For the log.
        detail: String,
    },
}

/// Only the words travel.
fn write_io<S: Serializer>(error: &io::Error, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(error)
}

fn read_io<'de, D: Deserializer<'de>>(deserializer: D) -> Result<io::Error, D::Error> {
    String::deserialize(deserializer).map(io::Error::other)
}
