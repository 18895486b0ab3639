//! Windows in, their transcripts out: the processes that run whisper.cpp, and the messages between.
//!
//! The server never calls whisper.cpp itself. ggml aborts the process on device faults, failed asserts and
//! exhausted memory; as a child that is one window to run again. [`process`] is the server's end of the pipe,
//! [`child`] the engine's. Only [`whisper`] names `whisper_rs`.

pub mod child;
mod decode;
pub mod error;
#[cfg(feature = "whisper")]
mod gpu_libraries;
mod guard;
mod handle;
pub mod message;
mod native;
pub mod preemption;
pub mod process;
#[cfg(unix)]
mod signals;
#[cfg(feature = "whisper")]
mod thread_tuner;
#[cfg(feature = "whisper")]
mod whisper;
mod window;
#[cfg(test)]
pub(crate) mod workshop;

pub use error::{DeathCause, EngineError};
pub use handle::{Boxed, Engine, Order, RunningWindow, StartEngine, WindowEvent, WindowRemote};
pub use message::{DecodeOptions, EngineSetting, EngineSpec, PrecisionSetting, VocabularyOptions};

/// Opens the engine of `spec` in this process, on the processor: for tests and measurements, which need no pipe.
///
/// # Errors
///
/// One sentence.
pub fn open_processor_engine(spec: &EngineSpec) -> Result<Box<dyn child::Backend>, String> {
    child::open_backend(spec)
}

/// Names of the patches of whisper.cpp in this binary, separated by spaces; `None` without whisper.cpp.
pub fn patches() -> Option<&'static str> {
    #[cfg(feature = "whisper")]
    return Some(whisper::patches());
    #[cfg(not(feature = "whisper"))]
    None
}
