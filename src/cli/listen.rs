//! `listen`: captions in the terminal, from a microphone's bytes on stdin or from a recording played at its own pace, through
//! a running server's live transcription.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use futures_util::{SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{CommonOptions, say_error};
use crate::audio::{AudioLimits, AudioStream, ChannelMode, UploadedAudio};
use crate::config::{AudioConfig, Config, TlsSetting};
use crate::tls;

/// The address that also shows the words that may still change.
const PATH: &str = "/mai/v1/realtime?intent=transcription";
/// Audio sent at a time.
const STEP: Duration = Duration::from_millis(100);
/// Pieces of audio that wait while the connection is slow.
const STEPS_AHEAD: usize = 8;
/// Most columns of words that may still change: they must not make the terminal scroll.
const PROVISIONAL_COLUMNS: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A recording, played at its own pace; left out or `-`: mono signed 16-bit little-endian samples from stdin, for
    /// example of `arecord -q -f S16_LE -r 16000 -c 1 -t raw`
    file: Option<PathBuf>,
    /// Samples a second on stdin
    #[arg(long, default_value = "16000", value_parser = ["16000", "24000"])]
    rate: String,
    /// ISO 639-1 code such as `ja`; detected when left out
    #[arg(long)]
    language: Option<String>,
    /// Text that the model is told came before
    #[arg(long)]
    prompt: Option<String>,
    /// How soon words are shown
    #[arg(long, default_value = "low", value_parser = ["minimal", "low", "medium", "high", "xhigh"])]
    delay: String,
    /// Milliseconds of silence that end a line
    #[arg(long, default_value = "500")]
    silence: u32,
}

pub(super) async fn run(common: &CommonOptions, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let loaded = common.load(false)?;
    let config = &loaded.config;
    let stdin = arguments
        .file
        .as_deref()
        .is_none_or(|file| file == Path::new("-"));
    let (rate, audio) = if stdin {
        let rate: u32 = arguments.rate.parse().context("--rate")?;
        (rate, from_stdin(rate))
    } else {
        let file = arguments.file.clone().unwrap_or_default();
        (
            crate::audio::SAMPLE_RATE_HZ,
            from_recording(&file, &config.audio)?,
        )
    };
    let mut transcription = serde_json::Map::new();
    transcription.insert("delay".to_owned(), json!(arguments.delay));
    if config.whisper.language != "auto" || arguments.language.is_some() {
        let language = arguments
            .language
            .clone()
            .unwrap_or_else(|| config.whisper.language.clone());
        transcription.insert("language".to_owned(), json!(language));
    }
    if let Some(prompt) = &arguments.prompt {
        transcription.insert("prompt".to_owned(), json!(prompt));
    }
    let update = json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
        "format": {"type": "audio/pcm", "rate": rate},
        "transcription": transcription,
        "turn_detection": {"type": "server_vad", "silence_duration_ms": arguments.silence},
    }}}});

    let host = match config.server.host.as_str() {
        "0.0.0.0" | "::" | "" => "localhost",
        host => host,
    };
    let authority = format!("{host}:{}", config.server.port);
    let stream = TcpStream::connect((host, config.server.port))
        .await
        .with_context(|| {
            format!("no server answers at {authority}; start one with `WhisperBackendAPI serve`")
        })?;
    stream.set_nodelay(true)?;
    if config.server.tls == TlsSetting::Off {
        let socket = open(&format!("ws://{authority}{PATH}"), config, stream).await?;
        captions(socket, update, audio).await
    } else {
        let stream = tls::trusting(&config.server, &loaded.folder(), host, stream)
            .await
            .with_context(|| format!("no TLS with {authority}"))?;
        let socket = open(&format!("wss://{authority}{PATH}"), config, stream).await?;
        captions(socket, update, audio).await
    }
}

async fn open<S>(address: &str, config: &Config, stream: S) -> anyhow::Result<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = address.into_client_request()?;
    if let Some(key) = config.server.api_keys.first() {
        request
            .headers_mut()
            .insert("api-key", key.parse().context("server.api_keys")?);
    }
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let said: Value = serde_json::from_slice(body).unwrap_or_default();
            let message = said["error"]["message"].as_str().unwrap_or_default();
            bail!("{address}: {} {message}", answer.status())
        }
        Err(error) => Err(error).with_context(|| address.to_owned()),
    }
}

/// Bytes of stdin as they come.
fn from_stdin(rate: u32) -> mpsc::Receiver<Vec<u8>> {
    let (send, audio) = mpsc::channel(STEPS_AHEAD);
    let step = (f64::from(rate) * STEP.as_secs_f64()) as usize * 2;
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut piece = vec![0; step];
        while let Ok(count @ 1..) = stdin.read(&mut piece) {
            if send.blocking_send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    audio
}

/// A recording's samples, a step every step.
fn from_recording(file: &Path, audio: &AudioConfig) -> anyhow::Result<mpsc::Receiver<Vec<u8>>> {
    let upload =
        UploadedAudio::from_path(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    let limits = AudioLimits {
        max_duration: Duration::from_secs(audio.max_duration_seconds),
        max_channels: audio.max_channels,
        max_sample_rate_hz: audio.max_sample_rate_hz,
        max_tracks: audio.max_tracks,
        max_metadata_bytes: audio.max_metadata_mb << 20,
    };
    let mut stream = AudioStream::open(upload, &limits, ChannelMode::Mixed)
        .with_context(|| format!("`{}`", file.display()))?;
    let (send, audio) = mpsc::channel(STEPS_AHEAD);
    let step = (f64::from(crate::audio::SAMPLE_RATE_HZ) * STEP.as_secs_f64()) as usize;
    std::thread::spawn(move || {
        let began = std::time::Instant::now();
        let (mut waiting, mut sent) = (Vec::new(), 0_u32);
        loop {
            let block = match stream.next_block() {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(error) => {
                    say_error(&format!("error: {error}"));
                    break;
                }
            };
            let samples = block.channels.into_iter().next().unwrap_or_default();
            waiting.extend(samples);
            let whole = waiting.len() / step * step;
            for piece in waiting[..whole].chunks(step) {
                std::thread::sleep((STEP * sent).saturating_sub(began.elapsed()));
                sent += 1;
                if send.blocking_send(bytes_of(piece)).is_err() {
                    return;
                }
            }
            waiting.drain(..whole);
        }
        let _ = send.blocking_send(bytes_of(&waiting));
    });
    Ok(audio)
}

fn bytes_of(samples: &[f32]) -> Vec<u8> {
    let level = |sample: f32| (sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16;
    samples
        .iter()
        .flat_map(|sample| level(*sample).to_le_bytes())
        .collect()
}

/// Sends audio and shows words until both sides are done.
async fn captions<S>(
    socket: WebSocketStream<S>,
    update: Value,
    mut audio: mpsc::Receiver<Vec<u8>>,
) -> anyhow::Result<ExitCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, events) = socket.split();
    let sending = tokio::spawn(async move {
        sink.send(Message::text(update.to_string())).await?;
        while let Some(piece) = audio.recv().await {
            let event = json!({"type": "input_audio_buffer.append", "audio": BASE64_STANDARD.encode(piece)});
            sink.send(Message::text(event.to_string())).await?;
        }
        // What is left becomes the last line; if nothing is, the server says so, and that is no mistake.
        for kind in ["input_audio_buffer.commit", "input_audio_buffer.clear"] {
            sink.send(Message::text(
                json!({"type": kind, "event_id": "end"}).to_string(),
            ))
            .await?;
        }
        Ok::<_, WsError>(sink)
    });
    let shown = show(events).await;
    sending.abort();
    shown
}

async fn show(mut events: impl Stream<Item = Result<Message, WsError>> + Unpin) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new();
    let (mut committed, mut completed, mut cleared) = (0_usize, 0_usize, false);
    while !(cleared && completed == committed) {
        let text = match events.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                screen.end_line();
                bail!("the server closed the session: {why}")
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(error).context("the connection broke"),
            None => bail!("the connection ended"),
        };
        let event: Value = serde_json::from_str(&text)?;
        let kind = event["type"].as_str().unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "committed" => committed += 1,
            "cleared" => cleared = true,
            "delta" => screen.add(event["delta"].as_str().unwrap_or_default()),
            "intermediate" => screen.provisional(event["intermediate"].as_str().unwrap_or_default()),
            "completed" => {
                completed += 1;
                screen.end_line();
            }
            "failed" => {
                completed += 1;
                screen.end_line();
                say_error(event["error"]["message"].as_str().unwrap_or(kind));
            }
            "error" if event["error"]["event_id"] != "end" => {
                screen.end_line();
                say_error(event["error"]["message"].as_str().unwrap_or(kind));
            }
            _ => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Words that stay are written once; words that may change stand behind them in grey, on a terminal only.
struct Screen {
    terminal: bool,
    begun: bool,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            begun: false,
        }
    }

    fn add(&mut self, words: &str) {
        Self::write(if self.terminal { "\x1b[J" } else { "" }, words);
        self.begun |= !words.is_empty();
    }

    fn provisional(&mut self, words: &str) {
        if self.terminal {
            let shown: String = words.chars().take(PROVISIONAL_COLUMNS).collect();
            Self::write("\x1b[J\x1b7\x1b[2m", &format!("{shown}\x1b[0m\x1b8"));
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.begun) {
            Self::write(if self.terminal { "\x1b[J" } else { "" }, "\n");
        }
    }

    /// A closed pipe is no error.
    fn write(control: &str, words: &str) {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "{control}{words}");
        let _ = out.flush();
    }
}
