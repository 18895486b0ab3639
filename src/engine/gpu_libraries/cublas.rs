//! The functions of cuBLAS that ggml-cuda calls. The CUDA runtime itself is linked statically (`build.rs`).
#![allow(non_snake_case, reason = "cuBLAS's own names")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute;
use std::sync::OnceLock;

use super::Lazy;

/// The build's own version first: the functions below have the same form in 12 and 13.
static CUBLAS: Lazy = Lazy::new(if cuda_12() {
    &["libcublas.so.12", "libcublas.so.13", "libcublas.so"]
} else {
    &["libcublas.so.13", "libcublas.so.12", "libcublas.so"]
});

/// The toolkit of this build is version 12.
const fn cuda_12() -> bool {
    match option_env!("BUILD_CUDA_TOOLKIT") {
        Some(version) => matches!(version.as_bytes(), [b'1', b'2', ..]),
        None => false,
    }
}

/// `CUBLAS_STATUS_NOT_INITIALIZED`
const NOT_INITIALIZED: c_int = 1;

/// True when cuBLAS can be opened.
pub(super) fn available() -> bool {
    CUBLAS.library().is_some()
}

/// Any pointer; handles and streams are pointers too.
type P = *mut c_void;
/// Any enumeration or `int`.
type I = c_int;
/// `long long int`, the strides.
type L = i64;

macro_rules! forward {
    ($($function:ident($($parameter:ident: $type:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, reason = "cuBLAS's own signatures")]
            unsafe extern "C" fn $function($($parameter: $type),*) -> c_int {
                static REAL: OnceLock<usize> = OnceLock::new();
                let real = *REAL.get_or_init(|| {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($function), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => c"",
                    };
                    CUBLAS.address(NAME)
                });
                if real == 0 {
                    return NOT_INITIALIZED;
                }
                // SAFETY: the library's own function of that name, with the caller's arguments.
                unsafe { transmute::<usize, unsafe extern "C" fn($($type),*) -> c_int>(real)($($parameter),*) }
            }
        )*

        /// For [`super::link`].
        pub(super) static FUNCTIONS: &[unsafe extern "C" fn()] = &[
            // SAFETY: kept as addresses, never called through this type.
            $(unsafe { transmute::<unsafe extern "C" fn($($type),*) -> c_int, unsafe extern "C" fn()>($function) },)*
            // SAFETY: as above.
            unsafe { transmute::<unsafe extern "C" fn(c_int) -> *const c_char, unsafe extern "C" fn()>(cublasGetStatusString) },
        ];
    };
}

// Parameters in cuBLAS's order and under its names (cublas_api.h, versions 12 and 13).
forward! {
    cublasCreate_v2(handle: P);
    cublasDestroy_v2(handle: P);
    cublasSetMathMode(handle: P, mode: I);
    cublasSetStream_v2(handle: P, stream: P);
    cublasSgemm_v2(handle: P, transa: I, transb: I, m: I, n: I, k: I, alpha: P, a: P, lda: I, b: P, ldb: I,
        beta: P, c: P, ldc: I);
    cublasGemmEx(handle: P, transa: I, transb: I, m: I, n: I, k: I, alpha: P, a: P, atype: I, lda: I, b: P, btype: I, ldb: I,
        beta: P, c: P, ctype: I, ldc: I, compute: I, algo: I);
    cublasGemmBatchedEx(handle: P, transa: I, transb: I, m: I, n: I, k: I, alpha: P, a: P, atype: I, lda: I, b: P, btype: I,
        ldb: I, beta: P, c: P, ctype: I, ldc: I, count: I, compute: I, algo: I);
    cublasGemmStridedBatchedEx(handle: P, transa: I, transb: I, m: I, n: I, k: I, alpha: P, a: P, atype: I, lda: I,
        stridea: L, b: P, btype: I, ldb: I, strideb: L, beta: P, c: P, ctype: I, ldc: I, stridec: L, count: I,
        compute: I, algo: I);
    cublasStrsmBatched(handle: P, side: I, uplo: I, trans: I, diag: I, m: I, n: I, alpha: P, a: P, lda: I, b: P, ldb: I,
        count: I);
}

/// `const char *cublasGetStatusString(cublasStatus_t)`
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGetStatusString(status: c_int) -> *const c_char {
    let real = CUBLAS.address(c"cublasGetStatusString");
    if real == 0 {
        return c"cuBLAS was not found".as_ptr();
    }
    // SAFETY: the library's own function of that name, with the caller's argument.
    unsafe { transmute::<usize, unsafe extern "C" fn(c_int) -> *const c_char>(real)(status) }
}
