//! What a request holds of a model: as long as it does, the model is not unloaded.

use std::sync::Arc;

use super::model::{Model, ModelHold};
use super::{ModelState, ServingError};

/// A request's hold on the model that serves it. Clones share the model; the last one that is dropped ends the hold,
/// and idle time counts from then.
#[derive(Debug, Clone)]
pub struct Lease {
    model: Arc<Model>,
    _hold: Arc<ModelHold>,
}

impl Lease {
    pub(super) fn new(model: Arc<Model>, hold: ModelHold) -> Self {
        Self {
            model,
            _hold: Arc::new(hold),
        }
    }

    /// A lease on a model that is nowhere: for tests of those who only carry leases.
    pub fn detached(name: &str) -> Self {
        let model = Model::new(name.to_owned(), name.into(), true, Arc::default());
        let (hold, _) = model.hold();
        Self::new(model, hold)
    }

    /// Name of the model, for example `base-q8_0`.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether it knows languages other than English, from its file's header.
    pub fn multilingual(&self) -> bool {
        self.model.multilingual
    }

    /// Waits while the model loads or restarts.
    ///
    /// # Errors
    ///
    /// `Unavailable` when no engine can be started.
    ///
    /// # Cancel safety
    ///
    /// Safe; loading goes on.
    pub async fn ready(&self) -> Result<(), ServingError> {
        self.model.settled().await.map_err(ServingError::unavailable)
    }

    /// What the model is doing now.
    pub fn state(&self) -> ModelState {
        self.model.state()
    }
}
