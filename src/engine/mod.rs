//! Windows in, their transcripts out: the processes that run whisper.cpp, and the messages between.
//!
//! The server never calls whisper.cpp itself. ggml aborts the process on device faults, failed asserts and
//! exhausted memory; as a child that is one window to run again. [`process`] is the server's end of the pipe,
//! [`child`] the engine's. Only [`whisper`] names `whisper_rs`.

pub mod child;
mod courtesy;
#[cfg(feature = "whisper")]
mod decode;
pub mod error;
#[cfg(feature = "whisper")]
mod gpu_libraries;
#[cfg(feature = "whisper")]
mod guard;
pub mod message;
#[cfg(feature = "whisper")]
mod pace;
pub mod process;
#[cfg(feature = "whisper")]
mod whisper;
#[cfg(feature = "whisper")]
mod window;

pub use error::EngineError;
pub use message::{DecodeOptions, DeviceReport, EngineSpec, Standing};

/// Names of the patches of whisper.cpp in this binary, separated by spaces; `None` without whisper.cpp.
pub fn patches() -> Option<&'static str> {
    #[cfg(feature = "whisper")]
    return Some(whisper::patches());
    #[cfg(not(feature = "whisper"))]
    None
}
