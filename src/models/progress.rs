//! How long work reports where it is, and how it is stopped.

use std::sync::atomic::{AtomicBool, Ordering};

use super::ModelError;

/// Told about the steps of a download, a conversion or a check. Called from the thread that does the work.
pub trait Progress {
    /// A step starts; `total` is its size in bytes where it is known. The step before is over.
    fn begin(&self, what: &str, total: Option<u64>);
    /// `bytes` more of the step are done.
    fn advance(&self, bytes: u64);
    /// Something worth a line: a source that failed, a wait for another process.
    fn note(&self, text: &str);
}

/// Reports to nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
}

/// Progress and cancellation together, as every long function takes them.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: Option<&'a AtomicBool>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, cancel: Option<&'a AtomicBool>) -> Self {
        Self { progress, cancel }
    }

    /// # Errors
    ///
    /// [`ModelError::Cancelled`] once the flag is set.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(ModelError::Cancelled),
            _ => Ok(()),
        }
    }
}
