//! The three functions of `libvulkan.so.1` that ggml-vulkan names; it asks the first of them for all others.

use std::ffi::{CStr, c_char, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::OnceLock;

use super::Lazy;

static LOADER: Lazy = Lazy::new(&["libvulkan.so.1"]);

/// For [`super::link`].
pub(super) static FUNCTIONS: [unsafe extern "C" fn(); 3] = [
    // SAFETY: kept as addresses, never called through this type.
    unsafe { transmute::<GetInstanceProcAddr, unsafe extern "C" fn()>(vkGetInstanceProcAddr) },
    // SAFETY: as above.
    unsafe { transmute::<GetFeatures, unsafe extern "C" fn()>(vkGetPhysicalDeviceFeatures2) },
    // SAFETY: as above.
    unsafe { transmute::<CopyBuffer, unsafe extern "C" fn()>(vkCmdCopyBuffer) },
];

type GetInstanceProcAddr = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
type GetFeatures = unsafe extern "C" fn(*mut c_void, *mut c_void);
type CopyBuffer = unsafe extern "C" fn(*mut c_void, u64, u64, u32, *const c_void);
type EnumerateVersion = unsafe extern "C" fn(*mut u32) -> i32;

/// `VK_ERROR_INITIALIZATION_FAILED`
const INITIALIZATION_FAILED: i32 = -3;

/// Stands in for `vkEnumerateInstanceVersion`, ggml's first question, where there is no loader: Vulkan's C++ header
/// makes an exception of the error, ggml catches it and lists no device. A null pointer instead would be called.
unsafe extern "C" fn version_without_loader(_: *mut u32) -> i32 {
    INITIALIZATION_FAILED
}

/// `PFN_vkVoidFunction vkGetInstanceProcAddr(VkInstance, const char *)`
#[unsafe(no_mangle)]
unsafe extern "C" fn vkGetInstanceProcAddr(instance: *mut c_void, name: *const c_char) -> *mut c_void {
    static REAL: OnceLock<usize> = OnceLock::new();
    let real = *REAL.get_or_init(|| LOADER.address(c"vkGetInstanceProcAddr"));
    if real == 0 {
        // SAFETY: Vulkan's contract: `name` ends in a zero byte.
        let name = unsafe { CStr::from_ptr(name) };
        return if name == c"vkEnumerateInstanceVersion" {
            let stand_in: EnumerateVersion = version_without_loader;
            stand_in as *mut c_void
        } else {
            ptr::null_mut()
        };
    }
    // SAFETY: the loader's own function of that name, with the caller's arguments.
    unsafe { transmute::<usize, GetInstanceProcAddr>(real)(instance, name) }
}

/// `void vkGetPhysicalDeviceFeatures2(VkPhysicalDevice, VkPhysicalDeviceFeatures2 *)`; there is no device without a
/// loader.
#[unsafe(no_mangle)]
unsafe extern "C" fn vkGetPhysicalDeviceFeatures2(device: *mut c_void, features: *mut c_void) {
    let real = LOADER.address(c"vkGetPhysicalDeviceFeatures2");
    if real != 0 {
        // SAFETY: the loader's own function of that name, with the caller's arguments.
        unsafe { transmute::<usize, GetFeatures>(real)(device, features) }
    }
}

/// `void vkCmdCopyBuffer(VkCommandBuffer, VkBuffer, VkBuffer, uint32_t, const VkBufferCopy *)`. `VkBuffer` is 64 bits wide
/// on every platform.
#[unsafe(no_mangle)]
unsafe extern "C" fn vkCmdCopyBuffer(
    commands: *mut c_void,
    from: u64,
    to: u64,
    count: u32,
    regions: *const c_void,
) {
    static REAL: OnceLock<usize> = OnceLock::new();
    let real = *REAL.get_or_init(|| LOADER.address(c"vkCmdCopyBuffer"));
    if real != 0 {
        // SAFETY: the loader's own function of that name, with the caller's arguments.
        unsafe { transmute::<usize, CopyBuffer>(real)(commands, from, to, count, regions) }
    }
}
