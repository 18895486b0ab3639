//! The recordings that a command line names: files as they are, folders by what lies in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::audio::{AudioError, UploadedAudio};

/// Names of what may hold sound; files of folders that end otherwise are passed over.
const EXTENSIONS: [&str; 28] = [
    "3gp", "aac", "aif", "aifc", "aiff", "amr", "au", "caf", "flac", "m4a", "m4b", "m4v", "mka", "mkv",
    "mov", "mp1", "mp2", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "opus", "snd", "wav", "webm", "wma",
];
/// Folders within folders that are followed.
const DEEPEST: usize = 16;
/// Most recordings of one call.
const MOST: usize = 100_000;

/// The recordings among what is named. A file that was named must be a recording; a folder's other files are passed over.
pub(super) fn find(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut inputs = Vec::new();
    for path in named {
        if path.is_dir() {
            let found = folder(path)?;
            if found.is_empty() {
                bail!("no recording lies in `{}`", path.display());
            }
            inputs.extend(found);
        } else {
            open(path)?;
            inputs.push(path.clone());
        }
    }
    // What is named twice, or lies in a folder that is named as well, is done once.
    let mut known = BTreeSet::new();
    inputs.retain(|path| known.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(inputs)
}

/// Opens a recording that can be read and looks like one.
pub(super) fn open(path: &Path) -> anyhow::Result<UploadedAudio> {
    let mut audio = match UploadedAudio::from_path(path) {
        Ok(audio) => audio,
        // The system's own words, once.
        Err(AudioError::Io(error)) => bail!("cannot read `{}`: {error}", path.display()),
        Err(error) => bail!("`{}`: {error}", path.display()),
    };
    audio
        .sniff()
        .map_err(|error| anyhow::anyhow!("`{}`: {error}", path.display()))?;
    Ok(audio)
}

fn folder(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot read `{}`", folder.display()))?
                .path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden {
                continue;
            }
            // A link to a folder could lead back here.
            if path.is_dir() && !path.is_symlink() && depth < DEEPEST {
                open.push((path, depth + 1));
            } else if path.is_file() && is_recording(&path) {
                files.push(path);
            }
            if files.len() > MOST {
                bail!("more than {MOST} recordings lie in `{}`", root.display());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_recording(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAV: &[u8] = include_bytes!("../../tests/fixtures/audio-regressions/adpcm_ms_overflow.wav");

    #[test]
    fn folders_give_their_recordings_in_order_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("deep")).unwrap();
        for name in ["b.wav", "a.WAV", "deep/c.wav", ".hidden.wav"] {
            std::fs::write(at(name), WAV).unwrap();
        }
        std::fs::write(at("notes.txt"), "x").unwrap();
        let found = find(&[root.path().to_owned()]).unwrap();
        assert_eq!(found, [at("a.WAV"), at("b.wav"), at("deep/c.wav")]);
        let twice = find(&[
            at("b.wav"),
            root.path().join("deep"),
            root.path().to_owned(),
            at("b.wav"),
        ])
        .unwrap();
        assert_eq!(twice, [at("b.wav"), at("deep/c.wav"), at("a.WAV")]);
    }

    #[test]
    fn what_is_named_must_be_a_recording() {
        let root = tempfile::tempdir().unwrap();
        let missing = find(&[root.path().join("nothing.wav")]).unwrap_err().to_string();
        assert_eq!(missing.matches("No such file").count(), 1, "{missing}");
        let text = root.path().join("notes.txt");
        std::fs::write(&text, "This is no recording, whatever its name says.").unwrap();
        let refused = find(&[text]).unwrap_err().to_string();
        assert!(refused.contains("notes.txt"), "{refused}");
        let empty = find(&[root.path().join("")]).unwrap_err().to_string();
        assert!(empty.contains("no recording lies in"), "{empty}");
    }
}
