//! The look for GPUs: in a child process of its own, since a driver may end or hang whoever asks it.

use std::time::Duration;

use super::{Launcher, level_and_words};
use crate::engine::message::GpuDevice;
use crate::process::{Ending, Program, Stdio};

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
        let child = Program::new(&self.program)
            .args(["engine", "--devices"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("GGML_NO_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .start_async()
            .map_err(|e| NoGpu::because(format!("`{}` cannot be started: {e}", self.program.display())))?;
        // A child that is dropped is killed.
        let output = tokio::time::timeout(DEVICE_LIMIT, child.wait_with_output())
            .await
            .map_err(|_| {
                let limit = DEVICE_LIMIT.as_secs();
                NoGpu::because(format!("the GPU driver did not answer within {limit} s"))
            })?
            .map_err(|e| NoGpu::because(format!("the search for GPUs cannot be read: {e}")))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = complaints(&stderr);
        let listed: Option<Vec<GpuDevice>> = serde_json::from_slice(&output.stdout)
            .ok()
            .filter(|_| output.status.success());
        let reason = match (listed, said) {
            (Some(devices), _) if !devices.is_empty() => return Ok(devices),
            (Some(_), None) => "ggml found no GPU".to_owned(),
            (Some(_), Some(said)) => format!("ggml found no GPU ({said})"),
            (None, None) => format!("looking for GPUs ended with {}", Ending::of(output.status)),
            (None, Some(said)) => format!(
                "looking for GPUs ended with {}: {said}",
                Ending::of(output.status)
            ),
        };
        let log = search_log(&stderr);
        Err(NoGpu { reason, log })
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
fn complaints(stderr: &str) -> Option<String> {
    let mut complaints: Vec<&str> = Vec::new();
    for (_, words) in lines(stderr).filter(|(level, _)| *level != 'I') {
        if !complaints.contains(&words) {
            complaints.push(words);
        }
    }
    let newest = complaints.len().saturating_sub(COMPLAINTS);
    (!complaints.is_empty()).then(|| complaints[newest..].join("; "))
}

/// Everything it said, for the advice.
fn search_log(stderr: &str) -> Vec<String> {
    let all: Vec<&str> = lines(stderr).map(|(_, words)| words).collect();
    let newest = all.len().saturating_sub(SEARCH_LINES);
    all[newest..].iter().map(|line| (*line).to_owned()).collect()
}
