//! Graphs that are built, given memory, computed and forgotten.
//!
//! An [`Arena`] keeps the memory from one graph to the next: [`Arena::begin`] gives a [`Builder`], whose tensors live until the
//! next one begins. ggml itself checks the sizes of operands and ends the process where they do not fit; views are checked here.
#![allow(unsafe_code, reason = "calls ggml's C functions")]

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use whisper_rs_sys as sys;

use crate::Error;
use crate::device::{Backend, DeviceKind, operation};
use crate::memory::{Kind, Tensor};

/// Numbers that a tensor of one kind holds.
pub(crate) trait Number: Copy + Default {
    const KIND: Kind;
}

impl Number for f32 {
    const KIND: Kind = Kind::F32;
}
impl Number for i32 {
    const KIND: Kind = Kind::I32;
}
impl Number for i64 {
    const KIND: Kind = Kind::I64;
}
/// The bits of a binary16.
impl Number for u16 {
    const KIND: Kind = Kind::F16;
}

/// Memory for one graph at a time.
pub(crate) struct Arena {
    /// The context's memory; its alignment is ggml's (`GGML_MEM_ALIGN`, 16).
    context: Vec<u128>,
    nodes: usize,
    allocator: NonNull<sys::ggml_gallocr>,
}

// SAFETY: the allocator has no ties to a thread; using it needs `&mut`.
unsafe impl Send for Arena {}

impl Arena {
    /// For graphs of at most `nodes` nodes on `backend`.
    pub(crate) fn new(backend: &Backend, nodes: usize) -> Self {
        // SAFETY: plain queries; the backend lives, and its default buffer type lives as long as the process.
        let (bytes, allocator) = unsafe {
            (
                sys::ggml_graph_overhead_custom(nodes, false) + nodes * sys::ggml_tensor_overhead(),
                sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.raw())),
            )
        };
        Self {
            context: vec![0; bytes.div_ceil(16) + 64],
            nodes,
            allocator: NonNull::new(allocator).expect("ggml allocates with `calloc`, or ends the process"),
        }
    }

    /// Bytes of the device that its graphs have taken so far.
    pub(crate) fn bytes(&self) -> usize {
        // SAFETY: the allocator lives; it has one buffer.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.allocator.as_ptr(), 0) }
    }

    /// Begins a graph; the one before is forgotten.
    pub(crate) fn begin<'g>(&'g mut self, backend: &'g Backend) -> Builder<'g> {
        // SAFETY: the memory is this arena's, long enough and aligned, and borrowed for as long as the builder.
        let context = unsafe {
            sys::ggml_init(sys::ggml_init_params {
                mem_size: self.context.len() * 16,
                mem_buffer: self.context.as_mut_ptr().cast(),
                no_alloc: true,
            })
        };
        let context = NonNull::new(context).expect("ggml allocates with `malloc`, or ends the process");
        // SAFETY: the context has room for a graph of so many nodes.
        let graph = unsafe { sys::ggml_new_graph_custom(context.as_ptr(), self.nodes, false) };
        Builder {
            context,
            graph: NonNull::new(graph).expect("room for a graph was made"),
            made: Cell::new(0),
            most: self.nodes,
            allocator: self.allocator,
            backend,
            arena: PhantomData,
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_gallocr_new`, freed once.
        unsafe { sys::ggml_gallocr_free(self.allocator.as_ptr()) };
    }
}

/// A graph that is being built.
pub(crate) struct Builder<'g> {
    context: NonNull<sys::ggml_context>,
    graph: NonNull<sys::ggml_cgraph>,
    made: Cell<usize>,
    most: usize,
    allocator: NonNull<sys::ggml_gallocr>,
    backend: &'g Backend,
    arena: PhantomData<&'g mut Arena>,
}

impl Drop for Builder<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_init`, freed once. The tensors lie in the arena's memory, which stays.
        unsafe { sys::ggml_free(self.context.as_ptr()) };
    }
}

/// Tensors of the arena or of a store that outlives it: what operands are.
type T<'g> = Tensor<'g>;

impl<'g> Builder<'g> {
    fn context(&self) -> *mut sys::ggml_context {
        assert!(
            self.made.get() < self.most,
            "a graph of more than {} tensors",
            self.most
        );
        self.made.set(self.made.get() + 1);
        self.context.as_ptr()
    }

    /// Takes a tensor that ggml has just made in this context.
    fn own(raw: *mut sys::ggml_tensor) -> T<'g> {
        let raw = NonNull::new(raw).expect("ggml makes a tensor, or ends the process");
        // SAFETY: the tensor lies in the arena's memory, which is borrowed for `'g`.
        unsafe { Tensor::new(raw) }
    }

    /// An input of the graph.
    pub(crate) fn input<N: Number>(&self, sizes: [usize; 4]) -> T<'g> {
        let [a, b, c, d] = sizes.map(|size| size as i64);
        // SAFETY: the context has room; the tensor is new.
        unsafe {
            let raw = sys::ggml_new_tensor_4d(self.context(), N::KIND.raw(), a, b, c, d);
            sys::ggml_set_input(raw);
            Self::own(raw)
        }
    }

    /// Computes `tensor` in the order of these calls; what it depends on comes first.
    pub(crate) fn compute(&self, tensor: T<'g>) {
        // SAFETY: graph and tensor live.
        unsafe { sys::ggml_build_forward_expand(self.graph.as_ptr(), tensor.raw()) };
    }

    /// As [`Self::compute`]; the tensor can be read afterwards.
    pub(crate) fn output(&self, tensor: T<'g>) {
        // SAFETY: the tensor lives.
        unsafe { sys::ggml_set_output(tensor.raw()) };
        self.compute(tensor);
    }

    // SAFETY (all operations below): the context has room for the result, operands live at least as long as it, and ggml
    // ends the process when their sizes do not fit together.

    pub(crate) fn add(&self, a: T<'g>, b: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_add(self.context(), a.raw(), b.raw()) })
    }

    pub(crate) fn mul(&self, a: T<'g>, b: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_mul(self.context(), a.raw(), b.raw()) })
    }

    pub(crate) fn mul_mat(&self, a: T<'g>, b: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_mul_mat(self.context(), a.raw(), b.raw()) })
    }

    pub(crate) fn norm(&self, a: T<'g>, epsilon: f32) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_norm(self.context(), a.raw(), epsilon) })
    }

    pub(crate) fn gelu(&self, a: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_gelu(self.context(), a.raw()) })
    }

    pub(crate) fn contiguous(&self, a: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_cont(self.context(), a.raw()) })
    }

    pub(crate) fn cast(&self, a: T<'g>, kind: Kind) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_cast(self.context(), a.raw(), kind.raw()) })
    }

    /// `from` is converted into what `into` is a view of.
    pub(crate) fn copy(&self, from: T<'g>, into: T<'g>) -> T<'g> {
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_cpy(self.context(), from.raw(), into.raw()) })
    }

    /// Zeros behind each row's end, so that there are `rows` of them.
    pub(crate) fn pad_rows(&self, a: T<'g>, rows: usize) -> T<'g> {
        let missing = rows.saturating_sub(a.sizes()[1]);
        if missing == 0 {
            return a;
        }
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_pad(self.context(), a.raw(), 0, missing as i32, 0, 0) })
    }

    /// `a` as often as `sizes` ask for.
    pub(crate) fn repeat(&self, a: T<'g>, sizes: [usize; 4]) -> T<'g> {
        let [ne0, ne1, ne2, ne3] = sizes.map(|size| size as i64);
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_repeat_4d(self.context(), a.raw(), ne0, ne1, ne2, ne3) })
    }

    pub(crate) fn get_rows(&self, a: T<'g>, rows: T<'g>) -> T<'g> {
        // SAFETY: see above; callers fill `rows` with numbers below `a`'s rows.
        Self::own(unsafe { sys::ggml_get_rows(self.context(), a.raw(), rows.raw()) })
    }

    pub(crate) fn set_rows(&self, into: T<'g>, from: T<'g>, rows: T<'g>) -> T<'g> {
        // SAFETY: see above; callers fill `rows` with numbers below `into`'s rows.
        Self::own(unsafe { sys::ggml_set_rows(self.context(), into.raw(), from.raw(), rows.raw()) })
    }

    /// Columns of three neighbours in time of `input`, for a convolution of padding 1.
    pub(crate) fn neighbours(&self, kernel: T<'g>, input: T<'g>, stride: usize) -> T<'g> {
        // f32: every backend multiplies any weights with it.
        // SAFETY: see above.
        Self::own(unsafe {
            sys::ggml_im2col(
                self.context(),
                kernel.raw(),
                input.raw(),
                stride as i32,
                0,
                1,
                0,
                1,
                0,
                false,
                Kind::F32.raw(),
            )
        })
    }

    pub(crate) fn soft_max(&self, a: T<'g>, mask: Option<T<'g>>, scale: f32) -> T<'g> {
        let mask = mask.map_or(ptr::null_mut(), Tensor::raw);
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_soft_max_ext(self.context(), a.raw(), mask, scale, 0.0) })
    }

    pub(crate) fn flash_attention(
        &self,
        query: T<'g>,
        key: T<'g>,
        value: T<'g>,
        mask: Option<T<'g>>,
        scale: f32,
    ) -> T<'g> {
        let mask = mask.map_or(ptr::null_mut(), Tensor::raw);
        // SAFETY: see above.
        Self::own(unsafe {
            sys::ggml_flash_attn_ext(
                self.context(),
                query.raw(),
                key.raw(),
                value.raw(),
                mask,
                scale,
                0.0,
                0.0,
            )
        })
    }

    pub(crate) fn permute(&self, a: T<'g>, axes: [i32; 4]) -> T<'g> {
        let [x, y, z, w] = axes;
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_permute(self.context(), a.raw(), x, y, z, w) })
    }

    pub(crate) fn reshape(&self, a: T<'g>, sizes: [usize; 4]) -> T<'g> {
        let [ne0, ne1, ne2, ne3] = sizes.map(|size| size as i64);
        // SAFETY: see above.
        Self::own(unsafe { sys::ggml_reshape_4d(self.context(), a.raw(), ne0, ne1, ne2, ne3) })
    }

    /// A part of `a`: `sizes`, the bytes between two indices of the second to fourth dimension, and where it begins in bytes.
    pub(crate) fn view(&self, a: T<'g>, sizes: [usize; 4], strides: [usize; 3], offset: usize) -> T<'g> {
        let row = a.kind().row_bytes(sizes[0]).expect("rows of whole blocks");
        let end = (1..4).map(|d| (sizes[d] - 1) * strides[d - 1]).sum::<usize>() + row + offset;
        assert!(
            end <= a.bytes(),
            "a view that ends at byte {end} of {}",
            a.bytes()
        );
        let [ne0, ne1, ne2, ne3] = sizes.map(|size| size as i64);
        let [nb1, nb2, nb3] = strides;
        // SAFETY: see above; the view lies within `a`.
        Self::own(unsafe {
            sys::ggml_view_4d(self.context(), a.raw(), ne0, ne1, ne2, ne3, nb1, nb2, nb3, offset)
        })
    }

    /// Gives every tensor memory.
    pub(crate) fn allocate(self) -> Result<Ready<'g>, Error> {
        let graph = self.graph.as_ptr();
        // SAFETY: graph, backend and allocator live; the tensors' operands live with them.
        unsafe {
            if self.backend.device().kind() != DeviceKind::Processor {
                for index in 0..sys::ggml_graph_n_nodes(graph) {
                    let node = sys::ggml_graph_node(graph, index);
                    if !sys::ggml_backend_supports_op(self.backend.raw(), node) {
                        return Err(Error::Unsupported {
                            operation: operation(node),
                        });
                    }
                }
            }
            if !sys::ggml_gallocr_alloc_graph(self.allocator.as_ptr(), graph) {
                return Err(Error::Memory {
                    what: "intermediate results",
                    bytes: 0,
                });
            }
        }
        Ok(Ready { builder: self })
    }
}

/// A graph with memory.
pub(crate) struct Ready<'g> {
    builder: Builder<'g>,
}

impl<'g> Ready<'g> {
    /// Whether a tensor was given memory: an input that nothing depends on gets none.
    fn has_memory(tensor: T<'g>) -> bool {
        // SAFETY: the tensor lives.
        let tensor = unsafe { &*tensor.raw() };
        !tensor.data.is_null() || !tensor.buffer.is_null()
    }

    /// Fills an input as a whole.
    #[allow(clippy::unused_self, reason = "only a graph with memory is written and read")]
    pub(crate) fn set<N: Number>(&mut self, tensor: T<'g>, values: &[N]) {
        assert!(tensor.kind() == N::KIND && tensor.bytes() == size_of_val(values));
        if Self::has_memory(tensor) {
            // SAFETY: the tensor has memory, as many bytes as `values`.
            unsafe {
                sys::ggml_backend_tensor_set(
                    tensor.raw(),
                    values.as_ptr().cast::<c_void>(),
                    0,
                    size_of_val(values),
                );
            }
        }
    }

    /// Computes the graph to its end.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        // SAFETY: backend and graph live, and every tensor of the graph has memory.
        let status = unsafe {
            sys::ggml_backend_graph_compute(self.builder.backend.raw(), self.builder.graph.as_ptr())
        };
        if status == sys::ggml_status_GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Error::Compute { status })
        }
    }

    /// Reads `values.len()` numbers of an output from number `from` on.
    #[allow(clippy::unused_self, reason = "only a graph with memory is written and read")]
    pub(crate) fn get(&self, tensor: T<'g>, from: usize, values: &mut [f32]) {
        let offset = from * size_of::<f32>();
        assert!(tensor.kind() == Kind::F32 && offset + size_of_val(values) <= tensor.bytes());
        assert!(Self::has_memory(tensor), "an output of the graph");
        // SAFETY: within the tensor, which has memory; it was marked as an output, so nothing was written over it.
        unsafe {
            sys::ggml_backend_tensor_get(
                tensor.raw(),
                values.as_mut_ptr().cast::<c_void>(),
                offset,
                size_of_val(values),
            );
        }
    }
}
