//! What all instruction sets share: the walk over tiles, and everything that is not a product.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "whole bodies are vector code under the contract of `Kernels`"
)]
#![allow(
    clippy::inline_always,
    reason = "must melt into a caller that has the target features"
)]

use super::simd::Simd;
use super::tile::{BlockTile, Tile};
use super::{
    Attend, AttendTokens, BLOCK, Epilogue, MOST_ROWS, PANEL, PackHeads, Product, Quantise, SMALLEST,
    StoreToken,
};
use crate::shape::HEAD;

/// A panel's worth of accumulators for each row of a tile.
#[repr(align(64))]
pub(super) struct Accumulators(std::mem::MaybeUninit<[f32; MOST_ROWS * PANEL]>);

impl Accumulators {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self(std::mem::MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(super) fn start(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// Walks over the tiles of a product: `tile(panel, rows, a, sums)` multiplies the rows that start at `a` with a panel, and
/// `value(panel, row)` says how a row's sums become values: it gives a function of the sums' lanes from a channel on, that channel
/// within the panel, and their bias.
#[inline(always)]
unsafe fn each_tile<S: Simd, V: Fn(*const f32, usize, S::V) -> S::V>(
    p: &Product,
    most: usize,
    tile: impl Fn(usize, usize, *const u8, *mut f32),
    value: impl Fn(usize, usize) -> V,
) {
    let mut buffer = Accumulators::new();
    let sums = buffer.start();
    let tiles = p.rows.count.div_ceil(most);
    for panel in p.first_panel..p.end_panel {
        for index in 0..tiles {
            // Even tiles: 48 rows at 11 a tile become 4 times 10 or so, not 4 times 11 and a rest of 4.
            let (first, end) = (p.rows.count * index / tiles, p.rows.count * (index + 1) / tiles);
            tile(panel, end - first, p.rows.start.add(first * p.rows.stride), sums);
            for row in first..end {
                let (sums, value) = (sums.add((row - first) * PANEL), value(panel, row));
                finish::<S>(p, panel, row, |i, bias| value(sums.add(i), i, bias));
            }
        }
    }
}

/// A product with one scale for each row and channel.
#[inline(always)]
pub(crate) unsafe fn product_int8<S: Simd, T: Tile>(p: &Product) {
    let (words, k) = (p.matrix.k / 4, p.matrix.k);
    each_tile::<S, _>(
        p,
        T::ROWS,
        |panel, rows, a, sums| {
            let w = p.matrix.words.add(panel * words * PANEL);
            T::run(rows, a, p.rows.stride, w, words, sums.cast(), PANEL * 4);
        },
        |panel, row| {
            let at = row * p.rows.stride + 4 + k * T::NUMBER;
            let scale = S::splat(p.rows.start.add(at).cast::<f32>().read_unaligned());
            let scales = p.matrix.scales.add(panel * PANEL);
            move |sums, i, bias| {
                let scale = S::mul(scale, S::load(scales.add(i)));
                S::fma(S::from_i32(sums.cast()), scale, bias)
            }
        },
    );
}

/// A product with scales for each 64 elements.
#[inline(always)]
pub(crate) unsafe fn product_blocks<S: Simd, T: BlockTile>(p: &Product) {
    let (words, blocks) = (p.matrix.k / 4, p.matrix.k / BLOCK);
    each_tile::<S, _>(
        p,
        T::ROWS,
        |panel, rows, a, sums| {
            let w = p.matrix.words.add(panel * words * PANEL);
            let scales = p.matrix.scales.add(panel * blocks * PANEL);
            T::run(rows, a, p.rows.stride, w, blocks, scales, sums);
        },
        |_, _| |sums, _, bias| S::add(S::load(sums), bias),
    );
}

/// A product of bfloat16 or `f32`; `word` elements of k in a word.
#[inline(always)]
pub(crate) unsafe fn product_float<S: Simd, T: Tile>(p: &Product, word: usize) {
    let words = p.matrix.k / word;
    each_tile::<S, _>(
        p,
        T::ROWS,
        |panel, rows, a, sums| {
            let w = p.matrix.words.add(panel * words * PANEL);
            T::run(rows, a, p.rows.stride, w, words, sums.cast(), PANEL * 4);
        },
        |_, _| |sums, _, bias| S::add(S::load(sums), bias),
    );
}

/// Bias, epilogue and store of one row of a panel; `value` gives the lanes from channel `i` of the panel on.
#[inline(always)]
unsafe fn finish<S: Simd>(p: &Product, panel: usize, row: usize, value: impl Fn(usize, S::V) -> S::V) {
    let column = panel * PANEL;
    let bias = p.matrix.bias.add(column);
    let out = p.out.add(row * p.out_stride + column);
    if column + PANEL > p.matrix.n {
        return finish_rest::<S>(p, column, row, value);
    }
    match p.epilogue {
        Epilogue::Store => {
            for i in (0..PANEL).step_by(S::LANES) {
                S::store(out.add(i), value(i, S::load(bias.add(i))));
            }
        }
        Epilogue::Gelu => {
            for i in (0..PANEL).step_by(S::LANES) {
                S::store(out.add(i), gelu::<S>(value(i, S::load(bias.add(i)))));
            }
        }
        Epilogue::Add => {
            for i in (0..PANEL).step_by(S::LANES) {
                S::store(
                    out.add(i),
                    S::add(S::load(out.add(i)), value(i, S::load(bias.add(i)))),
                );
            }
        }
        Epilogue::GeluAdd { more, stride } => {
            let more = more.add(row * stride + column);
            for i in (0..PANEL).step_by(S::LANES) {
                let v = gelu::<S>(value(i, S::load(bias.add(i))));
                S::store(out.add(i), S::add(v, S::load(more.add(i))));
            }
        }
        Epilogue::Scale { channels, by } => {
            let by = S::splat(if column < channels { by } else { 1.0 });
            for i in (0..PANEL).step_by(S::LANES) {
                S::store(out.add(i), S::mul(value(i, S::load(bias.add(i))), by));
            }
        }
    }
}

/// The last panel of a matrix whose channels do not fill it: the vocabulary's. Stored without an epilogue.
#[cold]
#[inline(always)]
unsafe fn finish_rest<S: Simd>(p: &Product, column: usize, row: usize, value: impl Fn(usize, S::V) -> S::V) {
    debug_assert!(matches!(p.epilogue, Epilogue::Store));
    let mut rest = [0.0f32; PANEL];
    for i in (0..PANEL).step_by(S::LANES) {
        S::store(
            rest.as_mut_ptr().add(i),
            value(i, S::load(p.matrix.bias.add(column + i))),
        );
    }
    let out = p.out.add(row * p.out_stride + column);
    std::ptr::copy_nonoverlapping(rest.as_ptr(), out, p.matrix.n - column);
}

/// Rows of `f32` to 8-bit integers of `T` (`i8` or `i16`), a scale for each `block` elements; `start` times the sum of the
/// integers goes before them.
#[inline(always)]
pub(crate) unsafe fn quantise_int8<S: Simd, const NUMBER: usize>(q: &Quantise, block: usize, start: i32) {
    for row in 0..q.count {
        let from = q.from.add(row * q.from_stride);
        let to = q.to.add(row * q.to_stride);
        for index in 0..q.k / block {
            let from = from.add(index * block);
            let to = to.add(index * (block * NUMBER + 8));
            let mut largest = S::splat(0.0);
            for i in (0..block).step_by(S::LANES) {
                largest = S::max(largest, S::abs(S::load(from.add(i))));
            }
            let largest = S::largest(largest);
            let inverse = S::splat(if largest > SMALLEST { 127.0 / largest } else { 0.0 });
            let mut sum = S::splat(0.0);
            for i in (0..block).step_by(S::LANES) {
                let v = S::round(S::mul(S::load(from.add(i)), inverse));
                sum = S::add(sum, v);
                let to = to.add(4 + i * NUMBER);
                if NUMBER == 1 {
                    S::store_i8(to.cast(), v);
                } else {
                    S::store_i16(to.cast(), v);
                }
            }
            // Exact: at most 127 * 2^14, below 2^24.
            to.cast::<i32>().write_unaligned(start * S::sum(sum) as i32);
            to.add(4 + block * NUMBER)
                .cast::<f32>()
                .write_unaligned(largest / 127.0);
        }
    }
}

/// Rows of `f32` to bfloat16.
#[inline(always)]
pub(crate) unsafe fn quantise_bf16<S: Simd>(q: &Quantise) {
    for row in 0..q.count {
        let from = q.from.add(row * q.from_stride);
        let to = q.to.add(row * q.to_stride).cast::<u16>();
        for i in (0..q.k).step_by(S::LANES) {
            S::store_bf16(to.add(i), S::load(from.add(i)));
        }
    }
}

/// Rows of `f32` as they are.
#[inline(always)]
pub(crate) unsafe fn copy_rows(q: &Quantise) {
    for row in 0..q.count {
        std::ptr::copy_nonoverlapping(
            q.from.add(row * q.from_stride).cast::<u8>(),
            q.to.add(row * q.to_stride),
            q.k * 4,
        );
    }
}

/// 2^x, relative error 2e-7; 0 below 2^-126 or so.
#[inline(always)]
unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    let x = S::max(x, S::splat(-126.0));
    let n = S::round(x);
    let f = S::sub(x, n);
    // The Taylor series of 2^f for |f| <= 0.5, up to the sixth power: the next term is below 1.2e-7.
    let mut p = S::splat(1.540_353e-4);
    for c in [
        1.333_355_8e-3f32,
        9.618_129e-3,
        5.550_411e-2,
        0.240_226_5,
        std::f32::consts::LN_2,
        1.0,
    ] {
        p = S::fma(p, f, S::splat(c));
    }
    S::scale2(p, n)
}

/// GELU by the error function (Abramowitz and Stegun 7.1.26, absolute error 1.5e-7).
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    let z = S::mul(S::abs(x), S::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = S::div(S::splat(1.0), S::fma(z, S::splat(0.327_591_1), S::splat(1.0)));
    let mut p = S::splat(1.061_405_4);
    for c in [-1.453_152f32, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = S::fma(p, t, S::splat(c));
    }
    let e = exp2::<S>(S::mul(S::mul(z, z), S::splat(-std::f32::consts::LOG2_E)));
    // Half of erfc(|z|): GELU is x - x * half above 0 and x * half below.
    let half = S::mul(S::mul(S::mul(p, t), e), S::splat(0.5));
    let part = S::mul(x, half);
    S::positive(x, S::sub(x, part), part)
}

/// See [`super::Kernels::layer_norm`]. The 1e-5 is PyTorch's default, which Whisper uses.
#[inline(always)]
pub(crate) unsafe fn layer_norm<S: Simd>(
    to: *mut f32,
    from: *const f32,
    weight: *const f32,
    bias: *const f32,
    k: usize,
) {
    let mut sum = S::splat(0.0);
    for i in (0..k).step_by(S::LANES) {
        sum = S::add(sum, S::load(from.add(i)));
    }
    let mean = S::splat(S::sum(sum) / k as f32);
    let mut squares = S::splat(0.0);
    for i in (0..k).step_by(S::LANES) {
        let d = S::sub(S::load(from.add(i)), mean);
        squares = S::fma(d, d, squares);
    }
    let inverse = S::splat(1.0 / (S::sum(squares) / k as f32 + 1e-5).sqrt());
    for i in (0..k).step_by(S::LANES) {
        let d = S::mul(S::sub(S::load(from.add(i)), mean), inverse);
        S::store(to.add(i), S::fma(d, S::load(weight.add(i)), S::load(bias.add(i))));
    }
}

/// Softmax in base 2 over the first `count` of `padded` scores, not yet divided by the sum; the padding becomes 0.
/// Returns (largest score, 1 / sum).
#[inline(always)]
pub(super) unsafe fn softmax<S: Simd, const BF16: bool>(
    scores: *const f32,
    count: usize,
    padded: usize,
    to: *mut u8,
) -> (f32, f32) {
    let lowest = S::splat(f32::MIN);
    let whole = count / S::LANES * S::LANES;
    let mut largest = lowest;
    for i in (0..whole).step_by(S::LANES) {
        largest = S::max(largest, S::load(scores.add(i)));
    }
    if whole < count {
        largest = S::max(
            largest,
            S::first(S::load(scores.add(whole)), count - whole, lowest),
        );
    }
    let largest = S::largest(largest);
    let (top, zero) = (S::splat(largest), S::splat(0.0));
    let mut sum = zero;
    for i in (0..whole).step_by(S::LANES) {
        let e = exp2::<S>(S::sub(S::load(scores.add(i)), top));
        sum = S::add(sum, e);
        if BF16 {
            S::store_bf16(to.cast::<u16>().add(i), e);
        } else {
            S::store(to.cast::<f32>().add(i), e);
        }
    }
    for i in (whole..padded).step_by(S::LANES) {
        let e = exp2::<S>(S::sub(S::load(scores.add(i)), top));
        let e = S::first(e, count.saturating_sub(i), zero);
        sum = S::add(sum, e);
        if BF16 {
            S::store_bf16(to.cast::<u16>().add(i), e);
        } else {
            S::store(to.cast::<f32>().add(i), e);
        }
    }
    (largest, 1.0 / S::sum(sum))
}

/// The softmax's values themselves, in `f32`, for whoever asks for them.
#[inline(always)]
unsafe fn probabilities_of<S: Simd>(
    scores: *const f32,
    count: usize,
    largest: f32,
    inverse: f32,
    to: *mut f32,
) {
    let (top, inverse) = (S::splat(largest), S::splat(inverse));
    for i in (0..count).step_by(S::LANES) {
        let p = S::mul(exp2::<S>(S::sub(S::load(scores.add(i)), top)), inverse);
        if i + S::LANES <= count {
            S::store(to.add(i), p);
        } else {
            // The scores are padded to whole panels, `to` is not.
            let mut rest = [0.0f32; 16];
            S::store(rest.as_mut_ptr(), p);
            std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(i), count - i);
        }
    }
}

/// Attention to one head. `word`: positions in a word of packed values; `BF16`: activations are bfloat16.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd, T: Tile, const BF16: bool>(a: &Attend, word: usize) {
    let padded = a.head.padded;
    let scores = a.scratch.cast::<f32>();
    let probabilities = a.scratch.add(MOST_ROWS * padded * 4);
    let number = if BF16 { 2 } else { 4 };
    let tiles = a.queries.count.div_ceil(T::ROWS);
    for tile in 0..tiles {
        let (first, end) = (
            a.queries.count * tile / tiles,
            a.queries.count * (tile + 1) / tiles,
        );
        let rows = end - first;
        let queries = a.queries.start.add(first * a.queries.stride);
        for panel in 0..padded / PANEL {
            let keys = a.head.keys.add(panel * (HEAD / word) * PANEL);
            let out = scores.add(panel * PANEL).cast();
            T::run(
                rows,
                queries,
                a.queries.stride,
                keys,
                HEAD / word,
                out,
                padded * 4,
            );
        }
        let mut inverse = [0.0f32; MOST_ROWS];
        for (row, inverse) in inverse.iter_mut().enumerate().take(rows) {
            let scores = scores.add(row * padded);
            let to = probabilities.add(row * padded * number);
            let (largest, one) = softmax::<S, BF16>(scores, a.head.positions, padded, to);
            *inverse = one;
            if !a.weights.is_null() {
                let to = a.weights.add((first + row) * a.weights_stride);
                probabilities_of::<S>(scores, a.head.positions, largest, one, to);
            }
        }
        for panel in 0..HEAD / PANEL {
            let values = a.head.values.add(panel * (padded / word) * PANEL);
            let out = a.out.add(first * a.out_stride + panel * PANEL);
            T::run(
                rows,
                probabilities,
                padded * number,
                values,
                padded / word,
                out.cast(),
                a.out_stride * 4,
            );
        }
        for (row, inverse) in inverse.iter().enumerate().take(rows) {
            let out = a.out.add((first + row) * a.out_stride);
            for i in (0..HEAD).step_by(S::LANES) {
                S::store(out.add(i), S::mul(S::load(out.add(i)), S::splat(*inverse)));
            }
        }
    }
}

/// Packs keys and values of all heads, as bfloat16 or `f32`. Whoever packs the last position also clears the padding of the
/// values, which is multiplied by 0 and must be finite.
#[inline(always)]
pub(crate) unsafe fn pack_heads<S: Simd, const BF16: bool>(p: &PackHeads) {
    let positions = p.positions;
    let word = if BF16 { 2 } else { 1 };
    let words = HEAD / word;
    let mut row = [0u32; HEAD];
    for head in 0..p.heads {
        let keys = p.keys.add(head * p.padded * words);
        for r in 0..p.count {
            let from = p.keys_from.add(r * p.from_stride + head * HEAD);
            for i in (0..HEAD).step_by(S::LANES) {
                if BF16 {
                    S::store_bf16(row.as_mut_ptr().cast::<u16>().add(i), S::load(from.add(i)));
                } else {
                    S::store(row.as_mut_ptr().cast::<f32>().add(i), S::load(from.add(i)));
                }
            }
            let position = p.first + r;
            let to = keys.add(position / PANEL * words * PANEL + position % PANEL);
            for (i, word) in row.iter().enumerate().take(words) {
                *to.add(i * PANEL) = *word;
            }
        }
        let values = p.values.add(head * p.padded * words);
        let panel = p.padded / word * PANEL;
        for r in (0..p.count).step_by(word) {
            let from = p.values_from.add(r * p.from_stride + head * HEAD);
            let to = values.add((p.first + r) / word * PANEL);
            if BF16 {
                let (mut low, mut high) = ([0u16; HEAD], [0u16; HEAD]);
                for i in (0..HEAD).step_by(S::LANES) {
                    S::store_bf16(low.as_mut_ptr().add(i), S::load(from.add(i)));
                    if r + 1 < p.count {
                        S::store_bf16(high.as_mut_ptr().add(i), S::load(from.add(p.from_stride + i)));
                    }
                }
                for (word, (low, high)) in row.iter_mut().zip(low.iter().zip(&high)) {
                    *word = u32::from(*low) | u32::from(*high) << 16;
                }
            } else {
                std::ptr::copy_nonoverlapping(from.cast(), row.as_mut_ptr(), HEAD);
            }
            for half in 0..HEAD / PANEL {
                std::ptr::copy_nonoverlapping(row.as_ptr().add(half * PANEL), to.add(half * panel), PANEL);
            }
        }
        if p.first + p.count == positions {
            for position in (positions.next_multiple_of(word)..p.padded).step_by(word) {
                for half in 0..HEAD / PANEL {
                    std::ptr::write_bytes(values.add(half * panel + position / word * PANEL), 0, PANEL);
                }
            }
        }
    }
}

/// Keeps key and value of one token's head.
#[inline(always)]
pub(crate) unsafe fn store_token<S: Simd, const BF16: bool>(s: &StoreToken) {
    for (part, from) in [s.key, s.value].into_iter().enumerate() {
        for i in (0..HEAD).step_by(S::LANES) {
            let v = S::load(from.add(i));
            if BF16 {
                S::store_bf16(s.to.cast::<u16>().add(part * HEAD + i), v);
            } else {
                S::store(s.to.cast::<f32>().add(part * HEAD + i), v);
            }
        }
    }
}

/// The channels of a head at even places, then those at odd ones: what [`Simd::load_bf16`] gives side by side.
#[inline(always)]
fn even_odd(channel: usize) -> usize {
    channel / 2 + channel % 2 * (HEAD / 2)
}

/// Attention of one query to the tokens so far.
#[inline(always)]
pub(crate) unsafe fn attend_tokens<S: Simd, const BF16: bool>(a: &AttendTokens) {
    let padded = a.count.next_multiple_of(16);
    let kept = |token: usize| (*a.tokens.add(token)).add(a.at).cast_const();
    let mut query = [0.0f32; HEAD];
    for channel in 0..HEAD {
        let to = if BF16 { even_odd(channel) } else { channel };
        query[to] = *a.query.add(channel);
    }
    let query = query.as_ptr();
    for token in 0..a.count {
        let mut dots = [S::splat(0.0); 2];
        if BF16 {
            let key = kept(token).cast::<u16>();
            for i in (0..HEAD / 2).step_by(S::LANES) {
                let (even, odd) = S::load_bf16(key.add(2 * i));
                dots[0] = S::fma(S::load(query.add(i)), even, dots[0]);
                dots[1] = S::fma(S::load(query.add(HEAD / 2 + i)), odd, dots[1]);
            }
        } else {
            let key = kept(token).cast::<f32>();
            for i in (0..HEAD).step_by(2 * S::LANES) {
                dots[0] = S::fma(S::load(query.add(i)), S::load(key.add(i)), dots[0]);
                let i = i + S::LANES;
                dots[1] = S::fma(S::load(query.add(i)), S::load(key.add(i)), dots[1]);
            }
        }
        *a.scores.add(token) = S::sum(S::add(dots[0], dots[1]));
    }
    let (_, inverse) = softmax::<S, false>(a.scores, a.count, padded, a.scores.cast());
    let mut out = [0.0f32; HEAD];
    let mut sums = [S::splat(0.0); 8];
    for token in 0..a.count {
        let weight = S::splat(*a.scores.add(token));
        if BF16 {
            let value = kept(token).cast::<u16>().add(HEAD);
            for i in 0..HEAD / 2 / S::LANES {
                let (even, odd) = S::load_bf16(value.add(2 * i * S::LANES));
                sums[2 * i] = S::fma(weight, even, sums[2 * i]);
                sums[2 * i + 1] = S::fma(weight, odd, sums[2 * i + 1]);
            }
        } else {
            let value = kept(token).cast::<f32>().add(HEAD);
            for (i, sum) in sums.iter_mut().enumerate().take(HEAD / S::LANES) {
                *sum = S::fma(weight, S::load(value.add(i * S::LANES)), *sum);
            }
        }
    }
    let inverse = S::splat(inverse);
    for (i, sum) in sums.iter().enumerate().take(HEAD / S::LANES) {
        // Sums 2n and 2n + 1 are the even and the odd channels of one stretch of bfloat16.
        let to = if BF16 {
            i / 2 * S::LANES + i % 2 * (HEAD / 2)
        } else {
            i * S::LANES
        };
        S::store(out.as_mut_ptr().add(to), S::mul(*sum, inverse));
    }
    for channel in 0..HEAD {
        *a.out.add(channel) = out[if BF16 { even_odd(channel) } else { channel }];
    }
}
