//! An upload on its way in, and once it is complete.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{SpooledData, SpooledTempFile};

use super::AudioError;
use super::sniff::{self, Sniffed};

/// Longest file name kept, in bytes (NAME_MAX of Linux).
const MAX_NAME_BYTES: usize = 255;

/// An upload on its way in: memory below a threshold, then an unnamed temporary file.
///
/// The file has no name in any folder from the moment it is made (where the system allows), so it is gone with
/// the process whatever happens.
#[derive(Debug)]
pub struct Spool {
    file: SpooledTempFile,
    len: u64,
    max_bytes: u64,
}

impl Spool {
    /// Keeps `memory_bytes` in memory, then everything in a temporary file in `dir` (absent: the system's folder);
    /// refuses more than `max_bytes`.
    pub fn new(memory_bytes: usize, max_bytes: u64, dir: Option<PathBuf>) -> Self {
        let file = match dir {
            Some(dir) => tempfile::spooled_tempfile_in(memory_bytes, dir),
            None => tempfile::spooled_tempfile(memory_bytes),
        };
        Self {
            file,
            len: 0,
            max_bytes,
        }
    }

    /// Appends `chunk`.
    ///
    /// # Errors
    ///
    /// [`AudioError::TooLarge`] when the upload passes `max_bytes` (nothing of `chunk` is kept then);
    /// [`AudioError::Io`] when the disk refuses.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), AudioError> {
        let seen = self.len.saturating_add(chunk.len() as u64);
        if seen > self.max_bytes {
            return Err(AudioError::TooLarge {
                limit_bytes: self.max_bytes,
                seen_bytes: seen,
            });
        }
        self.file.write_all(chunk)?;
        self.len = seen;
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The complete upload. `file_name` is what the sender calls it; it only helps to guess the format.
    ///
    /// # Errors
    ///
    /// [`AudioError::Io`] when the temporary file cannot be rewound.
    pub fn finish(mut self, file_name: Option<String>) -> Result<UploadedAudio, AudioError> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(UploadedAudio {
            storage: Storage::Spooled(self.file),
            len: self.len,
            file_name: file_name.map(limit_name),
        })
    }
}

/// A complete upload.
pub struct UploadedAudio {
    storage: Storage,
    len: u64,
    file_name: Option<String>,
}

impl UploadedAudio {
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
        let mut spool = Spool::new(bytes.len(), u64::MAX, None);
        spool.write(bytes)?;
        spool.finish(file_name.map(str::to_owned))
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
            Storage::Spooled(file) => match file.into_inner() {
                SpooledData::OnDisk(file) => file,
                SpooledData::InMemory(bytes) => in_memory_file(bytes.get_ref())?,
            },
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
enum Storage {
    Spooled(SpooledTempFile),
    File(File),
}

impl Read for Storage {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Spooled(file) => file.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

impl Seek for Storage {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Spooled(file) => file.seek(position),
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
    fn an_upload_may_be_as_large_as_the_limit_and_not_a_byte_larger() {
        let mut spool = Spool::new(4, 10, None);
        spool.write(b"0123456789").unwrap();
        match spool.write(b"x") {
            Err(AudioError::TooLarge {
                limit_bytes: 10,
                seen_bytes: 11,
            }) => {}
            other => panic!("{other:?}"),
        }
        let mut upload = spool.finish(Some("a.wav".into())).unwrap();
        assert_eq!(upload.len(), 10);
        let mut back = [0; 16];
        assert_eq!(upload.read_at(3, &mut back).unwrap(), 7);
        assert_eq!(&back[..7], b"3456789");
    }

    #[test]
    fn a_spooled_file_leaves_nothing_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(16, 1 << 20, Some(dir.path().to_path_buf()));
        spool.write(&[7; 4096]).unwrap();
        let upload = spool.finish(None).unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the temporary file has a name"
        );
        drop(upload);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_spool_folder_is_an_error_only_once_the_memory_is_full() {
        let mut spool = Spool::new(8, 100, Some("/nonexistent/folder".into()));
        spool.write(b"1234").unwrap();
        assert!(matches!(spool.write(b"567890"), Err(AudioError::Io(_))));
    }

    #[test]
    fn long_names_keep_their_extension_and_stay_out_of_debug_output() {
        let name = format!("{}秘密.mp3", "名".repeat(200));
        let upload = UploadedAudio::from_bytes(b"x", Some(&name)).unwrap();
        assert!(upload.file_name().unwrap().ends_with("秘密.mp3"));
        assert!(upload.file_name().unwrap().len() <= 255);
        assert!(!format!("{upload:?}").contains("mp3"));
    }
}
