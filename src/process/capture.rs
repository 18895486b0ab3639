//! A program's output, with bounds on time and size.

use std::io::Read;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{Ending, Program};

/// What a program said.
#[derive(Debug, Clone)]
pub struct Captured {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its complaints.
    pub stderr: Vec<u8>,
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be started.
    #[error(transparent)]
    Start(#[from] std::io::Error),
    /// It did not end in time, and was killed.
    #[error("it did not end within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

impl Program {
    /// Starts it and collects what it says: `most_bytes` of each stream, the rest is read and dropped. It is killed
    /// after `limit`.
    ///
    /// # Errors
    ///
    /// [`CaptureError`].
    pub fn capture(self, limit: Duration, most_bytes: usize) -> Result<Captured, CaptureError> {
        let deadline = Instant::now() + limit;
        let mut child = self.stdout(Stdio::piped()).stderr(Stdio::piped()).start()?;
        // Side by side: a program that waits for a full pipe to be emptied never ends.
        let stdout = collect(child.stdout.take(), most_bytes)?;
        let stderr = collect(child.stderr.take(), most_bytes)?;
        let left = || deadline.saturating_duration_since(Instant::now());
        let timed_out = || CaptureError::TimedOut(limit);
        // A grandchild may hold the pipes open for longer than the program lives, and the program may close them early.
        let ending = child.wait_for(limit)?.ok_or_else(timed_out)?;
        Ok(Captured {
            ending,
            stdout: stdout.recv_timeout(left()).map_err(|_| timed_out())?,
            stderr: stderr.recv_timeout(left()).map_err(|_| timed_out())?,
        })
    }
}

/// Reads a stream to its end on a thread of its own, since pipes cannot be read with a time limit.
fn collect(
    from: Option<impl Read + Send + 'static>,
    most_bytes: usize,
) -> std::io::Result<Receiver<Vec<u8>>> {
    let (send, receive) = channel();
    std::thread::Builder::new()
        .name("capture".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut from) = from {
                // What was read before an error counts.
                let _ = from.by_ref().take(most_bytes as u64).read_to_end(&mut bytes);
                let _ = std::io::copy(&mut from, &mut std::io::sink());
            }
            let _ = send.send(bytes);
        })?;
    Ok(receive)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const AMPLE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn chatter_on_one_stream_does_not_hide_the_other() {
        let script = "head -c 300000 /dev/zero >&2; echo words; exit 2";
        let captured = shell(script).capture(AMPLE, 1000).unwrap();
        assert_eq!(captured.ending, Ending::Exited(2));
        assert_eq!(captured.stdout, b"words\n");
        assert_eq!(captured.stderr.len(), 1000);
    }

    #[test]
    fn a_program_that_never_ends_is_killed_and_reaped() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("echo $$ > '{}'; exec sleep 100", pid_file.display());
        let result = shell(&script).capture(Duration::from_millis(500), 1000);
        assert!(matches!(result, Err(CaptureError::TimedOut(_))), "{result:?}");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
    }
}
