//! GPU libraries opened on first use, so that one binary starts everywhere.
//!
//! A program that names `libvulkan.so.1` among its needed libraries is not started at all where that file is missing:
//! no banner, no reason, no CPU. So the few functions that ggml calls are defined here and forwarded to the real library
//! when there is one. Where there is none they answer with the error that makes ggml list no device, and the engine goes
//! on with the CPU. The linker finds ggml's symbols satisfied and drops the library from the list by itself
//! (`--as-needed`, rustc's default on Linux).
//!
//! ROCm has none of this: its runtime is far more than a few functions, and a ROCm build needs it to start.
//!
//! Backends can be disabled. ggml asks every backend of the binary for its devices, whatever the model is to run on, and a
//! broken driver can end or hang the process there. An engine for the CPU calls [`disable`] first, and no driver is touched.
#![allow(
    unsafe_code,
    reason = "functions of C libraries under C's own names, forwarded by pointer"
)]

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cublas;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cuda_runtime;
#[cfg(all(feature = "opencl", target_os = "linux"))]
mod opencl;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod vulkan;

static SHUT: AtomicBool = AtomicBool::new(false);

/// From now on every library counts as missing. Call it before the first use of ggml.
pub(super) fn disable() {
    SHUT.store(true, Ordering::Relaxed);
}

/// Whether [`disable`] was called.
pub(super) fn is_disabled() -> bool {
    SHUT.load(Ordering::Relaxed)
}

/// Makes sure that the functions of this module are in the binary: GNU's linker reads each library once, in order, and
/// would take them from the system's libraries otherwise. Call it before the first use of ggml.
pub(super) fn link() {
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    std::hint::black_box((cublas::FUNCTIONS, cuda_runtime::FUNCTIONS));
    #[cfg(all(feature = "opencl", target_os = "linux"))]
    std::hint::black_box(opencl::FUNCTIONS);
    #[cfg(all(feature = "vulkan", target_os = "linux"))]
    std::hint::black_box(vulkan::FUNCTIONS);
}

/// Why a device of this ggml backend cannot compute although it is listed: ggml ends the process when cuBLAS fails, so
/// ask before loading weights.
pub(super) fn missing_for(backend: &str) -> Option<&'static str> {
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    if backend == "CUDA" && !cublas::available() {
        return Some("cuBLAS (`libcublas.so`) is not installed");
    }
    let _ = backend;
    None
}

/// A library that stays open until the process ends.
#[cfg(all(
    any(feature = "cuda", feature = "opencl", feature = "vulkan"),
    target_os = "linux"
))]
struct Lazy {
    names: &'static [&'static str],
    library: std::sync::OnceLock<Option<libloading::os::unix::Library>>,
}

#[cfg(all(
    any(feature = "cuda", feature = "opencl", feature = "vulkan"),
    target_os = "linux"
))]
impl Lazy {
    const fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            library: std::sync::OnceLock::new(),
        }
    }

    /// The first of the names that opens. Its symbols become visible to what it opens itself, as if it had been linked.
    fn library(&self) -> Option<&libloading::os::unix::Library> {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        if is_disabled() {
            return None;
        }
        self.library
            .get_or_init(|| {
                // SAFETY: initialisers of these vendor libraries would run at program start had they been linked; this
                // is the engine process, which the server outlives.
                self.names
                    .iter()
                    .find_map(|name| unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_GLOBAL) }.ok())
            })
            .as_ref()
    }

    /// Address of a function, 0 where the library or the function is missing.
    fn address(&self, name: &std::ffi::CStr) -> usize {
        let Some(library) = self.library() else { return 0 };
        // SAFETY: the pointer is only stored; whoever calls it knows the function's signature.
        unsafe { library.get::<unsafe extern "C" fn()>(name) }.map_or(0, |symbol| *symbol as usize)
    }
}
