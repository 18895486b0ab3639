//! 512-bit kernels: `vpdpbusd` for integers; `vdpbf16ps` where the processor has it; FMA.
//!
//! A tile is 12 rows by 32 channels: 24 accumulators, two registers of weights, broadcasts of activations. The inner loop is one
//! `asm!` block, because the compiler hoists and spills the broadcasts of the same loop in intrinsics (40 % of the speed).

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
    __m256i, __m512, _CMP_GT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128,
    _mm256_storeu_si256, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps,
    _mm512_cvtneps_pbh, _mm512_cvtps_epi32, _mm512_cvtsepi32_epi8, _mm512_div_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::generic;
use super::narrow;
use super::set::kernel_set;
use super::simd::Simd;
use super::tile::{BlockTile, Tile, by_rows, row_lines};
use super::{Attend, AttendTokens, Kernels, PackHeads, Product, Quantise, StoreToken};

/// 16 lanes of AVX-512; bfloat16 by integer arithmetic.
#[derive(Clone, Copy)]
struct Wide;

impl Simd for Wide {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        _mm512_storeu_ps(p, v);
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::V) -> Self::V {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn scale2(p: Self::V, n: Self::V) -> Self::V {
        _mm512_scalef_ps(p, n)
    }
    #[inline(always)]
    unsafe fn positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_set1_ps(0.0)), no, yes)
    }
    #[inline(always)]
    unsafe fn first(v: Self::V, count: usize, fill: Self::V) -> Self::V {
        let mask = if count >= 16 {
            u16::MAX
        } else {
            (1u16 << count) - 1
        };
        _mm512_mask_blend_ps(mask, fill, v)
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        _mm512_reduce_add_ps(v)
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        _mm512_reduce_max_ps(v)
    }
    #[inline(always)]
    unsafe fn from_i32(p: *const i32) -> Self::V {
        _mm512_cvtepi32_ps(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::V) {
        _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
    }
    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, v: Self::V) {
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::V) {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded)));
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> (Self::V, Self::V) {
        let words = _mm512_loadu_si512(p.cast());
        (
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
            _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
        )
    }
}

/// As [`Wide`], with the processor's own conversion to bfloat16.
#[derive(Clone, Copy)]
struct WideBf16;

macro_rules! as_wide {
    ($($name:ident ( $($argument:ident : $type:ty),* ) -> $result:ty;)*) => {
        $(#[inline(always)]
        unsafe fn $name($($argument: $type),*) -> $result {
            Wide::$name($($argument),*)
        })*
    };
}

impl Simd for WideBf16 {
    type V = __m512;
    const LANES: usize = 16;

    as_wide! {
        splat(x: f32) -> __m512;
        load(p: *const f32) -> __m512;
        store(p: *mut f32, v: __m512) -> ();
        add(a: __m512, b: __m512) -> __m512;
        sub(a: __m512, b: __m512) -> __m512;
        mul(a: __m512, b: __m512) -> __m512;
        div(a: __m512, b: __m512) -> __m512;
        fma(a: __m512, b: __m512, c: __m512) -> __m512;
        max(a: __m512, b: __m512) -> __m512;
        abs(a: __m512) -> __m512;
        round(a: __m512) -> __m512;
        scale2(p: __m512, n: __m512) -> __m512;
        positive(x: __m512, yes: __m512, no: __m512) -> __m512;
        first(v: __m512, count: usize, fill: __m512) -> __m512;
        sum(v: __m512) -> f32;
        largest(v: __m512) -> f32;
        from_i32(p: *const i32) -> __m512;
        store_i8(p: *mut i8, v: __m512) -> ();
        store_i16(p: *mut i16, v: __m512) -> ();
        load_bf16(p: *const u16) -> (__m512, __m512);
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::V) {
        // SAFETY: both are 256 bits of anything.
        let half: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(v)) };
        _mm256_storeu_si256(p.cast(), half);
    }
}

/// One row of an inner loop: a broadcast and two products. `{rows}` drops the rows that a smaller tile lacks.
macro_rules! row {
    ($product:literal, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpbroadcastd zmm" $broadcast ", dword ptr " $address;
            $product " zmm" $low ", zmm0, zmm" $broadcast;
            $product " zmm" $high ", zmm1, zmm" $broadcast;
        )
    };
}

/// All twelve rows by a macro that takes (row, address, a register, its two accumulators).
macro_rules! all_rows {
    ($one:ident, $first:tt) => {
        concat!(
            $one!($first, "0", "[{p0}]", "2", "8", "9"),
            $one!($first, "1", "[{p0} + {stride}]", "3", "10", "11"),
            $one!($first, "2", "[{p0} + 2*{stride}]", "4", "12", "13"),
            $one!($first, "3", "[{p1}]", "5", "14", "15"),
            $one!($first, "4", "[{p1} + {stride}]", "6", "16", "17"),
            $one!($first, "5", "[{p1} + 2*{stride}]", "7", "18", "19"),
            $one!($first, "6", "[{p2}]", "2", "20", "21"),
            $one!($first, "7", "[{p2} + {stride}]", "3", "22", "23"),
            $one!($first, "8", "[{p2} + 2*{stride}]", "4", "24", "25"),
            $one!($first, "9", "[{p3}]", "5", "26", "27"),
            $one!($first, "10", "[{p3} + {stride}]", "6", "28", "29"),
            $one!($first, "11", "[{p3} + 2*{stride}]", "7", "30", "31"),
        )
    };
}

macro_rules! start_int8 {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpbroadcastd zmm" $low ", dword ptr " $address;
            "vmovdqa64 zmm" $high ", zmm" $low;
        )
    };
}

macro_rules! start_zero {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vpxord zmm" $low ", zmm" $low ", zmm" $low;
            "vpxord zmm" $high ", zmm" $high ", zmm" $high;
        )
    };
}

macro_rules! store {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vmovdqu64 zmmword ptr [{out}], zmm" $low;
            "vmovdqu64 zmmword ptr [{out} + 64], zmm" $high;
            "add {out}, {out_stride}";
        )
    };
}

macro_rules! advance {
    ($by:literal) => {
        concat!(
            "add {p0}, ",
            $by,
            "\n",
            ".if {rows} > 3\nadd {p1}, ",
            $by,
            "\n.endif\n",
            ".if {rows} > 6\nadd {p2}, ",
            $by,
            "\n.endif\n",
            ".if {rows} > 9\nadd {p3}, ",
            $by,
            "\n.endif\n"
        )
    };
}

/// A tile's function: the start, a loop over words of 32 channels, the stores.
macro_rules! tile_512 {
    ($name:ident, $product:literal, $start:ident, $skip:literal) => {
        unsafe fn $name<const ROWS: usize>(
            a: *const u8,
            stride: usize,
            w: *const u32,
            words: usize,
            out: *mut u8,
            out_stride: usize,
        ) {
            // SAFETY: reads and writes what the contract of `Tile` allows; all registers used are named.
            asm!(
                all_rows!($start, ""),
                advance!($skip),
                "2:",
                "vmovdqu64 zmm0, zmmword ptr [{w}]",
                "vmovdqu64 zmm1, zmmword ptr [{w} + 64]",
                all_rows!(row, $product),
                advance!("4"),
                "sub {w}, -128",
                "dec {words}",
                "jnz 2b",
                all_rows!(store, ""),
                rows = const ROWS,
                p0 = inout(reg) a => _,
                p1 = inout(reg) a.wrapping_add(3 * stride) => _,
                p2 = inout(reg) a.wrapping_add(6 * stride) => _,
                p3 = inout(reg) a.wrapping_add(9 * stride) => _,
                stride = in(reg) stride,
                w = inout(reg) w => _,
                words = inout(reg) words => _,
                out = inout(reg) out => _,
                out_stride = in(reg) out_stride,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
                out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
                out("zmm30") _, out("zmm31") _,
                options(nostack),
            );
        }
    };
}

tile_512!(int8, "vpdpbusd", start_int8, "4");
tile_512!(bf16_bf16, "vdpbf16ps", start_zero, "0");
tile_512!(f32_f32, "vfmadd231ps", start_zero, "0");

/// One row of bfloat16 weights by `f32` activations: zmm0 and zmm1 hold the even elements of k, zmm2 and
/// zmm3 the odd ones.
macro_rules! row_mixed {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss zmm6, dword ptr " $address;
            "vfmadd231ps zmm" $low ", zmm0, zmm6";
            "vfmadd231ps zmm" $high ", zmm1, zmm6";
        )
    };
}

macro_rules! row_mixed_odd {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss zmm7, dword ptr " $address;
            "vfmadd231ps zmm" $low ", zmm2, zmm7";
            "vfmadd231ps zmm" $high ", zmm3, zmm7";
        )
    };
}

/// bfloat16 weights by `f32` activations, for processors that do not multiply bfloat16.
unsafe fn bf16_f32<const ROWS: usize>(
    a: *const u8,
    stride: usize,
    w: *const u32,
    words: usize,
    out: *mut u8,
    out_stride: usize,
) {
    // SAFETY: reads and writes what the contract of `Tile` allows; all registers used are named.
    asm!(
        "vpternlogd zmm5, zmm5, zmm5, 0xff",
        "vpslld zmm5, zmm5, 16",
        all_rows!(start_zero, ""),
        "2:",
        "vpslld zmm0, zmmword ptr [{w}], 16",
        "vpslld zmm1, zmmword ptr [{w} + 64], 16",
        "vpandd zmm2, zmm5, zmmword ptr [{w}]",
        "vpandd zmm3, zmm5, zmmword ptr [{w} + 64]",
        all_rows!(row_mixed, ""),
        advance!("4"),
        all_rows!(row_mixed_odd, ""),
        advance!("4"),
        "sub {w}, -128",
        "dec {words}",
        "jnz 2b",
        all_rows!(store, ""),
        rows = const ROWS,
        p0 = inout(reg) a => _,
        p1 = inout(reg) a.wrapping_add(3 * stride) => _,
        p2 = inout(reg) a.wrapping_add(6 * stride) => _,
        p3 = inout(reg) a.wrapping_add(9 * stride) => _,
        stride = in(reg) stride,
        w = inout(reg) w => _,
        words = inout(reg) words => _,
        out = inout(reg) out => _,
        out_stride = in(reg) out_stride,
        out("zmm5") _, out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm6") _, out("zmm7") _,
        out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
        out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
        out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _,
        out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
        options(nostack),
    );
}

macro_rules! clear_out {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vmovdqu64 zmmword ptr [{out} + 128*" $row "], zmm2";
            "vmovdqu64 zmmword ptr [{out} + 128*" $row " + 64], zmm2";
        )
    };
}

/// The end of a block: zmm0 and zmm1 hold the channels' scales.
macro_rules! scale_block {
    ($_unused:tt, $row:literal, $address:literal, $broadcast:literal, $low:literal, $high:literal) => {
        row_lines!($row:
            "vbroadcastss zmm" $broadcast ", dword ptr " $address;
            "vcvtdq2ps zmm" $low ", zmm" $low;
            "vcvtdq2ps zmm" $high ", zmm" $high;
            "vmulps zmm" $low ", zmm" $low ", zmm" $broadcast;
            "vmulps zmm" $high ", zmm" $high ", zmm" $broadcast;
            "vfmadd213ps zmm" $low ", zmm0, zmmword ptr [{out} + 128*" $row "]";
            "vfmadd213ps zmm" $high ", zmm1, zmmword ptr [{out} + 128*" $row " + 64]";
            "vmovups zmmword ptr [{out} + 128*" $row "], zmm" $low;
            "vmovups zmmword ptr [{out} + 128*" $row " + 64], zmm" $high;
        )
    };
}

/// As `int8`, with a scale for each block of 64: 16 words, then the sums are scaled and added to `out`.
unsafe fn int8_blocks<const ROWS: usize>(
    a: *const u8,
    stride: usize,
    w: *const u32,
    blocks: usize,
    scales: *const f32,
    out: *mut f32,
) {
    // SAFETY: reads and writes what the contract of `BlockTile` allows; all registers used are named.
    asm!(
        "vpxord zmm2, zmm2, zmm2",
        all_rows!(clear_out, ""),
        "3:",
        all_rows!(start_int8, ""),
        advance!("4"),
        "mov {words:e}, 16",
        "2:",
        "vmovdqu64 zmm0, zmmword ptr [{w}]",
        "vmovdqu64 zmm1, zmmword ptr [{w} + 64]",
        all_rows!(row, "vpdpbusd"),
        advance!("4"),
        "sub {w}, -128",
        "dec {words:e}",
        "jnz 2b",
        "vmovups zmm0, zmmword ptr [{scales}]",
        "vmovups zmm1, zmmword ptr [{scales} + 64]",
        all_rows!(scale_block, ""),
        advance!("4"),
        "sub {scales}, -128",
        "dec {blocks}",
        "jnz 3b",
        rows = const ROWS,
        p0 = inout(reg) a => _,
        p1 = inout(reg) a.wrapping_add(3 * stride) => _,
        p2 = inout(reg) a.wrapping_add(6 * stride) => _,
        p3 = inout(reg) a.wrapping_add(9 * stride) => _,
        stride = in(reg) stride,
        w = inout(reg) w => _,
        words = out(reg) _,
        blocks = inout(reg) blocks => _,
        scales = inout(reg) scales => _,
        out = in(reg) out,
        out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
        out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
        out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
        out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
        out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
        out("zmm30") _, out("zmm31") _,
        options(nostack),
    );
}

macro_rules! tile_type {
    ($name:ident, $function:ident, $number:literal) => {
        struct $name;

        impl Tile for $name {
            const ROWS: usize = 12;
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
                by_rows!(rows, $function(a, stride, w, words, out, out_stride), 1 2 3 4 5 6 7 8 9 10 11 12);
            }
        }
    };
}

tile_type!(Int8, int8, 1);
tile_type!(Bf16, bf16_bf16, 2);
tile_type!(Bf16ByF32, bf16_f32, 4);
tile_type!(F32, f32_f32, 4);

struct Int8Blocks;

impl BlockTile for Int8Blocks {
    const ROWS: usize = 12;

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
        by_rows!(rows, int8_blocks(a, stride, w, blocks, scales, out), 1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

kernel_set! {
    /// With `vdpbf16ps`.
    WITH_BF16, with_bf16, target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"),
    simd = WideBf16, int8 = Int8, blocks = Int8Blocks, bf16 = Bf16, f32 = F32,
    start = -128, int8_bytes = 1, bf16_rows = true
}

kernel_set! {
    /// Without it: attention multiplies in `f32`.
    WITHOUT_BF16, without_bf16, target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"),
    simd = Wide, int8 = Int8, blocks = Int8Blocks, bf16 = Bf16ByF32, f32 = F32,
    start = -128, int8_bytes = 1, bf16_rows = false
}
