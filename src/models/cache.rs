//! Verified model files kept outside the project folder, by checksum, so that a fresh clone or a wiped folder does
//! not download them again. A convenience: everything works, and nothing is reported as an error, without it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::catalogue::Checksum;
use super::staging;

/// Copies (not links) into the cache cost disk, so only files up to this size are copied: 1 GiB.
const MAX_COPY_BYTES: u64 = 1 << 30;

/// Where verified model files are kept.
pub(crate) fn default_folder() -> Option<PathBuf> {
    cache_folder("models")
}

/// `$XDG_CACHE_HOME` or `~/.cache` (`%LOCALAPPDATA%` on Windows), then `whisper-backend-api` and `kind`.
pub fn cache_folder(kind: &str) -> Option<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| from("LOCALAPPDATA").filter(|_| cfg!(windows)))
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("whisper-backend-api").join(kind))
}

pub(crate) fn path_of(folder: &Path, checksum: &Checksum) -> PathBuf {
    let algorithm = match checksum {
        Checksum::Sha1(_) => "sha1",
        Checksum::Sha256(_) => "sha256",
    };
    folder.join(format!("{algorithm}-{}.bin", checksum.hex()))
}

/// Links or copies the cached file to `target`, which the caller then verifies. `false` when the cache has none.
pub(crate) fn take(folder: &Path, checksum: &Checksum, target: &Path) -> io::Result<bool> {
    let cached = path_of(folder, checksum);
    if !cached.is_file() {
        return Ok(false);
    }
    remove_if_there(target)?;
    if fs::hard_link(&cached, target).is_err() {
        fs::copy(&cached, target)?;
    }
    Ok(true)
}

/// Keeps a verified file. What fails here is only logged.
pub(crate) fn keep(folder: &Path, checksum: &Checksum, file: &Path) {
    let target = path_of(folder, checksum);
    if target.is_file() {
        return;
    }
    if let Err(error) = try_keep(file, &target) {
        tracing::debug!(%error, cache = %target.display(), "model not kept in the cache");
    }
}

fn try_keep(file: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir_all(staging::folder_of(target))?;
    // The name of this process: two may keep the same file at once.
    let staged = staging::hidden(target, &std::process::id().to_string());
    remove_if_there(&staged)?;
    if fs::hard_link(file, &staged).is_err() {
        let length = file.metadata()?.len();
        if length > MAX_COPY_BYTES || staging::require_space(target, 4 * length).is_err() {
            return Ok(());
        }
        if let Err(error) = fs::copy(file, &staged) {
            let _ = fs::remove_file(&staged);
            return Err(error);
        }
    }
    fs::rename(&staged, target)
}

/// Forgets a file.
pub(crate) fn forget(folder: &Path, checksum: &Checksum) {
    let _ = fs::remove_file(path_of(folder, checksum));
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
