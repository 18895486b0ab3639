//! The models that were asked for so far, by file: one file is one model, whatever it is called.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::model::Model;
use super::residency::Residence;
use crate::metrics::Metrics;

/// By canonical path.
#[derive(Debug, Default)]
pub(super) struct KnownModels(Mutex<HashMap<PathBuf, Arc<Model>>>);

impl KnownModels {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Model>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one model of a file.
    pub(super) fn of(
        &self,
        name: &str,
        file: &Path,
        multilingual: bool,
        metrics: &Arc<Metrics>,
    ) -> Arc<Model> {
        let key = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        self.lock()
            .entry(key)
            .or_insert_with_key(|key| Model::new(name.to_owned(), key.clone(), multilingual, metrics.clone()))
            .clone()
    }

    pub(super) fn all(&self) -> Vec<Arc<Model>> {
        self.lock().values().cloned().collect()
    }

    /// Models whose engines run or start.
    pub(super) fn live(&self) -> Vec<Arc<Model>> {
        self.lock()
            .values()
            .filter(|model| is_live(model))
            .cloned()
            .collect()
    }

    /// Ends the engines of the one that was used least recently of `those`; false when all are in use.
    pub(super) fn retire_oldest(&self, those: impl Fn(&Model) -> bool) -> bool {
        let mut idle: Vec<_> = self
            .all()
            .into_iter()
            .filter(|model| those(model))
            .filter_map(|model| Some((model.residency().idle_since()?, model)))
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        let retired = idle.iter().find(|(_, model)| model.retire(Duration::ZERO));
        if let Some((_, model)) = retired {
            tracing::info!(model = %model.name, "unloaded to make room for another model");
        }
        retired.is_some()
    }
}

pub(super) fn is_live(model: &Arc<Model>) -> bool {
    model
        .residency()
        .look(|residence| matches!(residence, Residence::Live(_)))
}
