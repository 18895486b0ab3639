//! Kernels in plain Rust: the twin that every other set is tested against, and what other processors run.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "whole bodies read and write raw rows under the contract of `Kernels`"
)]
#![allow(clippy::inline_always, reason = "must melt into the loops around it")]

use super::generic;
use super::narrow;
use super::set::kernel_set;
use super::simd::Plain;
use super::tile::{BlockTile, Tile};
use super::{Attend, AttendTokens, BLOCK, Kernels, PANEL, PackHeads, Product, Quantise, StoreToken};

struct Int8;

/// Adds the products of `words` words of integers to `sums`.
#[inline(always)]
unsafe fn add_int8(a: *const i8, w: *const u32, words: usize, sums: &mut [i32; PANEL]) {
    for word in 0..words {
        let a: [i32; 4] = std::array::from_fn(|i| i32::from(*a.add(word * 4 + i)));
        let w = &*w.add(word * PANEL).cast::<[[u8; 4]; PANEL]>();
        for (sum, w) in sums.iter_mut().zip(w) {
            for (a, w) in a.iter().zip(w) {
                *sum += a * i32::from(*w);
            }
        }
    }
}

impl Tile for Int8 {
    const ROWS: usize = 4;
    const NUMBER: usize = 1;

    #[inline(always)]
    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        words: usize,
        out: *mut u8,
        out_stride: usize,
    ) {
        for row in 0..rows {
            let a = a.add(row * stride);
            let mut sums = [a.cast::<i32>().read_unaligned(); PANEL];
            add_int8(a.add(4).cast(), w, words, &mut sums);
            out.add(row * out_stride)
                .cast::<[i32; PANEL]>()
                .write_unaligned(sums);
        }
    }
}

struct Int8Blocks;

impl BlockTile for Int8Blocks {
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        blocks: usize,
        scales: *const f32,
        out: *mut f32,
    ) {
        for row in 0..rows {
            let mut scaled = [0.0f32; PANEL];
            for block in 0..blocks {
                let a = a.add(row * stride + block * (BLOCK + 8));
                let mut sums = [a.cast::<i32>().read_unaligned(); PANEL];
                add_int8(
                    a.add(4).cast(),
                    w.add(block * BLOCK / 4 * PANEL),
                    BLOCK / 4,
                    &mut sums,
                );
                let scale = a.add(4 + BLOCK).cast::<f32>().read_unaligned();
                for (channel, (scaled, sum)) in scaled.iter_mut().zip(&sums).enumerate() {
                    *scaled += *sum as f32 * scale * *scales.add(block * PANEL + channel);
                }
            }
            out.add(row * PANEL)
                .cast::<[f32; PANEL]>()
                .write_unaligned(scaled);
        }
    }
}

struct Bf16ByF32;

impl Tile for Bf16ByF32 {
    const ROWS: usize = 4;
    const NUMBER: usize = 4;

    #[inline(always)]
    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        words: usize,
        out: *mut u8,
        out_stride: usize,
    ) {
        for row in 0..rows {
            let a = a.add(row * stride).cast::<f32>();
            let mut sums = [0.0f32; PANEL];
            for word in 0..words {
                let (low, high) = (
                    a.add(word * 2).read_unaligned(),
                    a.add(word * 2 + 1).read_unaligned(),
                );
                let w = &*w.add(word * PANEL).cast::<[u32; PANEL]>();
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += low * f32::from_bits(w << 16) + high * f32::from_bits(w & 0xffff_0000);
                }
            }
            out.add(row * out_stride)
                .cast::<[f32; PANEL]>()
                .write_unaligned(sums);
        }
    }
}

struct F32;

impl Tile for F32 {
    const ROWS: usize = 4;
    const NUMBER: usize = 4;

    #[inline(always)]
    unsafe fn run(
        rows: usize,
        a: *const u8,
        stride: usize,
        w: *const u32,
        words: usize,
        out: *mut u8,
        out_stride: usize,
    ) {
        for row in 0..rows {
            let a = a.add(row * stride).cast::<f32>();
            let mut sums = [0.0f32; PANEL];
            for word in 0..words {
                let a = a.add(word).read_unaligned();
                let w = &*w.add(word * PANEL).cast::<[f32; PANEL]>();
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += a * w;
                }
            }
            out.add(row * out_stride)
                .cast::<[f32; PANEL]>()
                .write_unaligned(sums);
        }
    }
}

kernel_set! {
    /// For every processor.
    KERNELS, kernels, inline,
    simd = Plain, int8 = Int8, blocks = Int8Blocks, bf16 = Bf16ByF32, f32 = F32,
    start = -128, int8_bytes = 1, bf16_rows = false
}
