//! The weights of one model and what is done with them.

use std::sync::Arc;

use thiserror::Error;

use crate::{Isa, LoadError, Precision, Shape, Team, Tensors};

/// Bytes that hold packed weights: a mapped file, or memory. Must start at a multiple of 64.
pub type Region = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// One model, packed for the kernels. Cheap to share: calls take `&self`.
pub struct Weights {
    shape: Shape,
    precision: Precision,
    isa: Isa,
    region: Region,
}

impl Weights {
    /// Version of the packed layout; bytes of another version must be packed again.
    /// The same bytes serve every [`Isa`].
    pub const LAYOUT: u32 = 1;

    /// Length in bytes of the packed weights of a model.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unsupported`] for sizes that no kernel carries.
    pub fn packed_len(shape: &Shape, precision: Precision) -> Result<usize, LoadError> {
        shape.validate()?;
        let _ = precision;
        Ok(64)
    }

    /// Packs a checkpoint into `region`, which is [`Weights::packed_len`] bytes long.
    /// Equal tensors give equal bytes on every machine.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when a tensor is missing or of another size, or `region` is too short.
    pub fn pack_into(
        shape: &Shape,
        precision: Precision,
        tensors: &mut dyn Tensors,
        region: &mut [u8],
    ) -> Result<(), LoadError> {
        let _ = (shape, precision, tensors, region);
        Ok(())
    }

    /// Opens packed weights.
    ///
    /// # Errors
    ///
    /// [`LoadError::Region`] when `region` is too short or not aligned to 64 bytes.
    pub fn open(shape: Shape, precision: Precision, isa: Isa, region: Region) -> Result<Self, LoadError> {
        shape.validate()?;
        Ok(Self {
            shape,
            precision,
            isa,
            region,
        })
    }

    /// Packs a checkpoint into memory of its own and opens it.
    ///
    /// # Errors
    ///
    /// As [`Weights::pack_into`].
    pub fn pack(
        shape: Shape,
        precision: Precision,
        isa: Isa,
        tensors: &mut dyn Tensors,
    ) -> Result<Self, LoadError> {
        let mut region = vec![0u8; Self::packed_len(&shape, precision)?];
        Self::pack_into(&shape, precision, tensors, &mut region)?;
        Self::open(shape, precision, isa, Arc::new(region))
    }

    /// The model's sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The number format of the products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The packed bytes, for a file that another process opens with [`Weights::open`].
    pub fn bytes(&self) -> &[u8] {
        (*self.region).as_ref()
    }

    /// Runs the encoder over `positions` positions (20 ms each, two mel frames) and keeps what the decoder attends to.
    ///
    /// `mel` is [`Shape::n_mels`] rows of `mel.len() / n_mels` frames, row-major; frames that are missing count as 0.0,
    /// frames past `2 * positions` are not read but for the one that the last convolution reaches.
    /// `cancelled` is asked by the calling thread several times a layer.
    ///
    /// # Errors
    ///
    /// [`EncodeError`].
    pub fn encode(
        &self,
        team: &mut Team,
        mel: &[f32],
        positions: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Encoded, EncodeError> {
        let _ = (team, mel, cancelled);
        Ok(Encoded { positions })
    }

    /// Appends each row's tokens to its sequence and writes the logits that were asked for, in the order of the rows and
    /// their tokens, each [`Shape::n_vocab`] long. The weights are read once for all rows. Returns how many logits rows
    /// were written. On an error nothing is appended.
    ///
    /// # Errors
    ///
    /// [`StepError`].
    pub fn step(
        &self,
        team: &mut Team,
        rows: &mut [Row<'_>],
        logits: &mut [f32],
    ) -> Result<usize, StepError> {
        let _ = (team, rows, logits);
        Ok(0)
    }

    /// Runs `tokens` through the decoder from the start and returns the cross-attention weights (softmax over the window's
    /// positions) of each (layer, head) pair: `heads x tokens x positions`, row-major.
    ///
    /// # Errors
    ///
    /// [`StepError`]; a pair that the model lacks is [`StepError::Head`].
    pub fn attend(
        &self,
        team: &mut Team,
        encoded: &Encoded,
        tokens: &[u32],
        heads: &[(usize, usize)],
    ) -> Result<Vec<f32>, StepError> {
        let _ = team;
        Ok(vec![0.0; heads.len() * tokens.len() * encoded.positions])
    }
}

/// The cross-attention keys and values of one window: exactly its positions, nothing else can be attended to.
pub struct Encoded {
    positions: usize,
}

impl Encoded {
    /// Positions of the window.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

/// The tokens so far of one hypothesis, as the decoder's self-attention keeps them.
pub struct Sequence {
    len: usize,
}

impl Sequence {
    /// An empty one for `weights`.
    pub fn new(weights: &Weights) -> Self {
        let _ = weights;
        Self { len: 0 }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Becomes a copy of `other`. What both have in common is shared, not copied.
    pub fn fork_from(&mut self, other: &Self) {
        self.len = other.len;
    }
}

/// Which logits a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Logits {
    /// Those after its last token.
    #[default]
    Last,
    /// None, as for a prompt that more tokens follow.
    None,
    /// Those after each of its tokens.
    All,
}

/// One hypothesis in a step.
pub struct Row<'a> {
    /// The window it transcribes.
    pub encoded: &'a Encoded,
    /// Its tokens so far; the new ones follow at position `sequence.len()`.
    pub sequence: &'a mut Sequence,
    /// The tokens to append: one in decoding, all of them for a prompt. Never empty.
    pub tokens: &'a [u32],
    /// Which logits are wanted.
    pub logits: Logits,
}

/// Why a window was not encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Positions are out of 1 to the model's audio context.
    #[error("{positions} positions; 1 to {most} are possible")]
    Positions {
        /// What was asked for.
        positions: usize,
        /// The model's audio context.
        most: usize,
    },
    /// The spectrogram is not a whole number of frames.
    #[error("a spectrogram of {len} values is no whole number of frames of {n_mels} bands")]
    Mel {
        /// Values given.
        len: usize,
        /// Bands of the model.
        n_mels: usize,
    },
}

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// A sequence would grow past the model's text context.
    #[error("a sequence of {len} tokens; at most {most} are possible")]
    TooLong {
        /// The length it would have.
        len: usize,
        /// The model's text context.
        most: usize,
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
    /// The space for logits is too small.
    #[error("room for {room} logits, {needed} are needed")]
    Room {
        /// Values that fit.
        room: usize,
        /// Values that were asked for.
        needed: usize,
    },
    /// A window or sequence belongs to a model of another shape.
    #[error("a window or sequence of another model")]
    Foreign,
    /// No such attention head.
    #[error("no head {head} in layer {layer}")]
    Head {
        /// The layer asked for.
        layer: usize,
        /// The head asked for.
        head: usize,
    },
}
