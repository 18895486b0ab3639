//! A complete upload.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::AudioError;
use super::sniff::{self, Sniffed};

/// Longest file name kept, in bytes (NAME_MAX of Linux).
const MAX_NAME_BYTES: usize = 255;

/// A complete upload.
pub struct UploadedAudio {
    storage: Storage,
    len: u64,
    file_name: Option<String>,
}

impl UploadedAudio {
    pub(super) fn new(storage: Storage, len: u64, file_name: Option<String>) -> Self {
        Self {
            storage,
            len,
            file_name: file_name.map(limit_name),
        }
    }

    /// A file on this machine (command line, tests).
    ///
    /// # Errors
    ///
    /// [`AudioError::Io`] when it cannot be opened or is not a file.
    pub fn from_path(path: &Path) -> Result<Self, AudioError> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file").into());
        }
        let file_name = path
            .file_name()
            .map(|name| limit_name(name.to_string_lossy().into_owned()));
        Ok(Self {
            storage: Storage::File(file),
            len: metadata.len(),
            file_name,
        })
    }

    /// Bytes in memory (tests, fuzzing).
    pub fn from_bytes(bytes: &[u8], file_name: Option<&str>) -> Result<Self, AudioError> {
        let storage = Storage::Memory(Cursor::new(bytes.to_vec()));
        Ok(Self::new(
            storage,
            bytes.len() as u64,
            file_name.map(str::to_owned),
        ))
    }

    /// Bytes in the upload.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the upload has not one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the sender called it. Never a path to open; never for a log above debug level.
    pub fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// Decides from the bytes, then from the name, what this is. Cheap: reads at most 1 MiB.
    ///
    /// # Errors
    ///
    /// [`AudioError::Empty`], [`AudioError::UnsupportedContainer`], [`AudioError::Unrecognized`] or
    /// [`AudioError::Io`].
    pub fn sniff(&mut self) -> Result<Sniffed, AudioError> {
        sniff::sniff(self)
    }

    /// A file that was opened already, of `len` bytes.
    pub(super) fn from_file(file: File, len: u64, file_name: Option<String>) -> Self {
        Self {
            storage: Storage::File(file),
            len,
            file_name: file_name.map(limit_name),
        }
    }

    /// A file for another process to read, which cannot write to it where the system has a way to say so.
    pub(super) fn into_file(self) -> io::Result<File> {
        let file = match self.storage {
            Storage::File(file) => file,
            Storage::Memory(bytes) => in_memory_file(bytes.get_ref())?,
        };
        Ok(reopen_for_reading(file))
    }

    /// Fills `buffer` from `offset` on as far as the upload reaches; returns the bytes read.
    pub(super) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset >= self.len {
            return Ok(0);
        }
        self.storage.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.storage.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl fmt::Debug for UploadedAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The sender's name for the file stays out of logs.
        f.debug_struct("UploadedAudio")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Where the bytes are.
pub(super) enum Storage {
    Memory(Cursor<Vec<u8>>),
    File(File),
}

impl Read for Storage {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => bytes.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

impl Seek for Storage {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => bytes.seek(position),
            Self::File(file) => file.seek(position),
        }
    }
}

/// A file without a disk.
#[cfg(target_os = "linux")]
fn in_memory_file(bytes: &[u8]) -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};

    let mut file = File::from(memfd_create("recording", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
fn in_memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    Ok(file)
}

/// The same file with a position of its own, and without the right to write. Where there is no `/proc`, or its folder may not
/// be searched any more, the position is shared with the child.
fn reopen_for_reading(file: File) -> File {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;

        if let Ok(reopened) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
            return reopened;
        }
    }
    file
}

/// Cuts a name to [`MAX_NAME_BYTES`], keeping its end (the extension is all that matters).
fn limit_name(name: String) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let mut start = name.len() - MAX_NAME_BYTES;
    while !name.is_char_boundary(start) {
        start += 1;
    }
    name[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_extension_and_stay_out_of_debug_output() {
        let name = format!("{}秘密.mp3", "名".repeat(200));
        let upload = UploadedAudio::from_bytes(b"x", Some(&name)).unwrap();
        assert!(upload.file_name().unwrap().ends_with("秘密.mp3"));
        assert!(upload.file_name().unwrap().len() <= 255);
        assert!(!format!("{upload:?}").contains("mp3"));
    }
}
