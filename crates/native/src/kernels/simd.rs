//! Vectors of `f32`, written once for every instruction set, and the plain version of them.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "whole bodies are vector code under the contract of their trait"
)]
#![allow(
    clippy::inline_always,
    reason = "must melt into a caller that has the target features"
)]

/// A vector of `f32` lanes.
///
/// # Safety
///
/// Every function may only run on a processor with the instruction set it is for, and from a function compiled for it.
/// Pointers must be valid for [`Simd::LANES`] elements; no alignment is needed.
pub(crate) trait Simd: Copy {
    type V: Copy;
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// To the nearest whole number, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `p * 2^n` for whole `n` in -126 to 127.
    unsafe fn scale2(p: Self::V, n: Self::V) -> Self::V;
    /// Lane by lane: `yes` where `x > 0`, else `no`.
    unsafe fn positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The first `count` lanes of `v`, the rest `fill`; `count` may be past the last lane.
    unsafe fn first(v: Self::V, count: usize, fill: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn largest(v: Self::V) -> f32;
    /// From 32-bit integers.
    unsafe fn from_i32(p: *const i32) -> Self::V;
    /// Whole numbers in -128 to 127 to bytes.
    unsafe fn store_i8(p: *mut i8, v: Self::V);
    /// Whole numbers in -128 to 127 to 16-bit integers.
    unsafe fn store_i16(p: *mut i16, v: Self::V);
    /// To bfloat16, nearest, ties to even.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);
    /// From twice as many bfloat16 as there are lanes: those at even places, and those at odd ones.
    unsafe fn load_bf16(p: *const u16) -> (Self::V, Self::V);
}

/// Eight lanes in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

const WIDE: usize = 8;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; WIDE] {
    std::array::from_fn(f)
}

/// bfloat16, nearest, ties to even. Not-a-number stays one.
#[inline(always)]
pub(crate) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

impl Simd for Plain {
    type V = [f32; WIDE];
    const LANES: usize = WIDE;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; WIDE]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        p.cast::<Self::V>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        p.cast::<Self::V>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without an instruction for it that is a library call.
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::V) -> Self::V {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 rounds to even; larger values are whole already.
        each(|i| {
            if a[i].abs() < 4_194_304.0 {
                (a[i] + 12_582_912.0) - 12_582_912.0
            } else {
                a[i]
            }
        })
    }
    #[inline(always)]
    unsafe fn scale2(p: Self::V, n: Self::V) -> Self::V {
        each(|i| p[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        each(|i| if x[i] > 0.0 { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn first(v: Self::V, count: usize, fill: Self::V) -> Self::V {
        each(|i| if i < count { v[i] } else { fill[i] })
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        (v[0] + v[4]) + (v[1] + v[5]) + (v[2] + v[6]) + (v[3] + v[7])
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn from_i32(p: *const i32) -> Self::V {
        let v = p.cast::<[i32; WIDE]>().read_unaligned();
        each(|i| v[i] as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::V) {
        p.cast::<[i8; WIDE]>().write_unaligned(v.map(|x| x as i8));
    }
    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, v: Self::V) {
        p.cast::<[i16; WIDE]>().write_unaligned(v.map(|x| x as i16));
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::V) {
        p.cast::<[u16; WIDE]>().write_unaligned(v.map(bf16));
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> (Self::V, Self::V) {
        let words = p.cast::<[u32; WIDE]>().read_unaligned();
        (
            each(|i| f32::from_bits(words[i] << 16)),
            each(|i| f32::from_bits(words[i] & 0xffff_0000)),
        )
    }
}
