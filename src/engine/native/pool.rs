//! The threads that run windows: a conductor for each core, and teams for windows that run alone on several.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use whisper_native::Team;

use super::conductor::{Conductor, Job};
use super::{Model, windows_per_core};
use crate::engine::decode::StepError;
use crate::engine::message::DecodeOptions;
use crate::engine::preemption::Control;
use crate::transcript::WindowTranscript;

/// Teams of several threads that are kept: one at each of the sizes that a busy machine goes through.
const TEAMS: usize = 3;

/// Windows that wait for one core, and how many it runs.
#[derive(Default)]
struct Line {
    waiting: Mutex<VecDeque<Job>>,
    came: Condvar,
    /// Waiting and running.
    load: AtomicUsize,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next window, if one waits.
    fn next(&self) -> Option<Job> {
        self.lock().pop_front()
    }

    /// The next window that somebody waits for, if one waits.
    fn next_urgent(&self) -> Option<Job> {
        let mut waiting = self.lock();
        let index = waiting.iter().position(|job| job.options.urgent)?;
        waiting.remove(index)
    }

    /// The next window, when it comes.
    fn wait(&self) -> Job {
        let mut waiting = self.lock();
        loop {
            if let Some(job) = waiting.pop_front() {
                return job;
            }
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// All threads of the engine.
pub(super) struct Pool {
    model: Arc<Model>,
    lines: Vec<Arc<Line>>,
    /// Teams of several threads that nobody uses just now.
    wide: Mutex<Vec<Team>>,
}

impl Pool {
    /// A conductor for each of `cores`.
    pub(super) fn start(model: Arc<Model>, cores: usize) -> Result<Self, String> {
        let mut lines = Vec::with_capacity(cores);
        for number in 0..cores {
            let line = Arc::new(Line::default());
            let (model, own) = (model.clone(), line.clone());
            std::thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || conduct(&model, &own))
                .map_err(|e| format!("a thread could not be started: {e}"))?;
            lines.push(line);
        }
        Ok(Self {
            model,
            lines,
            wide: Mutex::default(),
        })
    }
}

impl Pool {
    /// Runs a window to its end: on a team of its own where it may use several cores, else beside others on one core.
    pub(super) fn run(
        &self,
        samples: &[f32],
        options: &DecodeOptions,
        threads: usize,
        control: &Control,
    ) -> Result<WindowTranscript, StepError> {
        let (answer, result) = mpsc::channel();
        let job = Job {
            samples: samples.to_vec(),
            options: options.clone(),
            control: control.clone(),
            answer,
        };
        if threads > 1 {
            self.run_alone(job, threads);
        } else {
            self.queue(job);
        }
        result
            .recv()
            .unwrap_or_else(|_| Err(StepError::Engine("the window's thread ended".to_owned())))
    }

    /// A first run on a team and on each core, so that no window pays for it.
    pub(super) fn warm(&self, threads: usize) -> Result<(), String> {
        let mut team = self.team(threads);
        self.model.warm(&mut team)?;
        self.keep(team);
        Ok(())
    }

    fn queue(&self, job: Job) {
        let least = self
            .lines
            .iter()
            .min_by_key(|line| line.load.load(Ordering::Relaxed));
        if let Some(line) = least {
            line.load.fetch_add(1, Ordering::Relaxed);
            line.lock().push_back(job);
            line.came.notify_one();
        }
    }

    fn run_alone(&self, job: Job, threads: usize) {
        let control = job.control.clone();
        let mut conductor = Conductor::new(self.model.clone(), self.team(threads));
        conductor.begin(job);
        while !conductor.is_empty() {
            // Whoever asks has left the other cores.
            let threads = control.threads();
            if threads != conductor.threads() {
                self.keep(conductor.change_team(self.team(threads)));
            }
            // The server pauses a window that runs alone as a whole.
            conductor.round(&|control, _| control.cancelled());
        }
        self.keep(conductor.into_team());
    }

    fn team(&self, threads: usize) -> Team {
        let mut wide = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        match wide.iter().position(|team| team.threads() == threads) {
            Some(index) => wide.swap_remove(index),
            None => Team::new(threads),
        }
    }

    fn keep(&self, team: Team) {
        let mut wide = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
        if wide.len() == TEAMS {
            wide.remove(0);
        }
        wide.push(team);
    }
}

/// Runs the windows of one core for as long as the process lives.
fn conduct(model: &Arc<Model>, line: &Line) {
    let _guard = AbortOnPanic;
    let mut conductor = Conductor::new(model.clone(), Team::new(1));
    // For windows that cannot wait until an encode is over.
    let express = RefCell::new(None);
    let most = windows_per_core(&model.weights);
    loop {
        if conductor.is_empty() {
            conductor.begin(line.wait());
        }
        while conductor.len() < most
            && let Some(job) = line.next()
        {
            conductor.begin(job);
        }
        let before = conductor.len();
        conductor.round(&|control: &Control, urgent| {
            if !urgent && let Some(job) = line.next_urgent() {
                let mut express = express.borrow_mut();
                let express = express.get_or_insert_with(|| Conductor::new(model.clone(), Team::new(1)));
                express.begin(job);
                while !express.is_empty() {
                    express.round(&|control, _| control.cancel_requested());
                }
                line.load.fetch_sub(1, Ordering::Relaxed);
            }
            control.cancel_requested()
        });
        let ended = before - conductor.len();
        line.load.fetch_sub(ended, Ordering::Relaxed);
    }
}

/// A conductor that panics takes the process with it: its windows would wait for ever, and the server starts another.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
