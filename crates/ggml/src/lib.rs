//! The forward pass of Whisper as graphs of ggml, for all of its backends: several windows at once, each of which sees
//! only itself.
//!
//! An [`Engine`] holds one model on one [`Device`]: the weights, and *slots*, each with the cross-attention keys and values
//! of one window and the self-attention's of its hypotheses. [`Engine::encode`] fills slots from spectrograms, several in
//! one graph; [`Engine::step`] appends tokens to hypotheses of any slots and gives their logits; [`Engine::attend`] gives
//! the cross-attention weights for word times. Every attention is masked: nothing attends to what another window, or an
//! earlier one, left behind.
//! No rule of decoding lives here. All `unsafe` of the crate is in `device`, `memory` and `graph`.

mod cache;
mod decoder;
mod device;
mod encoder;
mod engine;
mod error;
mod graph;
mod memory;
mod weights;

pub use device::{Device, DeviceKind};
pub use engine::{Encode, Engine, Logits, MOST_ENCODED_TOGETHER, Options, Row, Usage};
pub use error::Error;
pub use weights::{Source, Stored};
