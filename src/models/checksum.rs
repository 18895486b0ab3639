//! Checksums of whole files, read in pieces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::ModelError;
use super::catalogue::Checksum;
use super::progress::Watch;

/// Both checksums of a file, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// What whisper.cpp publishes for its files.
    pub sha1: String,
    /// What is recorded for files that nobody publishes.
    pub sha256: String,
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Passes bytes on and counts them into both checksums.
pub(crate) struct HashingWriter<W> {
    inner: W,
    sha1: Sha1,
    sha256: Sha256,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            sha1: Sha1::new(),
            sha256: Sha256::new(),
        }
    }

    pub(crate) fn finish(self) -> (W, Digests) {
        (
            self.inner,
            Digests {
                sha1: hex(&self.sha1.finalize()),
                sha256: hex(&self.sha256.finalize()),
            },
        )
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.sha1.update(&buffer[..count]);
        self.sha256.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads the whole file and compares.
///
/// # Errors
///
/// `ChecksumMismatch`, `Io`, `Cancelled`.
pub(crate) fn verify(path: &Path, expected: &Checksum, watch: Watch<'_>) -> Result<(), ModelError> {
    let actual = match expected {
        Checksum::Sha1(_) => digest::<Sha1>(path, watch)?,
        Checksum::Sha256(_) => digest::<Sha256>(path, watch)?,
    };
    if actual == expected.hex() {
        return Ok(());
    }
    Err(ModelError::ChecksumMismatch {
        path: path.to_owned(),
        expected: expected.clone(),
        actual,
    })
}

fn digest<D: Digest>(path: &Path, watch: Watch<'_>) -> Result<String, ModelError> {
    let failed = |e| ModelError::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    watch
        .progress
        .begin(&format!("checking {}", path.display()), Some(length));
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        watch.check()?;
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&digest.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        digest.update(&buffer[..count]);
        watch.progress.advance(count as u64);
    }
}
