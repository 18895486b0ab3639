//! A local transcription server that speaks Azure OpenAI's Whisper API.
//!
//! The modules, in the order a request meets them:
//!
//! 1. [`http`]: who are you, what do you ask; the only module that knows statuses.
//! 2. [`admission`], with [`keys`]: whether it may come in and there is room for it, and the value that says so all the way.
//! 3. [`jobs`]: one request's walk from upload to transcript, as a stream of events.
//! 4. [`audio`]: bytes → mono 16 kHz samples, as a stream of bounded memory.
//! 5. [`speech`]: samples → windows of at most 30 s, cut at silence.
//! 6. [`schedule`]: which window runs when, on how many cores; retries.
//! 7. [`serving`]: which models live, their engines, restarts and moves between devices.
//! 8. [`engine`]: the child processes that run the model, and the messages between.
//! 9. [`transcript`]: windows' results → one transcript, in time order.
//! 10. [`render`]: transcript → body.
//!
//! Audio that is being spoken takes another way from [`http`]: [`realtime`], then 5 to 8.
//!
//! Beside them: [`app`] (start and stop), [`status`] (what runs, for the diagnostic routes), [`config`], [`models`]
//! (files on disk, downloads, conversion), [`diagnostics`] (what this machine has and what to type), [`metrics`],
//! [`locale`], [`process`] (children), [`telemetry`], [`domain`] (what the leaves share).

pub mod admission;
pub mod app;
pub mod audio;
pub mod cli;
pub mod config;
pub mod diagnostics;
pub mod domain;
pub mod engine;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod languages;
pub mod locale;
pub mod metrics;
pub mod models;
pub mod process;
pub mod realtime;
pub mod render;
pub mod schedule;
pub mod serving;
pub mod speech;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod transcript;
