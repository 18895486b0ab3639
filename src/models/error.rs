//! What can go wrong with a model file, by what the user can do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::catalogue::Checksum;

/// Why a model cannot be named, fetched, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The catalogue has no such name and the folder no such file.
    #[error("unknown model `{name}`{}", near_names(near))]
    Unknown {
        /// As the user wrote it.
        name: String,
        /// Catalogue names that look alike, nearest first; empty when none does.
        near: Vec<String>,
    },
    /// A catalogue model whose file is not on this disk.
    #[error("model `{name}` is not installed (no file `{}`); type `WhisperBackendAPI models pull {name}`", path.display())]
    NotInstalled {
        /// Name in the catalogue.
        name: String,
        /// Where the file would be.
        path: PathBuf,
    },
    /// A path that is neither a file nor the place of a catalogue model.
    #[error("there is no model file `{}`; `WhisperBackendAPI models list` shows the models to choose from", path.display())]
    NoSuchFile {
        /// As configured.
        path: PathBuf,
    },
    /// The bytes are not those that were published.
    #[error("`{}` has {} {actual}, expected {}; the file is damaged or not the published one", path.display(), expected.algorithm(), expected.hex())]
    ChecksumMismatch {
        /// The file that was read.
        path: PathBuf,
        /// What the catalogue (or the import) recorded.
        expected: Checksum,
        /// What the file has, in lower-case hexadecimal.
        actual: String,
    },
    /// Every source of the catalogue entry failed.
    #[error("model `{name}` could not be fetched: {}", said_of(attempts))]
    NoSource {
        /// Name in the catalogue.
        name: String,
        /// Each source that was tried, in order, with its reason.
        attempts: Vec<SourceAttempt>,
    },
    /// Another process is fetching the same file and the caller did not want to wait.
    #[error("another process is fetching `{}`", path.display())]
    Busy {
        /// The file both want.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// No room for the file.
    #[error("not enough disk space for `{}`{}", path.display(), disk_figures(*needed_bytes, *free_bytes))]
    DiskFull {
        /// The file that was to be written.
        path: PathBuf,
        /// Bytes it needs, where known.
        needed_bytes: Option<u64>,
        /// Bytes that are free, where known.
        free_bytes: Option<u64>,
    },
    /// Not a ggml Whisper model, or only a part of one. whisper.cpp would abort on some of these.
    #[error("`{}` is not a usable Whisper model file: {reason}", path.display())]
    Malformed {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A folder (or a checkpoint in it) that the converter does not take.
    #[error("cannot import `{}`: {reason}", path.display())]
    UnsupportedFolder {
        /// The folder or file.
        path: PathBuf,
        /// What is missing or not understood, and what would be accepted.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Verb: `read`, `write`, …
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The catalogue text does not parse; the compiled-in one does, by test.
    #[error("the model catalogue is malformed: {reason}")]
    Catalogue {
        /// Line and cause.
        reason: String,
    },
}

/// One source that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAttempt {
    /// URL, package names, or the model it would be made from.
    pub from: String,
    /// Why it did not give the file, with what would help where that is known.
    pub reason: String,
}

impl ModelError {
    /// Wraps an I/O error; a full disk becomes [`ModelError::DiskFull`].
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Self::DiskFull {
                path: path.to_owned(),
                needed_bytes: None,
                free_bytes: None,
            };
        }
        Self::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::UnsupportedFolder {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// The message with its causes, on one line.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

fn near_names(near: &[String]) -> String {
    if near.is_empty() {
        "; `WhisperBackendAPI models list` shows the known names".to_owned()
    } else {
        format!(
            "; did you mean {}?",
            near.iter()
                .map(|n| format!("`{n}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    }
}

/// Where a model was looked for, and what came of it.
pub fn said_of(attempts: &[SourceAttempt]) -> String {
    if attempts.is_empty() {
        return "the catalogue names no source that is allowed here".to_owned();
    }
    let said: Vec<String> = attempts
        .iter()
        .map(|attempt| format!("{}: {}", attempt.from, attempt.reason))
        .collect();
    said.join("; ")
}

fn disk_figures(needed: Option<u64>, free: Option<u64>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => {
            format!(
                ": it needs {} MB, {} MB are free",
                needed.div_ceil(1_000_000),
                free / 1_000_000
            )
        }
        (Some(needed), None) => format!(": it needs {} MB", needed.div_ceil(1_000_000)),
        _ => String::new(),
    }
}
