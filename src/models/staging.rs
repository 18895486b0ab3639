//! Files that get their name only when they are whole, and the locks of those who make them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::ModelError;
use super::progress::Watch;

/// Room left on the disk after a model is written.
const SPARE_BYTES: u64 = 16 << 20;
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A file in the making: `.NAME.new` beside its final place, removed unless it is installed.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
}

impl Staged {
    /// The name for a file in the making of `target`. A file that a killed process left there is overwritten.
    pub(crate) fn beside(target: &Path) -> Result<Self, ModelError> {
        let folder = folder_of(target);
        fs::create_dir_all(folder).map_err(|e| ModelError::io("create", folder, e))?;
        Ok(Self {
            path: hidden(target, "new"),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name.
    pub(crate) fn install(self, target: &Path) -> Result<(), ModelError> {
        install(&self.path, target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `install` there is nothing left under this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Flushes `from` to the disk and renames it to `target`, which is replaced in one step.
pub(crate) fn install(from: &Path, target: &Path) -> Result<(), ModelError> {
    let failed = |e| ModelError::io("write", from, e);
    File::open(from)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    fs::rename(from, target).map_err(|e| ModelError::io("create", target, e))?;
    // The new name, too, survives a power cut. Systems that cannot open folders keep it by themselves.
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// `.NAME.suffix` beside `target`.
pub(crate) fn hidden(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses to begin what cannot be finished.
///
/// # Errors
///
/// `DiskFull` when fewer than `needed` bytes (and a little) are free where `target` will be.
pub(crate) fn require_space(target: &Path, needed: u64) -> Result<(), ModelError> {
    #[cfg(unix)]
    if let Ok(stat) = rustix::fs::statvfs(folder_of(target)) {
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed.saturating_add(SPARE_BYTES) {
            return Err(ModelError::DiskFull {
                path: target.to_owned(),
                needed_bytes: Some(needed),
                free_bytes: Some(free),
            });
        }
    }
    #[cfg(not(unix))]
    let _ = (target, needed, SPARE_BYTES);
    Ok(())
}

/// The right to make one file, held against other processes. Ends with the process that has it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock on `target`; waits for another holder, or refuses when `wait` is false.
    ///
    /// # Errors
    ///
    /// `Busy`, `Cancelled`, `Io`.
    pub(crate) fn take(target: &Path, wait: bool, watch: Watch<'_>) -> Result<Self, ModelError> {
        let path = hidden(target, "lock");
        let failed = |e| ModelError::io("lock", &path, e);
        let mut told = false;
        loop {
            watch.check()?;
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                // The holder before may have removed the file we opened; then the lock on it means nothing.
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file }),
                Ok(()) => continue,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if !wait => {
                    return Err(ModelError::Busy {
                        path: target.to_owned(),
                    });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                watch.progress.note(&format!(
                    "another process is fetching {}; waiting for it",
                    target.display()
                ));
                told = true;
            }
            thread::sleep(LOCK_POLL);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, so that nobody can hold the old file and a new one at once.
        #[cfg(unix)]
        let _ = fs::remove_file(&self.path);
        #[cfg(not(unix))]
        let _ = &self.path;
        let _ = self.file.unlock();
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}
