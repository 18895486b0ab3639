//! ggml's devices and log, as whisper.cpp meets them.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use whisper_rs::whisper_rs_sys as sys;

use crate::engine::gpu_libraries;
use crate::engine::message::GpuDevice;

/// Room that scratch buffers need beyond the weights, in bytes, before a GPU is tried at all.
const GPU_HEADROOM_BYTES: u64 = 384 << 20;
/// What ggml and whisper.cpp log while starting: errors and lines about devices.
static DEVICE_LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
const DEVICE_LOG_LINES: usize = 100;
/// Bytes of weights by ggml's name of the device that holds them, as whisper.cpp logs them while loading.
static WEIGHTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Where the weights of the first model loaded lie.
pub(super) fn weights() -> BTreeMap<String, u64> {
    WEIGHTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// `whisper_model_load:      Vulkan0 total size =    77.11 MB` (10^6 bytes), one line for each device that holds
/// tensors → device and bytes.
fn weights_line(line: &str) -> Option<(String, u64)> {
    let (device, size) = line
        .strip_prefix("whisper_model_load:")?
        .split_once(" total size =")?;
    let megabytes: f64 = size.trim().strip_suffix(" MB")?.parse().ok()?;
    let device = device.trim();
    // A page-locked or mapped buffer of the same device: `CPU_Mapped`, `CUDA0_Split`.
    let device = device.split('_').next().unwrap_or(device);
    Some((device.to_owned(), (megabytes * 1e6) as u64))
}

/// What was logged so far about devices and errors.
pub(super) fn device_log() -> Vec<String> {
    DEVICE_LOG.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A device as ggml lists it.
#[derive(Debug, Clone)]
pub(super) struct Device {
    handle: usize,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) backend: String,
    /// PCI address such as `0000:01:00.0`, the same whichever backend is asked; empty when the backend does not say.
    bus: String,
    integrated: bool,
}

impl Device {
    /// Free and total bytes.
    #[allow(unsafe_code, reason = "ggml's device list has no safe wrapper in whisper-rs")]
    pub(super) fn memory(&self) -> (u64, u64) {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: the handle came from `ggml_backend_dev_get`; devices live as long as the process.
        unsafe {
            sys::ggml_backend_dev_memory(
                self.handle as sys::ggml_backend_dev_t,
                &raw mut free,
                &raw mut total,
            );
        };
        (free as u64, total as u64)
    }
}

/// Every device of ggml, with its type.
#[allow(unsafe_code, reason = "ggml's device list has no safe wrapper in whisper-rs")]
fn all_devices() -> Vec<(u32, Device)> {
    // SAFETY: plain queries; indices stay below the count; the strings are static or owned by the registry.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| sys::ggml_backend_dev_get(i))
            .map(|d| {
                let kind = sys::ggml_backend_dev_type(d) as u32;
                let device = Device {
                    handle: d as usize,
                    name: text(sys::ggml_backend_dev_name(d)),
                    description: text(sys::ggml_backend_dev_description(d)),
                    backend: text(sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(d))),
                    bus: bus(d),
                    integrated: kind == INTEGRATED_GPU,
                };
                (kind, device)
            })
            .collect()
    }
}

/// `GGML_BACKEND_DEVICE_TYPE_IGPU`
const INTEGRATED_GPU: u32 = 2;

/// # Safety
///
/// `device` came from `ggml_backend_dev_get`.
#[allow(unsafe_code, reason = "ggml's device list has no safe wrapper in whisper-rs")]
unsafe fn bus(device: sys::ggml_backend_dev_t) -> String {
    let mut properties = std::mem::MaybeUninit::<sys::ggml_backend_dev_props>::zeroed();
    // SAFETY: ggml fills the structure; all zeros is a valid value for what a backend leaves out; the string belongs to
    // the device.
    unsafe {
        sys::ggml_backend_dev_get_props(device, properties.as_mut_ptr());
        text(properties.assume_init().device_id)
    }
}

/// For each device the first usable one of another backend at the same address: with CUDA and Vulkan in one binary
/// every NVIDIA card is listed twice.
fn listed_before(devices: &[Device], usable: impl Fn(&Device) -> bool) -> Vec<Option<u32>> {
    let twin = |(index, device): (usize, &Device)| {
        let first = devices[..index].iter().position(|other| {
            !other.bus.is_empty()
                && other.bus == device.bus
                && other.backend != device.backend
                && usable(other)
        })?;
        u32::try_from(first).ok()
    };
    devices.iter().enumerate().map(twin).collect()
}

/// GPUs in the order whisper.cpp counts them: types 1 (discrete) and 2 (integrated).
pub(super) fn gpu_devices() -> Vec<Device> {
    all_devices()
        .into_iter()
        .filter(|(kind, _)| matches!(*kind, 1 | INTEGRATED_GPU))
        .map(|(_, d)| d)
        .collect()
}

/// The GPUs ggml can use, with their memory.
///
/// # Errors
///
/// One sentence when ggml cannot run on this processor at all.
pub(in crate::engine) fn list_gpus() -> Result<Vec<GpuDevice>, String> {
    super::processor::check()?;
    install_log();
    let devices = gpu_devices();
    let twins = listed_before(&devices, |device| {
        gpu_libraries::missing_for(&device.backend).is_none()
    });
    let with_memory = |(number, (device, same_as)): (usize, (Device, Option<u32>))| {
        let (free, total) = device.memory();
        GpuDevice {
            number: number as u32,
            integrated: device.integrated,
            same_as,
            name: device.name,
            description: device.description,
            backend: device.backend,
            memory_free_bytes: free,
            memory_total_bytes: total,
        }
    };
    Ok(devices
        .into_iter()
        .zip(twins)
        .enumerate()
        .map(with_memory)
        .collect())
}

pub(super) fn cpu_description() -> String {
    let cpu = all_devices().into_iter().find(|(kind, _)| *kind == 0);
    cpu.map(|(_, d)| d.description).unwrap_or_default()
}

/// # Safety
///
/// `pointer` is null or a C string that outlives the call.
#[allow(unsafe_code, reason = "reads C strings of ggml")]
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

pub(super) fn no_gpu_reason(number: u32) -> String {
    let log = DEVICE_LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let listed = gpu_devices();
    if listed.is_empty() {
        let said = log.last().map(|l| format!(" ({l})")).unwrap_or_default();
        format!("ggml found no GPU{said}")
    } else {
        let names: Vec<_> = listed.iter().map(|d| d.name.as_str()).collect();
        format!("there is no GPU number {number}; ggml lists {}", names.join(", "))
    }
}

/// ggml aborts the process when weights do not fit, so that is found out before.
pub(super) fn check_gpu_memory(device: &Device, model: &Path) -> Result<(), String> {
    let (free, total) = device.memory();
    let weights = std::fs::metadata(model).map_or(0, |m| m.len());
    let needed = weights + weights / 10 + GPU_HEADROOM_BYTES;
    if total > 0 && free < needed {
        return Err(format!(
            "{} has {} MiB of memory free, the model needs about {} MiB",
            device.name,
            free >> 20,
            needed >> 20
        ));
    }
    Ok(())
}

/// Sends every line of ggml and whisper.cpp to stderr with its level, and keeps those about devices.
#[allow(unsafe_code, reason = "installs a C callback")]
pub(super) fn install_log() {
    unsafe extern "C" fn line(level: sys::ggml_log_level, message: *const c_char, _: *mut c_void) {
        // SAFETY: ggml passes a C string that lives during the call.
        let message = unsafe { text(message) };
        let message = message.trim();
        // A disabled OpenCL finds no platform and complains.
        let disabled = gpu_libraries::is_disabled() && message.starts_with("ggml_opencl:");
        if message.is_empty() || disabled {
            return;
        }
        // ggml_log_level: 1 debug, 2 info, 3 warn, 4 error, 5 continues the line before.
        let letter = match level {
            4 => "E",
            3 => "W",
            2 => "I",
            _ => "D",
        };
        let about_devices = [
            "backend", "evice", "GPU", "CUDA", "ulkan", "pencl", "penCL", "ROCm", "Metal",
        ]
        .iter()
        .any(|word| message.contains(word));
        if level == 4 || ((2..=3).contains(&level) && about_devices) {
            let mut log = DEVICE_LOG.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() < DEVICE_LOG_LINES {
                log.push(message.to_owned());
            }
        }
        if let Some((device, bytes)) = weights_line(message) {
            let mut weights = WEIGHTS.lock().unwrap_or_else(PoisonError::into_inner);
            // A second context for word times loads the same again.
            weights.entry(device).or_insert(bytes);
        }
        let mut lines = String::new();
        for line in message.lines() {
            lines.extend([letter, " ", line, "\n"]);
        }
        let _ = std::io::Write::write_all(&mut std::io::stderr(), lines.as_bytes());
    }
    // SAFETY: the callback is a plain function and needs no data. Both are set because every new state
    // copies whisper's callback into ggml.
    unsafe {
        sys::ggml_log_set(Some(line), std::ptr::null_mut());
        sys::whisper_log_set(Some(line), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_each_device_are_read_from_the_log() {
        assert_eq!(
            weights_line("whisper_model_load:      Vulkan0 total size =    77.11 MB"),
            Some(("Vulkan0".to_owned(), 77_110_000))
        );
        assert_eq!(
            weights_line("whisper_model_load:   CPU_Mapped total size =     1.50 MB"),
            Some(("CPU".to_owned(), 1_500_000))
        );
        assert_eq!(
            weights_line("whisper_model_load: model size    =   77.11 MB"),
            None
        );
        assert_eq!(
            weights_line("whisper_init_state: kv self size  =    3.15 MB"),
            None
        );
    }

    #[test]
    fn a_card_that_two_backends_list_is_known_as_one() {
        let device = |backend: &str, bus: &str| Device {
            handle: 0,
            name: String::new(),
            description: String::new(),
            backend: backend.to_owned(),
            bus: bus.to_owned(),
            integrated: false,
        };
        let devices = [
            device("CUDA", "0000:01:00.0"),
            device("CUDA", "0000:02:00.0"),
            device("Vulkan", "0000:02:00.0"),
            device("Vulkan", "0000:03:00.0"),
            device("OpenCL", ""),
            device("OpenCL", ""),
        ];
        assert_eq!(
            listed_before(&devices, |_| true),
            [None, None, Some(1), None, None, None]
        );
        // Without cuBLAS the card is still good for Vulkan.
        assert_eq!(listed_before(&devices, |one| one.backend != "CUDA"), [None; 6]);
    }
}
