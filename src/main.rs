//! Flags → configuration → application → exit code.

fn main() -> std::process::ExitCode {
    whisper_backend_api::cli::run()
}
