//! An engine that follows a script: reaches states that a real one reaches once a year. It speaks through the program's
//! own engine loop, so that cancellation, pauses and the end of stdin are the real ones. The script is a JSON file named
//! by `SCRIPTED_ENGINE`.
#![allow(clippy::unwrap_used, reason = "a test program may panic")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use whisper_backend_api::domain::DeviceReport;
use whisper_backend_api::engine::child::{self, Backend, Slot};
use whisper_backend_api::engine::message::GpuDevice;
use whisper_backend_api::engine::preemption::Control;
use whisper_backend_api::engine::{DecodeOptions, EngineSpec};
use whisper_backend_api::transcript::{WindowSegment, WindowToken, WindowTranscript};

/// What a window does.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(default)]
struct Act {
    /// `{window}` becomes the window's number: the same words again and again would be dropped as a loop.
    text: String,
    delay_ms: u64,
    /// `ok`, `abort`, `fault`, `exit`, `hang`, `fail`, `half_frame`, `garbage`
    action: String,
    /// Actions other than `ok` happen only while this file is absent; it is then made.
    once: Option<PathBuf>,
    /// Like an encoder pass: nothing stops it before its time is over.
    deaf: bool,
}

/// The file: what windows do, and how engines start.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(default)]
struct Script {
    #[serde(flatten)]
    usual: Act,
    /// What windows do whose prompt or vocabulary contains the key.
    on: BTreeMap<String, Act>,
    /// `ok`, `refuse`, `abort`, `hang`
    start: String,
    start_delay_ms: u64,
    /// Starts go wrong only while this file is absent; it is then made.
    start_once: Option<PathBuf>,
    language: String,
    /// What is heard where the server leaves the language open, window after window: code and probability.
    heard: Vec<(String, f32)>,
    /// GPUs that work; an engine for another one goes on with the CPU without an error, as ggml does. `{device}`
    /// in `text` becomes the device's name.
    gpus: Vec<u32>,
    /// An engine on a GPU ends with each window while this file is there.
    gpu_broken_while: Option<PathBuf>,
    /// An engine with more slots on a GPU says that memory is short, and does not start.
    slots_that_fit: Option<usize>,
}

impl Default for Act {
    fn default() -> Self {
        Self {
            text: " Scripted words.".to_owned(),
            delay_ms: 0,
            action: "ok".to_owned(),
            once: None,
            deaf: false,
        }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            usual: Act::default(),
            on: BTreeMap::new(),
            start: "ok".to_owned(),
            start_delay_ms: 0,
            start_once: None,
            language: "en".to_owned(),
            heard: Vec::new(),
            gpus: Vec::new(),
            gpu_broken_while: None,
            slots_that_fit: None,
        }
    }
}

/// True once for each file; always without one.
fn happens(once: Option<&PathBuf>) -> bool {
    once.is_none_or(|marker| std::fs::File::create_new(marker).is_ok())
}

/// The pipe to the server, past the engine loop: for frames that no engine should write.
static PIPE: OnceLock<Mutex<std::fs::File>> = OnceLock::new();

/// Windows so far.
static WINDOWS: AtomicUsize = AtomicUsize::new(0);

/// Windows whose language was left open so far.
static OPEN_WINDOWS: AtomicUsize = AtomicUsize::new(0);

fn script() -> Result<Script, String> {
    let path = std::env::var_os("SCRIPTED_ENGINE").ok_or("SCRIPTED_ENGINE names no script")?;
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn open(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    let mut script = script()?;
    std::thread::sleep(Duration::from_millis(script.start_delay_ms));
    if script.start != "ok" && happens(script.start_once.as_ref()) {
        match script.start.as_str() {
            "refuse" => return Err("the script refuses to start".to_owned()),
            "abort" => std::process::abort(),
            "hang" => hang(),
            other => panic!("start = {other:?}"),
        }
    }
    if let Some(fit) = script.slots_that_fit
        && spec.gpu_device.is_some()
        && spec.slots > fit
    {
        return Err(format!("out of memory for {} slots", spec.slots));
    }
    let gpu = spec.gpu_device.filter(|number| script.gpus.contains(number));
    let device = gpu.map_or_else(|| "scripted".to_owned(), |number| format!("scripted{number}"));
    script.usual.text = script.usual.text.replace("{device}", &device);
    if gpu.is_none() {
        script.gpu_broken_while = None;
    }
    Ok(Box::new(Scripted {
        script,
        gpu: gpu.is_some(),
        device,
    }))
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A fault of the processor's finding, not a signal that anybody sends.
#[allow(unsafe_code, reason = "faults on purpose")]
fn fault() -> ! {
    // SAFETY: not sound, and meant so: this process is to end here.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
    std::process::abort()
}

struct Scripted {
    script: Script,
    gpu: bool,
    device: String,
}

impl Backend for Scripted {
    fn report(&self) -> DeviceReport {
        DeviceReport {
            gpu: self.gpu,
            backend: "scripted".to_owned(),
            device: self.device.clone(),
            multilingual: true,
            ..DeviceReport::default()
        }
    }

    fn slot(&self) -> Result<Box<dyn Slot>, String> {
        Ok(Box::new(ScriptedSlot(self.script.clone())))
    }
}

struct ScriptedSlot(Script);

impl Slot for ScriptedSlot {
    fn run(
        &mut self,
        samples: &[f32],
        options: &DecodeOptions,
        _threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, Option<String>> {
        if self.0.gpu_broken_while.as_ref().is_some_and(|file| file.exists()) {
            std::process::abort();
        }
        let mut told: Vec<&str> = options.prompt.as_deref().into_iter().collect();
        told.extend(
            options
                .vocabulary
                .iter()
                .flat_map(|v| &v.phrases)
                .map(String::as_str),
        );
        let marked = self
            .0
            .on
            .iter()
            .find(|(marker, _)| told.iter().any(|text| text.contains(*marker)));
        let act = marked.map_or(&self.0.usual, |(_, act)| act);
        for _ in 0..act.delay_ms.div_ceil(10) {
            if !act.deaf {
                if control.cancelled() {
                    return Err(None);
                }
                let _ = control.threads();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if act.deaf && control.cancelled() {
            return Err(None);
        }
        if act.action != "ok" && happens(act.once.as_ref()) {
            let pipe = PIPE.get().unwrap();
            match act.action.as_str() {
                "abort" => std::process::abort(),
                "fault" => fault(),
                "exit" => std::process::exit(1),
                "hang" => hang(),
                "fail" => return Err(Some("the script says so".to_owned())),
                "half_frame" => {
                    pipe.lock()
                        .unwrap()
                        .write_all(&[200, 0, 0, 0, 0, 0, 0, 0, b'{'])
                        .unwrap();
                    std::process::exit(0)
                }
                "garbage" => {
                    pipe.lock()
                        .unwrap()
                        .write_all(b"whisper_full: this is no frame\n")
                        .unwrap();
                    hang()
                }
                other => panic!("action = {other:?}"),
            }
        }
        let heard = options
            .language
            .is_none()
            .then(|| OPEN_WINDOWS.fetch_add(1, Ordering::Relaxed));
        let heard = heard.and_then(|number| self.0.heard.get(number));
        let number = WINDOWS.fetch_add(1, Ordering::Relaxed);
        let text = act.text.replace("{window}", &number.to_string());
        let tokens = text
            .split_inclusive(' ')
            .enumerate()
            .map(|(i, piece)| WindowToken {
                id: i as i32,
                bytes: piece.as_bytes().to_vec(),
                logprob: -0.1,
                onset: options.word_times.then_some(i as f32 * 0.1),
            })
            .collect();
        Ok(WindowTranscript {
            segments: vec![WindowSegment {
                start: 0.0,
                end: samples.len() as f32 / 16_000.0,
                tokens,
                no_speech_prob: 0.0,
            }],
            language: heard
                .map(|(code, _)| code.clone())
                .or_else(|| options.language.clone())
                .or_else(|| Some(self.0.language.clone())),
            language_probability: heard.map(|(_, probability)| *probability),
            ..WindowTranscript::default()
        })
    }

    fn warm(&mut self, _threads: u32) -> Result<(), String> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["engine"] => {
            let pipe = std::fs::File::options()
                .write(true)
                .open("/proc/self/fd/1")
                .unwrap();
            PIPE.set(Mutex::new(pipe)).unwrap();
            child::run_with(open)
        }
        ["engine", "--devices"] => {
            let device = |number: u32| GpuDevice {
                number,
                name: format!("scripted{number}"),
                ..GpuDevice::default()
            };
            let numbers = script().map(|script| script.gpus).unwrap_or_default();
            child::print_devices(&numbers.into_iter().map(device).collect::<Vec<_>>())
        }
        _ => ExitCode::FAILURE,
    }
}
