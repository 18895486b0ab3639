//! Children of this program: started, limited, spoken to and reaped here and nowhere else.
//!
//! Every child is killed when its handle is dropped, is always waited for, and on Linux asks for a signal for the case
//! that this program ends first. On Windows a job object would do the same; there, children end with their pipes.
//!
//! Knows nobody.

mod capture;
mod ending;
pub mod frame;
mod limits;
mod program;
mod starter;

pub use capture::{CaptureError, Captured};
pub use ending::Ending;
pub use limits::{
    Confinement, Limits, allow_cpu, become_program, claim_stdout, confine, die_with_parent,
    end_first_when_memory_is_short, exit_now, raise_open_files,
};
pub use program::{AsyncChild, Child, Program};

/// Where a stream of a child leads.
pub use std::process::Stdio;

/// Ends of pipes to a child that async code talks to.
pub use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
