//! A folder of model files, and what the catalogue says about them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{Catalogue, Checksum, Entry, Languages};
use super::convert::{self, Imported};
use super::ggml::{self, GgmlHeader};
use super::hub_silence::HubSilence;
use super::progress::{Progress, Watch};
use super::pull::{Pull, PullOptions};
use super::quantize::Quantization;
use super::{ModelError, cache, checksum, staging};

/// A folder of ggml files (`models/` beside the configuration). Cheap to make and to clone; touches the disk only when asked.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    catalogue: Catalogue,
    hub: Arc<HubSilence>,
}

/// A model file that is there and that whisper.cpp can load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Catalogue name, else the file's name without `ggml-` and `.bin`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// Dimensions, languages, format.
    pub header: GgmlHeader,
}

/// One line of a list of models.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Catalogue name, or the file's name without `ggml-` and `.bin`.
    pub name: String,
    /// File name in the folder.
    pub file: String,
    /// Size on disk, or as published.
    pub bytes: u64,
    /// What it understands; `None` for a file that cannot be read.
    pub languages: Option<Languages>,
    /// Whether the catalogue knows it, so that it can be pulled.
    pub in_catalogue: bool,
    /// The file, if it is there.
    pub path: Option<PathBuf>,
    /// What the file says of itself, if it is there and whole.
    pub header: Option<GgmlHeader>,
    /// Why the file that is there cannot be used.
    pub problem: Option<String>,
}

/// How far a file could be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is the published file.
    Published(Checksum),
    /// It is the file that was imported.
    Recorded(Checksum),
    /// Nothing is known to compare it with; it is whole and whisper.cpp can load it.
    StructureOnly,
}

/// A file that passed [`Store::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// What was compared.
    pub checked: Checked,
}

impl Store {
    /// The folder `folder` with the compiled-in catalogue. The folder need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self::with_catalogue(folder, Catalogue::built_in().clone())
    }

    /// As [`Store::new`] with another catalogue.
    pub fn with_catalogue(folder: impl Into<PathBuf>, catalogue: Catalogue) -> Self {
        Self {
            folder: folder.into(),
            catalogue,
            hub: Arc::default(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What can be pulled.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Finds the file of a path (`models/ggml-base.bin`, absolute or relative to the working folder) or a name
    /// (`base`, `turbo`, or that of an imported file), and checks in some milliseconds that it is whole.
    ///
    /// # Errors
    ///
    /// `NotInstalled` when the catalogue knows it, `NoSuchFile` or `Unknown` when it does not, `Malformed` when the
    /// file cannot be loaded.
    pub fn resolve(&self, name_or_path: &str) -> Result<StoredModel, ModelError> {
        let path = self.locate(name_or_path)?;
        let header = ggml::check(&path)?;
        let bytes = fs::metadata(&path)
            .map_err(|e| ModelError::io("read", &path, e))?
            .len();
        Ok(StoredModel {
            name: name_of(&path),
            path,
            bytes,
            header,
        })
    }

    /// The file of a path or a name, unread.
    fn locate(&self, name_or_path: &str) -> Result<PathBuf, ModelError> {
        let as_path = Path::new(name_or_path);
        let is_path = name_or_path.contains(['/', '\\']) || as_path.extension().is_some_and(|e| e == "bin");
        if is_path && as_path.is_file() {
            return Ok(as_path.to_owned());
        }
        let name = if is_path {
            as_path.file_name().unwrap_or_default().to_string_lossy()
        } else {
            name_or_path.into()
        };
        let entry = self.catalogue.find(&name);
        if is_path && name_or_path.contains(['/', '\\']) {
            // A path means that place, not our folder.
            return Err(match entry {
                Some(entry) => ModelError::NotInstalled {
                    name: entry.name.clone(),
                    path: as_path.to_owned(),
                },
                None => ModelError::NoSuchFile {
                    path: as_path.to_owned(),
                },
            });
        }
        let file = entry.map_or_else(|| file_of(&name), Entry::file);
        let path = self.folder.join(file);
        match entry {
            _ if path.is_file() => Ok(path),
            Some(entry) => Err(ModelError::NotInstalled {
                name: entry.name.clone(),
                path,
            }),
            None => self.catalogue.get(&name).map(|_| path),
        }
    }

    /// All models: the catalogue's in its order, then other files of the folder by name.
    ///
    /// # Errors
    ///
    /// `Io` when the folder is there but cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, ModelError> {
        let mut list: Vec<Listed> = self
            .catalogue
            .entries()
            .iter()
            .map(|entry| {
                let path = self.folder.join(entry.file());
                let mut line = Listed {
                    name: entry.name.clone(),
                    file: entry.file(),
                    bytes: entry.bytes,
                    languages: Some(entry.languages),
                    in_catalogue: true,
                    path: None,
                    header: None,
                    problem: None,
                };
                if path.is_file() {
                    line.examine(path);
                }
                line
            })
            .collect();
        let mut others: Vec<PathBuf> = match fs::read_dir(&self.folder) {
            Ok(files) => files
                .filter_map(|file| file.ok().map(|file| file.path()))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(ModelError::io("read", &self.folder, error)),
        };
        others.retain(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.extension().is_some_and(|e| e == "bin")
                && !file.starts_with('.')
                && path.is_file()
                && !list.iter().any(|line| line.file == file)
        });
        others.sort();
        list.extend(others.into_iter().map(|path| {
            let mut line = Listed {
                name: name_of(&path),
                file: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                bytes: 0,
                languages: None,
                in_catalogue: false,
                path: None,
                header: None,
                problem: None,
            };
            line.examine(path);
            line
        }));
        Ok(list)
    }

    /// Puts a catalogue model in the folder and gives its path. Does nothing when the published file is there.
    ///
    /// Blocks for as long as it takes; resumes what an earlier call began. A file appears under its name only when it
    /// is whole and has the published checksum; two processes that pull the same model do not disturb each other.
    ///
    /// # Errors
    ///
    /// `Unknown`, `NoSource` with each source's reason, `ChecksumMismatch`, `DiskFull`, `Io`, `Busy`, `Cancelled`.
    pub fn pull(
        &self,
        name: &str,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ModelError> {
        let entry = self.catalogue.get(name)?;
        Pull::new(&self.catalogue, &self.folder, options, progress, &self.hub).install(entry)
    }

    /// Reads a whole file and compares it with the published (or recorded) checksum.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`]; `ChecksumMismatch`.
    pub fn verify(&self, name_or_path: &str, progress: &dyn Progress) -> Result<Verified, ModelError> {
        let path = self.locate(name_or_path)?;
        let watch = Watch::new(progress, None);
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // What was imported under a published name is compared with its own record.
        if let Some(recorded) = read_record(&path)? {
            checksum::verify(&path, &recorded, watch)?;
            ggml::check(&path)?;
            return Ok(Verified {
                path,
                checked: Checked::Recorded(recorded),
            });
        }
        if let Some(entry) = self.catalogue.find(&file) {
            checksum::verify_published(&path, entry, watch)?;
            return Ok(Verified {
                path,
                checked: Checked::Published(entry.checksum.clone()),
            });
        }
        ggml::check(&path)?;
        Ok(Verified {
            path,
            checked: Checked::StructureOnly,
        })
    }

    /// Removes a model's file from the folder, with what an unfinished pull left and the copy in `cache`; gives the bytes freed.
    ///
    /// # Errors
    ///
    /// `NotInstalled`, `Unknown`; `UnsupportedFolder` for a file outside the folder.
    pub fn remove(&self, name: &str, cache: Option<&Path>) -> Result<u64, ModelError> {
        let path = self.locate(name)?;
        if path.parent().and_then(|p| p.canonicalize().ok()) != self.folder.canonicalize().ok() {
            return Err(ModelError::unsupported(
                &path,
                format!("it is not in `{}`", self.folder.display()),
            ));
        }
        let bytes = fs::metadata(&path)
            .map_err(|e| ModelError::io("read", &path, e))?
            .len();
        if let (Some(folder), Some(entry)) = (cache, self.catalogue.find(&name_of(&path))) {
            cache::forget(folder, &entry.checksum);
        }
        fs::remove_file(&path).map_err(|e| ModelError::io("remove", &path, e))?;
        for left in [record_of(&path), staging::hidden(&path, "new")] {
            let _ = fs::remove_file(left);
        }
        Ok(bytes)
    }

    /// Imports a folder (or quantises a file) into this folder as `ggml-NAME.bin` and records its SHA-256 beside it.
    /// The name comes from the source, with the quantisation's added, unless one is given.
    ///
    /// # Errors
    ///
    /// As [`import`](super::import).
    pub fn import(
        &self,
        source: &Path,
        name: Option<&str>,
        quantization: Option<Quantization>,
        progress: &dyn Progress,
    ) -> Result<Imported, ModelError> {
        let name = match name {
            Some(name) if name.contains(['/', '\\']) || name.starts_with('.') || name.is_empty() => {
                return Err(ModelError::unsupported(
                    source,
                    format!("`{name}` cannot name a model file"),
                ));
            }
            Some(name) => name.to_owned(),
            None => {
                let full = source.canonicalize().unwrap_or_else(|_| source.to_owned());
                let suffix = quantization.map(|q| format!("-{q}")).unwrap_or_default();
                format!("{}{suffix}", name_of(&full))
            }
        };
        let target = self.folder.join(file_of(&name));
        fs::create_dir_all(&self.folder).map_err(|e| ModelError::io("create", &self.folder, e))?;
        let _lock = staging::Lock::take(&target, false, Watch::new(progress, None))?;
        let imported = convert::import(source, &target, quantization, progress, None)?;
        let record = record_of(&target);
        if self
            .catalogue
            .by_sha1(&imported.digests.sha1)
            .is_some_and(|entry| entry.file() == file_of(&name))
        {
            // The very file that is published; it needs no record of its own.
            let _ = fs::remove_file(&record);
        } else {
            let line = format!("{}  {}\n", imported.digests.sha256, file_of(&name));
            fs::write(&record, line).map_err(|e| ModelError::io("write", &record, e))?;
        }
        Ok(imported)
    }
}

impl Listed {
    fn examine(&mut self, path: PathBuf) {
        self.bytes = fs::metadata(&path).map_or(self.bytes, |metadata| metadata.len());
        match ggml::check(&path) {
            Ok(header) => {
                self.languages = Some(if header.multilingual() {
                    Languages::Multilingual
                } else {
                    Languages::English
                });
                self.header = Some(header);
            }
            Err(error) => self.problem = Some(error.with_causes()),
        }
        self.path = Some(path);
    }
}

/// `models/ggml-base.bin` → `base`.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".bin").unwrap_or(&name);
    name.strip_prefix("ggml-").unwrap_or(name).to_owned()
}

fn file_of(name: &str) -> String {
    let name = name.strip_suffix(".bin").unwrap_or(name);
    format!("ggml-{}.bin", name.strip_prefix("ggml-").unwrap_or(name))
}

/// `FILE.sha256`, in the form `sha256sum -c` reads.
fn record_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn read_record(path: &Path) -> Result<Option<Checksum>, ModelError> {
    let record = record_of(path);
    match fs::read_to_string(&record) {
        Ok(text) => Ok(text
            .split_whitespace()
            .next()
            .map(|hex| Checksum::Sha256(hex.to_lowercase()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ModelError::io("read", &record, error)),
    }
}
