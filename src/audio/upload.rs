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

    /// The same upload twice: one to try, one to give to ffmpeg. Copies what is in memory.
    pub(super) fn duplicate(self) -> io::Result<(Self, Self)> {
        let Self {
            storage,
            len,
            file_name,
        } = self;
        let (one, other) = match storage {
            Storage::File(file) => (Storage::File(file.try_clone()?), Storage::File(file)),
            Storage::Memory(bytes) => (Storage::Memory(bytes.clone()), Storage::Memory(bytes)),
        };
        Ok((
            Self {
                storage: one,
                len,
                file_name: file_name.clone(),
            },
            Self {
                storage: other,
                len,
                file_name,
            },
        ))
    }

    /// A file that another process can read from its start.
    pub(super) fn into_file(self) -> io::Result<File> {
        let mut file = match self.storage {
            Storage::File(file) => file,
            Storage::Memory(bytes) => {
                let mut file = tempfile::tempfile()?;
                file.write_all(bytes.get_ref())?;
                file
            }
        };
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
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
