//! The command line: raw flags in, one command run, an exit code out.

mod doctor;
mod inputs;
mod keys;
mod listen;
mod models;
mod progress;
mod serve;
mod supervisor;
mod transcribe;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Loaded, Overrides};

/// The program's name, as it is typed.
const NAME: &str = "WhisperBackendAPI";

/// Version, commit and backends; clap wants a text that lives for ever.
fn version() -> &'static str {
    static LINE: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| crate::diagnostics::BuildFacts::current().one_line());
    &LINE
}

/// The same, and which patches of whisper.cpp are in it.
fn long_version() -> &'static str {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| match crate::engine::patches() {
        Some(names) => format!("{}\nwhisper.cpp patches: {names}", version()),
        None => version().to_owned(),
    });
    &TEXT
}

#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version = version(),
    long_version = long_version(),
    about = "A local transcription server that speaks Azure OpenAI's Whisper API",
    after_help = "Without a command it serves. Settings: defaults, then config.toml, then config.local.toml, then the environment \
                  (WHISPER_BACKEND__SERVER__PORT=8081, WHISPER_MODEL=small, RUST_LOG=debug), then flags."
)]
struct Cli {
    #[command(flatten)]
    common: CommonOptions,
    /// Print the terms of this program and of everything in it, then exit
    #[arg(long, visible_alias = "licenses")]
    licences: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
struct CommonOptions {
    /// Settings file; written with comments by `serve` when it does not exist
    #[arg(
        long,
        global = true,
        env = "WHISPER_BACKEND_CONFIG",
        default_value = "config.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// Address to listen on
    #[arg(long, global = true)]
    host: Option<String>,
    /// TCP port to listen on
    #[arg(long, global = true)]
    port: Option<u16>,
    /// Model: a path or a catalogue name
    #[arg(long, global = true)]
    model: Option<String>,
    /// Never use the GPU
    #[arg(long, global = true)]
    cpu: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API (the default)
    Serve,
    /// Transcribe files and folders; one file's text is printed, several are written
    Transcribe(transcribe::Arguments),
    /// Show captions while somebody speaks: a microphone's bytes from stdin, or a recording at its own pace, through the
    /// running server
    Listen(listen::Arguments),
    /// List, fetch, convert, check and remove models
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Say what this machine has, what is used, and what to type to use more
    Doctor {
        /// The whole report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make and list keys with names and limits
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show the effective settings and where each came from, then exit
    CheckConfig,
    /// Print what a shell needs to complete this program's commands
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Decode one recording; started by the server itself
    #[command(hide = true)]
    Decode {
        /// The order, where it cannot be handed over later
        order: Option<String>,
        /// Become ffmpeg, for so many seconds of sound at most
        #[arg(long, value_name = "SECONDS", requires_all = ["memory_bytes", "cpu_seconds"])]
        with_ffmpeg: Option<u64>,
        /// Most memory
        #[arg(long, value_name = "BYTES")]
        memory_bytes: Option<u64>,
        /// Most processor time
        #[arg(long, value_name = "SECONDS")]
        cpu_seconds: Option<u64>,
    },
    /// Run windows for a server; started by the server itself
    #[command(hide = true)]
    Engine {
        /// Print ggml's GPUs as JSON and exit
        #[arg(long)]
        devices: bool,
    },
}

impl CommonOptions {
    fn overrides(&self) -> Overrides {
        Overrides {
            host: self.host.clone(),
            port: self.port,
            model: self.model.clone(),
            cpu: self.cpu,
        }
    }

    fn load(&self, write: bool) -> anyhow::Result<Loaded> {
        // Only variables that can be settings; others may hold anything.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Ok(config::load(&self.config, write, environment, &self.overrides())?)
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if cli.licences {
        say(include_str!("../../LICENSE"));
        say(include_str!("../../THIRD-PARTY-NOTICES.txt"));
        return ExitCode::SUCCESS;
    }
    let command = cli.command.unwrap_or(Command::Serve);
    if let Command::Engine { devices } = command {
        return if devices {
            crate::engine::child::list_devices()
        } else {
            crate::engine::child::run()
        };
    }
    if let Command::Decode {
        with_ffmpeg,
        memory_bytes,
        cpu_seconds,
        ..
    } = command
    {
        return match (with_ffmpeg, memory_bytes, cpu_seconds) {
            (Some(longest), Some(memory), Some(cpu)) => crate::audio::child::run_ffmpeg(
                Duration::from_secs(longest),
                memory,
                Duration::from_secs(cpu),
            ),
            _ => crate::audio::child::run(),
        };
    }
    match dispatch(&cli.common, command) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("error: {}", chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(common: &CommonOptions, command: Command) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Serve) {
        crate::telemetry::init_quiet();
    }
    match command {
        Command::Serve => in_runtime(serve::run(common)),
        Command::Transcribe(arguments) => in_runtime(transcribe::run(common, arguments)),
        Command::Listen(arguments) => in_runtime(listen::run(common, arguments)),
        Command::Models(command) => models::run(common, command),
        Command::Doctor { json } => in_runtime(doctor::run(common, json)),
        Command::Keys(command) => keys::run(common, command),
        Command::CheckConfig => check_config(common),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, NAME, &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            say(&String::from_utf8_lossy(&page));
            Ok(ExitCode::SUCCESS)
        }
        Command::Decode { .. } | Command::Engine { .. } => Ok(ExitCode::FAILURE), // handled before
    }
}

/// Threads that may not be interrupted (a download that waits for a silent server, a driver's tool that hangs) are
/// left behind after so long: the program ends, and they with it.
const BLOCKED_THREADS: std::time::Duration = std::time::Duration::from_millis(500);

fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // The async side only shovels bytes; cores belong to the engines.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::schedule::available_cores().clamp(2, 4))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKED_THREADS);
    outcome
}

fn check_config(common: &CommonOptions) -> anyhow::Result<ExitCode> {
    let loaded = common.load(false)?;
    let mut effective = loaded.config.clone();
    for key in &mut effective.server.api_keys {
        "(hidden)".clone_into(key);
    }
    let text = toml::to_string(&effective).context("cannot show the settings")?;
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        }
        let key = line.split('=').next().unwrap_or("").trim();
        match loaded.origins.get(&format!("{section}.{key}")) {
            Some(origin) => say(&format!("{line}  # {origin}")),
            None => say(line),
        }
    }
    // What `doctor` and `/health` say of the model, before anything is started.
    let store = crate::models::Store::new(loaded.models_folder());
    let model = crate::serving::expected_model(&loaded.config, &loaded.folder(), &store);
    say_error(&model.map_or_else(
        |missing| format!("model: {missing}"),
        |found| format!("model: {found}"),
    ));
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes on one line; a cause that its error has quoted already is not said again.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A line on stdout; a closed pipe is no error.
fn say(line: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{line}\n"));
}

/// A line on stderr.
fn say_error(line: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{line}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_quoted_already_is_not_said_again() {
        let cause = std::io::Error::other("no such file");
        let quoting = anyhow::Error::new(cause).context("cannot read `x`: no such file");
        assert_eq!(chain(&quoting), "cannot read `x`: no such file");
        let cause = std::io::Error::other("no such file");
        let silent = anyhow::Error::new(cause).context("cannot read `x`");
        assert_eq!(chain(&silent), "cannot read `x`: no such file");
    }
}
