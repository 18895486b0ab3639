//! Where CUDA's driver is opened or refused. The runtime is linked statically and opens `libcuda.so.1` by itself, so its first function
//! that ggml calls is the place to stop it: `--wrap` (`build.rs`) makes the linker send ggml's calls here.

use std::ffi::c_int;

/// For [`super::link`].
pub(super) static FUNCTIONS: [unsafe extern "C" fn(*mut c_int) -> c_int; 1] = [__wrap_cudaGetDeviceCount];

unsafe extern "C" {
    /// The runtime's own function, by the linker's name for it.
    fn __real_cudaGetDeviceCount(count: *mut c_int) -> c_int;
}

/// `cudaError_t cudaGetDeviceCount(int *count)`. No device, and `cudaSuccess`: nothing to complain about.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_cudaGetDeviceCount(count: *mut c_int) -> c_int {
    if super::is_disabled() {
        // SAFETY: CUDA's contract: the caller gives a valid pointer.
        unsafe { *count = 0 };
        return 0;
    }
    // SAFETY: the runtime's function of that name, with the caller's argument.
    unsafe { __real_cudaGetDeviceCount(count) }
}
