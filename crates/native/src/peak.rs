//! What the multiplying instructions of an instruction set do at most, measured: the yardstick of benchmarks.

use std::time::Instant;

use crate::buffer::Buffer;
use crate::kernels::{Epilogue, Kernels, Product, Quantise, Rows};
use crate::plan::MatrixAt;
use crate::{Isa, Precision};

/// GMAC/s of one thread for a product that lies in the first-level cache whole, with the tile's loads and without any other
/// work that matters: what is left to a kernel's surroundings. The best of some runs, for about 10 ms.
///
/// `isa` must be available.
pub fn register_peak(isa: Isa, precision: Precision) -> f64 {
    let kernels = Kernels::of(isa);
    // 12 rows, one panel, as much of k as 24 KiB of weights hold.
    let (m, n) = (12, 32);
    let k = match precision {
        Precision::Int8Row | Precision::Int8Block64 => 768,
        Precision::Bf16 => 384,
        Precision::F32 => 192,
    };
    let (at, len) = MatrixAt::alone(precision, n, k);
    let region = Buffer::new(len);
    let stride = kernels.row(precision, k);
    let (rows, from, out) = (
        Buffer::new(m * stride),
        Buffer::new(m * k * 4),
        Buffer::new(m * n * 4),
    );
    let quantise = Quantise {
        from: from.shared().0.cast(),
        from_stride: k,
        count: m,
        k,
        to: rows.shared().0,
        to_stride: stride,
    };
    let product = Product {
        rows: Rows {
            start: rows.shared().0,
            stride,
            count: m,
        },
        matrix: at.of(region.bytes().as_ptr()),
        first_panel: 0,
        end_panel: 1,
        out: out.shared().0.cast(),
        out_stride: n,
        epilogue: Epilogue::Store,
    };
    // SAFETY: all buffers have the sizes that the fields say, and the caller knows the set to be available.
    unsafe { kernels.quantise(precision)(&quantise) };
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..200 {
            // SAFETY: as above.
            unsafe { kernels.product(precision)(&product) };
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    (200 * m * n * k) as f64 / best / 1e9
}
