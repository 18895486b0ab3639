//! Which models live: names → model files → engines, their restarts and their moves between devices.

pub mod error;
pub mod model;
pub mod registry;
pub mod supervisor;

pub use error::ServingError;
pub use model::Model;

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
