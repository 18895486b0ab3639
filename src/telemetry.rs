//! Where log lines go: stderr, as `[log]` and `RUST_LOG` say.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Changes what is written while the program runs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Installs the subscriber of a program that serves.
pub fn init(log: LogConfig) {
    install(filter(log.level), log.format);
}

/// Installs the subscriber of a command that prints something else: warnings only.
pub fn init_quiet() {
    let quiet = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    install(quiet, LogFormat::Text);
}

/// Writes from this level on from now on, unless `RUST_LOG` says which.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // The subscriber lives as long as the program.
        let _ = handle.reload(filter(level));
    }
}

/// `RUST_LOG`; without it so much of our own, and warnings of libraries.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "warn,whisper_backend_api=info,whisper_cpp=warn",
            LogLevel::Debug => "warn,whisper_backend_api=debug,whisper_cpp=info",
            LogLevel::Trace => "info,whisper_backend_api=trace,whisper_cpp=trace",
        })
    })
}

fn install(filter: EnvFilter, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().with_span_list(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // A second call (tests) keeps the first subscriber.
    if subscriber.try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}
