//! Finds whisper.cpp's sources as they were published, and brings a copy of them into the patched state.

use std::env;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apply::{PatchError, apply, files};

/// The file that gets the function with the names of the patches.
const MARKED: &str = "src/whisper.cpp";

/// The published crate with whisper.cpp in it.
const CRATE: &str = "whisper-rs-sys";

/// One reviewed change: `patches/NAME.patch`.
pub struct Patch {
    pub name: String,
    text: String,
}

/// Why the sources cannot be patched.
#[derive(Debug)]
pub enum SourceError {
    /// A file cannot be read or written.
    File { path: PathBuf, source: io::Error },
    /// A patch does not fit the file that it names.
    Patch {
        name: String,
        file: String,
        source: PatchError,
    },
    /// A patch names no file.
    Empty { name: String },
    /// There is no patch at all.
    None { folder: PathBuf },
    /// Cargo does not bring the published sources.
    Upstream { reason: String },
    /// Cargo brings other sources than those that the patches were made for.
    Checksum { found: String, expected: String },
}

impl fmt::Display for SourceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => {
                write!(out, "cannot patch whisper.cpp: `{}`: {source}", path.display())
            }
            Self::Patch { name, file, source } => {
                write!(
                    out,
                    "patches/{name}.patch does not apply to whisper.cpp's `{file}`: {source}"
                )
            }
            Self::Empty { name } => write!(out, "patches/{name}.patch changes no file"),
            Self::None { folder } => write!(out, "`{}` holds no patch", folder.display()),
            Self::Upstream { reason } => write!(
                out,
                "whisper.cpp's sources cannot be fetched; run `cargo fetch --manifest-path patches/upstream/Cargo.toml` \
                 where there is a network. cargo said: {reason}"
            ),
            Self::Checksum { found, expected } => write!(
                out,
                "`{CRATE}` has the checksum `{found}`; patches/upstream/SHA256SUMS has `{expected}`"
            ),
        }
    }
}

impl Error for SourceError {}

/// The patches of a folder, in the order of their names.
pub fn patches(folder: &Path) -> Result<Vec<Patch>, SourceError> {
    let failed = |source| SourceError::File {
        path: folder.to_owned(),
        source,
    };
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).map_err(|source| SourceError::File { path, source })?;
        if files(&text).is_empty() {
            return Err(SourceError::Empty { name });
        }
        out.push(Patch { name, text });
    }
    if out.is_empty() {
        return Err(SourceError::None {
            folder: folder.to_owned(),
        });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Folder of the published crate, which cargo fetches as the package in `pin` asks for. Its checksum has to be that of
/// `pin`'s `SHA256SUMS`. Cargo works in a copy in `work`: a build writes nothing into the sources.
pub fn upstream(pin: &Path, work: &Path) -> Result<PathBuf, SourceError> {
    let failed = |source| SourceError::File {
        path: pin.to_owned(),
        source,
    };
    fs::create_dir_all(work.join("src")).map_err(failed)?;
    for file in ["Cargo.toml", "src/lib.rs"] {
        fs::copy(pin.join(file), work.join(file)).map_err(failed)?;
    }
    // There after a `cargo fetch` of `pin`, which is how a machine without a network is prepared.
    if pin.join("Cargo.lock").exists() {
        fs::copy(pin.join("Cargo.lock"), work.join("Cargo.lock")).map_err(failed)?;
    }
    let expected = fs::read_to_string(pin.join("SHA256SUMS")).map_err(failed)?;
    let ask = |offline: bool| -> Result<String, String> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["metadata", "--format-version", "1"]);
        if let Ok(target) = env::var("TARGET") {
            command.args(["--filter-platform", &target]);
        }
        if offline {
            command.arg("--offline");
        }
        let output = command
            .arg("--manifest-path")
            .arg(work.join("Cargo.toml"))
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    };
    let metadata = ask(true)
        .or_else(|_| ask(false))
        .map_err(|reason| SourceError::Upstream { reason })?;
    let resolved = fs::read_to_string(work.join("Cargo.lock")).map_err(failed)?;
    let checksum = checksum(&resolved, CRATE).unwrap_or_default();
    if expected.split_whitespace().next() != Some(checksum) {
        return Err(SourceError::Checksum {
            found: checksum.to_owned(),
            expected: expected.trim().to_owned(),
        });
    }
    manifest_folder(&metadata, CRATE).ok_or_else(|| SourceError::Upstream {
        reason: format!("no package `{CRATE}`"),
    })
}

/// The checksum of a package in the text of a `Cargo.lock`.
fn checksum<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let name = format!("name = \"{name}\"");
    lock.split("[[package]]")
        .find(|package| package.lines().any(|line| line == name))?
        .lines()
        .find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

/// The folder of a package in what `cargo metadata` prints: its `manifest_path` ends with `NAME-VERSION/Cargo.toml`.
fn manifest_folder(metadata: &str, name: &str) -> Option<PathBuf> {
    metadata
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| PathBuf::from(path.replace("\\\\", "\\")))
        .filter_map(|path| path.parent().map(Path::to_owned))
        .find(|folder| {
            folder.file_name().is_some_and(|last| {
                last.to_string_lossy()
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('-'))
            }) || folder.file_name().is_some_and(|last| last == name)
        })
}

/// Makes `copy` equal to `original` with every patch applied. Files that are right already are not touched, so that
/// only what a changed patch concerns is compiled anew.
pub fn patch(original: &Path, copy: &Path, patches: &[Patch]) -> Result<(), SourceError> {
    for file in patches.iter().flat_map(|patch| files(&patch.text)) {
        let path = original.join(file);
        fs::metadata(&path).map_err(|source| SourceError::File { path, source })?;
    }
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = original.join(&folder);
        let failed = |source| SourceError::File {
            path: here.clone(),
            source,
        };
        for entry in fs::read_dir(&here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = folder.join(entry.file_name());
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
            } else {
                bring(original, copy, &path, patches)?;
            }
        }
    }
    Ok(())
}

/// Brings one file into its patched state.
fn bring(original: &Path, copy: &Path, path: &Path, patches: &[Patch]) -> Result<(), SourceError> {
    let from = original.join(path);
    let bytes = fs::read(&from).map_err(|source| SourceError::File { path: from, source })?;
    let file = path.to_string_lossy().replace('\\', "/");
    let wanted = match String::from_utf8(bytes) {
        Ok(text) => patched(text, &file, patches)?.into_bytes(),
        Err(error) => error.into_bytes(), // no source code
    };
    let to = copy.join(path);
    if fs::read(&to).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    let failed = |source| SourceError::File {
        path: to.clone(),
        source,
    };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(&to, wanted).map_err(failed)
}

/// The text of `file` with all patches, and with the marker where it belongs.
fn patched(mut text: String, file: &str, patches: &[Patch]) -> Result<String, SourceError> {
    for patch in patches {
        text = apply(&text, file, &patch.text).map_err(|source| SourceError::Patch {
            name: patch.name.clone(),
            file: file.to_owned(),
            source,
        })?;
    }
    if file == MARKED {
        let names: Vec<&str> = patches.iter().map(|patch| patch.name.as_str()).collect();
        let names = names.join(" ");
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "\nextern \"C\" const char * whisper_backend_patches(void) {{\n    return \"{names}\";\n}}\n"
        );
    }
    Ok(text)
}
