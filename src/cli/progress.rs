//! Progress on a terminal as a bar, elsewhere as a line now and then.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::models::Progress;

/// Pause between lines where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Shows progress on stderr.
#[derive(Debug)]
pub(super) struct Shown {
    terminal: bool,
    step: Mutex<Step>,
}

#[derive(Debug)]
struct Step {
    bar: Option<ProgressBar>,
    what: String,
    done: u64,
    total: Option<u64>,
    said: Instant,
}

impl Shown {
    pub(super) fn new() -> Self {
        let step = Step {
            bar: None,
            what: String::new(),
            done: 0,
            total: None,
            said: Instant::now(),
        };
        Self {
            terminal: std::io::stderr().is_terminal(),
            step: Mutex::new(step),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = self
            .step
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bar
            .take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Shown {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.finish();
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = if total.is_some() {
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            } else {
                "{msg} {spinner} {bytes} {elapsed}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            step.bar = Some(bar);
        } else {
            super::say_error(what);
        }
        *step = Step {
            bar: step.bar.take(),
            what: what.to_owned(),
            done: 0,
            total,
            said: Instant::now(),
        };
    }

    fn advance(&self, bytes: u64) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        step.done += bytes;
        if let Some(bar) = &step.bar {
            bar.inc(bytes);
        } else if step.said.elapsed() > LINE_PAUSE {
            let mib = step.done >> 20;
            match step.total {
                Some(total) => super::say_error(&format!("{}: {mib} of {} MiB", step.what, total >> 20)),
                None => super::say_error(&format!("{}: {mib} MiB", step.what)),
            }
            step.said = Instant::now();
        }
    }

    fn note(&self, text: &str) {
        let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        match &step.bar {
            Some(bar) => bar.println(text),
            None => super::say_error(text),
        }
    }
}
