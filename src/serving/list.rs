//! What can be asked for by name, as `/models` lists it.

use std::path::{Path, PathBuf};

use super::default_model::{DefaultModel, in_folder};
use super::registry::Registry;
use super::{ModelInfo, ModelState};
use crate::models::Languages;

impl Registry {
    /// Everything that can be asked for by name. Reads headers: off the async threads.
    pub fn list(&self) -> Vec<ModelInfo> {
        let default = match self.default_model() {
            DefaultModel::Known { model, .. } => Some(model),
            _ => None,
        };
        let default_file = default.as_ref().map(|model| model.file.clone());
        let loaded: Vec<PathBuf> = self
            .loaded()
            .iter()
            .filter(|m| m.state() == ModelState::Ready)
            .map(|m| m.file.clone())
            .collect();
        let mut out = Vec::new();
        let mut shown = false;
        // A folder that cannot be read holds no models; `doctor` says why.
        for known in self.store.list().unwrap_or_default() {
            let path = known.path.filter(|_| known.problem.is_none());
            let key = path.as_ref().and_then(|p| std::fs::canonicalize(p).ok());
            let is_default = key.is_some() && key == default_file;
            shown |= is_default;
            out.push(ModelInfo {
                id: known.name,
                created: created(path.as_deref()),
                file: path.as_ref().map(|p| p.display().to_string()),
                bytes: Some(known.bytes),
                installed: path.is_some(),
                loaded: key.as_ref().is_some_and(|p| loaded.contains(p)),
                default: is_default,
                deployment: false,
                multilingual: known.languages != Some(Languages::English),
            });
        }
        if let (Some(model), false) = (&default, shown) {
            out.push(info(&model.name, &model.file, model.multilingual, &loaded));
            if let Some(last) = out.last_mut() {
                last.default = true;
            }
        }
        for (name, target) in self.deployments() {
            let Ok(model) = self.store.resolve(&in_folder(&self.folder, &target)) else {
                continue;
            };
            let key = std::fs::canonicalize(&model.path).unwrap_or(model.path);
            out.push(ModelInfo {
                default: default_file.as_ref() == Some(&key),
                deployment: true,
                ..info(&name, &key, model.header.multilingual(), &loaded)
            });
        }
        out
    }
}

fn info(name: &str, file: &Path, multilingual: bool, loaded: &[PathBuf]) -> ModelInfo {
    ModelInfo {
        id: name.to_owned(),
        created: created(Some(file)),
        file: Some(file.display().to_string()),
        bytes: std::fs::metadata(file).ok().map(|m| m.len()),
        installed: true,
        loaded: loaded.iter().any(|p| p == file),
        default: false,
        deployment: false,
        multilingual,
    }
}

fn created(path: Option<&Path>) -> i64 {
    /// 2022-09-21, the release of Whisper: for files that are not there.
    const WHISPER_RELEASE: i64 = 1_663_718_400;
    path.and_then(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(WHISPER_RELEASE, |d| d.as_secs() as i64)
}
