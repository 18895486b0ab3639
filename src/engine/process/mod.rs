//! The server's end of an engine: starts the child, speaks frames, and knows when it died.

mod devices;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::EngineError;
use super::message::{DecodeOptions, DeviceReport, EngineSpec, FromEngine, Standing, ToEngine};
use crate::process::frame::{encode_frame, frame_lengths};
use crate::transcript::WindowTranscript;

pub use devices::NoGpu;

/// Error lines kept to explain a death.
const LOG_LINES: usize = 20;

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
    /// This very binary.
    pub fn this_program() -> std::io::Result<Self> {
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

type Waiting = HashMap<u64, oneshot::Sender<Result<WindowTranscript, EngineError>>>;

/// A running engine. Dropping it kills the child.
#[derive(Debug)]
pub struct EngineProcess {
    report: DeviceReport,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    kill: mpsc::UnboundedSender<()>,
    dead: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    log: Mutex<VecDeque<String>>,
    death: Mutex<Option<EngineError>>,
    quiet: AtomicBool,
}

impl Shared {
    fn last_lines(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    fn die(&self, error: &EngineError) {
        let mut death = self.death.lock().unwrap_or_else(PoisonError::into_inner);
        let error = death.get_or_insert_with(|| error.clone()).clone();
        drop(death);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, answer) in waiting {
            let _ = answer.send(Err(error.clone()));
        }
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
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(EngineError::StartFailed {
                reason: "the child has no pipes".to_owned(),
            });
        };
        let log = tokio::spawn(read_log(BufReader::new(stderr), shared.clone(), pid));

        let handshake = async {
            let start = encode_frame(&ToEngine::Start(spec.clone()), &[]).map_err(|e| broken(&e))?;
            stdin.write_all(&start).await.map_err(|e| broken(&e))?;
            read_message(&mut stdout).await.map_err(|e| broken(&e))
        };
        let first = tokio::time::timeout(limit, handshake).await;
        let report = match first {
            Ok(Ok(Some(FromEngine::Ready(report)))) => report,
            Ok(Ok(Some(FromEngine::StartFailed { reason }))) => {
                return Err(EngineError::StartFailed { reason });
            }
            Ok(_) => {
                // Its last words may still be in the pipe.
                let status = wait_status(&mut child).await;
                let _ = tokio::time::timeout(Duration::from_secs(2), log).await;
                return Err(EngineError::Died {
                    status,
                    log: shared.last_lines(),
                });
            }
            Err(_) => {
                return Err(EngineError::Hung {
                    seconds: limit.as_secs_f64(),
                });
            }
        };

        let (frames, queue) = mpsc::unbounded_channel();
        let (kill, killed) = mpsc::unbounded_channel();
        let (died, dead) = watch::channel(false);
        tokio::spawn(write_frames(stdin, queue));
        tokio::spawn(watch_over(child, stdout, killed, shared.clone(), log, died));
        Ok(Self {
            report,
            frames,
            shared,
            next_id: AtomicU64::new(1),
            kill,
            dead,
        })
    }

    /// What it runs on.
    pub fn report(&self) -> &DeviceReport {
        &self.report
    }

    /// Runs a window. Dropping the future tells the engine to give the window up.
    ///
    /// # Errors
    ///
    /// `Died` when the process ends first, `Hung` after [`EngineProcess::kill`], `Window`, `Cancelled`.
    pub async fn run(
        &self,
        samples: &[f32],
        options: &DecodeOptions,
        threads: u32,
        standing: Standing,
    ) -> Result<WindowTranscript, EngineError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = ToEngine::Window {
            id,
            threads,
            standing,
            options: options.clone(),
        };
        let frame = encode_frame(&message, samples).map_err(|e| EngineError::Window {
            detail: e.to_string(),
        })?;
        let (answer, result) = oneshot::channel();
        self.shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, answer);
        let guard = CancelOnDrop { engine: self, id };
        let _ = self.frames.send(frame);
        if let Some(error) = self
            .shared
            .death
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
        {
            return Err(error);
        }
        let outcome = result.await.unwrap_or(Err(EngineError::Cancelled));
        std::mem::forget(guard);
        outcome
    }

    /// Kills the child; windows in flight fail with `error`.
    pub fn kill(&self, error: &EngineError) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.shared.die(error);
        let _ = self.kill.send(());
    }

    /// Resolves when the child is gone.
    pub async fn gone(&self) {
        let mut dead = self.dead.clone();
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// True once the child is gone.
    pub fn is_gone(&self) -> bool {
        *self.dead.borrow()
            || self
                .shared
                .death
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
    }

    /// Why it is gone.
    pub fn death(&self) -> Option<EngineError> {
        self.shared
            .death
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct CancelOnDrop<'e> {
    engine: &'e EngineProcess,
    id: u64,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.engine
            .shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        if let Ok(frame) = encode_frame(&ToEngine::Cancel { id: self.id }, &[]) {
            let _ = self.engine.frames.send(frame);
        }
    }
}

fn spawn(launcher: &Launcher) -> Result<Child, EngineError> {
    let mut command = Command::new(&launcher.program);
    command
        .arg("engine")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // No debugger is started when ggml aborts.
        .env("GGML_NO_BACKTRACE", "1");
    // A user's own choice wins, whole.
    if THREAD_WAITING
        .iter()
        .all(|(name, _)| std::env::var_os(name).is_none())
    {
        command.envs(THREAD_WAITING);
    }
    for (name, value) in &launcher.environment {
        command.env(name, value);
    }
    // Ctrl-C in a terminal goes to the whole group; only the server shall hear it.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().map_err(|e| EngineError::StartFailed {
        reason: format!("`{}` cannot be started: {e}", launcher.program.display()),
    })
}

fn broken(error: &std::io::Error) -> EngineError {
    EngineError::StartFailed {
        reason: format!("the engine's pipe broke: {error}"),
    }
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

async fn write_frames(mut stdin: ChildStdin, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if stdin.write_all(&frame).await.is_err() {
            return; // `watch_over` sees the end of stdout and tells everybody
        }
    }
}

async fn watch_over(
    mut child: Child,
    mut stdout: ChildStdout,
    mut killed: mpsc::UnboundedReceiver<()>,
    shared: Arc<Shared>,
    log: tokio::task::JoinHandle<()>,
    died: watch::Sender<bool>,
) {
    loop {
        let message = tokio::select! {
            message = read_message(&mut stdout) => message,
            // Also when the `EngineProcess` was dropped: the channel closes.
            _ = killed.recv() => {
                shared.quiet.store(true, Ordering::Relaxed);
                let _ = child.start_kill();
                break;
            }
        };
        let (id, result) = match message {
            Ok(Some(FromEngine::Done { id, transcript })) => (id, Ok(transcript)),
            Ok(Some(FromEngine::Failed {
                id, cancelled: true, ..
            })) => (id, Err(EngineError::Cancelled)),
            Ok(Some(FromEngine::Failed { id, detail, .. })) => (id, Err(EngineError::Window { detail })),
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => break,
        };
        let waiting = shared
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Some(answer) = waiting {
            let _ = answer.send(result);
        }
    }
    let status = wait_status(&mut child).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), log).await;
    if !shared.quiet.load(Ordering::Relaxed) {
        tracing::warn!(%status, "an engine process ended");
    }
    shared.die(&EngineError::Died {
        status,
        log: shared.last_lines(),
    });
    let _ = died.send(true);
}

async fn wait_status(child: &mut Child) -> String {
    match tokio::time::timeout(Duration::from_secs(5), child.wait()).await {
        Ok(Ok(status)) => describe(status),
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            let _ = child.kill().await;
            "it stopped answering".to_owned()
        }
    }
}

#[cfg(unix)]
fn describe(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(4) => "illegal instruction: the build is for another processor".to_owned(),
        Some(6) => "abort".to_owned(),
        Some(9) => "killed".to_owned(),
        Some(11) => "segmentation fault".to_owned(),
        Some(number) => format!("signal {number}"),
        None if status.code() == Some(127) => "a library is missing".to_owned(),
        None => status.to_string(),
    }
}

#[cfg(not(unix))]
fn describe(status: std::process::ExitStatus) -> String {
    status.to_string()
}

/// Gives the child's log lines to `tracing`, and keeps its errors.
async fn read_log(stderr: BufReader<tokio::process::ChildStderr>, shared: Arc<Shared>, pid: u32) {
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
            let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(text.to_owned());
        }
    }
}
