//! What to start, and a child that runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::starter::on_starter;
use super::{Ending, limits};

/// A child that async code waits for; dropping it kills it.
pub type AsyncChild = tokio::process::Child;

/// Pause between two looks at a child that is waited for with a time limit.
const POLL: Duration = Duration::from_millis(5);

/// How long a killed child may take to be gone before a thread waits for it instead of its owner.
const GRACE: Duration = Duration::from_millis(200);

/// A program to start. Its three streams lead nowhere unless said otherwise.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    limits: Limits,
}

impl Program {
    /// `path` as it stands, or searched on the `PATH` when it has no separator.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
            limits: Limits::default(),
        }
    }

    /// What is started.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// One more variable, beside this program's own.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// More variables.
    #[must_use]
    pub fn envs(
        mut self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> Self {
        self.environment.extend(
            variables
                .into_iter()
                .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())),
        );
        self
    }

    /// What it reads.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Where it writes.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Where it complains.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self
    }

    /// All three streams are pipes.
    #[must_use]
    pub fn piped(self) -> Self {
        self.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
    }

    /// Bounds that hold from its first instruction. A child of this very program can set its own with
    /// [`confine`](super::confine).
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// The system's, `NotFound` where there is no such program.
    pub fn start(self) -> io::Result<Child> {
        let mut child = on_starter(move || self.into_command().spawn())?;
        Ok(Child {
            id: child.id(),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            running: Some(child),
            ended: None,
        })
    }

    /// Starts it for async code; must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_async(self) -> io::Result<AsyncChild> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        on_starter(move || {
            let _entered = runtime.enter();
            tokio::process::Command::from(self.into_command())
                .kill_on_drop(true)
                .spawn()
        })
    }

    fn into_command(self) -> Command {
        let mut command = Command::new(self.path);
        command
            .args(self.arguments)
            .envs(self.environment)
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(self.stderr);
        limits::bind(&mut command, self.limits);
        command
    }
}

/// A child that runs. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Child {
    id: u32,
    /// Absent once it was left to the reaper.
    running: Option<std::process::Child>,
    /// Its end of this pipe, if it has one.
    pub stdin: Option<ChildStdin>,
    /// See [`stdin`](Self::stdin).
    pub stdout: Option<ChildStdout>,
    /// See [`stdin`](Self::stdin).
    pub stderr: Option<ChildStderr>,
    ended: Option<Ending>,
}

impl Child {
    /// Its number, which means nothing once it has been waited for.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn try_wait(&mut self) -> io::Result<Option<Ending>> {
        if self.ended.is_none()
            && let Some(child) = &mut self.running
        {
            self.ended = child.try_wait()?.map(Ending::of);
        }
        Ok(self.ended)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait(&mut self) -> io::Result<Ending> {
        let ended = match (self.ended, &mut self.running) {
            (Some(ended), _) => ended,
            (None, Some(child)) => Ending::of(child.wait()?),
            (None, None) => return Err(io::Error::other("the child was given up")),
        };
        self.ended = Some(ended);
        Ok(ended)
    }

    /// Waits for at most `limit`; `None` when it still runs.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<Ending>> {
        let started = Instant::now();
        loop {
            match self.try_wait()? {
                None if started.elapsed() < limit => std::thread::sleep(POLL),
                ended => return Ok(ended),
            }
        }
    }

    /// Sends SIGKILL, or what is like it.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.running {
            // Fails only for a child that has ended already.
            let _ = child.kill();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(Some(_))) {
            return;
        }
        self.kill();
        if matches!(self.wait_for(GRACE), Ok(Some(_))) {
            return;
        }
        // A child that is stuck in a driver does not die of SIGKILL before the driver lets it. Its owner must not hang
        // with it, and somebody has to reap it.
        if let Some(mut child) = self.running.take() {
            let _ = std::thread::Builder::new()
                .name("reaper".to_owned())
                .spawn(move || child.wait());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read;

    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_dropped_child_is_killed_and_reaped() {
        let child = shell("exec sleep 100").start().unwrap();
        let pid = child.id();
        assert!(exists(pid));
        drop(child);
        assert!(!exists(pid), "a zombie, or still alive");
    }

    #[test]
    fn endings_are_told_apart() {
        let end = |script: &str| shell(script).start().unwrap().wait().unwrap();
        assert!(end("exit 0").is_success());
        assert_eq!(end("exit 3").to_string(), "exit code 3");
        assert!(end("kill -KILL $$").is_from_outside());
        let own = end("kill -SEGV $$");
        assert!(!own.is_from_outside());
        assert_eq!(own.to_string(), "segmentation fault");
    }

    #[test]
    fn a_program_that_does_not_exist_says_so() {
        let error = Program::new("/nonexistent/program").start().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn limits_hold_for_programs_that_know_nothing_of_them() {
        let limits = Limits {
            open_files: Some(5),
            file_size_bytes: Some(0),
            ..Limits::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let script = format!("ulimit -n; echo words > '{}'; echo $?", file.display());
        let mut child = shell(&script)
            .stdout(Stdio::piped())
            .limits(limits)
            .start()
            .unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.starts_with("5\n"), "{said}");
        assert_eq!(std::fs::metadata(&file).map_or(0, |m| m.len()), 0);
    }

    #[test]
    fn a_child_that_spins_is_ended_by_its_limit() {
        let limits = Limits {
            cpu: Some(Duration::from_secs(1)),
            ..Limits::default()
        };
        let mut child = shell("while :; do :; done").limits(limits).start().unwrap();
        let ended = child.wait_for(Duration::from_secs(60)).unwrap();
        assert!(ended.is_some_and(Ending::is_cpu_limit), "{ended:?}");
    }

    #[tokio::test]
    async fn async_code_waits_for_a_child_and_kills_it_by_dropping_it() {
        let mut child = shell("exit 7").start_async().unwrap();
        assert_eq!(Ending::of(child.wait().await.unwrap()), Ending::Exited(7));
        let child = shell("exec sleep 100").start_async().unwrap();
        let pid = child.id().unwrap();
        drop(child);
        let started = Instant::now();
        while exists(pid) && started.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!exists(pid));
    }
}
