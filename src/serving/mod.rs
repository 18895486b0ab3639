//! Which models live: names → model files → engines, their restarts and their moves between devices.
//!
//! [`registry`] gives leases to requests and decides which models stay in memory, [`model`] says where a window can run,
//! [`replica`] keeps one engine on one device, [`isolation`] the engine that windows under suspicion have for themselves.

mod complaints;
mod default_model;
pub mod error;
mod gpus;
mod isolation;
mod known;
pub mod lease;
mod list;
mod memory;
pub mod model;
mod offer;
mod probation;
mod reference;
pub mod registry;
pub mod replica;
mod residency;
mod room;
mod slots;
pub mod state;

/// What [`residency`] and [`slots`] are made of: a test swaps it for a model checker's.
mod sync {
    pub(super) use std::sync::{Arc, Mutex, PoisonError};
    pub(super) use tokio::time::Instant;
}

pub use default_model::{DefaultModel, expected_model};
pub use error::{BROKEN_RETRY, ServingError};
pub use gpus::Gpus;
pub use lease::Lease;
pub(crate) use model::EngineSlot;
pub use model::Model;
pub(crate) use offer::{Need, Offer};
pub use registry::Registry;
pub use replica::{EnginePlan, Placement};
pub use room::Room;
pub use state::{Fetch, ModelState};

/// A model as `/models` lists it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ModelInfo {
    /// Catalogue name, deployment name or file stem.
    pub id: String,
    /// Seconds since 1970 of the file, or of the release.
    pub created: i64,
    /// File on disk, relative to the configuration's folder.
    pub file: Option<String>,
    /// Bytes on disk or in the catalogue.
    pub bytes: Option<u64>,
    /// On disk and whole.
    pub installed: bool,
    /// An engine holds it now.
    pub loaded: bool,
    /// Serves names that nobody knows.
    pub default: bool,
    /// The name comes from `[deployments]`.
    pub deployment: bool,
    /// Knows languages other than English.
    pub multilingual: bool,
}
