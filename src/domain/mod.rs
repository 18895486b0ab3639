//! What several leaves must agree on: facts of the model, and rules about its tokens. Knows nobody.

pub mod device;
pub mod repetition;

pub use device::{DeviceMove, DeviceReport};

/// Sample rate in Hz of every Whisper model (whisper.cpp `WHISPER_SAMPLE_RATE`), and so of all audio in this program once it
/// is decoded.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
