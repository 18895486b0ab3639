//! The server's side of decoder children: some stand ready, each takes one recording.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::recording::{Recording, StopDecoding};
use super::{AudioError, AudioLimits, ChannelMode, UploadedAudio};
use crate::process::{Child, Program, Stdio};

/// Children that wait for a recording. A start takes some tens of milliseconds, a short clip less than ten.
const READY: std::ops::RangeInclusive<usize> = 2..=4;

/// Pause before the next child is started while others are ready: the recording that was just taken comes first.
const REFILL_PAUSE: Duration = Duration::from_millis(50);

/// Pause after a start that failed.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Most bytes of a child's complaints that are looked at.
const COMPLAINT_BYTES: u64 = 4 << 10;

/// How recordings are to be decoded.
#[derive(Debug, Clone)]
pub struct DecoderSettings {
    /// What is started, with the argument `decode`: this very program unless a test says otherwise.
    pub program: PathBuf,
    /// Bounds on a recording.
    pub limits: AudioLimits,
    /// Most memory of a child, beyond what the program itself takes.
    pub memory_bytes: u64,
    /// Most processor time of a child.
    pub cpu: Duration,
    /// Whether an installed `ffmpeg` is asked about formats that are not read here.
    pub ask_ffmpeg: bool,
}

/// Starts decoder children. Cheap to clone; the children that wait end with the last clone.
#[derive(Debug, Clone)]
pub struct Decoders {
    owner: Arc<Owner>,
}

/// Ends the thread that refills.
#[derive(Debug)]
struct Owner {
    pool: Arc<Pool>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.closed = true;
        state.ready.clear();
        self.pool.changed.notify_all();
    }
}

#[derive(Debug)]
struct Pool {
    settings: DecoderSettings,
    state: Mutex<State>,
    /// A child was taken, or is ready, or the pool was closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Idle>,
    /// Requests that wait for a child.
    waiting: usize,
    /// Why the last start failed.
    failure: Option<String>,
    closed: bool,
}

impl Decoders {
    /// Starts the first children in the background.
    ///
    /// # Errors
    ///
    /// When the thread that starts them cannot be.
    pub fn new(settings: DecoderSettings) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            settings,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let ready = std::thread::available_parallelism()
            .map_or(*READY.start(), usize::from)
            .clamp(*READY.start(), *READY.end());
        // Where a child cannot be handed a file none can wait for one.
        let ready = if cfg!(unix) { ready } else { 0 };
        let refilled = pool.clone();
        std::thread::Builder::new()
            .name("decoders".to_owned())
            .spawn(move || refilled.refill(ready))?;
        Ok(Self {
            owner: Arc::new(Owner { pool }),
        })
    }

    /// Begins to decode `upload`; blocks until its format is known.
    ///
    /// # Errors
    ///
    /// Every [`AudioError`] but those that only the samples themselves can show.
    pub fn open(
        &self,
        upload: UploadedAudio,
        mode: ChannelMode,
        stop: &StopDecoding,
    ) -> Result<Recording, AudioError> {
        Recording::open(self.clone(), upload, mode, stop.clone())
    }

    pub(super) fn settings(&self) -> &DecoderSettings {
        &self.owner.pool.settings
    }

    /// A child that waits for a recording.
    pub(super) fn take(&self) -> Result<Idle, AudioError> {
        self.owner.pool.take()
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Idle, AudioError> {
        let mut state = self.lock();
        state.waiting += 1;
        state.failure = None;
        self.changed.notify_all();
        let taken = loop {
            if let Some(idle) = state.ready.pop_front() {
                break Ok(idle);
            }
            if let Some(detail) = &state.failure {
                break Err(AudioError::Internal {
                    detail: format!("a decoder cannot be started: {detail}"),
                });
            }
            if state.closed {
                break Err(AudioError::Cancelled);
            }
            state = self.wait(state);
        };
        state.waiting -= 1;
        self.changed.notify_all();
        taken
    }

    /// Keeps `ready` children ready, until the pool is closed.
    fn refill(&self, ready: usize) {
        loop {
            let mut state = self.lock();
            while !state.closed && state.ready.len() >= ready.max(state.waiting) {
                state = self.wait(state);
            }
            if state.closed {
                return;
            }
            let in_no_hurry = state.ready.len() >= state.waiting.max(1);
            drop(state);
            if in_no_hurry {
                std::thread::sleep(REFILL_PAUSE);
            }
            let started = Idle::start(&self.settings.program);
            let mut state = self.lock();
            match started {
                Ok(idle) if !state.closed => state.ready.push_back(idle),
                Ok(_) => return,
                Err(error) => {
                    state.failure = Some(error.to_string());
                    self.changed.notify_all();
                    drop(state);
                    std::thread::sleep(START_PAUSE);
                    continue;
                }
            }
            self.changed.notify_all();
        }
    }
}

/// A child that waits for a recording.
#[derive(Debug)]
pub(super) struct Idle {
    #[cfg(unix)]
    pub(super) control: super::wire::Control,
    #[cfg(unix)]
    pub(super) child: Child,
    #[cfg(not(unix))]
    program: PathBuf,
}

impl Idle {
    #[cfg(unix)]
    fn start(program: &Path) -> io::Result<Self> {
        let (control, input) = super::wire::Control::pair()?;
        let child = Program::new(program)
            .arg("decode")
            .stdin(std::os::fd::OwnedFd::from(input))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()?;
        Ok(Self { control, child })
    }

    #[cfg(not(unix))]
    fn start(program: &Path) -> io::Result<Self> {
        Ok(Self {
            program: program.to_owned(),
        })
    }

    /// Hands it the recording.
    #[cfg(unix)]
    pub(super) fn begin(self, order: &super::wire::Order, recording: &std::fs::File) -> io::Result<Busy> {
        super::wire::send_order(&self.control, order, recording)?;
        Ok(Busy {
            child: self.child,
            _control: Some(self.control),
        })
    }

    /// Starts a child that reads the recording as its standard input: there is no way to hand it over later.
    #[cfg(not(unix))]
    pub(super) fn begin(self, order: &super::wire::Order, recording: &std::fs::File) -> io::Result<Busy> {
        let child = Program::new(&self.program)
            .arg("decode")
            .arg(serde_json::to_string(order)?)
            .stdin(recording.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()?;
        Ok(Busy {
            child,
            _control: None,
        })
    }
}

/// A child that decodes. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) child: Child,
    #[cfg(unix)]
    _control: Option<super::wire::Control>,
    #[cfg(not(unix))]
    _control: Option<()>,
}

impl Busy {
    /// ffmpeg on a recording, which it reads from its start.
    pub(super) fn ffmpeg(settings: &DecoderSettings, mut recording: &std::fs::File) -> io::Result<Self> {
        // A decoder has read it before.
        recording.seek(SeekFrom::Start(0))?;
        let child = Program::new(&settings.program)
            .args(["decode", "--with-ffmpeg"])
            .arg(settings.limits.max_duration.as_secs().to_string())
            .arg("--memory-bytes")
            .arg(settings.memory_bytes.to_string())
            .arg("--cpu-seconds")
            .arg(settings.cpu.as_secs().to_string())
            .stdin(recording.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .start()?;
        Ok(Self {
            child,
            _control: None,
        })
    }

    /// What it complained about; to be called when it has ended. Whoever else holds the pipe is not waited for.
    pub(super) fn complaint(&mut self) -> String {
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            #[cfg(unix)]
            let _ = rustix::io::ioctl_fionbio(&stderr, true);
            // What was read before the pipe was empty counts.
            let _ = stderr.take(COMPLAINT_BYTES).read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}
