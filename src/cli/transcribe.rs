//! `transcribe FILE…`: recordings from the disk, the same walk as a request's.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::inputs;
use super::progress::Shown;
use super::{CommonOptions, chain, say_error};
use crate::app::App;
use crate::jobs::{JobEvent, JobRunner, LanguageMode, TranscribeOptions, WordingRequest};
use crate::languages;
use crate::locale::Locale;
use crate::render::{
    self, Family, FastTranscription, Presentation, ResponseFormat, SubtitleRules, SubtitleStyle,
};
use crate::schedule::PriorityClass;
use crate::transcript::wording::TranscribeStyle;
use crate::transcript::{Segment, Task, Transcript};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Recordings, and folders of recordings
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: OutputFormat,
    /// Folder for the results; without it one recording's goes to stdout, and of several each lies beside its recording.
    /// Files that bear a result's name are replaced
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// ISO 639-1 code such as `ja`; detected when left out
    #[arg(long)]
    language: Option<String>,
    /// Let the language change within a recording
    #[arg(long)]
    language_per_window: bool,
    /// Text that the model is told came before
    #[arg(long)]
    prompt: Option<String>,
    /// A name or term that is likely; may be given several times
    #[arg(long = "keyword", value_name = "PHRASE")]
    keywords: Vec<String>,
    /// Translate into English
    #[arg(long)]
    translate: bool,
    /// Word times, in verbose-json
    #[arg(long)]
    words: bool,
    /// Leave out sounds of hesitation (um, äh, えーと)
    #[arg(long)]
    clean: bool,
    /// Lines, reading speed and times of srt and vtt by a broadcaster's rules
    #[arg(long, value_enum, default_value = "none")]
    subtitle_style: Style,
    /// Columns of a subtitle line; a Chinese, Japanese or Korean character takes two
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=1000))]
    max_line_width: Option<u32>,
    /// Lines of a subtitle
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    max_line_count: Option<u32>,
    /// Words of a subtitle line
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    max_words_per_line: Option<u32>,
    /// Characters a second that a reader must take in
    #[arg(long)]
    max_cps: Option<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Text,
    Json,
    VerboseJson,
    Srt,
    Vtt,
}

impl OutputFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Json | Self::VerboseJson => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Style {
    None,
    Netflix,
    Bbc,
}

impl Arguments {
    fn subtitles(&self) -> anyhow::Result<Option<SubtitleRules>> {
        let rules = SubtitleRules {
            style: match self.subtitle_style {
                Style::None => SubtitleStyle::None,
                Style::Netflix => SubtitleStyle::Netflix,
                Style::Bbc => SubtitleStyle::Bbc,
            },
            max_line_width: self.max_line_width,
            max_line_count: self.max_line_count,
            max_words_per_line: self.max_words_per_line,
            max_cps: self.max_cps,
        };
        if rules.max_cps.is_some_and(|cps| !(1.0..=1000.0).contains(&cps)) {
            bail!("--max-cps takes numbers from 1 to 1000");
        }
        if rules.is_asked() && !matches!(self.format, OutputFormat::Srt | OutputFormat::Vtt) {
            bail!("lines of subtitles need `--format srt` or `--format vtt`");
        }
        Ok(rules.is_asked().then_some(rules))
    }

    fn options(&self, subtitles: bool) -> anyhow::Result<TranscribeOptions> {
        let language = match self.language.as_deref() {
            None | Some("auto") => None,
            Some(code) => match languages::code(code) {
                Some(code) => Some(code.to_owned()),
                None => bail!("unknown language `{code}`; a code such as `en` or `ja` is accepted"),
            },
        };
        if self
            .prompt
            .iter()
            .chain(&self.keywords)
            .any(|text| text.contains('\0'))
        {
            bail!("the prompt and keywords must not contain a NUL character");
        }
        Ok(TranscribeOptions {
            task: if self.translate {
                Task::Translate
            } else {
                Task::Transcribe
            },
            language,
            language_mode: self.language_per_window.then_some(LanguageMode::PerWindow),
            prompt: self.prompt.clone(),
            keywords: self.keywords.clone(),
            wording: WordingRequest {
                style: self.clean.then_some(TranscribeStyle::Clean),
                ..WordingRequest::default()
            },
            word_times: self.words || subtitles,
            ..TranscribeOptions::default()
        })
    }

    fn presentation(&self, task: Task, subtitles: Option<SubtitleRules>) -> Presentation {
        Presentation {
            format: match self.format {
                OutputFormat::Text => ResponseFormat::Text,
                OutputFormat::Json => ResponseFormat::Json,
                OutputFormat::VerboseJson => ResponseFormat::VerboseJson,
                OutputFormat::Srt => ResponseFormat::Srt,
                OutputFormat::Vtt => ResponseFormat::Vtt,
            },
            stream: false,
            segments: true,
            words: self.words,
            logprobs: false,
            family: Family::Whisper,
            task,
            language: self.language.clone(),
            prompt_bytes: 0,
            subtitles,
            fast: FastTranscription::default(),
        }
    }
}

/// What came of all recordings.
#[derive(Debug, Default)]
struct Summary {
    done: usize,
    failed: usize,
    audio_seconds: f64,
    /// Cues that exceed a limit.
    exceeding: usize,
}

pub(super) async fn run(common: &CommonOptions, arguments: Arguments) -> anyhow::Result<ExitCode> {
    // The recordings and wishes are looked at before a model is: a mistyped name must not cost a download.
    let subtitles = arguments.subtitles()?;
    let options = arguments.options(subtitles.is_some())?;
    let inputs = inputs::find(&arguments.files)?;
    if let Some(folder) = &arguments.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder `{}`", folder.display()))?;
    }
    let to_stdout = arguments.output.is_none() && arguments.files.len() == 1 && arguments.files[0].is_file();
    let loaded = common.load(false)?;
    let app = App::new(&loaded)?;
    let shown = Arc::new(Shown::new());
    app.load(shown.clone(), &tokio_util::sync::CancellationToken::new())
        .await;
    shown.finish();
    let health = app.status.health();
    if !health.is_serving() {
        app.jobs.registry().stop();
        bail!(
            "no transcription is possible: {}",
            health.reason.unwrap_or_default()
        );
    }

    let began = Instant::now();
    let mut summary = Summary::default();
    let mut taken = BTreeSet::new();
    let count = inputs.len();
    for (index, path) in inputs.into_iter().enumerate() {
        let label = if count > 1 {
            format!("[{}/{count}] {}", index + 1, path.display())
        } else {
            String::new()
        };
        let target =
            (!to_stdout).then(|| target(&path, arguments.output.as_deref(), arguments.format, &mut taken));
        match one(&app, &path, &options, &label).await {
            Ok(transcript) => {
                let shown = arguments.presentation(transcript.task, subtitles);
                summary.exceeding += render::exceeding(&transcript, &shown);
                deliver(&app, &transcript, &shown, target.as_deref())?;
                summary.done += 1;
                summary.audio_seconds += f64::from(transcript.duration);
            }
            Err(error) => {
                summary.failed += 1;
                let text = chain(&error);
                let named = text.contains(&path.display().to_string());
                say_error(&if named {
                    format!("error: {text}")
                } else {
                    format!("error: `{}`: {text}", path.display())
                });
            }
        }
    }
    app.jobs.registry().stop();
    if count > 1 || summary.exceeding > 0 {
        say_error(&said(app.locale, &summary, began.elapsed()));
    }
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Writes one result and says where, when it is a file.
fn deliver(
    app: &App,
    transcript: &Transcript,
    shown: &Presentation,
    target: Option<&Path>,
) -> anyhow::Result<()> {
    let body = render::body(transcript, shown)?.1;
    match target {
        // A closed pipe (`| head`) is no error.
        None => drop(std::io::Write::write_all(&mut std::io::stdout(), &body)),
        Some(target) => {
            std::fs::write(target, body).with_context(|| format!("cannot write `{}`", target.display()))?;
            say_error(&format!("→ {}", target.display()));
        }
    }
    if transcript.segments.is_empty() {
        say_error(
            app.locale
                .pick("no speech was found", "音声が見つかりませんでした"),
        );
    }
    Ok(())
}

/// Where a recording's result goes: beside it or into the folder, with the whole name of the recording when a name is
/// taken already.
fn target(
    recording: &Path,
    folder: Option<&Path>,
    format: OutputFormat,
    taken: &mut BTreeSet<PathBuf>,
) -> PathBuf {
    let beside = recording.parent().unwrap_or(Path::new(""));
    let folder = folder.unwrap_or(beside);
    let name = recording
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let stem = recording
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = format.extension();
    let mut path = folder.join(format!("{stem}.{extension}"));
    if taken.contains(&path) || path == recording {
        path = folder.join(format!("{name}.{extension}"));
    }
    let mut number = 2;
    while !taken.insert(path.clone()) {
        path = folder.join(format!("{name}.{number}.{extension}"));
        number += 1;
    }
    path
}

/// One recording's transcript, with its progress on the terminal.
async fn one(app: &App, path: &Path, options: &TranscribeOptions, label: &str) -> anyhow::Result<Transcript> {
    let audio = inputs::open(path)?;
    let arrival = app
        .admission
        .enter("command line".into(), crate::keys::Client::Anonymous, None)
        .map_err(|_| anyhow::anyhow!("no place is free"))?;
    let lease = app.jobs.resolve("").await?;
    let request = arrival.admit(PriorityClass::Interactive, lease);
    let mut job = app.jobs.start(request, audio, options.clone());
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        if !label.is_empty() {
            say_error(label);
        }
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut outcome = None;
    while let Some(event) = job.events.recv().await {
        match event {
            Ok(JobEvent::Segments(segments)) => show(&bar, &segments),
            Ok(JobEvent::Finished(transcript)) => outcome = Some(*transcript),
            Err(error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
        }
    }
    bar.finish_and_clear();
    outcome.context("the transcription ended without a result")
}

fn show(bar: &ProgressBar, segments: &[Segment]) {
    if let Some(last) = segments.last() {
        bar.set_message(format!("{:.0} s {}", last.end, last.text.trim()));
    }
}

fn said(locale: Locale, summary: &Summary, took: Duration) -> String {
    let speed = summary.audio_seconds / took.as_secs_f64().max(0.001);
    let text = match locale {
        Locale::English => format!(
            "{} transcribed, {} failed: {:.0} s of audio in {:.0} s ({speed:.1} × real time)",
            summary.done,
            summary.failed,
            summary.audio_seconds,
            took.as_secs_f64()
        ),
        Locale::Japanese => format!(
            "完了{}件、失敗{}件: 音声{:.0}秒を{:.0}秒で処理（実時間の{speed:.1}倍）",
            summary.done,
            summary.failed,
            summary.audio_seconds,
            took.as_secs_f64()
        ),
    };
    let exceeding = summary.exceeding;
    match locale {
        _ if exceeding == 0 => text,
        Locale::English => format!("{text}; {exceeding} subtitles are faster or shorter than the limits"),
        Locale::Japanese => format!("{text}。{exceeding}件の字幕が読む速さなどの制限を超えています"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_never_overwrite_each_other_or_a_recording() {
        let mut taken = BTreeSet::new();
        let mut at = |recording: &str, folder: Option<&str>| {
            target(
                Path::new(recording),
                folder.map(Path::new),
                OutputFormat::Text,
                &mut taken,
            )
            .to_string_lossy()
            .into_owned()
        };
        assert_eq!(at("a/x.mp3", None), "a/x.txt");
        assert_eq!(at("a/x.wav", None), "a/x.wav.txt");
        assert_eq!(at("a/x.wav", Some("out")), "out/x.txt");
        assert_eq!(at("b/x.wav", Some("out")), "out/x.wav.txt");
        assert_eq!(at("c/x.wav", Some("out")), "out/x.wav.2.txt");
        assert_eq!(at("odd.txt", None), "odd.txt.txt");
    }
}
