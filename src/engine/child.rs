//! The engine process: reads frames on stdin, runs windows, writes frames on stdout, logs on stderr.
//!
//! The end of stdin ends the process, so it never outlives its server.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use super::courtesy::{Control, Courtesy, Turn};
use super::message::{DecodeOptions, DeviceReport, EngineSpec, FromEngine, Standing, ToEngine};
use crate::process::frame::{read_frame, write_frame};
use crate::transcript::WindowTranscript;

/// Exit code after a start that failed for a reason already told.
const EXIT_START_FAILED: u8 = 3;

/// What runs windows in this process.
pub(super) trait Backend: Send + Sync {
    /// What it runs on.
    fn report(&self) -> DeviceReport;
    /// One worker's own buffers.
    fn slot(&self) -> Result<Box<dyn Slot>, String>;
}

/// One worker: runs one window at a time.
pub(super) trait Slot: Send {
    /// Runs a window. `Err(None)` when cancelled.
    fn run(
        &mut self,
        samples: &[f32],
        options: &DecodeOptions,
        threads: u32,
        control: Control<'_>,
    ) -> Result<WindowTranscript, Option<String>>;
    /// First run, at the greatest decoder count: later ones then never allocate (whisper-notes W6).
    fn warm(&mut self, threads: u32) -> Result<(), String>;
}

struct Job {
    id: u64,
    threads: u32,
    standing: Standing,
    options: DecodeOptions,
    samples: Vec<f32>,
    cancel: Arc<AtomicBool>,
}

/// Prints ggml's GPUs as one line of JSON and ends: the first look at a driver may end the process.
pub fn list_devices() -> ExitCode {
    #[cfg(feature = "whisper")]
    let devices = super::whisper::list_gpus().unwrap_or_else(|reason| {
        eprintln_line(&format!("E {reason}"));
        Vec::new()
    });
    #[cfg(not(feature = "whisper"))]
    let devices: Vec<super::message::GpuDevice> = Vec::new();
    let line = serde_json::to_string(&devices).unwrap_or_else(|_| "[]".to_owned());
    match claim_stdout().and_then(|mut out| writeln!(out, "{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the engine process to its end.
pub fn run() -> ExitCode {
    match serve() {
        Ok(code) => code,
        Err(error) => {
            eprintln_line(&format!("engine: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<ExitCode> {
    let out = Arc::new(Mutex::new(claim_stdout()?));
    let mut input = BufReader::with_capacity(1 << 16, io::stdin());
    let Some((ToEngine::Start(spec), _)) = read_frame(&mut input)? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the first message must be `Start`",
        ));
    };
    let (wide, narrow) = (mpsc::channel::<Job>(), mpsc::channel::<Job>());
    let workers = Workers {
        slots: Arc::default(),
        courtesy: Arc::default(),
        out: out.clone(),
        running: Arc::default(),
    };
    // Everything that uses several threads runs on this one thread, the first runs included: libgomp keeps threads
    // for each thread that ever asked for them, and stops spinning at barriers once it has more than cores.
    let (ready, started) = mpsc::channel();
    {
        let (workers, jobs, spec) = (workers.clone(), wide.1, spec.clone());
        std::thread::Builder::new()
            .name("wide".to_owned())
            .spawn(move || {
                let _ = ready.send(start(&spec, &workers.slots));
                workers.serve(&Mutex::new(jobs));
            })?;
    }
    let report = match started
        .recv()
        .unwrap_or_else(|_| Err("the first run panicked".to_owned()))
    {
        Ok(report) => report,
        Err(reason) => {
            send(&out, &FromEngine::StartFailed { reason })?;
            return Ok(ExitCode::from(EXIT_START_FAILED));
        }
    };
    let jobs = Arc::new(Mutex::new(narrow.1));
    // One more than slots: guests run beside the others.
    for number in 0..=report.slots {
        let (workers, jobs) = (workers.clone(), jobs.clone());
        std::thread::Builder::new()
            .name(format!("slot-{number}"))
            .spawn(move || workers.serve(&jobs))?;
    }
    send(&out, &FromEngine::Ready(report))?;

    while let Some((message, samples)) = read_frame::<ToEngine>(&mut input)? {
        match message {
            ToEngine::Window {
                id,
                threads,
                standing,
                options,
            } => {
                let cancel = Arc::new(AtomicBool::new(false));
                lock(&workers.running).insert(id, cancel.clone());
                let jobs = if threads > 1 { &wide.0 } else { &narrow.0 };
                if jobs
                    .send(Job {
                        id,
                        threads,
                        standing,
                        options,
                        samples,
                        cancel,
                    })
                    .is_err()
                {
                    return Ok(ExitCode::FAILURE);
                }
            }
            ToEngine::Cancel { id } => {
                if let Some(cancel) = lock(&workers.running).get(&id) {
                    cancel.store(true, Ordering::Relaxed);
                }
            }
            ToEngine::Start(_) => eprintln_line("engine: a second `Start` was ignored"),
        }
    }
    // Nobody is left to read results. Leaving without C++ destructors is intended: slots may still be running,
    // and the system gives every byte back.
    std::process::exit(0)
}

/// What the worker threads share.
#[derive(Clone)]
struct Workers {
    /// Slots that nobody uses just now.
    slots: Arc<FreeSlots>,
    courtesy: Arc<Courtesy>,
    out: Arc<Mutex<File>>,
    running: Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>>,
}

type MakeSlot = Box<dyn FnOnce() -> Result<Box<dyn Slot>, String> + Send>;

#[derive(Default)]
struct FreeSlots {
    slots: Mutex<Vec<Box<dyn Slot>>>,
    returned: Condvar,
    /// Makes the guests' slot when the first guest comes: a state takes tens to hundreds of MiB.
    spare: Mutex<Option<MakeSlot>>,
}

impl FreeSlots {
    fn put(&self, slot: Box<dyn Slot>) {
        lock(&self.slots).push(slot);
        self.returned.notify_one();
    }

    fn take(&self) -> Box<dyn Slot> {
        // The one used last: its buffers are still in the processor's cache.
        if let Some(slot) = lock(&self.slots).pop() {
            return slot;
        }
        let make = lock(&self.spare).take();
        match make.map(|make| make()) {
            Some(Ok(slot)) => return slot,
            Some(Err(reason)) => eprintln_line(&format!("engine: guests will wait for a slot: {reason}")),
            None => {}
        }
        let mut slots = lock(&self.slots);
        loop {
            if let Some(slot) = slots.pop() {
                return slot;
            }
            slots = self.returned.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Workers {
    /// Runs jobs until the main thread or the server has gone.
    fn serve(&self, jobs: &Mutex<mpsc::Receiver<Job>>) {
        loop {
            let next = lock(jobs).recv();
            let Ok(job) = next else { return };
            let mut slot = self.slots.take();
            let guest = (job.standing == Standing::Guest).then(|| self.courtesy.welcome());
            let turn = (job.standing == Standing::GivesWay).then(|| Turn::new(&self.courtesy));
            let answer = run_job(slot.as_mut(), &job, Control::new(&job.cancel, turn.as_ref()));
            drop(guest);
            self.slots.put(slot);
            lock(&self.running).remove(&job.id);
            if send(&self.out, &answer).is_err() {
                return; // the server has gone; the main thread sees the end of stdin
            }
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_job(slot: &mut dyn Slot, job: &Job, control: Control<'_>) -> FromEngine {
    let id = job.id;
    if control.cancelled() {
        return FromEngine::Failed {
            id,
            detail: "cancelled".to_owned(),
            cancelled: true,
        };
    }
    match slot.run(&job.samples, &job.options, job.threads, control) {
        Ok(transcript) => FromEngine::Done { id, transcript },
        Err(None) => FromEngine::Failed {
            id,
            detail: "cancelled".to_owned(),
            cancelled: true,
        },
        Err(Some(detail)) => FromEngine::Failed {
            id,
            detail,
            cancelled: false,
        },
    }
}

fn start(spec: &EngineSpec, slots: &FreeSlots) -> Result<DeviceReport, String> {
    let began = std::time::Instant::now();
    let backend = open_backend(spec)?;
    let count = spec.slots.max(1);
    for _ in 0..count {
        let mut slot = backend.slot()?;
        slot.warm(spec.threads)?;
        slots.put(slot);
    }
    let mut report = backend.report();
    if count > 1 && !report.gpu {
        *lock(&slots.spare) = Some(Box::new(move || {
            let mut slot = backend.slot()?;
            slot.warm(1)?;
            Ok(slot)
        }));
    }
    report.load_seconds = began.elapsed().as_secs_f32();
    report.pid = std::process::id();
    report.slots = count;
    Ok(report)
}

fn open_backend(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    if let Some(script) = &spec.script {
        return scripted::open(script, spec);
    }
    #[cfg(feature = "whisper")]
    {
        super::whisper::open(spec)
    }
    #[cfg(not(feature = "whisper"))]
    {
        Err("this build has no inference: build with `--features whisper`".to_owned())
    }
}

/// Takes stdout for frames and points file descriptor 1 at stderr: whisper.cpp prints there now and then.
#[cfg(unix)]
fn claim_stdout() -> io::Result<File> {
    let pipe = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(pipe))
}

#[cfg(not(unix))]
fn claim_stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
}

fn send(out: &Mutex<File>, message: &FromEngine) -> io::Result<()> {
    write_frame(&mut *lock(out), message, &[])
}

fn eprintln_line(line: &str) {
    // A server that no longer reads is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}

/// An engine that follows a script: reaches states that a real one reaches once a year.
mod scripted {
    use super::{
        Backend, Control, DecodeOptions, DeviceReport, Duration, EngineSpec, Slot, WindowTranscript,
    };
    use crate::transcript::{WindowSegment, WindowToken};
    use std::path::Path;

    /// A JSON file: what each window does, and how long it takes.
    #[derive(Debug, Clone, serde::Deserialize)]
    #[serde(default)]
    struct Script {
        text: String,
        delay_ms: u64,
        /// `ok`, `abort`, `hang`, `fail`, `refuse_start`, `abort_at_start`
        action: String,
        /// Actions other than `ok` happen only while this file is absent; it is then made.
        once: Option<std::path::PathBuf>,
        language: String,
        /// GPUs that work; an engine for another one goes on with the CPU without an error, as ggml does. `{device}`
        /// in `text` becomes the device's name.
        gpus: Vec<u32>,
        /// An engine with more slots on a GPU says that memory is short, and does not start.
        slots_that_fit: Option<usize>,
    }

    impl Default for Script {
        fn default() -> Self {
            Self {
                text: " Scripted words.".to_owned(),
                delay_ms: 0,
                action: "ok".to_owned(),
                once: None,
                language: "en".to_owned(),
                gpus: Vec::new(),
                slots_that_fit: None,
            }
        }
    }

    impl Script {
        fn action(&self) -> &str {
            if let Some(marker) = &self.once
                && (self.action != "ok")
                && std::fs::File::create_new(marker).is_err()
            {
                return "ok";
            }
            &self.action
        }
    }

    pub(super) fn open(path: &Path, spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut script: Script =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if script.action.ends_with("start") {
            match script.action() {
                "refuse_start" => return Err("the script refuses to start".to_owned()),
                "abort_at_start" => std::process::abort(),
                _ => {}
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
        script.text = script.text.replace("{device}", &device);
        Ok(Box::new(Scripted {
            script,
            gpu: gpu.is_some(),
            device,
        }))
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
            control: Control<'_>,
        ) -> Result<WindowTranscript, Option<String>> {
            match self.0.action() {
                "abort" => std::process::abort(),
                "hang" => loop {
                    std::thread::sleep(Duration::from_secs(1));
                },
                "fail" => return Err(Some("the script says so".to_owned())),
                _ => {}
            }
            for _ in 0..self.0.delay_ms.div_ceil(10) {
                if control.cancelled() {
                    return Err(None);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let tokens = self
                .0
                .text
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
                    end: samples.len() as f32 / crate::audio::SAMPLE_RATE_HZ as f32,
                    tokens,
                    no_speech_prob: 0.0,
                }],
                language: options.language.clone().or_else(|| Some(self.0.language.clone())),
                ..WindowTranscript::default()
            })
        }

        fn warm(&mut self, _threads: u32) -> Result<(), String> {
            Ok(())
        }
    }
}
