//! Checksums of whole files, read in pieces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::ModelError;
use super::catalogue::{Checksum, Entry};
use super::progress::Watch;

/// Both checksums of a file, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// What whisper.cpp publishes for its files.
    pub sha1: String,
    /// What is recorded for files that nobody publishes.
    pub sha256: String,
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
                sha1: hex::encode(self.sha1.finalize()),
                sha256: hex::encode(self.sha256.finalize()),
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

/// Reads the whole file and compares it with what was recorded.
///
/// # Errors
///
/// `ChecksumMismatch`, `Io`, `Cancelled`.
pub(crate) fn verify(path: &Path, expected: &Checksum, watch: Watch<'_>) -> Result<(), ModelError> {
    compare(path, expected, &digests(path, watch)?)
}

/// Reads the whole file and compares it with everything the catalogue knows of it.
///
/// # Errors
///
/// As [`verify`].
pub(crate) fn verify_published(path: &Path, entry: &Entry, watch: Watch<'_>) -> Result<(), ModelError> {
    let digests = digests(path, watch)?;
    compare(path, &entry.checksum, &digests)?;
    match &entry.sha256 {
        Some(sha256) => compare(path, &Checksum::Sha256(sha256.clone()), &digests),
        None => Ok(()),
    }
}

fn compare(path: &Path, expected: &Checksum, digests: &Digests) -> Result<(), ModelError> {
    let actual = match expected {
        Checksum::Sha1(_) => &digests.sha1,
        Checksum::Sha256(_) => &digests.sha256,
    };
    if actual == expected.hex() {
        return Ok(());
    }
    Err(ModelError::ChecksumMismatch {
        path: path.to_owned(),
        expected: expected.clone(),
        actual: actual.clone(),
    })
}

fn digests(path: &Path, watch: Watch<'_>) -> Result<Digests, ModelError> {
    let failed = |e| ModelError::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    watch
        .progress
        .begin(&format!("checking {}", path.display()), Some(length));
    let mut hashes = HashingWriter::new(io::sink());
    let mut buffer = vec![0; 1 << 18];
    loop {
        watch.check()?;
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hashes.finish().1),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hashes.write_all(&buffer[..count]).map_err(failed)?;
        watch.progress.advance(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Silent;

    #[test]
    fn a_file_needs_every_checksum_that_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let watch = Watch::new(&Silent, None);
        // FIPS 180-4, examples of SHA-1 and SHA-256.
        let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let entry = |sha1: &str, sha256: Option<&str>| Entry {
            name: "abc".to_owned(),
            bytes: 3,
            checksum: Checksum::Sha1(sha1.to_owned()),
            sha256: sha256.map(str::to_owned),
            languages: crate::models::Languages::English,
            mels: 80,
            sources: Vec::new(),
        };
        let zeros = "0".repeat(64);
        assert!(verify_published(&path, &entry(sha1, None), watch).is_ok());
        assert!(verify_published(&path, &entry(sha1, Some(sha256)), watch).is_ok());
        for wrong in [entry(&zeros[..40], Some(sha256)), entry(sha1, Some(&zeros))] {
            let outcome = verify_published(&path, &wrong, watch);
            assert!(
                matches!(outcome, Err(ModelError::ChecksumMismatch { .. })),
                "{outcome:?}"
            );
        }
    }
}
