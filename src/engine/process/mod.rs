//! The server's end of an engine: starts the child, speaks frames, and knows when it died.

mod devices;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{DeathCause, EngineError};
use super::handle::{Boxed, Engine, Order, RunningWindow, StartEngine, WindowEvent};
use super::message::{DecodeOptions, EngineSpec, FromEngine, ToEngine};
use crate::domain::DeviceReport;
use crate::process::frame::{encode_frame, frame_lengths};
use crate::process::{AsyncChild, ChildStderr, ChildStdin, ChildStdout, Ending, Program};

pub use devices::NoGpu;

/// Error lines kept to explain a death.
const LOG_LINES: usize = 20;

/// How often an engine is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Silence after which the system is asked whether the process was stopped by a signal.
const STOPPED_AFTER: Duration = Duration::from_millis(2_500);
/// Silence after which the process counts as frozen; swapping machines take seconds to answer.
const FROZEN_AFTER: Duration = Duration::from_secs(30);

/// How threads wait at barriers; libgomp reads this when the process starts. Threads that spin for long make a busy
/// machine tens of times slower; threads that sleep at once need longer to wake than a decoder step's piece of work
/// takes. 2,000 turns are 40 to 100 µs (docs/performance.md).
const THREAD_WAITING: [(&str, &str); 3] = [
    ("OMP_WAIT_POLICY", "passive"),
    ("GOMP_SPINCOUNT", "2000"),
    ("OMP_DYNAMIC", "false"),
];

/// How a child is started.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program; this very binary unless a test says otherwise.
    pub program: PathBuf,
    /// Added to the child's environment.
    pub environment: Vec<(String, String)>,
}

impl Launcher {
    /// This very binary; with the feature `test-hooks`, whatever `TEST_ENGINE_PROGRAM` names.
    pub fn this_program() -> std::io::Result<Self> {
        #[cfg(feature = "test-hooks")]
        if let Some(program) = std::env::var_os("TEST_ENGINE_PROGRAM") {
            return Ok(Self {
                program: program.into(),
                environment: Vec::new(),
            });
        }
        Ok(Self {
            program: std::env::current_exe()?,
            environment: Vec::new(),
        })
    }
}

/// Level and words of a line of a child's stderr.
fn level_and_words(line: &str) -> (char, &str) {
    match line.split_once(' ') {
        Some(("E", words)) => ('E', words),
        Some(("W", words)) => ('W', words),
        Some(("I", words)) => ('I', words),
        Some(("D", words)) => ('D', words),
        // ggml's last words before an abort, the loader's complaint, a panic.
        _ => ('E', line),
    }
}

/// A window that was sent and is not answered.
#[derive(Debug)]
struct Sent {
    events: mpsc::UnboundedSender<WindowEvent>,
    /// The engine said that a slot has it.
    started: bool,
}

/// A running engine. Dropping it kills the child.
#[derive(Debug)]
pub struct EngineProcess {
    report: DeviceReport,
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    kill: mpsc::UnboundedSender<()>,
    dead: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: Mutex<HashMap<u64, Sent>>,
    log: Mutex<VecDeque<String>>,
    death: Mutex<Option<EngineError>>,
    /// The server ended it.
    killed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn last_lines(&self) -> Vec<String> {
        lock(&self.log).iter().cloned().collect()
    }

    /// Ends every window. One that no slot had taken has nothing to do with the death.
    fn die(&self, status: &str, cause: DeathCause) {
        let log = self.last_lines();
        let mut death = lock(&self.death);
        let sent = std::mem::take(&mut *lock(&self.sent));
        let in_flight = sent.values().filter(|sent| sent.started).count();
        let error = EngineError::Died {
            status: status.to_owned(),
            cause,
            in_flight,
            log,
        };
        death.get_or_insert_with(|| error.clone());
        drop(death);
        for window in sent.into_values() {
            let error = if window.started {
                error.clone()
            } else {
                EngineError::outside(status)
            };
            let _ = window.events.send(WindowEvent::Ended(Err(error)));
        }
    }

    fn event(&self, id: u64, event: WindowEvent) {
        let mut sent = lock(&self.sent);
        match event {
            WindowEvent::Ended(_) => {
                if let Some(window) = sent.remove(&id) {
                    let _ = window.events.send(event);
                }
            }
            _ => {
                if let Some(window) = sent.get_mut(&id) {
                    window.started = true;
                    let _ = window.events.send(event);
                }
            }
        }
    }
}

impl StartEngine for Launcher {
    fn start<'a>(
        &'a self,
        spec: &'a EngineSpec,
        limit: Duration,
    ) -> Boxed<'a, Result<Arc<dyn Engine>, EngineError>> {
        Box::pin(async move {
            let engine = EngineProcess::start(self, spec, limit).await?;
            Ok(Arc::new(engine) as Arc<dyn Engine>)
        })
    }
}

impl EngineProcess {
    /// Starts a child and waits until it is warm.
    ///
    /// # Errors
    ///
    /// `StartFailed` with its reason when it says so; `Died` when it ends without a word; `Hung` after `limit`.
    pub async fn start(launcher: &Launcher, spec: &EngineSpec, limit: Duration) -> Result<Self, EngineError> {
        let mut child = spawn(launcher)?;
        let shared = Arc::new(Shared::default());
        let pid = child.id().unwrap_or(0);
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(EngineError::StartFailed {
                reason: "the child has no pipes".to_owned(),
            });
        };
        let log = tokio::spawn(read_log(BufReader::new(stderr), shared.clone(), pid));
        let (orders, queue) = mpsc::unbounded_channel();
        let start = Order {
            message: ToEngine::Start(spec.clone()),
            samples: Arc::default(),
        };
        let _ = orders.send(start);
        let (kill, killed) = mpsc::unbounded_channel();
        let (died, dead) = watch::channel(false);
        let (ready, report) = oneshot::channel();
        tokio::spawn(write_orders(stdin, queue));
        let watcher = Watcher {
            child,
            pid,
            shared: shared.clone(),
            // Holds no sender of its own for long: an engine that was dropped shall end.
            pings: orders.downgrade(),
            ready: Some(ready),
        };
        tokio::spawn(watcher.run(stdout, killed, log, died));
        let engine = Self {
            report: DeviceReport::default(),
            orders,
            shared,
            next_id: AtomicU64::new(1),
            kill,
            dead,
        };
        match tokio::time::timeout(limit, report).await {
            Ok(Ok(Ok(report))) => Ok(Self { report, ..engine }),
            Ok(Ok(Err(reason))) => Err(EngineError::StartFailed { reason }),
            Ok(Err(_)) => {
                let mut dead = engine.dead.clone();
                let _ = dead.wait_for(|dead| *dead).await;
                Err(engine
                    .death()
                    .unwrap_or_else(|| EngineError::outside("it ended while starting")))
            }
            Err(_) => Err(EngineError::Hung {
                seconds: limit.as_secs_f64(),
            }),
        }
    }
}

impl Engine for EngineProcess {
    fn report(&self) -> &DeviceReport {
        &self.report
    }

    fn submit(&self, samples: Arc<Vec<f32>>, options: DecodeOptions, threads: u32) -> RunningWindow {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events, received) = mpsc::unbounded_channel();
        {
            let death = lock(&self.shared.death);
            if death.is_some() {
                let gone = EngineError::outside("it had ended before");
                let _ = events.send(WindowEvent::Ended(Err(gone)));
            } else {
                let started = false;
                lock(&self.shared.sent).insert(id, Sent { events, started });
            }
        }
        let message = ToEngine::Window { id, threads, options };
        let _ = self.orders.send(Order { message, samples });
        RunningWindow::new(id, self.orders.clone(), received)
    }

    fn kill(&self, status: &str) {
        self.shared.killed.store(true, Ordering::Relaxed);
        self.shared.die(status, DeathCause::Outside);
        let _ = self.kill.send(());
    }

    fn death(&self) -> Option<EngineError> {
        lock(&self.shared.death).clone()
    }

    fn watch(&self) -> watch::Receiver<bool> {
        self.dead.clone()
    }
}

fn spawn(launcher: &Launcher) -> Result<AsyncChild, EngineError> {
    let mut program = Program::new(&launcher.program)
        .arg("engine")
        .piped()
        // No debugger is started when ggml aborts.
        .env("GGML_NO_BACKTRACE", "1");
    // A user's own choice wins, whole.
    if THREAD_WAITING
        .iter()
        .all(|(name, _)| std::env::var_os(name).is_none())
    {
        program = program.envs(THREAD_WAITING);
    }
    program
        .envs(launcher.environment.iter().map(|(name, value)| (name, value)))
        .start_async()
        .map_err(|e| EngineError::StartFailed {
            reason: format!("`{}` cannot be started: {e}", launcher.program.display()),
        })
}

async fn read_message(stdout: &mut ChildStdout) -> std::io::Result<Option<FromEngine>> {
    let mut lengths = [0u8; 8];
    match stdout.read_exact(&mut lengths).await {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let (header, samples) = frame_lengths(lengths)?;
    let mut bytes = vec![0u8; header + samples * 4];
    stdout.read_exact(&mut bytes).await?;
    Ok(Some(serde_json::from_slice(&bytes[..header])?))
}

async fn write_orders(mut stdin: ChildStdin, mut queue: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = queue.recv().await {
        let Ok(frame) = encode_frame(&order.message, &order.samples) else {
            continue;
        };
        if stdin.write_all(&frame).await.is_err() {
            return; // `Watcher` sees the end of stdout and tells everybody
        }
    }
}

/// Reads what the engine says, asks whether it is there, and sees it end.
struct Watcher {
    child: AsyncChild,
    pid: u32,
    shared: Arc<Shared>,
    pings: mpsc::WeakUnboundedSender<Order>,
    ready: Option<oneshot::Sender<Result<DeviceReport, String>>>,
}

impl Watcher {
    async fn run(
        mut self,
        mut stdout: ChildStdout,
        mut killed: mpsc::UnboundedReceiver<()>,
        log: tokio::task::JoinHandle<()>,
        died: watch::Sender<bool>,
    ) {
        let (say, mut heard) = mpsc::unbounded_channel();
        // A task of its own: a read that is dropped in the middle of a frame would lose its beginning.
        let mut reader = tokio::spawn(async move {
            loop {
                match read_message(&mut stdout).await {
                    Ok(Some(message)) => {
                        if say.send(message).is_err() {
                            return true;
                        }
                    }
                    Ok(None) => return true,
                    Err(error) => return error.kind() == std::io::ErrorKind::UnexpectedEof,
                }
            }
        });
        let mut nonsense = false;
        let mut frozen = None;
        let mut silent_since = tokio::time::Instant::now();
        let mut pulse = tokio::time::interval(PING_EVERY);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = heard.recv() => {
                    let Some(message) = message else {
                        nonsense = !(&mut reader).await.unwrap_or(true);
                        break;
                    };
                    silent_since = tokio::time::Instant::now();
                    self.heard(message);
                }
                // Also when the `EngineProcess` was dropped: the channel closes.
                _ = killed.recv() => {
                    self.shared.killed.store(true, Ordering::Relaxed);
                    break;
                }
                _ = pulse.tick() => {
                    if let Some(reason) = self.pulse(silent_since.elapsed()) {
                        tracing::warn!(engine = self.pid, reason, "an engine process is ended");
                        frozen = Some(reason);
                        break;
                    }
                }
            }
        }
        drop(self.ready.take());
        if frozen.is_some() || nonsense || self.shared.killed.load(Ordering::Relaxed) {
            let _ = self.child.start_kill();
        }
        let ending = wait_ending(&mut self.child).await;
        reader.abort();
        let _ = tokio::time::timeout(Duration::from_secs(2), log).await;
        let (status, cause) = match frozen {
            Some(reason) => (reason.to_owned(), DeathCause::Outside),
            None if nonsense => ("it wrote what is no frame".to_owned(), DeathCause::Own),
            None => ending,
        };
        if !self.shared.killed.load(Ordering::Relaxed) {
            tracing::warn!(engine = self.pid, %status, ?cause, "an engine process ended");
        }
        self.shared.die(&status, cause);
        let _ = died.send(true);
    }

    fn heard(&mut self, message: FromEngine) {
        let (id, event) = match message {
            FromEngine::Ready(report) => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Ok(*report));
                }
                return;
            }
            FromEngine::StartFailed { reason } => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Err(reason));
                }
                return;
            }
            FromEngine::Pong => return,
            FromEngine::Started { id } => (id, WindowEvent::Started),
            FromEngine::Threads { id, threads } => (id, WindowEvent::Threads(threads as usize)),
            FromEngine::Done { id, transcript } => (id, WindowEvent::Ended(Ok(transcript))),
            FromEngine::Failed {
                id, cancelled: true, ..
            } => (id, WindowEvent::Ended(Err(EngineError::Cancelled))),
            FromEngine::Failed { id, detail, .. } => {
                (id, WindowEvent::Ended(Err(EngineError::Window { detail })))
            }
        };
        self.shared.event(id, event);
    }

    /// Asks for an answer; a reason when the process has been silent for too long. A window that hangs does not
    /// silence it: another thread answers.
    fn pulse(&self, silence: Duration) -> Option<&'static str> {
        if silence > STOPPED_AFTER && is_stopped(self.pid) {
            return Some("it was stopped by a signal");
        }
        if silence > FROZEN_AFTER {
            return Some("it stopped answering");
        }
        if let Some(orders) = self.pings.upgrade() {
            let samples = Arc::default();
            let message = ToEngine::Ping;
            let _ = orders.send(Order { message, samples });
        }
        None
    }
}

/// Whether a signal has stopped the process, as Linux tells it.
fn is_stopped(pid: u32) -> bool {
    // `PID (NAME) STATE …`; the name may hold anything.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit(')')
                .next()
                .map(|rest| rest.trim_start().starts_with('T'))
        })
        .unwrap_or(false)
}

async fn wait_ending(child: &mut AsyncChild) -> (String, DeathCause) {
    match tokio::time::timeout(Duration::from_secs(5), child.wait()).await {
        Ok(Ok(status)) => ending(Ending::of(status)),
        Ok(Err(error)) => (error.to_string(), DeathCause::Own),
        Err(_) => {
            // Its pipe is closed or speaks nonsense, and it lives.
            let _ = child.kill().await;
            ("it closed its pipe".to_owned(), DeathCause::Own)
        }
    }
}

/// Faults are the process's own, unless it told that somebody sent the signal; every other signal was sent.
#[cfg(unix)]
fn ending(ending: Ending) -> (String, DeathCause) {
    match ending {
        Ending::Exited(super::signals::EXIT_SIGNAL_WAS_SENT) => {
            ("a fault's signal was sent to it".to_owned(), DeathCause::Outside)
        }
        Ending::Signal(number) if !super::signals::is_fault(number) => {
            (ending.to_string(), DeathCause::Outside)
        }
        _ => (ending.to_string(), DeathCause::Own),
    }
}

#[cfg(not(unix))]
fn ending(ending: Ending) -> (String, DeathCause) {
    (ending.to_string(), DeathCause::Own)
}

/// Gives the child's log lines to `tracing`, and keeps its errors.
async fn read_log(stderr: BufReader<ChildStderr>, shared: Arc<Shared>, pid: u32) {
    let mut lines = stderr.split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let (level, text) = level_and_words(line.trim_end());
        match level {
            'E' => tracing::warn!(target: "whisper_cpp", engine = pid, "{text}"),
            'W' => tracing::debug!(target: "whisper_cpp", engine = pid, "{text}"),
            _ => tracing::trace!(target: "whisper_cpp", engine = pid, "{text}"),
        }
        if level == 'E' && !text.is_empty() {
            let mut log = lock(&shared.log);
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(text.to_owned());
        }
    }
}
