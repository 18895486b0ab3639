//! The look for GPUs: in a child process of its own, since a driver may end or hang whoever asks it.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Launcher, describe, level_and_words};
use crate::engine::message::GpuDevice;

/// Complaints of a search for devices that are told in its reason: one for each backend that a binary can hold.
const COMPLAINTS: usize = 4;

/// Lines of such a search that are kept: several backends with several devices each.
const SEARCH_LINES: usize = 60;

/// Drivers that start up, and shader caches, may take this long.
const DEVICE_LIMIT: Duration = Duration::from_secs(60);

/// Why no GPU can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoGpu {
    /// One sentence.
    pub reason: String,
    /// What ggml said while it looked, oldest line first.
    pub log: Vec<String>,
}

impl NoGpu {
    /// Without a word of ggml.
    pub fn because(reason: String) -> Self {
        Self {
            reason,
            log: Vec::new(),
        }
    }
}

impl Launcher {
    /// Asks a child which GPUs ggml can use; a driver that ends the process ends only that child.
    ///
    /// # Errors
    ///
    /// One sentence with its last words, and all of them.
    pub async fn list_gpus(&self) -> Result<Vec<GpuDevice>, NoGpu> {
        let mut command = Command::new(&self.program);
        command
            .args(["engine", "--devices"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
            .env("GGML_NO_BACKTRACE", "1")
            .envs(self.environment.iter().cloned());
        let output = tokio::time::timeout(DEVICE_LIMIT, command.output())
            .await
            .map_err(|_| {
                let limit = DEVICE_LIMIT.as_secs();
                NoGpu::because(format!("the GPU driver did not answer within {limit} s"))
            })?
            .map_err(|e| NoGpu::because(format!("`{}` cannot be started: {e}", self.program.display())))?;
        if output.status.success()
            && let Ok(devices) = serde_json::from_slice::<Vec<GpuDevice>>(&output.stdout)
        {
            if !devices.is_empty() {
                return Ok(devices);
            }
            let reason = complaints(&output.stderr).map_or_else(
                || "ggml found no GPU".to_owned(),
                |line| format!("ggml found no GPU ({line})"),
            );
            return Err(NoGpu {
                reason,
                log: search_log(&output.stderr),
            });
        }
        let said = complaints(&output.stderr)
            .map(|line| format!(": {line}"))
            .unwrap_or_default();
        Err(NoGpu {
            reason: format!("looking for GPUs ended with {}{said}", describe(output.status)),
            log: search_log(&output.stderr),
        })
    }
}

/// The lines that are more than debugging.
fn lines(stderr: &str) -> impl Iterator<Item = (char, &str)> {
    stderr
        .lines()
        .map(|line| level_and_words(line.trim_end()))
        .filter(|(level, words)| *level != 'D' && !words.is_empty())
}

/// What a child complained about while it looked for devices, one line for each backend that has none.
fn complaints(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let mut complaints: Vec<&str> = Vec::new();
    for (_, words) in lines(&text).filter(|(level, _)| *level != 'I') {
        if !complaints.contains(&words) {
            complaints.push(words);
        }
    }
    let newest = complaints.len().saturating_sub(COMPLAINTS);
    (!complaints.is_empty()).then(|| complaints[newest..].join("; "))
}

/// Everything it said, for the advice.
fn search_log(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stderr);
    let all: Vec<&str> = lines(&text).map(|(_, words)| words).collect();
    let newest = all.len().saturating_sub(SEARCH_LINES);
    all[newest..].iter().map(|line| (*line).to_owned()).collect()
}
