//! Keys and values as 8-bit integers: half the memory that a step reads for each window.
//!
//! Every position of a head has a scale for its key and one for its value. The other side of both products would lose more by 8
//! bits (a weight below 1/254 of the largest would vanish, and there may be a thousand of them), so it has 16: a query or a row of
//! weights becomes two rows of 8-bit integers, 256 times the first plus the second.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "whole bodies are vector code under the contract of `Kernels`"
)]
#![allow(
    clippy::inline_always,
    reason = "must melt into a caller that has the target features"
)]

use super::generic::{Accumulators, softmax};
use super::simd::Simd;
use super::tile::Tile;
use super::{Attend, MOST_ROWS, PANEL, PackHeads, SMALLEST};
use crate::shape::HEAD;

/// The largest of a row's 16-bit integers: 127 times 256, so that both halves fit in 8 bits.
const LARGEST: f32 = 32_512.0;

/// Packs keys and values of all heads. Whoever packs the last position also clears what the padding is multiplied with.
#[inline(always)]
pub(crate) unsafe fn pack_heads<S: Simd>(p: &PackHeads) {
    let words = HEAD / 4;
    let mut rows = [[0i8; HEAD]; 4];
    for head in 0..p.heads {
        let keys = p.keys.add(head * p.padded * words);
        let values = p.values.add(head * p.padded * words);
        let scales = p.scales.add(head * 2 * p.padded);
        for r in 0..p.count {
            let position = p.first + r;
            let from = p.keys_from.add(r * p.from_stride + head * HEAD);
            *scales.add(position) = quantise::<S>(from, &mut rows[0]);
            let to = keys.add(position / PANEL * words * PANEL + position % PANEL);
            for (word, bytes) in rows[0].as_chunks::<4>().0.iter().enumerate() {
                *to.add(word * PANEL) = word_of(*bytes);
            }
        }
        for r in (0..p.count).step_by(4) {
            for (i, row) in rows.iter_mut().enumerate() {
                if r + i < p.count {
                    let from = p.values_from.add((r + i) * p.from_stride + head * HEAD);
                    *scales.add(p.padded + p.first + r + i) = quantise::<S>(from, row);
                } else {
                    row.fill(0);
                }
            }
            let [first, second, third, fourth] = &rows;
            let mut words = [0u32; HEAD];
            for (channel, word) in words.iter_mut().enumerate() {
                *word = word_of([first[channel], second[channel], third[channel], fourth[channel]]);
            }
            let to = values.add((p.first + r) / 4 * PANEL);
            for half in 0..HEAD / PANEL {
                let to = to.add(half * (p.padded / 4) * PANEL);
                std::ptr::copy_nonoverlapping(words.as_ptr().add(half * PANEL), to, PANEL);
            }
        }
        if p.first + p.count == p.positions {
            for position in p.positions..p.padded {
                *scales.add(position) = 0.0;
                *scales.add(p.padded + position) = 0.0;
            }
        }
    }
}

/// Four integers as a word of packed bytes, each 128 too large.
#[inline(always)]
fn word_of(integers: [i8; 4]) -> u32 {
    u32::from_le_bytes(integers.map(|integer| integer as u8)) ^ 0x8080_8080
}

/// 64 values to 8-bit integers; their scale.
#[inline(always)]
unsafe fn quantise<S: Simd>(from: *const f32, to: &mut [i8; HEAD]) -> f32 {
    let largest = largest::<S>(from);
    let inverse = S::splat(if largest > SMALLEST { 127.0 / largest } else { 0.0 });
    for i in (0..HEAD).step_by(S::LANES) {
        let v = S::round(S::mul(S::load(from.add(i)), inverse));
        S::store_i8(to.as_mut_ptr().add(i), v);
    }
    largest / 127.0
}

/// Two rows of a tile: `count` values (a multiple of 16) times `inverse`, as 16-bit integers, in halves. Each row starts with
/// `start` times the sum of its integers.
#[inline(always)]
unsafe fn split<S: Simd, T: Tile>(
    from: *const f32,
    count: usize,
    inverse: f32,
    start: i32,
    to: *mut u8,
    stride: usize,
) {
    let inverse = S::splat(inverse);
    let step = S::splat(256.0);
    // A quarter more than the integer: never half way between two, so the rest is in -128 to 127.
    let (down, quarter) = (S::splat(1.0 / 256.0), S::splat(0.25 / 256.0));
    let (mut high_sum, mut low_sum) = (S::splat(0.0), S::splat(0.0));
    let (high_to, low_to) = (to.add(4), to.add(stride + 4));
    for i in (0..count).step_by(S::LANES) {
        let v = S::round(S::mul(S::load(from.add(i)), inverse));
        let high = S::round(S::fma(v, down, quarter));
        let low = S::sub(v, S::mul(high, step));
        high_sum = S::add(high_sum, high);
        low_sum = S::add(low_sum, low);
        if T::NUMBER == 1 {
            S::store_i8(high_to.add(i).cast(), high);
            S::store_i8(low_to.add(i).cast(), low);
        } else {
            S::store_i16(high_to.add(2 * i).cast(), high);
            S::store_i16(low_to.add(2 * i).cast(), low);
        }
    }
    // Exact: at most 128 * 2^14, below 2^24.
    to.cast::<i32>().write_unaligned(start * S::sum(high_sum) as i32);
    to.add(stride)
        .cast::<i32>()
        .write_unaligned(start * S::sum(low_sum) as i32);
}

/// The sum that two rows of 32-bit accumulators stand for.
#[inline(always)]
unsafe fn joined<S: Simd>(high: *const f32, low: *const f32) -> S::V {
    S::fma(S::from_i32(high.cast()), S::splat(256.0), S::from_i32(low.cast()))
}

/// Attention to one head.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd, T: Tile>(a: &Attend, start: i32) {
    let padded = a.head.padded;
    let most = T::ROWS / 2;
    let tiles = a.queries.count.div_ceil(most);
    // Scores of each row; then queries and weights as integers, and what tiles give.
    let scores = a.scratch.cast::<f32>();
    let halves = a.scratch.add(most * padded * 4);
    let stride = padded.max(HEAD) * T::NUMBER + 4;
    let mut buffer = Accumulators::new();
    let sums = buffer.start();
    for tile in 0..tiles {
        let (first, end) = (
            a.queries.count * tile / tiles,
            a.queries.count * (tile + 1) / tiles,
        );
        let rows = end - first;
        let mut scales = [0.0f32; MOST_ROWS];
        for (row, scale) in scales.iter_mut().enumerate().take(rows) {
            let query = a
                .queries
                .start
                .add((first + row) * a.queries.stride)
                .cast::<f32>();
            let largest = largest::<S>(query);
            let inverse = if largest > SMALLEST {
                LARGEST / largest
            } else {
                0.0
            };
            split::<S, T>(query, HEAD, inverse, start, halves.add(2 * row * stride), stride);
            *scale = largest / LARGEST;
        }
        for panel in 0..padded / PANEL {
            let keys = a.head.keys.add(panel * (HEAD / 4) * PANEL);
            T::run(2 * rows, halves, stride, keys, HEAD / 4, sums.cast(), PANEL * 4);
            for (row, scale) in scales.iter().enumerate().take(rows) {
                let scale = S::splat(*scale);
                for i in (0..PANEL).step_by(S::LANES) {
                    let at = panel * PANEL + i;
                    let score =
                        joined::<S>(sums.add(2 * row * PANEL + i), sums.add((2 * row + 1) * PANEL + i));
                    let scale = S::mul(scale, S::load(a.head.scales.add(at)));
                    S::store(scores.add(row * padded + at), S::mul(score, scale));
                }
            }
        }
        for (row, scale) in scales.iter_mut().enumerate().take(rows) {
            let scores = scores.add(row * padded);
            let (_, inverse) = softmax::<S, false>(scores, a.head.positions, padded, scores.cast());
            if !a.weights.is_null() {
                for i in 0..a.head.positions {
                    *a.weights.add((first + row) * a.weights_stride + i) = *scores.add(i) * inverse;
                }
            }
            let mut largest = S::splat(0.0);
            for i in (0..padded).step_by(S::LANES) {
                let weight = S::mul(S::load(scores.add(i)), S::load(a.head.scales.add(padded + i)));
                largest = S::max(largest, weight);
                S::store(scores.add(i), weight);
            }
            let largest = S::largest(largest);
            let by = if largest > SMALLEST {
                LARGEST / largest
            } else {
                0.0
            };
            split::<S, T>(scores, padded, by, start, halves.add(2 * row * stride), stride);
            *scale = largest / LARGEST * inverse;
        }
        for panel in 0..HEAD / PANEL {
            let values = a.head.values.add(panel * (padded / 4) * PANEL);
            T::run(
                2 * rows,
                halves,
                stride,
                values,
                padded / 4,
                sums.cast(),
                PANEL * 4,
            );
            for (row, scale) in scales.iter().enumerate().take(rows) {
                let out = a.out.add((first + row) * a.out_stride + panel * PANEL);
                for i in (0..PANEL).step_by(S::LANES) {
                    let sum = joined::<S>(sums.add(2 * row * PANEL + i), sums.add((2 * row + 1) * PANEL + i));
                    S::store(out.add(i), S::mul(sum, S::splat(*scale)));
                }
            }
        }
    }
}

/// The largest of 64 values, whatever their signs.
#[inline(always)]
unsafe fn largest<S: Simd>(from: *const f32) -> f32 {
    let mut largest = S::splat(0.0);
    for i in (0..HEAD).step_by(S::LANES) {
        largest = S::max(largest, S::abs(S::load(from.add(i))));
    }
    S::largest(largest)
}
