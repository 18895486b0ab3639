//! Keys and values that stay from one graph to the next.
//!
//! A *slot* holds the cross-attention keys and values of one window. A *lane* holds the self-attention's of one hypothesis:
//! each slot has one, *blocks* of several lanes serve windows that follow several hypotheses, and one more is for what nobody
//! reads: rows of a graph that stand for no hypothesis, and the alignment pass. All lanes lie in one tensor a layer, so that one
//! graph can attend in neighbouring lanes at once.

use whisper_native::Shape;

use crate::Error;
use crate::device::Backend;
use crate::memory::{Blank, Kind, Store, Tensor};

/// Flash attention of CUDA is fastest over a multiple of so many keys (`FATTN_KQ_STRIDE`).
pub(crate) const FLASH_STEP: usize = 256;
/// Without it keys are counted in steps of so many, so that graphs have few different sizes.
const PLAIN_STEP: usize = 32;
/// Bytes of a binary16.
pub(crate) const HALF: usize = 2;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) slots: usize,
    pub(crate) blocks: usize,
    /// Lanes of a block.
    pub(crate) block: usize,
    /// Positions a slot has room for.
    pub(crate) positions: usize,
    /// Tokens a lane has room for.
    pub(crate) tokens: usize,
    /// Values lie as flash attention takes them; else those of a slot lie transposed.
    pub(crate) flash: bool,
}

impl Layout {
    pub(crate) fn new(shape: &Shape, slots: usize, blocks: usize, block: usize, flash: bool) -> Self {
        Self {
            layers: shape.text_layers,
            width: shape.text_state,
            slots,
            blocks,
            block,
            positions: shape.n_audio_ctx.next_multiple_of(FLASH_STEP),
            tokens: shape.text_ctx.next_multiple_of(FLASH_STEP),
            flash,
        }
    }

    /// First lane of a block.
    pub(crate) fn lane_of(&self, block: usize) -> usize {
        self.slots + block * self.block
    }

    /// The lane that nobody reads later.
    pub(crate) fn spare_lane(&self) -> usize {
        self.slots + self.blocks * self.block
    }

    fn lanes(&self) -> usize {
        self.spare_lane() + 1
    }

    /// Keys to attend to, so that `count` are among them and few sizes occur; `most` are there.
    pub(crate) fn keys(&self, count: usize, most: usize) -> usize {
        let step = if self.flash { FLASH_STEP } else { PLAIN_STEP };
        count.max(1).next_multiple_of(step).min(most)
    }

    /// Bytes of the keys and values of one slot with its lane.
    pub(crate) fn slot_bytes(&self) -> usize {
        2 * self.layers * self.width * HALF * (self.positions + self.tokens)
    }
}

/// Which of the four tensors of a layer.
#[derive(Clone, Copy)]
enum Part {
    SelfKeys,
    SelfValues,
    CrossKeys,
    CrossValues,
}

pub(crate) struct Cache {
    pub(crate) layout: Layout,
    store: Store,
}

impl Cache {
    pub(crate) fn new(backend: &Backend, layout: Layout) -> Result<Self, Error> {
        let Layout {
            width,
            slots,
            positions,
            tokens,
            ..
        } = layout;
        let half = |sizes| Blank {
            kind: Kind::F16,
            sizes,
        };
        let lanes = half([width, tokens, layout.lanes(), 1]);
        let keys = half([width, positions, slots, 1]);
        let values = if layout.flash {
            keys
        } else {
            half([positions, width, slots, 1])
        };
        let blanks: Vec<Blank> = (0..layout.layers)
            .flat_map(|_| [lanes, lanes, keys, values])
            .collect();
        let store = Store::new(backend, &blanks, false, "keys and values")?;
        Ok(Self { layout, store })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.store.bytes()
    }

    fn part(&self, layer: usize, part: Part) -> Tensor<'_> {
        self.store.tensor(layer * 4 + part as usize)
    }

    /// `[width, tokens, lanes]`
    pub(crate) fn self_keys(&self, layer: usize) -> Tensor<'_> {
        self.part(layer, Part::SelfKeys)
    }

    /// `[width, tokens, lanes]`
    pub(crate) fn self_values(&self, layer: usize) -> Tensor<'_> {
        self.part(layer, Part::SelfValues)
    }

    /// `[width, positions, slots]`
    pub(crate) fn cross_keys(&self, layer: usize) -> Tensor<'_> {
        self.part(layer, Part::CrossKeys)
    }

    /// `[width, positions, slots]` with flash attention, else `[positions, width, slots]`.
    pub(crate) fn cross_values(&self, layer: usize) -> Tensor<'_> {
        self.part(layer, Part::CrossValues)
    }

    /// Writes zeros over a slot, if one is given, and some lanes: what overflowed there would come through a mask (0 times infinity).
    pub(crate) fn clear(&mut self, slot: Option<usize>, lanes: &[usize]) {
        let Layout {
            width,
            positions,
            tokens,
            layers,
            ..
        } = self.layout;
        let (slot_bytes, lane_bytes) = (width * positions * HALF, width * tokens * HALF);
        for layer in 0..layers {
            for part in [Part::CrossKeys, Part::CrossValues] {
                if let Some(slot) = slot {
                    self.store
                        .clear(layer * 4 + part as usize, slot * slot_bytes, slot_bytes);
                }
            }
            for part in [Part::SelfKeys, Part::SelfValues] {
                for lane in lanes {
                    self.store
                        .clear(layer * 4 + part as usize, lane * lane_bytes, lane_bytes);
                }
            }
        }
    }
}
