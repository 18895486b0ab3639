//! What the encoder and the decoder are written in: norms, quantising and products over packed weights.

use std::ops::Range;

use crate::kernels::{Epilogue, Kernels, Product, Quantise, Rows};
use crate::plan::{MatrixAt, NormAt};
use crate::{Precision, Shape};

/// Scale of a query: 1/8 for heads of 64 channels (Whisper divides query and key by the fourth root of 64 each), and log2(e)
/// because the softmax is in base 2.
pub(crate) const QUERY_SCALE: f32 = 0.125 * std::f32::consts::LOG2_E;

/// A model's packed weights and the kernels for them, for the length of one call.
///
/// Its functions are unsafe like the kernels they call: pointers must be valid for the rows and widths given, and no other
/// thread may write to what is read or touch what is written.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) region: &'a [u8],
    pub(crate) shape: &'a Shape,
    pub(crate) precision: Precision,
}

impl Context<'_> {
    pub(crate) fn base(&self) -> *const u8 {
        self.region.as_ptr()
    }

    /// The format of attention: bfloat16, or `f32` in the exact format.
    pub(crate) fn attention(&self) -> Precision {
        self.precision.attention()
    }

    /// Bytes of a row of `k` activations in the format of the products.
    pub(crate) fn row(&self, k: usize) -> usize {
        self.kernels.row(self.precision, k)
    }

    /// Writes rows of `f32` in a format's layout.
    ///
    /// # Safety
    ///
    /// See [`Context`].
    pub(crate) unsafe fn quantise(
        &self,
        format: Precision,
        from: *const f32,
        from_stride: usize,
        count: usize,
        k: usize,
        to: *mut u8,
    ) -> Rows {
        let stride = self.kernels.row(format, k);
        let job = Quantise {
            from,
            from_stride,
            count,
            k,
            to,
            to_stride: stride,
        };
        // SAFETY: the caller's promise.
        unsafe { self.kernels.quantise(format)(&job) };
        Rows {
            start: to,
            stride,
            count,
        }
    }

    /// Some panels of a product.
    ///
    /// # Safety
    ///
    /// See [`Context`].
    pub(crate) unsafe fn product(
        &self,
        rows: Rows,
        at: &MatrixAt,
        panels: Range<usize>,
        out: *mut f32,
        out_stride: usize,
        epilogue: Epilogue,
    ) {
        let matrix = at.of(self.base());
        let job = Product {
            rows,
            matrix,
            first_panel: panels.start,
            end_panel: panels.end,
            out,
            out_stride,
            epilogue,
        };
        // SAFETY: the caller's promise; the plan put the matrix inside the region.
        unsafe { self.kernels.product(matrix.format)(&job) };
    }

    /// A whole product.
    ///
    /// # Safety
    ///
    /// See [`Context`].
    pub(crate) unsafe fn whole(
        &self,
        rows: Rows,
        at: &MatrixAt,
        out: *mut f32,
        out_stride: usize,
        epilogue: Epilogue,
    ) {
        let panels = 0..at.of(self.base()).panels();
        // SAFETY: the caller's promise.
        unsafe { self.product(rows, at, panels, out, out_stride, epilogue) };
    }

    /// Normalises rows that lie one after the other.
    ///
    /// # Safety
    ///
    /// See [`Context`].
    pub(crate) unsafe fn norm(
        &self,
        norm: &NormAt,
        from: *const f32,
        to: *mut f32,
        count: usize,
        width: usize,
    ) {
        let (weight, bias) = (norm.weight.of(self.base()), norm.bias.of(self.base()));
        for row in 0..count {
            // SAFETY: the caller's promise; the plan put both vectors inside the region.
            unsafe {
                (self.kernels.layer_norm)(to.add(row * width), from.add(row * width), weight, bias, width);
            }
        }
    }
}
