//! An upload on its way in: memory below a threshold, then a file without a name on a disk.

use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::AudioError;
use super::upload::{Storage, UploadedAudio};

/// Names of files that could not be made without one begin so, for [`SpoolFolder::sweep`].
const PREFIX: &str = "WhisperBackendAPI-spool-";
/// Bytes that are left free on the disk for everybody else.
const KEEP_FREE_BYTES: u64 = 512 << 20;
/// How much is written between two looks at the free space.
const LOOK_BYTES: u64 = 64 << 20;

/// Where uploads are kept that do not fit in memory.
#[derive(Debug)]
pub struct SpoolFolder {
    path: PathBuf,
    keep_free_bytes: u64,
}

impl SpoolFolder {
    /// The configured folder, else the first of `/var/tmp` and the system's temporary folder that can be written and is
    /// no RAM disk: `/tmp` is one on many systems, and an upload "on disk" there takes memory.
    pub fn choose(configured: Option<&Path>) -> Self {
        let path = configured.map_or_else(
            || {
                let system = std::env::temp_dir();
                let candidates = [PathBuf::from("/var/tmp"), system.clone()];
                let usable = |path: &&PathBuf| tempfile::tempfile_in(path).is_ok();
                let on_disk = candidates.iter().find(|path| !is_ram(path) && usable(path));
                on_disk
                    .or_else(|| candidates.iter().find(usable))
                    .cloned()
                    .unwrap_or(system)
            },
            Path::to_path_buf,
        );
        if is_ram(&path) {
            tracing::warn!(
                folder = %path.display(),
                "uploads are kept on a RAM disk and take memory; set `audio.spool_dir` to a folder on a disk"
            );
        }
        Self::in_folder(path)
    }

    /// That folder, whatever it lies on.
    pub fn in_folder(path: PathBuf) -> Self {
        Self {
            path,
            keep_free_bytes: KEEP_FREE_BYTES,
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that uploads may still take; `None` where the system does not say.
    #[cfg(unix)]
    pub fn room(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Some(free.saturating_sub(self.keep_free_bytes))
    }

    /// Bytes that uploads may still take; `None` where the system does not say.
    #[cfg(not(unix))]
    pub fn room(&self) -> Option<u64> {
        None
    }

    /// Removes what killed servers left. Files without a name leave nothing; on file systems that make none, a server
    /// killed between making and unlinking a file leaves one with our prefix. Returns how many there were.
    pub fn sweep(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return 0;
        };
        let left = entries.flatten().filter(|entry| {
            entry.file_name().to_string_lossy().starts_with(PREFIX)
                && entry.file_type().is_ok_and(|kind| kind.is_file())
                && is_ours(entry)
        });
        left.filter(|entry| std::fs::remove_file(entry.path()).is_ok())
            .count()
    }

    fn file(&self) -> io::Result<File> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
            match rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(file.into()),
                // A file system or kernel without it.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.named()
    }

    /// Made with a name that is taken away at once.
    fn named(&self) -> io::Result<File> {
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(&self.path)?;
        let (file, path) = file.into_parts();
        path.close()?;
        Ok(file)
    }
}

#[cfg(unix)]
fn is_ours(entry: &std::fs::DirEntry) -> bool {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    entry.metadata().is_ok_and(|file| file.uid() == user)
}

#[cfg(not(unix))]
fn is_ours(_: &std::fs::DirEntry) -> bool {
    true
}

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of Linux's `linux/magic.h`.
#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the type differs between processors")]
fn is_ram(path: &Path) -> bool {
    const RAM: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    rustix::fs::statfs(path).is_ok_and(|disk| RAM.contains(&(disk.f_type as i64)))
}

#[cfg(not(target_os = "linux"))]
fn is_ram(_: &Path) -> bool {
    false
}

/// An upload on its way in.
///
/// Its file has no name in any folder (where the system allows), so it is gone with the process whatever happens.
#[derive(Debug)]
pub struct Spool {
    kept: Kept,
    folder: Arc<SpoolFolder>,
    memory_bytes: usize,
    max_bytes: u64,
    len: u64,
    /// Length at which the free space is looked at again.
    look_at: u64,
}

#[derive(Debug)]
enum Kept {
    Memory(Vec<u8>),
    File(File),
}

impl Spool {
    /// Keeps `memory_bytes` in memory, then everything in a file in `folder`; refuses more than `max_bytes`.
    pub fn new(memory_bytes: usize, max_bytes: u64, folder: Arc<SpoolFolder>) -> Self {
        Self {
            kept: Kept::Memory(Vec::new()),
            folder,
            memory_bytes,
            max_bytes,
            len: 0,
            look_at: 0,
        }
    }

    /// Appends `chunk`.
    ///
    /// # Errors
    ///
    /// [`AudioError::TooLarge`] when the upload passes `max_bytes` (nothing of `chunk` is kept then),
    /// [`AudioError::StorageFull`] when the disk is full, [`AudioError::Io`] when it refuses.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), AudioError> {
        let seen = self.len.saturating_add(chunk.len() as u64);
        if seen > self.max_bytes {
            return Err(AudioError::TooLarge {
                limit_bytes: self.max_bytes,
                seen_bytes: seen,
            });
        }
        self.append(chunk, seen).map_err(storage)?;
        self.len = seen;
        Ok(())
    }

    fn append(&mut self, chunk: &[u8], seen: u64) -> io::Result<()> {
        if let Kept::Memory(bytes) = &mut self.kept {
            if seen <= self.memory_bytes as u64 {
                bytes.extend_from_slice(chunk);
                return Ok(());
            }
            let mut file = self.folder.file()?;
            file.write_all(bytes)?;
            self.kept = Kept::File(file);
        }
        let Kept::File(file) = &mut self.kept else {
            return Ok(());
        };
        if seen >= self.look_at {
            if self.folder.room().is_some_and(|room| room < LOOK_BYTES) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.look_at = seen + LOOK_BYTES;
        }
        file.write_all(chunk)
    }

    /// Whether the next `bytes` stay in memory, so that writing them does not wait for a disk.
    pub fn fits_in_memory(&self, bytes: usize) -> bool {
        matches!(self.kept, Kept::Memory(_)) && self.len + bytes as u64 <= self.memory_bytes as u64
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
    pub fn finish(self, file_name: Option<String>) -> Result<UploadedAudio, AudioError> {
        let storage = match self.kept {
            Kept::Memory(bytes) => Storage::Memory(Cursor::new(bytes)),
            Kept::File(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Storage::File(file)
            }
        };
        Ok(UploadedAudio::new(storage, self.len, file_name))
    }
}

fn storage(error: io::Error) -> AudioError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => AudioError::StorageFull,
        _ => AudioError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path) -> Arc<SpoolFolder> {
        Arc::new(SpoolFolder::in_folder(path.to_path_buf()))
    }

    #[test]
    fn an_upload_may_be_as_large_as_the_limit_and_not_a_byte_larger() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(4, 10, folder(dir.path()));
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
        let mut spool = Spool::new(16, 1 << 20, folder(dir.path()));
        spool.write(&[7; 4096]).unwrap();
        let upload = spool.finish(None).unwrap();
        let named = || std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(named(), 0, "the temporary file has a name");
        drop(upload);
        let mut other = folder(dir.path()).named().unwrap();
        other.write_all(b"x").unwrap();
        assert_eq!(named(), 0);
    }

    #[test]
    fn what_a_killed_server_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "WhisperBackendAPI-spool-abc",
            "somebody-elses",
            "WhisperBackendAPI.log",
        ] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("WhisperBackendAPI-spool-folder")).unwrap();
        assert_eq!(folder(dir.path()).sweep(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(SpoolFolder::in_folder("/nonexistent".into()).sweep(), 0);
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let full = Arc::new(SpoolFolder {
            path: dir.path().to_path_buf(),
            keep_free_bytes: u64::MAX,
        });
        let mut spool = Spool::new(8, 100, full.clone());
        spool.write(b"1234").unwrap();
        assert_eq!(full.room(), Some(0));
        assert!(matches!(spool.write(b"567890"), Err(AudioError::StorageFull)));
        let mut spool = Spool::new(8, 100, folder(Path::new("/nonexistent/folder")));
        spool.write(b"1234").unwrap();
        assert!(matches!(spool.write(b"567890"), Err(AudioError::Io(_))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_ram_disk_is_known_and_not_chosen() {
        assert!(is_ram(Path::new("/dev/shm")));
        assert!(!is_ram(Path::new("/proc")));
        let chosen = SpoolFolder::choose(None);
        assert!(!is_ram(chosen.path()), "{chosen:?}");
        assert_eq!(
            SpoolFolder::choose(Some(Path::new("/dev/shm"))).path(),
            Path::new("/dev/shm")
        );
    }
}
