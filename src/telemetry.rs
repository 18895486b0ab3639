//! Where log lines go: stderr, levels by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the subscriber. Without `RUST_LOG`: information of our own, warnings of libraries.
pub fn init(quiet: bool) {
    let default = if quiet {
        "warn"
    } else {
        "warn,whisper_backend_api=info,whisper_cpp=warn"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second call (tests) keeps the first subscriber.
    let _ = subscriber.try_init();
}
