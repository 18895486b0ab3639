//! 256-bit kernels: `vpdpbusd` of AVX-VNNI or AVX-512 VL, or `vpmaddwd` of AVX2, for integers; FMA for the rest.
//!
//! Sixteen registers make a tile of 6 rows by 16 channels. Without `vpdpbusd` the integers of activations are 16 bits wide and the
//! weights are widened on the way into a register: `vpmaddubsw` on bytes saturates unless one side has 7 bits, and this gives the
//! same sums as every other set.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "whole bodies are vector code under the contract of `Kernels`"
)]
#![allow(
    clippy::inline_always,
    reason = "must melt into a caller that has the target features"
)]

use std::arch::asm;
use std::arch::x86_64::{
    __m256, _CMP_GT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32,
    _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm_packs_epi16, _mm_packs_epi32,
    _mm_packus_epi32, _mm_storel_epi64, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_and_si256, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cmpgt_epi32, _mm256_cvtepi32_ps, _mm256_cvtps_epi32,
    _mm256_div_ps, _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_max_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
};

use super::generic;
use super::narrow;
use super::set::kernel_set;
use super::simd::Simd;
use super::tile::{BlockTile, Tile, by_rows, row_lines};
use super::{Attend, AttendTokens, Kernels, PackHeads, Product, Quantise, StoreToken};

/// Eight lanes of AVX2.
#[derive(Clone, Copy)]
struct Half;

impl Simd for Half {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        _mm256_storeu_ps(p, v);
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::V) -> Self::V {
        _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff)))
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn scale2(p: Self::V, n: Self::V) -> Self::V {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
    }
    #[inline(always)]
    unsafe fn positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_set1_ps(0.0)))
    }
    #[inline(always)]
    unsafe fn first(v: Self::V, count: usize, fill: Self::V) -> Self::V {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
        _mm256_blendv_ps(fill, v, _mm256_castsi256_ps(mask))
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn from_i32(p: *const i32) -> Self::V {
        _mm256_cvtepi32_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::V) {
        let v = _mm256_cvtps_epi32(v);
        let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        _mm_storel_epi64(p.cast(), _mm_packs_epi16(v, v));
    }
    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, v: Self::V) {
        let v = _mm256_cvtps_epi32(v);
        let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        _mm_storeu_si128(p.cast(), v);
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::V) {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        let v = _mm256_srli_epi32::<16>(rounded);
        let v = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        _mm_storeu_si128(p.cast(), v);
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> (Self::V, Self::V) {
        let words = _mm256_loadu_si256(p.cast());
        let odd = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        (
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
            _mm256_castsi256_ps(odd),
        )
    }
}

/// All six rows by a macro that takes (row, address, its two accumulators).
macro_rules! all_rows {
    ($one:ident, $first:tt) => {
        concat!(
            $one!($first, "0", "[{p0}]", "4", "5"),
            $one!($first, "1", "[{p0} + {stride}]", "6", "7"),
            $one!($first, "2", "[{p0} + 2*{stride}]", "8", "9"),
            $one!($first, "3", "[{p1}]", "10", "11"),
            $one!($first, "4", "[{p1} + {stride}]", "12", "13"),
            $one!($first, "5", "[{p1} + 2*{stride}]", "14", "15"),
        )
    };
}

/// One row: a broadcast of 32 bits and two products.
macro_rules! row_32 {
    ($product:literal, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpbroadcastd ymm2, dword ptr " $address;
            $product " ymm" $low ", ymm0, ymm2";
            $product " ymm" $high ", ymm1, ymm2";
        )
    };
}

/// One row: a broadcast of four 16-bit integers, multiplied and added in pairs.
macro_rules! row_16 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpbroadcastq ymm2, qword ptr " $address;
            "vpmaddwd ymm3, ymm0, ymm2";
            "vpaddd ymm" $low ", ymm" $low ", ymm3";
            "vpmaddwd ymm3, ymm1, ymm2";
            "vpaddd ymm" $high ", ymm" $high ", ymm3";
        )
    };
}

macro_rules! start_int8 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpbroadcastd ymm" $low ", dword ptr " $address;
            "vmovdqa ymm" $high ", ymm" $low;
        )
    };
}

macro_rules! start_zero {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpxor ymm" $low ", ymm" $low ", ymm" $low;
            "vpxor ymm" $high ", ymm" $high ", ymm" $high;
        )
    };
}

macro_rules! store_16 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vmovdqu ymmword ptr [{out}], ymm" $low;
            "vmovdqu ymmword ptr [{out} + 32], ymm" $high;
            "add {out}, {out_stride}";
        )
    };
}

/// Two partial sums a channel become one: eight channels of a row.
macro_rules! store_8 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vphaddd ymm2, ymm" $low ", ymm" $high;
            "vpermq ymm2, ymm2, 0xd8";
            "vmovdqu ymmword ptr [{out}], ymm2";
            "add {out}, {out_stride}";
        )
    };
}

macro_rules! advance {
    ($by:literal) => {
        concat!(
            "add {p0}, ",
            $by,
            "\n.if {rows} > 3\nadd {p1}, ",
            $by,
            "\n.endif\n"
        )
    };
}

macro_rules! load_32 {
    () => {
        "vmovdqu ymm0, ymmword ptr [{w}]\nvmovdqu ymm1, ymmword ptr [{w} + 32]"
    };
}

macro_rules! load_16 {
    () => {
        "vpmovzxbw ymm0, xmmword ptr [{w}]\nvpmovzxbw ymm1, xmmword ptr [{w} + 16]"
    };
}

/// A tile's function: the start, a loop over words, the stores.
macro_rules! tile_256 {
    ($name:ident, $load:ident, $row:ident, $product:literal, $step:literal, $start:ident, $skip:literal, $store:ident) => {
        unsafe fn $name<const ROWS: usize>(
            a: *const u8,
            stride: usize,
            w: *const u8,
            words: usize,
            out: *mut u8,
            out_stride: usize,
        ) {
            // SAFETY: reads and writes what the contract of `Tile` allows; all registers used are named.
            asm!(
                all_rows!($start, ""),
                advance!($skip),
                "2:",
                $load!(),
                all_rows!($row, $product),
                advance!($step),
                "sub {w}, -128",
                "dec {words}",
                "jnz 2b",
                all_rows!($store, ""),
                rows = const ROWS,
                p0 = inout(reg) a => _,
                p1 = inout(reg) a.wrapping_add(3 * stride) => _,
                stride = in(reg) stride,
                w = inout(reg) w => _,
                words = inout(reg) words => _,
                out = inout(reg) out => _,
                out_stride = in(reg) out_stride,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack),
            );
        }
    };
}

tile_256!(
    int8_vex,
    load_32,
    row_32,
    "{{vex}} vpdpbusd",
    "4",
    start_int8,
    "4",
    store_16
);
tile_256!(
    int8_evex,
    load_32,
    row_32,
    "{{evex}} vpdpbusd",
    "4",
    start_int8,
    "4",
    store_16
);
tile_256!(int8_madd, load_16, row_16, "", "8", start_int8, "4", store_8);
tile_256!(
    f32_f32,
    load_32,
    row_32,
    "vfmadd231ps",
    "4",
    start_zero,
    "0",
    store_16
);

/// The end of a block of 64, 16 channels: ymm0 and ymm1 hold their scales.
macro_rules! scale_16 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss ymm2, dword ptr " $address;
            "vcvtdq2ps ymm" $low ", ymm" $low;
            "vcvtdq2ps ymm" $high ", ymm" $high;
            "vmulps ymm" $low ", ymm" $low ", ymm2";
            "vmulps ymm" $high ", ymm" $high ", ymm2";
            "vfmadd213ps ymm" $low ", ymm0, ymmword ptr [{out} + 128*" $row "]";
            "vfmadd213ps ymm" $high ", ymm1, ymmword ptr [{out} + 128*" $row " + 32]";
            "vmovups ymmword ptr [{out} + 128*" $row "], ymm" $low;
            "vmovups ymmword ptr [{out} + 128*" $row " + 32], ymm" $high;
        )
    };
}

/// The end of a block of 64, eight channels: ymm0 holds their scales.
macro_rules! scale_8 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss ymm2, dword ptr " $address;
            "vphaddd ymm3, ymm" $low ", ymm" $high;
            "vpermq ymm3, ymm3, 0xd8";
            "vcvtdq2ps ymm3, ymm3";
            "vmulps ymm3, ymm3, ymm2";
            "vfmadd213ps ymm3, ymm0, ymmword ptr [{out} + 128*" $row "]";
            "vmovups ymmword ptr [{out} + 128*" $row "], ymm3";
        )
    };
}

macro_rules! clear_16 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vmovdqu ymmword ptr [{out} + 128*" $row "], ymm2";
            "vmovdqu ymmword ptr [{out} + 128*" $row " + 32], ymm2";
        )
    };
}

macro_rules! clear_8 {
    ($_unused:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vmovdqu ymmword ptr [{out} + 128*" $row "], ymm2";
        )
    };
}

/// As [`tile_256`], with a scale for each block of 64.
macro_rules! block_tile_256 {
    ($name:ident, $load:ident, $row:ident, $product:literal, $step:literal, $clear:ident, $scale:ident) => {
        unsafe fn $name<const ROWS: usize>(
            a: *const u8,
            stride: usize,
            w: *const u8,
            blocks: usize,
            scales: *const f32,
            out: *mut f32,
        ) {
            // SAFETY: reads and writes what the contract of `BlockTile` allows; all registers used are named.
            asm!(
                "vpxor ymm2, ymm2, ymm2",
                all_rows!($clear, ""),
                "3:",
                all_rows!(start_int8, ""),
                advance!("4"),
                "mov {words:e}, 16",
                "2:",
                $load!(),
                all_rows!($row, $product),
                advance!($step),
                "sub {w}, -128",
                "dec {words:e}",
                "jnz 2b",
                "vmovups ymm0, ymmword ptr [{scales}]",
                "vmovups ymm1, ymmword ptr [{scales} + 32]",
                all_rows!($scale, ""),
                advance!("4"),
                "sub {scales}, -128",
                "dec {blocks}",
                "jnz 3b",
                rows = const ROWS,
                p0 = inout(reg) a => _,
                p1 = inout(reg) a.wrapping_add(3 * stride) => _,
                stride = in(reg) stride,
                w = inout(reg) w => _,
                words = out(reg) _,
                blocks = inout(reg) blocks => _,
                scales = inout(reg) scales => _,
                out = in(reg) out,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nostack),
            );
        }
    };
}

block_tile_256!(
    blocks_vex,
    load_32,
    row_32,
    "{{vex}} vpdpbusd",
    "4",
    clear_16,
    scale_16
);
block_tile_256!(
    blocks_evex,
    load_32,
    row_32,
    "{{evex}} vpdpbusd",
    "4",
    clear_16,
    scale_16
);
block_tile_256!(blocks_madd, load_16, row_16, "", "8", clear_8, scale_8);

/// The rows of a tile of bfloat16 weights by `f32`: four, for the weights of two elements of k take four registers.
macro_rules! four_rows {
    ($one:ident, $first:tt) => {
        concat!(
            $one!($first, "0", "[{p0}]", "8", "9"),
            $one!($first, "1", "[{p0} + {stride}]", "10", "11"),
            $one!($first, "2", "[{p0} + 2*{stride}]", "12", "13"),
            $one!($first, "3", "[{p1}]", "14", "15"),
        )
    };
}

macro_rules! row_mixed {
    ($weights:tt, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_mixed!(@ $weights, $row, $address, $low, $high)
    };
    (@ "even", $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_mixed!(@@ "0", "1", $row, $address, $low, $high)
    };
    (@ "odd", $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_mixed!(@@ "2", "3", $row, $address, $low, $high)
    };
    (@@ $w0:literal, $w1:literal, $row:literal, $address:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss ymm4, dword ptr " $address;
            "vfmadd231ps ymm" $low ", ymm" $w0 ", ymm4";
            "vfmadd231ps ymm" $high ", ymm" $w1 ", ymm4";
        )
    };
}

/// bfloat16 weights by `f32` activations.
unsafe fn bf16_f32<const ROWS: usize>(
    a: *const u8,
    stride: usize,
    w: *const u8,
    words: usize,
    out: *mut u8,
    out_stride: usize,
) {
    // SAFETY: reads and writes what the contract of `Tile` allows; all registers used are named.
    asm!(
        "vpcmpeqd ymm5, ymm5, ymm5",
        "vpslld ymm5, ymm5, 16",
        four_rows!(start_zero, ""),
        "2:",
        "vmovdqu ymm2, ymmword ptr [{w}]",
        "vmovdqu ymm3, ymmword ptr [{w} + 32]",
        "vpslld ymm0, ymm2, 16",
        "vpslld ymm1, ymm3, 16",
        "vpand ymm2, ymm2, ymm5",
        "vpand ymm3, ymm3, ymm5",
        four_rows!(row_mixed, "even"),
        advance!("4"),
        four_rows!(row_mixed, "odd"),
        advance!("4"),
        "sub {w}, -128",
        "dec {words}",
        "jnz 2b",
        four_rows!(store_16, ""),
        rows = const ROWS,
        p0 = inout(reg) a => _,
        p1 = inout(reg) a.wrapping_add(3 * stride) => _,
        stride = in(reg) stride,
        w = inout(reg) w => _,
        words = inout(reg) words => _,
        out = inout(reg) out => _,
        out_stride = in(reg) out_stride,
        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
        out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
        out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
        options(nostack),
    );
}

/// A panel has 32 channels, a tile here fewer: `$parts` tiles side by side.
macro_rules! tile_type {
    ($name:ident, $function:ident, $rows:literal, $parts:literal, $number:literal, $($count:literal)*) => {
        struct $name;

        impl Tile for $name {
            const ROWS: usize = $rows;
            const NUMBER: usize = $number;

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
                for part in 0..$parts {
                    let at = part * (128 / $parts);
                    let (w, out) = (w.cast::<u8>().add(at), out.add(at));
                    by_rows!(rows, $function(a, stride, w, words, out, out_stride), $($count)*);
                }
            }
        }
    };
}

macro_rules! block_tile_type {
    ($name:ident, $function:ident, $parts:literal) => {
        struct $name;

        impl BlockTile for $name {
            const ROWS: usize = 6;

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
                for part in 0..$parts {
                    let at = part * (32 / $parts);
                    let (w, scales, out) = (w.add(at).cast::<u8>(), scales.add(at), out.add(at));
                    by_rows!(rows, $function(a, stride, w, blocks, scales, out), 1 2 3 4 5 6);
                }
            }
        }
    };
}

tile_type!(Int8Vex, int8_vex, 6, 2, 1, 1 2 3 4 5 6);
tile_type!(Int8Evex, int8_evex, 6, 2, 1, 1 2 3 4 5 6);
tile_type!(Int8Madd, int8_madd, 6, 4, 2, 1 2 3 4 5 6);
tile_type!(Bf16ByF32, bf16_f32, 4, 2, 4, 1 2 3 4);
tile_type!(F32, f32_f32, 6, 2, 4, 1 2 3 4 5 6);
block_tile_type!(BlocksVex, blocks_vex, 2);
block_tile_type!(BlocksEvex, blocks_evex, 2);
block_tile_type!(BlocksMadd, blocks_madd, 4);

kernel_set! {
    /// AVX-VNNI.
    WITH_VNNI_VEX, with_vnni_vex, target_feature(enable = "avx2,fma"),
    simd = Half, int8 = Int8Vex, blocks = BlocksVex, bf16 = Bf16ByF32, f32 = F32,
    start = -128, int8_bytes = 1, bf16_rows = false
}

kernel_set! {
    /// The 256-bit form of AVX-512 VNNI.
    WITH_VNNI_EVEX, with_vnni_evex, target_feature(enable = "avx2,fma"),
    simd = Half, int8 = Int8Evex, blocks = BlocksEvex, bf16 = Bf16ByF32, f32 = F32,
    start = -128, int8_bytes = 1, bf16_rows = false
}

kernel_set! {
    /// AVX2. Each channel has two partial sums, so each starts from half of -128 times the row's sum.
    WITHOUT_VNNI, without_vnni, target_feature(enable = "avx2,fma"),
    simd = Half, int8 = Int8Madd, blocks = BlocksMadd, bf16 = Bf16ByF32, f32 = F32,
    start = -64, int8_bytes = 2, bf16_rows = false
}
