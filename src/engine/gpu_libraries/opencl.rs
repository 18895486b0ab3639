//! The functions of `libOpenCL.so.1` that ggml-opencl calls.
//!
//! All their arguments are integers or pointers, which the C calling conventions of x86-64 and AArch64 pass as machine
//! words, so one macro forwards them all without repeating OpenCL's types.
#![allow(non_snake_case, reason = "OpenCL's own names")]

use std::ffi::CStr;
use std::mem::transmute;
use std::sync::OnceLock;

use super::Lazy;

static LOADER: Lazy = Lazy::new(&["libOpenCL.so.1", "libOpenCL.so"]);

/// `CL_PLATFORM_NOT_FOUND_KHR`: ggml logs it and lists no device.
const NOT_FOUND: i32 = -1001;
/// What functions that make something return when they fail.
const NULL: i32 = 0;

/// One word of a call; the parameter's name is only there to count.
macro_rules! word {
    ($name:ident) => {
        usize
    };
}

/// `function(parameters) else value`: forwards, or returns the value without the library.
macro_rules! forward {
    ($($function:ident($($parameter:ident),*) else $missing:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, reason = "OpenCL's own signatures")]
            unsafe extern "C" fn $function($($parameter: usize),*) -> usize {
                static REAL: OnceLock<usize> = OnceLock::new();
                let real = *REAL.get_or_init(|| {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($function), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => c"",
                    };
                    LOADER.address(NAME)
                });
                if real == 0 {
                    // The caller reads the low half as `cl_int`, or the whole as a null pointer.
                    return $missing as u32 as usize;
                }
                // SAFETY: the loader's own function of that name, with the caller's words in the caller's order.
                unsafe { transmute::<usize, unsafe extern "C" fn($(word!($parameter)),*) -> usize>(real)($($parameter),*) }
            }
        )*

        /// For [`super::link`].
        pub(super) static FUNCTIONS: &[unsafe extern "C" fn()] = &[
            // SAFETY: kept as addresses, never called through this type.
            $(unsafe { transmute::<unsafe extern "C" fn($(word!($parameter)),*) -> usize, unsafe extern "C" fn()>($function) },)*
        ];
    };
}

forward! {
    clGetPlatformIDs(a, b, c) else NOT_FOUND;
    clGetPlatformInfo(a, b, c, d, e) else NOT_FOUND;
    clGetDeviceIDs(a, b, c, d, e) else NOT_FOUND;
    clGetDeviceInfo(a, b, c, d, e) else NOT_FOUND;
    clCreateContext(a, b, c, d, e, f) else NULL;
    clReleaseContext(a) else NOT_FOUND;
    clCreateCommandQueue(a, b, c, d) else NULL;
    clCreateBuffer(a, b, c, d, e) else NULL;
    clCreateSubBuffer(a, b, c, d, e) else NULL;
    clCreateImage(a, b, c, d, e, f) else NULL;
    clReleaseMemObject(a) else NOT_FOUND;
    clCreateProgramWithSource(a, b, c, d, e) else NULL;
    clBuildProgram(a, b, c, d, e, f) else NOT_FOUND;
    clGetProgramBuildInfo(a, b, c, d, e, f) else NOT_FOUND;
    clReleaseProgram(a) else NOT_FOUND;
    clCreateKernel(a, b, c) else NULL;
    clSetKernelArg(a, b, c, d) else NOT_FOUND;
    clGetKernelWorkGroupInfo(a, b, c, d, e, f) else NOT_FOUND;
    clEnqueueNDRangeKernel(a, b, c, d, e, f, g, h, i) else NOT_FOUND;
    clEnqueueReadBuffer(a, b, c, d, e, f, g, h, i) else NOT_FOUND;
    clEnqueueWriteBuffer(a, b, c, d, e, f, g, h, i) else NOT_FOUND;
    clEnqueueCopyBuffer(a, b, c, d, e, f, g, h, i) else NOT_FOUND;
    clEnqueueFillBuffer(a, b, c, d, e, f, g, h, i) else NOT_FOUND;
    clEnqueueBarrierWithWaitList(a, b, c, d) else NOT_FOUND;
    clEnqueueMarkerWithWaitList(a, b, c, d) else NOT_FOUND;
    clFinish(a) else NOT_FOUND;
    clFlush(a) else NOT_FOUND;
    clWaitForEvents(a, b) else NOT_FOUND;
    clReleaseEvent(a) else NOT_FOUND;
}
