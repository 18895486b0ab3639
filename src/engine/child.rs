//! The engine process: reads frames on stdin, runs windows, writes frames on stdout, logs on stderr.
//!
//! The end of stdin ends the process, so it never outlives its server.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use super::message::{DecodeOptions, EngineSetting, EngineSpec, FromEngine, GpuDevice, ToEngine};
use super::preemption::{Control, Switches};
use crate::domain::DeviceReport;
use crate::process::frame::{read_frame, write_frame};
use crate::process::{claim_stdout, die_with_parent, end_first_when_memory_is_short, exit_now};
use crate::transcript::WindowTranscript;

/// Exit code after a start that failed for a reason already told.
const EXIT_START_FAILED: i32 = 3;
/// Exit code when the server speaks nonsense.
const EXIT_BAD_FRAME: i32 = 4;

/// What runs windows in this process.
pub trait Backend: Send + Sync {
    /// What it runs on.
    fn report(&self) -> DeviceReport;
    /// One worker's own buffers.
    fn slot(&self) -> Result<Box<dyn Slot>, String>;
}

/// One worker: runs one window at a time.
pub trait Slot: Send {
    /// Runs a window. `Err(None)` when cancelled.
    fn run(
        &mut self,
        samples: &[f32],
        options: &DecodeOptions,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, Option<String>>;
    /// First run, at the greatest decoder count: later ones then never allocate (whisper-notes W6).
    fn warm(&mut self, threads: u32) -> Result<(), String>;
}

struct Job {
    id: u64,
    threads: u32,
    options: DecodeOptions,
    samples: Vec<f32>,
    switches: Arc<Switches>,
}

/// Makes the engine of this process.
pub type OpenBackend = fn(&EngineSpec) -> Result<Box<dyn Backend>, String>;

/// Prints ggml's GPUs as one line of JSON and ends: the first look at a driver may end the process.
pub fn list_devices() -> ExitCode {
    #[cfg(feature = "whisper")]
    let devices = super::whisper::list_gpus().unwrap_or_else(|reason| {
        eprintln_line(&format!("E {reason}"));
        Vec::new()
    });
    #[cfg(not(feature = "whisper"))]
    let devices: Vec<GpuDevice> = Vec::new();
    print_devices(&devices)
}

/// Prints GPUs as [`list_devices`] does.
pub fn print_devices(devices: &[GpuDevice]) -> ExitCode {
    let line = serde_json::to_string(devices).unwrap_or_else(|_| "[]".to_owned());
    match claim_stdout().and_then(|mut out| writeln!(out, "{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// When memory is short an engine goes before the server, which starts it again, and after decoders.
const BADNESS: u16 = 400;

/// Runs the engine process to its end.
pub fn run() -> ExitCode {
    run_with(open_backend)
}

/// The same with an engine of the caller's making, as tests have it.
pub fn run_with(open: OpenBackend) -> ExitCode {
    die_with_parent();
    end_first_when_memory_is_short(BADNESS);
    #[cfg(unix)]
    super::signals::watch_faults();
    match serve(open) {
        Ok(code) => code,
        Err(error) => {
            eprintln_line(&format!("engine: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(open: OpenBackend) -> io::Result<ExitCode> {
    let out = Arc::new(Mutex::new(claim_stdout()?));
    let (orders, received) = mpsc::channel();
    {
        // From the first line on, so that a driver that hangs while it starts cannot keep this process.
        let out = out.clone();
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_orders(&out, &orders))?;
    }
    let Ok((ToEngine::Start(spec), _)) = received.recv() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the first message must be `Start`",
        ));
    };
    let (wide, narrow) = (mpsc::channel::<Job>(), mpsc::channel::<Job>());
    let workers = Workers {
        slots: Arc::default(),
        out: out.clone(),
        running: Arc::default(),
        wide: Arc::default(),
    };
    // Everything that uses several threads runs on this one thread where it can, the first runs included: libgomp keeps
    // threads for each thread that ever asked for them, and stops spinning at barriers once it has more than cores.
    let (ready, started) = mpsc::channel();
    {
        let (workers, jobs, spec) = (workers.clone(), wide.1, spec.clone());
        std::thread::Builder::new()
            .name("wide".to_owned())
            .spawn(move || {
                let _ = ready.send(start(open, &spec, &workers.slots));
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
            exit_now(EXIT_START_FAILED);
        }
    };
    let jobs = Arc::new(Mutex::new(narrow.1));
    // One more than slots: a window that preempts another runs beside the others.
    for number in 0..=report.slots {
        let (workers, jobs) = (workers.clone(), jobs.clone());
        std::thread::Builder::new()
            .name(format!("slot-{number}"))
            .spawn(move || workers.serve(&jobs))?;
    }
    send(&out, &FromEngine::Ready(Box::new(report)))?;

    while let Ok((message, samples)) = received.recv() {
        match message {
            ToEngine::Window { id, threads, options } => {
                let switches = Arc::new(Switches::new(threads as usize));
                lock(&workers.running).insert(id, switches.clone());
                // A second one beside it takes any thread: two halves of many cores beat one after the other.
                let alone = threads > 1 && workers.wide.fetch_add(1, Ordering::Relaxed) == 0;
                let jobs = if alone { &wide.0 } else { &narrow.0 };
                let job = Job {
                    id,
                    threads,
                    options,
                    samples,
                    switches,
                };
                if jobs.send(job).is_err() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            ToEngine::Cancel { id } => workers.switch(id, Switches::cancel),
            ToEngine::Pause { id } => workers.switch(id, |switches| switches.pause(true)),
            ToEngine::Resume { id } => workers.switch(id, |switches| switches.pause(false)),
            ToEngine::Threads { id, threads } => {
                workers.switch(id, |switches| switches.set_threads(threads as usize));
            }
            ToEngine::Start(_) | ToEngine::Ping => {}
        }
    }
    exit_now(0)
}

/// Reads stdin to its end, which is the end of the process: nobody is left to read results.
fn read_orders(out: &Mutex<File>, orders: &mpsc::Sender<(ToEngine, Vec<f32>)>) {
    let mut input = BufReader::with_capacity(1 << 16, io::stdin());
    loop {
        match read_frame::<ToEngine>(&mut input) {
            Ok(Some((ToEngine::Ping, _))) => {
                let _ = send(out, &FromEngine::Pong);
            }
            Ok(Some(order)) => {
                let _ = orders.send(order);
            }
            Ok(None) => exit_now(0),
            Err(error) => {
                eprintln_line(&format!("engine: {error}"));
                exit_now(EXIT_BAD_FRAME);
            }
        }
    }
}

/// What the worker threads share.
#[derive(Clone)]
struct Workers {
    /// Slots that nobody uses just now.
    slots: Arc<FreeSlots>,
    out: Arc<Mutex<File>>,
    running: Arc<Mutex<HashMap<u64, Arc<Switches>>>>,
    /// Windows that use several threads.
    wide: Arc<AtomicUsize>,
}

type MakeSlot = Arc<dyn Fn() -> Result<Box<dyn Slot>, String> + Send + Sync>;

/// Slots that are made when they are first needed: a state takes tens to hundreds of MiB.
#[derive(Default)]
struct Spare {
    left: usize,
    make: Option<MakeSlot>,
}

impl Spare {
    fn next(&mut self) -> Option<MakeSlot> {
        self.left = self.left.checked_sub(1)?;
        self.make.clone()
    }
}

#[derive(Default)]
struct FreeSlots {
    slots: Mutex<Vec<Box<dyn Slot>>>,
    returned: Condvar,
    spare: Mutex<Spare>,
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
        let make = lock(&self.spare).next();
        match make.map(|make| make()) {
            Some(Ok(slot)) => return slot,
            Some(Err(reason)) => eprintln_line(&format!(
                "engine: windows will wait for a slot, one more cannot be made: {reason}"
            )),
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
    fn switch(&self, id: u64, turn: impl FnOnce(&Switches)) {
        if let Some(switches) = lock(&self.running).get(&id) {
            turn(switches);
        }
    }

    /// Runs jobs until the main thread or the server has gone.
    fn serve(&self, jobs: &Mutex<mpsc::Receiver<Job>>) {
        loop {
            let next = lock(jobs).recv();
            let Ok(job) = next else { return };
            let mut slot = self.slots.take();
            let _ = send(&self.out, &FromEngine::Started { id: job.id });
            let (out, id) = (self.out.clone(), job.id);
            let control = Control::new(job.switches.clone(), move |threads| {
                let threads = u32::try_from(threads).unwrap_or(u32::MAX);
                let _ = send(&out, &FromEngine::Threads { id, threads });
            });
            let answer = run_job(slot.as_mut(), &job, &control);
            self.slots.put(slot);
            lock(&self.running).remove(&job.id);
            if job.threads > 1 {
                self.wide.fetch_sub(1, Ordering::Relaxed);
            }
            if send(&self.out, &answer).is_err() {
                return; // the server has gone; the other thread sees the end of stdin
            }
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_job(slot: &mut dyn Slot, job: &Job, control: &Control) -> FromEngine {
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

fn start(open: OpenBackend, spec: &EngineSpec, slots: &FreeSlots) -> Result<DeviceReport, String> {
    let began = std::time::Instant::now();
    let backend = open(spec)?;
    let mut report = backend.report();
    let count = spec.slots.max(1) * report.windows_per_core.max(1);
    // A GPU shows at the start whether all slots fit. On the processor the first is ready sooner when the others are
    // made by the first windows that need them: an engine that replaces a dead one has windows waiting.
    let at_once = if report.gpu || report.windows_per_core > 1 {
        count
    } else {
        1
    };
    for _ in 0..at_once {
        let mut slot = backend.slot()?;
        slot.warm(spec.threads)?;
        slots.put(slot);
    }
    if count > 1 && !report.gpu {
        // One more for a window that preempts another.
        *lock(&slots.spare) = Spare {
            left: count - at_once + 1,
            make: Some(Arc::new(move || {
                let mut slot = backend.slot()?;
                slot.warm(1)?;
                Ok(slot)
            })),
        };
    }
    report.load_seconds = began.elapsed().as_secs_f32();
    report.pid = std::process::id();
    report.slots = count;
    Ok(report)
}

#[cfg(feature = "whisper")]
pub(super) fn open_backend(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    let native = match spec.engine {
        EngineSetting::Native => true,
        EngineSetting::WhisperCpp => false,
        EngineSetting::Auto => spec.gpu_device.is_none() && super::native::suits(spec),
    };
    if native {
        super::native::open(spec)
    } else {
        super::whisper::open(spec)
    }
}

#[cfg(not(feature = "whisper"))]
pub(super) fn open_backend(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    match spec.engine {
        EngineSetting::Auto | EngineSetting::Native => super::native::open(spec),
        EngineSetting::WhisperCpp => Err(
            "whisper.engine is `whisper.cpp`, and this build has none: build with `--features whisper`, or set `auto`"
                .to_owned(),
        ),
    }
}

fn send(out: &Mutex<File>, message: &FromEngine) -> io::Result<()> {
    write_frame(&mut *lock(out), message, &[])
}

fn eprintln_line(line: &str) {
    // A server that no longer reads is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}
