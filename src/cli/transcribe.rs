//! `transcribe FILE`: one recording, the same walk as a request's.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::progress::Shown;
use super::{Common, say_error};
use crate::app::App;
use crate::audio::UploadedAudio;
use crate::jobs::{JobEvent, JobRunner, TranscribeOptions};
use crate::languages;
use crate::render::{self, Family, Presentation, ResponseFormat};
use crate::transcript::{Segment, Task, Transcript};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recording
    file: PathBuf,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// ISO 639-1 code such as `ja`; detected when left out
    #[arg(long)]
    language: Option<String>,
    /// Text that the model is told came before
    #[arg(long)]
    prompt: Option<String>,
    /// Translate into English
    #[arg(long)]
    translate: bool,
    /// Word times, in verbose-json
    #[arg(long)]
    words: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    VerboseJson,
    Srt,
    Vtt,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let loaded = common.load(false)?;
    let app = App::new(&loaded)?;
    let audio = UploadedAudio::from_path(&arguments.file)
        .with_context(|| format!("cannot read `{}`", arguments.file.display()))?;
    let language = match arguments.language.as_deref() {
        None | Some("auto") => None,
        Some(code) => match languages::code(code) {
            Some(code) => Some(code.to_owned()),
            None => bail!("unknown language `{code}`; a code such as `en` or `ja` is accepted"),
        },
    };
    if arguments.prompt.as_ref().is_some_and(|p| p.contains('\0')) {
        bail!("the prompt must not contain a NUL character");
    }
    let shown = Arc::new(Shown::new());
    app.load(shown.clone(), &tokio_util::sync::CancellationToken::new())
        .await;
    shown.finish();

    let options = TranscribeOptions {
        task: if arguments.translate {
            Task::Translate
        } else {
            Task::Transcribe
        },
        language,
        prompt: arguments.prompt.clone(),
        word_times: arguments.words,
        ..TranscribeOptions::default()
    };
    let ticket = app
        .jobs
        .admit()
        .map_err(|_| anyhow::anyhow!("no place is free"))?;
    let mut job = app.jobs.start(audio, options, ticket);
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let mut outcome = None;
    while let Some(event) = job.events.recv().await {
        match event {
            Ok(JobEvent::Segments(segments)) => show(&bar, &segments),
            Ok(JobEvent::Finished(transcript)) => outcome = Some(transcript),
            Err(error) => {
                bar.finish_and_clear();
                app.jobs.registry().stop();
                bail!("`{}`: {error}", arguments.file.display());
            }
        }
    }
    bar.finish_and_clear();
    app.jobs.registry().stop();
    let Some(transcript) = outcome else {
        bail!("the transcription ended without a result")
    };
    print(&transcript, &arguments)?;
    if transcript.segments.is_empty() {
        say_error(
            app.locale
                .pick("no speech was found", "音声が見つかりませんでした"),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn show(bar: &ProgressBar, segments: &[Segment]) {
    if let Some(last) = segments.last() {
        bar.set_message(format!("{:.0} s {}", last.end, last.text.trim()));
    }
}

fn print(transcript: &Transcript, arguments: &Arguments) -> anyhow::Result<()> {
    let shown = Presentation {
        format: match arguments.format {
            Format::Text => ResponseFormat::Text,
            Format::Json => ResponseFormat::Json,
            Format::VerboseJson => ResponseFormat::VerboseJson,
            Format::Srt => ResponseFormat::Srt,
            Format::Vtt => ResponseFormat::Vtt,
        },
        stream: false,
        segments: true,
        words: arguments.words,
        logprobs: false,
        family: Family::Whisper,
        task: transcript.task,
        language: arguments.language.clone(),
        prompt_bytes: 0,
        subtitles: None,
            fast: render::FastTranscription::default(),
    };
    let body = render::body(transcript, &shown)?.1;
    // A closed pipe (`| head`) is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), &body);
    Ok(())
}
