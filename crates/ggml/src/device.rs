//! ggml's devices, and the backend that computes on one.
#![allow(unsafe_code, reason = "calls ggml's C functions")]

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use whisper_rs_sys as sys;

use crate::Error;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Processor,
    /// A card with memory of its own, or a part of the processor that computes graphics.
    Gpu,
    /// A library that helps the processor, such as BLAS.
    Accelerator,
}

/// A device that ggml can compute on. Devices live as long as the process.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    raw: NonNull<sys::ggml_backend_device>,
}

// SAFETY: a device is an entry of ggml's registry, which is filled once (a C++ static), never changed and never freed; the
// functions called on it only read.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// All devices, in ggml's order.
    pub fn all() -> Vec<Self> {
        // SAFETY: plain queries; indices stay below the count.
        let raw = unsafe { (0..sys::ggml_backend_dev_count()).map(|i| sys::ggml_backend_dev_get(i)) };
        raw.filter_map(NonNull::new).map(|raw| Self { raw }).collect()
    }

    /// The processor.
    pub fn processor() -> Option<Self> {
        Self::all()
            .into_iter()
            .find(|device| device.kind() == DeviceKind::Processor)
    }

    /// GPU number `number` in the order in which whisper.cpp counts them.
    pub fn gpu(number: usize) -> Option<Self> {
        Self::all()
            .into_iter()
            .filter(|device| device.kind() == DeviceKind::Gpu)
            .nth(number)
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        // SAFETY: the device lives as long as the process.
        match unsafe { sys::ggml_backend_dev_type(self.raw.as_ptr()) } {
            sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Processor,
            sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_GPU
            | sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::Gpu,
            _ => DeviceKind::Accelerator,
        }
    }

    /// ggml's name of it, for example `CUDA0`.
    pub fn name(&self) -> String {
        // SAFETY: the device lives as long as the process; so does its name.
        unsafe { text(sys::ggml_backend_dev_name(self.raw.as_ptr())) }
    }

    /// Free and total bytes of memory; 0 where it does not say.
    pub fn memory(&self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device lives as long as the process; the function writes the two numbers.
        unsafe { sys::ggml_backend_dev_memory(self.raw.as_ptr(), &raw mut free, &raw mut total) };
        (free, total)
    }
}

/// # Safety
///
/// `pointer` is null or a C string that outlives the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// ggml's name of a tensor's operation and of its operands' types.
///
/// # Safety
///
/// `tensor` points to a tensor of a living context.
pub(crate) unsafe fn operation(tensor: *const sys::ggml_tensor) -> String {
    // SAFETY: by this function's contract, for the tensor and its operands; the names are static.
    unsafe {
        let types: Vec<String> = (*tensor)
            .src
            .iter()
            .filter(|source| !source.is_null())
            .map(|source| text(sys::ggml_type_name((**source).type_)))
            .collect();
        format!(
            "{} of {}",
            text(sys::ggml_op_name((*tensor).op)),
            types.join(", ")
        )
    }
}

/// Computes on one device. One thread at a time.
pub(crate) struct Backend {
    raw: NonNull<sys::ggml_backend>,
    device: Device,
}

// SAFETY: a backend has no ties to the thread that made it (whisper.cpp, too, runs one state from changing threads); `&mut`
// or the engine's ownership keeps it to one thread at a time.
unsafe impl Send for Backend {}

impl Backend {
    /// Starts a backend of `device`; `threads` count on the processor alone.
    pub(crate) fn new(device: Device, threads: usize) -> Result<Self, Error> {
        // SAFETY: the device lives as long as the process; no parameters are needed.
        let raw = unsafe { sys::ggml_backend_dev_init(device.raw.as_ptr(), std::ptr::null()) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Device {
            device: device.name(),
        })?;
        if device.kind() == DeviceKind::Processor {
            // SAFETY: a backend of the processor's device is ggml's CPU backend, which the function asks for.
            unsafe { sys::ggml_backend_cpu_set_n_threads(raw.as_ptr(), threads.clamp(1, 512) as i32) };
        }
        Ok(Self { raw, device })
    }

    pub(crate) fn raw(&self) -> sys::ggml_backend_t {
        self.raw.as_ptr()
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_backend_dev_init`, freed once. Buffers may outlive it: they belong to buffer types.
        unsafe { sys::ggml_backend_free(self.raw.as_ptr()) };
    }
}
