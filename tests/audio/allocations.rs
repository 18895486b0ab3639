//! An allocator that remembers the largest piece asked for while a test watches.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // `const` and without a destructor: safe to touch from inside the allocator.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Recording;

#[allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one only counts and hands on to the system's"
)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Recording {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller keeps the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        record(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn record(size: usize) {
    LARGEST.with(|largest| largest.set(largest.get().max(size)));
}

#[global_allocator]
static ALLOCATOR: Recording = Recording;

/// Watches this thread's allocations.
pub(super) struct Watch(());

impl Watch {
    pub(super) fn start() -> Self {
        LARGEST.with(|largest| largest.set(0));
        Self(())
    }

    /// Bytes of the largest piece asked for since the start, whether it was given or not.
    #[allow(clippy::unused_self, reason = "only a started watch can tell")]
    pub(super) fn largest(&self) -> usize {
        LARGEST.with(Cell::get)
    }
}
