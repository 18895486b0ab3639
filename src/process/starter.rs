//! The one thread that starts children.
//!
//! On Linux the parent-death signal is sent when the *thread* that started a child ends (prctl(2)), and the threads of
//! a runtime come and go. This one lives as long as the program.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

type Work = Box<dyn FnOnce() + Send>;

/// Runs `start` on the starting thread, and waits for it.
pub(super) fn on_starter<T: Send + 'static>(
    start: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static STARTER: OnceLock<Option<Sender<Work>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, work) = channel::<Work>();
        std::thread::Builder::new()
            .name("starter".to_owned())
            .spawn(move || work.into_iter().for_each(|start| start()))
            .ok()
            .map(|_| send)
    });
    let gone = || io::Error::other("the thread that starts children cannot be started");
    let (answer, started) = channel();
    let work = Box::new(move || {
        let _ = answer.send(start());
    });
    starter
        .as_ref()
        .ok_or_else(gone)?
        .send(work)
        .map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}
