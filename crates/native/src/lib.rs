//! The forward pass of Whisper on the processor, in Rust.
//!
//! A [`Weights`] holds one model, packed for the kernels; [`Weights::encode`] turns a log-mel spectrogram into the keys and
//! values of one window ([`Encoded`]); [`Weights::step`] appends tokens to any number of hypotheses ([`Sequence`]) of any
//! number of windows and gives their logits; [`Weights::attend`] gives the cross-attention weights for word times.
//! Which instruction set runs is chosen when the weights are opened ([`Isa`]); a [`Team`] is the threads that work.
//! No rule of decoding lives here.

mod buffer;
mod context;
mod decoder;
mod encoder;
mod isa;
mod kernels;
pub mod mel;
mod model;
mod pack;
mod peak;
mod plan;
pub mod random;
mod rows;
mod sequence;
mod shape;
mod team;
pub mod timing;
pub mod tokenizer;

pub use encoder::{EncodeError, Encoded};
pub use isa::{Isa, IsaError};
pub use model::{Region, Weights};
pub use peak::register_peak;
pub use rows::{Logits, Row, StepError};
pub use sequence::Sequence;
pub use shape::{LoadError, Precision, Shape, Tensor, Tensors};
pub use team::Team;
