//! A local transcription server that speaks Azure OpenAI's Whisper API.
//!
//! The modules, in the order a request meets them:
//!
//! 1. [`http`]: who are you, what do you ask; the only module that knows statuses.
//! 2. [`jobs`]: one request's walk from upload to transcript, as a stream of events.
//! 3. [`audio`]: bytes → mono 16 kHz samples, as a stream of bounded memory.
//! 4. [`speech`]: samples → windows of at most 30 s, cut at silence.
//! 5. [`schedule`]: which window runs when, on how many cores; retries.
//! 6. [`engine`]: the child processes that run whisper.cpp, and the messages between.
//! 7. [`transcript`]: windows' results → one transcript, in time order.
//!
//! Beside them: [`app`] (start and stop), [`config`], [`models`] (files on disk, downloads, conversion),
//! [`diagnostics`] (what this machine has and what to type), [`metrics`], [`locale`], [`telemetry`].

pub mod app;
pub mod audio;
pub mod cli;
pub mod config;
pub mod diagnostics;
pub mod engine;
pub mod http;
pub mod jobs;
pub mod languages;
pub mod locale;
pub mod metrics;
pub mod models;
pub mod schedule;
pub mod speech;
pub mod telemetry;
pub mod transcript;
