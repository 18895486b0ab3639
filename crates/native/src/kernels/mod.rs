//! The kernels: products of packed matrices, attention and what lies between, one module an instruction set.
//!
//! A product is `C[m, n] = A[m, k] · W[n, k]ᵀ`. W is packed once, in panels of [`PANEL`] output channels, as 32-bit words that
//! hold 4 bytes, 2 bfloat16 or 1 `f32` of one channel: `[panel][word of k][channel]`. The same bytes serve every instruction
//! set. A is written row by row by [`Quantise`]; a row (or a block of 64 of it) of 8-bit integers stands between the value its
//! accumulators start from and its scale, so a kernel walks one stream for each row:
//!
//! ```text
//! Int8Row      [start i32][k integers][scale f32]
//! Int8Block64  [start i32][64 integers][scale f32] ...
//! Bf16, F32    [k numbers]
//! ```
//!
//! Weights are stored as bytes 128 too large, because the instructions multiply unsigned by signed; `start` takes the surplus
//! back: -128 times the sum of the row's integers.

mod generic;
mod narrow;
mod set;
mod simd;
mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::{Isa, Precision};

pub(crate) use simd::bf16;

/// Output channels of a panel of packed weights.
pub(crate) const PANEL: usize = 32;
/// Elements that share a scale in `Int8Block64`.
pub(crate) const BLOCK: usize = 64;
/// Rows and blocks whose values are all smaller count as zeros: 127 divided by the largest must be finite.
pub(crate) const SMALLEST: f32 = 1e-30;
/// A packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) format: Precision,
    /// Output channels, without padding.
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) words: *const u32,
    /// `[panel][block][channel]`; integer formats only.
    pub(crate) scales: *const f32,
    /// `[panel][channel]`.
    pub(crate) bias: *const f32,
}

// SAFETY: read-only.
unsafe impl Send for Matrix {}
// SAFETY: read-only.
unsafe impl Sync for Matrix {}

impl Matrix {
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }
}

/// Elements in a 32-bit word of packed weights.
pub(crate) const fn word(format: Precision) -> usize {
    match format {
        Precision::Int8Row | Precision::Int8Block64 => 4,
        Precision::Bf16 => 2,
        Precision::F32 => 1,
    }
}

/// Scales of an output channel over `k` inputs.
pub(crate) const fn blocks(format: Precision, k: usize) -> usize {
    match format {
        Precision::Int8Block64 => k / BLOCK,
        _ => 1,
    }
}

/// Rows of activations in a format's layout, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) start: *const u8,
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

// SAFETY: only says where to read.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

/// What happens to a product's values before they are stored. `v` is the product with its bias.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue {
    /// `out = v`.
    Store,
    /// `out = gelu(v)`.
    Gelu,
    /// `out += v`.
    Add,
    /// `out = gelu(v) + more`, `more` being laid out as `out` with a stride of its own.
    GeluAdd { more: *const f32, stride: usize },
    /// `out = v * by` for the channels below `channels`, `out = v` for the others.
    Scale { channels: usize, by: f32 },
}

// SAFETY: only says where to read.
unsafe impl Send for Epilogue {}
// SAFETY: as above.
unsafe impl Sync for Epilogue {}

/// One product: all rows, some panels.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) rows: Rows,
    pub(crate) matrix: Matrix,
    pub(crate) first_panel: usize,
    pub(crate) end_panel: usize,
    /// Where channel 0 of row 0 goes.
    pub(crate) out: *mut f32,
    /// In elements.
    pub(crate) out_stride: usize,
    pub(crate) epilogue: Epilogue,
}

/// Rows of `f32` to be written in a format's layout.
#[derive(Clone, Copy)]
pub(crate) struct Quantise {
    pub(crate) from: *const f32,
    /// In elements.
    pub(crate) from_stride: usize,
    pub(crate) count: usize,
    pub(crate) k: usize,
    pub(crate) to: *mut u8,
    /// In bytes.
    pub(crate) to_stride: usize,
}

/// Packed keys and values of one head: keys in panels of 32 positions, values in two panels of 32 channels. As 8-bit integers
/// they are 128 too large, like weights.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) keys: *const u32,
    pub(crate) values: *const u32,
    /// Of the keys of each position, then, `padded` further on, of the values; 8-bit integers only.
    pub(crate) scales: *const f32,
    /// Positions that count.
    pub(crate) positions: usize,
    /// Positions with the padding to whole panels.
    pub(crate) padded: usize,
}

/// Attention of some rows of queries to one head.
#[derive(Clone, Copy)]
pub(crate) struct Attend {
    /// Queries of 64 channels, scaled by 1/8 and log2(e), in the layout of the attention's format; `f32` where keys and values
    /// are 8-bit integers.
    pub(crate) queries: Rows,
    pub(crate) head: Head,
    pub(crate) out: *mut f32,
    /// In elements.
    pub(crate) out_stride: usize,
    /// Room for [`attend_scratch`] bytes.
    pub(crate) scratch: *mut u8,
    /// Where the weights of each row go (`positions` apart), or null.
    pub(crate) weights: *mut f32,
    /// In elements.
    pub(crate) weights_stride: usize,
}

/// Keys and values of some positions to be packed, for all heads.
#[derive(Clone, Copy)]
pub(crate) struct PackHeads {
    pub(crate) keys_from: *const f32,
    pub(crate) values_from: *const f32,
    /// Of both sources, in elements.
    pub(crate) from_stride: usize,
    pub(crate) heads: usize,
    /// First position; a multiple of 4.
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Positions of the whole window, and with the padding to whole panels.
    pub(crate) positions: usize,
    pub(crate) padded: usize,
    pub(crate) keys: *mut u32,
    pub(crate) values: *mut u32,
    /// Of all heads, as [`Head::scales`]; 8-bit integers only.
    pub(crate) scales: *mut f32,
}

/// Key and value of one head of one token, 64 channels each, to be kept: the key, then the value.
#[derive(Clone, Copy)]
pub(crate) struct StoreToken {
    pub(crate) key: *const f32,
    pub(crate) value: *const f32,
    pub(crate) to: *mut u8,
}

/// Attention of one query to the tokens of its sequence, one head.
#[derive(Clone, Copy)]
pub(crate) struct AttendTokens {
    /// 64 channels, scaled by 1/8 and log2(e).
    pub(crate) query: *const f32,
    /// What is kept of each token.
    pub(crate) tokens: *const *mut u8,
    /// Bytes from there to what [`StoreToken`] wrote for this layer and head.
    pub(crate) at: usize,
    /// Tokens attended to.
    pub(crate) count: usize,
    pub(crate) out: *mut f32,
    /// Room for `count` rounded up to 16 values.
    pub(crate) scores: *mut f32,
}

/// Most rows that a tile of any instruction set takes at once.
pub(crate) const MOST_ROWS: usize = 12;

/// Bytes of scratch that [`Attend`] needs for a head of `padded` positions.
pub(crate) fn attend_scratch(padded: usize) -> usize {
    MOST_ROWS * padded * 8 + 128
}

/// The kernels of one instruction set.
///
/// # Safety
///
/// All functions: the processor has the instruction set; every pointer is valid for what its field says, and nobody else
/// writes to what is read or touches what is written.
pub(crate) struct Kernels {
    /// By [`Precision`], in the order of its variants.
    product: [unsafe fn(&Product); 4],
    quantise: [unsafe fn(&Quantise); 4],
    /// In `Bf16`, `F32` and `Int8Row`.
    attend: [unsafe fn(&Attend); 3],
    pack_heads: [unsafe fn(&PackHeads); 3],
    /// In `Bf16` and `F32`.
    store_token: [unsafe fn(&StoreToken); 2],
    attend_tokens: [unsafe fn(&AttendTokens); 2],
    /// `to = norm(from) * weight + bias` over `k` (a multiple of 16) values.
    pub(crate) layer_norm:
        unsafe fn(to: *mut f32, from: *const f32, weight: *const f32, bias: *const f32, k: usize),
    /// Bytes of an 8-bit integer, and of a bfloat16, in rows of activations.
    int8_bytes: usize,
    bf16_bytes: usize,
}

impl Kernels {
    /// Those of `isa`, which the caller has found available.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        #[cfg(target_arch = "x86_64")]
        match isa {
            Isa::Avx512Bf16 => return &avx512::WITH_BF16,
            Isa::Avx512Vnni => return &avx512::WITHOUT_BF16,
            Isa::AvxVnni if is_x86_feature_detected!("avxvnni") => return &avx2::WITH_VNNI_VEX,
            Isa::AvxVnni => return &avx2::WITH_VNNI_EVEX,
            Isa::Avx2 => return &avx2::WITHOUT_VNNI,
            Isa::Portable => {}
        }
        let _ = isa;
        &portable::KERNELS
    }

    pub(crate) fn product(&self, format: Precision) -> unsafe fn(&Product) {
        self.product[format as usize]
    }

    pub(crate) fn quantise(&self, format: Precision) -> unsafe fn(&Quantise) {
        self.quantise[format as usize]
    }

    /// `format` is one of [`Precision::cross`].
    pub(crate) fn attend(&self, format: Precision) -> unsafe fn(&Attend) {
        self.attend[heads_in(format)]
    }

    pub(crate) fn pack_heads(&self, format: Precision) -> unsafe fn(&PackHeads) {
        self.pack_heads[heads_in(format)]
    }

    pub(crate) fn store_token(&self, format: Precision) -> unsafe fn(&StoreToken) {
        self.store_token[usize::from(format == Precision::F32)]
    }

    pub(crate) fn attend_tokens(&self, format: Precision) -> unsafe fn(&AttendTokens) {
        self.attend_tokens[usize::from(format == Precision::F32)]
    }

    /// Bytes of one number in rows of activations.
    pub(crate) fn number(&self, format: Precision) -> usize {
        match format {
            Precision::Int8Row | Precision::Int8Block64 => self.int8_bytes,
            Precision::Bf16 => self.bf16_bytes,
            Precision::F32 => 4,
        }
    }

    /// Bytes of a row of `k` activations.
    pub(crate) fn row(&self, format: Precision, k: usize) -> usize {
        match format {
            Precision::Int8Row => k * self.int8_bytes + 8,
            Precision::Int8Block64 => k / BLOCK * (BLOCK * self.int8_bytes + 8),
            Precision::Bf16 | Precision::F32 => k * self.number(format),
        }
    }
}

/// The place of a format of keys and values in [`Kernels::attend`].
fn heads_in(format: Precision) -> usize {
    match format {
        Precision::Bf16 => 0,
        Precision::F32 => 1,
        Precision::Int8Row | Precision::Int8Block64 => 2,
    }
}

#[cfg(test)]
mod tests;
