//! Memory aligned for vectors, and pointers into it that threads share.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// Alignment of every buffer: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;

/// From this size on a buffer is memory of the system's own, in pages of 2 MiB where it has them: a step streams through
/// windows and weights, and the misses of the address cache in 4 KiB pages cost it a third of its time.
const LARGE: usize = 2 << 20;

/// Bytes at a multiple of [`ALIGN`], zero at first.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// What holds the bytes, unless the heap does.
    map: Option<MmapMut>,
}

// SAFETY: a buffer owns its memory; writing through its pointer is up to whoever holds the pointer.
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` itself only reads.
unsafe impl Sync for Buffer {}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
            map: None,
        }
    }
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        if len >= LARGE
            && let Some(buffer) = Self::mapped(len)
        {
            return buffer;
        }
        let Ok(layout) = Layout::from_size_align(len, ALIGN) else {
            panic!("a buffer of {len} bytes");
        };
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            start,
            len,
            map: None,
        }
    }

    /// Zero pages, which cost nothing before they are touched.
    fn mapped(len: usize) -> Option<Self> {
        let mut map = MmapMut::map_anon(len).ok()?;
        // A kernel without large pages refuses, and small ones do.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = NonNull::new(map.as_mut_ptr())?;
        Some(Self {
            start,
            len,
            map: Some(map),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for at least `len` bytes; what was in it is lost when it grows.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::default();
            *self = Self::new(len);
        }
    }

    /// The start of the buffer; who writes where is the caller's business.
    pub(crate) fn shared(&self) -> Shared<u8> {
        Shared(self.start.as_ptr())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes start there, or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes start there, or none, and nobody else may touch them meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 && self.map.is_none() {
            // SAFETY: allocated by `new` with this layout, whose size and alignment were accepted then.
            unsafe {
                let layout = Layout::from_size_align_unchecked(self.len, ALIGN);
                dealloc(self.start.as_ptr(), layout);
            }
        }
    }
}

/// A pointer that the threads of one call share. Copying it is safe; using it is not.
pub(crate) struct Shared<T>(pub(crate) *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: a pointer; every use is in an unsafe block that says why no other thread writes there.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer `count` elements further on. Following it is what is unsafe.
    pub(crate) fn at(self, count: usize) -> *mut T {
        self.0.wrapping_add(count)
    }
}

/// Cuts one region into arrays, one after the other, each aligned.
pub(crate) struct Carver {
    start: *mut u8,
    used: usize,
}

impl Carver {
    /// Measures only.
    pub(crate) fn measure() -> Self {
        Self {
            start: std::ptr::null_mut(),
            used: 0,
        }
    }

    pub(crate) fn over(start: Shared<u8>) -> Self {
        Self {
            start: start.0,
            used: 0,
        }
    }

    /// The next `count` elements.
    pub(crate) fn take<T>(&mut self, count: usize) -> Shared<T> {
        let at = self.start.wrapping_add(self.used);
        self.used += (count * size_of::<T>()).next_multiple_of(ALIGN) + ALIGN;
        Shared(at.cast())
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}
