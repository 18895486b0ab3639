//! How a child ended.

use std::fmt;
use std::process::ExitStatus;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal (numbers of Linux on x86 and Arm, which macOS shares for those named here).
    Signal(i32),
}

/// Signal numbers (POSIX, and `signal(7)` of Linux).
mod signal {
    pub(super) const HANG_UP: i32 = 1;
    pub(super) const INTERRUPT: i32 = 2;
    pub(super) const ILLEGAL_INSTRUCTION: i32 = 4;
    pub(super) const ABORT: i32 = 6;
    pub(super) const KILL: i32 = 9;
    pub(super) const SEGMENTATION_FAULT: i32 = 11;
    pub(super) const TERMINATE: i32 = 15;
    pub(super) const CPU_LIMIT: i32 = 24;
    pub(super) const FILE_LIMIT: i32 = 25;
}

impl Ending {
    /// What `status` says.
    pub fn of(status: ExitStatus) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::process::ExitStatusExt;
            if let Some(number) = status.signal() {
                return Self::Signal(number);
            }
        }
        Self::Exited(status.code().unwrap_or(-1))
    }

    /// Whether it ended as it should.
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// Whether somebody else ended it: an operator, or the kernel when memory was short. Programs do not send
    /// themselves these signals.
    pub fn is_from_outside(self) -> bool {
        matches!(
            self,
            Self::Signal(signal::HANG_UP | signal::INTERRUPT | signal::KILL | signal::TERMINATE)
        )
    }

    /// Whether its processor time was used up ([`Limits::cpu`](super::Limits)).
    pub fn is_cpu_limit(self) -> bool {
        self == Self::Signal(signal::CPU_LIMIT)
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        Self::of(status)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            // The dynamic linker's code.
            Self::Exited(127) => "a library is missing",
            Self::Exited(code) => return write!(f, "exit code {code}"),
            Self::Signal(signal::ILLEGAL_INSTRUCTION) => {
                "illegal instruction: the build is for another processor"
            }
            Self::Signal(signal::ABORT) => "abort",
            Self::Signal(signal::KILL) => "killed",
            Self::Signal(signal::SEGMENTATION_FAULT) => "segmentation fault",
            Self::Signal(signal::CPU_LIMIT) => "processor time used up",
            Self::Signal(signal::FILE_LIMIT) => "an attempt to write a file",
            Self::Signal(number) => return write!(f, "signal {number}"),
        };
        f.write_str(words)
    }
}
