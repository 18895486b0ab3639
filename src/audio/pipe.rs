//! A child's output, read with a limit on how long it may be silent.

use std::io::{self, Read};
use std::process::ChildStdout;
use std::time::Duration;

use super::decoders::Busy;

/// Longest silence of a child that is being waited for; it says something every two seconds even when it finds
/// nothing, so this is one that was stopped, or a machine beyond all hope.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Reads a child's output; `TimedOut` when the child is silent for too long.
#[derive(Debug)]
pub(super) struct ChildOutput {
    pipe: ChildStdout,
}

impl ChildOutput {
    /// The output of `busy`, which must not have been taken before.
    pub(super) fn of(busy: &mut Busy) -> io::Result<Self> {
        let pipe = busy
            .child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("the child has no output"))?;
        Ok(Self { pipe })
    }
}

impl Read for ChildOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        wait(&self.pipe)?;
        self.pipe.read(buffer)
    }
}

/// Waits until there is something to read, or nothing ever will be.
#[cfg(unix)]
fn wait(pipe: &ChildStdout) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let limit = Timespec {
        tv_sec: LONGEST_SILENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
