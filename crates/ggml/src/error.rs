//! What can go wrong.

use thiserror::Error;

/// Why the engine did not do what it was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// The checkpoint does not hold what its sizes promise.
    #[error(transparent)]
    Load(#[from] whisper_native::LoadError),
    /// A tensor's number format is none that ggml computes with.
    #[error("tensor `{name}` is of ggml's type {kind}, which is not supported")]
    Kind {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        kind: u32,
    },
    /// The device cannot be used.
    #[error("{device} cannot be set up")]
    Device {
        /// ggml's name of it.
        device: String,
    },
    /// The device has too little memory.
    #[error("the device has no {bytes} bytes for {what}")]
    Memory {
        /// What they were for.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// The backend lacks an operation that the graph needs.
    #[error("the backend cannot compute {operation}")]
    Unsupported {
        /// ggml's name of the operation, and its operands' types.
        operation: String,
    },
    /// A graph was not computed to its end.
    #[error("ggml ended a graph with status {status}")]
    Compute {
        /// ggml's status.
        status: i32,
    },
    /// A slot, hypothesis or head that is not there.
    #[error("{what} {index}; there are {count}")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A slot is asked for twice, or holds no window.
    #[error("slot {slot} {reason}")]
    Slot {
        /// The slot.
        slot: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Positions are out of 1 to the model's audio context.
    #[error("{positions} positions; 1 to {most} are possible")]
    Positions {
        /// What was asked for.
        positions: usize,
        /// The model's audio context.
        most: usize,
    },
    /// The spectrogram is not of the size that the positions ask for.
    #[error("a spectrogram of {len} values, {expected} are needed")]
    Mel {
        /// Values given.
        len: usize,
        /// Values needed.
        expected: usize,
    },
    /// A row has no tokens.
    #[error("a row without tokens")]
    Empty,
    /// A token is outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        n_vocab: usize,
    },
    /// A hypothesis would grow past the model's text context.
    #[error("a sequence of {len} tokens; at most {most} are possible")]
    TooLong {
        /// The length it would have.
        len: usize,
        /// The model's text context.
        most: usize,
    },
    /// All blocks for several hypotheses are taken; one is free again when a window that holds one is encoded anew or released.
    #[error("no room for more hypotheses just now")]
    NoBlock,
    /// The numbers of a window are no numbers any more.
    #[error("the window's numbers overflowed")]
    NotFinite,
}
