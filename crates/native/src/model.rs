//! The weights of one model and what is done with them.

use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::{ALIGN, Buffer};
use crate::context::Context;
use crate::decoder::{self, Capture};
use crate::encoder::{self, EncodeError, Encoded};
use crate::kernels::Kernels;
use crate::plan::Plan;
use crate::rows::{Logits, Row, StepError};
use crate::{Isa, LoadError, Precision, Sequence, Shape, Team, Tensors};

/// Bytes that hold packed weights: a mapped file, or memory. Must start at a multiple of 64.
pub type Region = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// One model, packed for the kernels. Cheap to share: calls take `&self`.
pub struct Weights {
    shape: Shape,
    precision: Precision,
    isa: Isa,
    region: Region,
    plan: Plan,
    pool: Arc<Pool>,
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
        Ok(Plan::new(shape, precision).len)
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
        shape.validate()?;
        let plan = Plan::new(shape, precision);
        long_enough(&plan, region)?;
        plan.pack(tensors, region)
    }

    /// Opens packed weights.
    ///
    /// # Errors
    ///
    /// [`LoadError::Region`] when `region` is too short or not aligned to 64 bytes.
    pub fn open(shape: Shape, precision: Precision, isa: Isa, region: Region) -> Result<Self, LoadError> {
        shape.validate()?;
        if !isa.available() {
            return Err(LoadError::Unsupported(format!(
                "this processor has no `{}`",
                isa.name()
            )));
        }
        let plan = Plan::new(&shape, precision);
        let bytes = (*region).as_ref();
        long_enough(&plan, bytes)?;
        if !(bytes.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(LoadError::Region(format!(
                "they do not start at a multiple of {ALIGN}"
            )));
        }
        Ok(Self {
            shape,
            precision,
            isa,
            region,
            plan,
            pool: Arc::default(),
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
        let mut region = Buffer::new(Self::packed_len(&shape, precision)?);
        Self::pack_into(&shape, precision, tensors, region.bytes_mut())?;
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

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn context(&self) -> Context<'_> {
        let region = self.bytes();
        // What `open` found; kernels rely on it.
        assert!(
            region.len() >= self.plan.len,
            "the packed weights shrank while they were in use"
        );
        Context {
            kernels: Kernels::of(self.isa),
            region,
            shape: &self.shape,
            precision: self.precision,
        }
    }

    /// Runs the encoder over `positions` positions (20 ms each, two mel frames) and keeps what the decoder attends to.
    ///
    /// `mel` is [`Shape::n_mels`] rows of `mel.len() / n_mels` frames, row-major. Exactly the first `2 * positions` frames
    /// count; those that are missing are 0.0, as the convolutions' own padding at both ends.
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
        encoder::encode(
            self.context(),
            &self.plan,
            &self.pool,
            team,
            encoder::Call {
                mel,
                positions,
                cancelled,
                output: None,
            },
        )
    }

    /// The encoder's own output for the same arguments, `positions` rows of the model's width: what
    /// [`Weights::encode`] makes the decoder's keys and values from. For comparisons with other programs.
    ///
    /// # Errors
    ///
    /// [`EncodeError`].
    pub fn encoder_output(
        &self,
        team: &mut Team,
        mel: &[f32],
        positions: usize,
    ) -> Result<Vec<f32>, EncodeError> {
        let mut output = Vec::new();
        encoder::encode(
            self.context(),
            &self.plan,
            &self.pool,
            team,
            encoder::Call {
                mel,
                positions,
                cancelled: &|| false,
                output: Some(&mut output),
            },
        )?;
        Ok(output)
    }

    /// Appends each row's tokens to its sequence and writes the logits that were asked for, in the order of the rows and
    /// their tokens, each [`Shape::n_vocab`] long. The weights are read once for all rows; rows of one window that follow
    /// each other also read its keys and values once. Returns how many rows of logits were written. On an error nothing is
    /// appended.
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
        decoder::step(self.context(), &self.plan, team, rows, logits, None)
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
        for (layer, head) in heads {
            if *layer >= self.shape.text_layers || *head >= self.shape.text_heads {
                return Err(StepError::Head {
                    layer: *layer,
                    head: *head,
                });
            }
        }
        if tokens.len() > self.shape.text_ctx {
            return Err(StepError::TooLong {
                len: tokens.len(),
                most: self.shape.text_ctx,
            });
        }
        let matrix = tokens.len() * encoded.positions();
        let mut out = vec![0.0; heads.len() * matrix];
        let mut sequence = Sequence::new(self);
        let row = Row {
            encoded,
            sequence: &mut sequence,
            tokens,
            logits: Logits::None,
        };
        let capture = Capture { heads, out: &mut out };
        decoder::step(
            self.context(),
            &self.plan,
            team,
            &mut [row],
            &mut [],
            Some(capture),
        )?;
        // A pair that is named twice was captured once.
        for (index, pair) in heads.iter().enumerate() {
            let first = heads.iter().position(|other| other == pair).unwrap_or(index);
            if first < index {
                out.copy_within(first * matrix..(first + 1) * matrix, index * matrix);
            }
        }
        Ok(out)
    }
}

fn long_enough(plan: &Plan, region: &[u8]) -> Result<(), LoadError> {
    if region.len() >= plan.len {
        return Ok(());
    }
    Err(LoadError::Region(format!(
        "{} bytes, {} are needed",
        region.len(),
        plan.len
    )))
}

/// Memory of windows and tokens that ended, for the next ones.
#[derive(Default)]
pub(crate) struct Pool {
    windows: Mutex<Vec<Buffer>>,
    tokens: Mutex<Vec<Buffer>>,
}

/// Windows kept: more than run at once on a small machine is waste.
const WINDOWS: usize = 2;
/// Tokens kept: those of a window's hypotheses, 7 MB for `base`.
const TOKENS: usize = 600;

impl Pool {
    /// Memory of at least `bytes`, of any content.
    pub(crate) fn window(&self, bytes: usize) -> Buffer {
        let mut kept = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        // Not one that is far too large: a long window's memory is not held by a short one.
        let fits = |buffer: &Buffer| buffer.len() >= bytes && buffer.len() / 4 <= bytes;
        match kept.iter().position(fits) {
            Some(index) => kept.swap_remove(index),
            None => Buffer::new(bytes),
        }
    }

    pub(crate) fn keep_window(&self, memory: Buffer) {
        let mut kept = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == WINDOWS {
            kept.remove(0);
        }
        kept.push(memory);
    }

    /// A token of `bytes`, of any content.
    pub(crate) fn token(&self, bytes: usize) -> Buffer {
        let kept = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.filter(|token| token.len() == bytes)
            .unwrap_or_else(|| Buffer::new(bytes))
    }

    pub(crate) fn keep_token(&self, memory: Buffer) {
        let mut kept = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < TOKENS {
            kept.push(memory);
        }
    }
}
