//! What NVIDIA's own tool and kernel module say.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MachineSource;
use crate::process::{CaptureError, Program};

/// How long `nvidia-smi` may take. A healthy one needs well under a second; one whose GPU fell off the bus never ends.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most of its output that is looked at: a line a GPU, and a header.
const MAX_OUTPUT_BYTES: usize = 256 << 10;

/// What `nvidia-smi` answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NvidiaSmi {
    /// The command is not installed.
    #[default]
    NotFound,
    /// It did not end within 3 s.
    TimedOut,
    /// It ended with an error.
    Failed {
        /// Its own words.
        message: String,
    },
    /// It lists the GPUs.
    Answered {
        /// Such as `580.65.06`.
        driver_version: String,
        /// Newest CUDA version the driver serves, such as `13.0`.
        cuda_version: Option<String>,
        /// In the driver's order.
        gpus: Vec<NvidiaGpu>,
    },
}

/// One GPU as the driver lists it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NvidiaGpu {
    /// Product name.
    pub name: String,
    /// Memory in MiB.
    pub memory_total_mib: Option<u64>,
    /// Memory in MiB that nobody uses.
    pub memory_free_mib: Option<u64>,
    /// Such as `8.9`.
    pub compute_capability: Option<String>,
}

/// Runs `nvidia-smi` twice: the list of GPUs, then the header that names the CUDA version.
pub(super) fn ask() -> NvidiaSmi {
    let fields = "--query-gpu=driver_version,name,memory.total,memory.free,compute_cap";
    let Some(mut answer) = run(&[fields, "--format=csv,noheader,nounits"]) else {
        return NvidiaSmi::NotFound;
    };
    // Drivers before 470 do not know `compute_cap`.
    if matches!(&answer, Run::Ended { text, .. } if text.contains("not a valid field")) {
        let fields = "--query-gpu=driver_version,name,memory.total,memory.free";
        answer = run(&[fields, "--format=csv,noheader,nounits"]).unwrap_or(Run::TimedOut);
    }
    match answer {
        Run::TimedOut => NvidiaSmi::TimedOut,
        Run::Ended { success: false, text } => NvidiaSmi::Failed {
            message: one_line(&text),
        },
        Run::Ended { success: true, text } => match parse_list(&text) {
            Some((driver_version, gpus)) => {
                let header = match run(&[]) {
                    Some(Run::Ended { text, .. }) => text,
                    _ => String::new(),
                };
                NvidiaSmi::Answered {
                    driver_version,
                    cuda_version: parse_cuda_version(&header),
                    gpus,
                }
            }
            None => NvidiaSmi::Failed {
                message: one_line(&text),
            },
        },
    }
}

/// Version of the loaded kernel module, from its `/proc` file.
pub(super) fn kernel_module(source: &MachineSource) -> Option<String> {
    parse_module(&source.text("/proc/driver/nvidia/version")?)
}

enum Run {
    Ended { success: bool, text: String },
    TimedOut,
}

/// `None` when the command does not exist.
fn run(arguments: &[&str]) -> Option<Run> {
    // WSL mounts its tool outside `PATH` in some distributions.
    ["nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"]
        .iter()
        .find_map(|command| run_one(command, arguments))
}

fn run_one(command: &str, arguments: &[&str]) -> Option<Run> {
    let captured = Program::new(command)
        .args(arguments)
        .capture(PATIENCE, MAX_OUTPUT_BYTES);
    match captured {
        Ok(captured) => Some(Run::Ended {
            success: captured.ending.is_success(),
            text: [captured.stdout, captured.stderr]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat(),
        }),
        Err(CaptureError::TimedOut(_)) => Some(Run::TimedOut),
        Err(CaptureError::Start(_)) => None,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `driver, name, total, free[, capability]` a line; `[N/A]` where a field has no value.
fn parse_list(text: &str) -> Option<(String, Vec<NvidiaGpu>)> {
    let mut driver = None;
    let mut gpus = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut fields = line.split(',').map(str::trim);
        let version = fields
            .next()
            .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))?;
        driver.get_or_insert_with(|| version.to_owned());
        gpus.push(NvidiaGpu {
            name: fields.next()?.to_owned(),
            memory_total_mib: fields.next().and_then(|number| number.parse().ok()),
            memory_free_mib: fields.next().and_then(|number| number.parse().ok()),
            compute_capability: fields
                .next()
                .filter(|value| value.starts_with(|c: char| c.is_ascii_digit()))
                .map(str::to_owned),
        });
    }
    Some((driver?, gpus))
}

fn parse_cuda_version(header: &str) -> Option<String> {
    let after = header
        .split_once("CUDA Version")?
        .1
        .trim_start_matches([':', ' ']);
    let version: String = after
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    (!version.is_empty()).then_some(version)
}

/// The first word of `NVRM version: … 550.54.15 …` that is a version.
fn parse_module(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    line.split_whitespace()
        .find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
        .map(str::to_owned)
}

/// The user-space driver carries its version in its file name.
pub(crate) fn driver_library_version(library: &super::Library) -> Option<String> {
    let version = library.version.clone()?;
    let whole = library
        .path
        .as_deref()
        .is_some_and(|path| !path.starts_with(Path::new("/usr/lib/wsl")));
    (whole && version.contains('.')).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_gpus_is_read() {
        let text = "580.65.06, NVIDIA H100 80GB HBM3, 81559, 81038, 9.0\n580.65.06, NVIDIA A10, 23028, [N/A], [N/A]\n";
        let (driver, gpus) = parse_list(text).unwrap();
        assert_eq!(driver, "580.65.06");
        assert_eq!(gpus[0].compute_capability.as_deref(), Some("9.0"));
        assert_eq!(gpus[0].memory_free_mib, Some(81_038));
        assert_eq!(gpus[1].name, "NVIDIA A10");
        assert_eq!(gpus[1].memory_free_mib, None);
        assert_eq!(gpus[1].compute_capability, None);
    }

    #[test]
    fn words_instead_of_a_list_are_an_error() {
        assert_eq!(parse_list("No devices were found\n"), None);
    }

    #[test]
    fn the_header_names_the_cuda_version() {
        let header = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |";
        assert_eq!(parse_cuda_version(header).as_deref(), Some("12.4"));
        assert_eq!(parse_cuda_version("CUDA Version: N/A"), None);
    }

    #[test]
    fn the_kernel_module_names_its_version() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n\
                    GCC version:  gcc version 12.2.0";
        assert_eq!(parse_module(text).as_deref(), Some("550.54.15"));
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build";
        assert_eq!(parse_module(open).as_deref(), Some("580.65.06"));
    }
}
