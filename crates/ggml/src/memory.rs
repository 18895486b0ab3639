//! Tensors that stay: weights, and keys and values.
#![allow(unsafe_code, reason = "calls ggml's C functions")]

use std::marker::PhantomData;
use std::ptr::NonNull;

use whisper_rs_sys as sys;

use crate::Error;
use crate::device::Backend;

/// How a tensor's numbers are stored, as ggml counts types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(sys::ggml_type);

impl Kind {
    pub(crate) const F32: Self = Self(sys::ggml_type_GGML_TYPE_F32);
    pub(crate) const F16: Self = Self(sys::ggml_type_GGML_TYPE_F16);
    pub(crate) const I32: Self = Self(sys::ggml_type_GGML_TYPE_I32);
    pub(crate) const I64: Self = Self(sys::ggml_type_GGML_TYPE_I64);

    /// The formats that weights may have: f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0.
    pub(crate) fn of_weights(number: u32) -> Option<Self> {
        matches!(
            number,
            sys::ggml_type_GGML_TYPE_F32
                | sys::ggml_type_GGML_TYPE_F16
                | sys::ggml_type_GGML_TYPE_Q8_0
                | sys::ggml_type_GGML_TYPE_Q5_1
                | sys::ggml_type_GGML_TYPE_Q5_0
                | sys::ggml_type_GGML_TYPE_Q4_1
                | sys::ggml_type_GGML_TYPE_Q4_0
        )
        .then_some(Self(number))
    }

    pub(crate) fn raw(self) -> sys::ggml_type {
        self.0
    }

    /// Bytes of a row; `None` when it is no whole number of blocks.
    pub(crate) fn row_bytes(self, elements: usize) -> Option<usize> {
        // SAFETY: plain lookups; the number is one of the constants above.
        let block = unsafe { sys::ggml_blck_size(self.0) } as usize;
        elements
            .is_multiple_of(block)
            // SAFETY: as above.
            .then(|| unsafe { sys::ggml_row_size(self.0, elements as i64) })
    }
}

/// A tensor of a context that lives for `'t`. Its sizes run from the contiguous dimension on, as in ggml.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'t> {
    raw: NonNull<sys::ggml_tensor>,
    context: PhantomData<&'t ()>,
}

impl Tensor<'_> {
    /// # Safety
    ///
    /// `raw` belongs to a context that lives for the lifetime the caller gives the result.
    pub(crate) unsafe fn new(raw: NonNull<sys::ggml_tensor>) -> Self {
        Self {
            raw,
            context: PhantomData,
        }
    }

    pub(crate) fn raw(self) -> *mut sys::ggml_tensor {
        self.raw.as_ptr()
    }

    pub(crate) fn sizes(self) -> [usize; 4] {
        // SAFETY: the context lives, and nobody changes a tensor's sizes.
        unsafe { self.raw.as_ref() }.ne.map(|size| size as usize)
    }

    pub(crate) fn kind(self) -> Kind {
        // SAFETY: as above.
        Kind(unsafe { self.raw.as_ref() }.type_)
    }

    pub(crate) fn bytes(self) -> usize {
        // SAFETY: as above.
        unsafe { sys::ggml_nbytes(self.raw.as_ptr()) }
    }

    /// Bytes from one index of dimension `dimension` to the next.
    pub(crate) fn stride(self, dimension: usize) -> usize {
        // SAFETY: as above.
        unsafe { self.raw.as_ref() }.nb[dimension]
    }
}

/// Sizes and kind of a tensor to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blank {
    pub(crate) kind: Kind,
    pub(crate) sizes: [usize; 4],
}

/// Tensors in one buffer of a device.
pub(crate) struct Store {
    context: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    tensors: Vec<NonNull<sys::ggml_tensor>>,
}

// SAFETY: contexts and buffers have no ties to a thread; writing needs `&mut`.
unsafe impl Send for Store {}

impl Store {
    /// Makes all of `blanks`, in their order. The memory holds zeros.
    pub(crate) fn new(
        backend: &Backend,
        blanks: &[Blank],
        weights: bool,
        what: &'static str,
    ) -> Result<Self, Error> {
        let bytes = blanks
            .iter()
            .map(|blank| {
                let rows: usize = blank.sizes[1..].iter().product();
                blank.kind.row_bytes(blank.sizes[0]).unwrap_or(0) * rows
            })
            .sum();
        let memory = || Error::Memory { what, bytes };
        // SAFETY: without data of its own a context is some hundred bytes a tensor, allocated by ggml.
        let context = unsafe {
            sys::ggml_init(sys::ggml_init_params {
                mem_size: (blanks.len() + 1) * sys::ggml_tensor_overhead(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        let context = NonNull::new(context).ok_or_else(memory)?;
        let mut tensors = Vec::with_capacity(blanks.len());
        for blank in blanks {
            let [a, b, c, d] = blank.sizes.map(|size| size as i64);
            // SAFETY: the context has room for as many tensors.
            let raw = unsafe { sys::ggml_new_tensor_4d(context.as_ptr(), blank.kind.raw(), a, b, c, d) };
            tensors.extend(NonNull::new(raw));
        }
        // SAFETY: context and backend live; every tensor of the context gets memory, or none.
        let buffer = unsafe { sys::ggml_backend_alloc_ctx_tensors(context.as_ptr(), backend.raw()) };
        let Some(buffer) = NonNull::new(buffer).filter(|_| tensors.len() == blanks.len()) else {
            // SAFETY: made above, freed once.
            unsafe { sys::ggml_free(context.as_ptr()) };
            return Err(memory());
        };
        let usage = if weights {
            sys::ggml_backend_buffer_usage_GGML_BACKEND_BUFFER_USAGE_WEIGHTS
        } else {
            sys::ggml_backend_buffer_usage_GGML_BACKEND_BUFFER_USAGE_ANY
        };
        // SAFETY: the buffer was just made.
        unsafe {
            sys::ggml_backend_buffer_set_usage(buffer.as_ptr(), usage);
            sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0);
        }
        Ok(Self {
            context,
            buffer,
            tensors,
        })
    }

    /// Tensor number `index`.
    pub(crate) fn tensor(&self, index: usize) -> Tensor<'_> {
        // SAFETY: the context lives as long as this store.
        unsafe { Tensor::new(self.tensors[index]) }
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> usize {
        // SAFETY: the buffer lives.
        unsafe { sys::ggml_backend_buffer_get_size(self.buffer.as_ptr()) }
    }

    /// Fills a tensor; `bytes` are as many as it has.
    pub(crate) fn fill(&mut self, index: usize, bytes: &[u8]) {
        let tensor = self.tensor(index);
        assert_eq!(bytes.len(), tensor.bytes(), "a tensor is filled as a whole");
        // SAFETY: the tensor has memory in this store's buffer, of the length just compared.
        unsafe { sys::ggml_backend_tensor_set(tensor.raw(), bytes.as_ptr().cast(), 0, bytes.len()) };
    }

    /// Writes zeros over `len` bytes of a tensor from `offset` on.
    pub(crate) fn clear(&mut self, index: usize, offset: usize, len: usize) {
        let tensor = self.tensor(index);
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= tensor.bytes()),
            "within the tensor"
        );
        let zeros = vec![0_u8; len.min(1 << 20)];
        let mut done = 0;
        while done < len {
            let piece = zeros.len().min(len - done);
            // SAFETY: within the tensor, as just asserted. Not `ggml_backend_tensor_memset`: not every backend has it.
            unsafe {
                sys::ggml_backend_tensor_set(tensor.raw(), zeros.as_ptr().cast(), offset + done, piece);
            }
            done += piece;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: both were made by `new` and are freed once; no `Tensor` outlives the store.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}
