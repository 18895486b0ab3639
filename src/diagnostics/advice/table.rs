//! One row a situation: facts → names of the rules that speak, in order, and words that the remedy must hold.

use std::path::PathBuf;

use super::*;
use crate::diagnostics::build_info::BuildFacts;
use crate::diagnostics::probe::{
    ContainerRuntime, DeviceNode, Distribution, Driver, FoundBy, NvidiaGpu, NvidiaSmi, PciGpu, Platform,
};

/// A machine under construction.
#[derive(Clone)]
struct Machine(MachineFacts, EngineFacts);

/// Debian, a build with `backends`, the GPU asked for, the engine on the CPU.
fn built(backends: &[Backend]) -> Machine {
    let facts = MachineFacts {
        build: BuildFacts {
            whisper: true,
            backends: backends.to_vec(),
            ..BuildFacts::default()
        },
        platform: Platform {
            os: "linux".to_owned(),
            ..Platform::default()
        },
        ..MachineFacts::default()
    };
    let engine = EngineFacts {
        requested: true,
        actual: Some(DeviceReport {
            backend: "CPU".to_owned(),
            description: "CPU".to_owned(),
            ..DeviceReport::default()
        }),
        ..EngineFacts::default()
    };
    Machine(facts, engine).distribution("debian")
}

impl Machine {
    fn with(mut self, change: impl FnOnce(&mut MachineFacts)) -> Self {
        change(&mut self.0);
        self
    }

    fn engine(mut self, change: impl FnOnce(&mut EngineFacts)) -> Self {
        change(&mut self.1);
        self
    }

    fn distribution(self, id: &str) -> Self {
        let id = id.to_owned();
        self.with(|facts| {
            facts.platform.distribution = Some(Distribution {
                id,
                ..Distribution::default()
            });
        })
    }

    fn gpu(self, vendor: Vendor, kernel_driver: &str, gfx: Option<&str>) -> Self {
        self.with(|facts| {
            facts.pci_gpus.push(PciGpu {
                vendor,
                kernel_driver: Some(kernel_driver.to_owned()),
                gfx: gfx.map(str::to_owned),
                integrated: gfx.is_some(),
                ..PciGpu::default()
            });
        })
    }

    fn variable(self, name: &str, value: &str) -> Self {
        self.with(|facts| {
            facts.environment.insert(name.to_owned(), Some(value.to_owned()));
        })
    }

    fn library(self, name: &str, path: &str) -> Self {
        self.with(|facts| {
            let found = Library {
                found: true,
                path: Some(PathBuf::from(path)),
                found_by: Some(FoundBy::LinkerCache),
                version: path.split_once(".so.").map(|(_, version)| version.to_owned()),
            };
            facts.libraries.insert(name.to_owned(), found);
        })
    }

    fn library_outside(self, name: &str, path: &str) -> Self {
        self.library(name, path).with(|facts| {
            if let Some(library) = facts.libraries.get_mut(name) {
                library.found = false;
            }
        })
    }

    fn node(self, path: &str) -> Self {
        self.with(|facts| {
            let open = DeviceNode {
                present: true,
                accessible: true,
                ..DeviceNode::default()
            };
            facts.device_nodes.insert(path.to_owned(), open);
        })
    }

    fn closed_node(self, path: &str, group: &str, member: bool) -> Self {
        self.with(|facts| {
            let closed = DeviceNode {
                present: true,
                accessible: false,
                group: Some(group.to_owned()),
                member,
            };
            facts.device_nodes.insert(path.to_owned(), closed);
        })
    }

    fn smi_fails(self, message: &str) -> Self {
        self.with(|facts| {
            facts.nvidia_smi = NvidiaSmi::Failed {
                message: message.to_owned(),
            }
        })
    }

    fn vulkan_driver(self, library: &str) -> Self {
        self.library("vulkan", "/usr/lib/libvulkan.so.1").with(|facts| {
            let software = library.contains("lvp");
            facts.vulkan_drivers.push(Driver {
                library: library.to_owned(),
                software,
                ..Driver::default()
            });
        })
    }

    fn in_a(self, container: ContainerRuntime) -> Self {
        self.with(|facts| facts.platform.container = Some(container))
    }

    fn wsl(self, wsl: Wsl) -> Self {
        self.with(|facts| facts.platform.wsl = Some(wsl))
    }

    fn log(self, line: &str) -> Self {
        self.engine(|engine| engine.log.push(line.to_owned()))
    }
}

/// A CUDA build on a machine where everything is in order.
fn cuda() -> Machine {
    let gpu = NvidiaGpu {
        name: "NVIDIA RTX 4090".to_owned(),
        compute_capability: Some("8.9".to_owned()),
        ..NvidiaGpu::default()
    };
    built(&[Backend::Cuda])
        .gpu(Vendor::Nvidia, "nvidia", None)
        .node("/dev/nvidiactl")
        .node("/dev/nvidia0")
        .node("/dev/nvidia-uvm")
        .library("cuda", "/usr/lib/libcuda.so.580.65.06")
        .library("cublas", "/usr/lib/libcublas.so.13")
        .with(|facts| {
            facts.build.cuda_toolkit = Some("13.0".to_owned());
            facts.build.cuda_architectures = vec!["80-virtual".to_owned(), "89-real".to_owned()];
            facts.nvidia_module = Some("580.65.06".to_owned());
            facts.nvidia_smi = NvidiaSmi::Answered {
                driver_version: "580.65.06".to_owned(),
                cuda_version: Some("13.0".to_owned()),
                gpus: vec![gpu],
            };
        })
}

/// A ROCm build on an AMD processor with graphics where everything is in order but the GPU's name.
fn rocm(gfx: &str) -> Machine {
    built(&[Backend::Hip])
        .gpu(Vendor::Amd, "amdgpu", Some(gfx))
        .node("/dev/kfd")
        .node("/dev/dri")
        .library("amdhip64", "/opt/rocm/lib/libamdhip64.so.6")
        .with(|facts| facts.build.hip_targets = vec!["gfx1100".to_owned()])
}

/// A Vulkan build on an AMD machine where everything is in order.
fn vulkan() -> Machine {
    built(&[Backend::Vulkan])
        .gpu(Vendor::Amd, "amdgpu", Some("gfx1103"))
        .node("/dev/dri")
        .vulkan_driver("libvulkan_radeon.so")
}

fn opencl() -> Machine {
    built(&[Backend::OpenCl])
        .gpu(Vendor::Intel, "i915", None)
        .node("/dev/dri")
        .library("OpenCL", "/usr/lib/libOpenCL.so.1")
        .with(|facts| {
            facts.opencl_drivers.push(Driver {
                library: "libigdrcl.so".to_owned(),
                ..Driver::default()
            });
        })
}

/// What was seen, what it looks like in the facts, the rules that speak, and words of the first remedy.
type Row = (&'static str, Machine, &'static [&'static str], &'static str);

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let nvidia_only = |backends: &[Backend]| built(backends).gpu(Vendor::Nvidia, "nvidia", None);
    let software = |facts: &mut MachineFacts| facts.vulkan_drivers.retain(|driver| driver.software);
    vec![
        // The build and the configuration.
        ("switched off", cuda().engine(|engine| engine.requested = false), &["gpu-not-requested"], "enable_gpu = true"),
        ("binary from a newer processor",
            built(&[]).log("the engine cannot start: this binary was compiled for a processor with avx512f, avx512vnni, which this one lacks; build it on this machine with `./build.sh`, or for every processor with AVX2 with `GGML_NATIVE=OFF ./build.sh`"),
            &["processor-too-old"], "GGML_NATIVE=OFF ./build.sh"),
        ("binary from a newer processor, --cpu",
            cuda().engine(|engine| engine.requested = false).log("this binary was compiled for a processor with avx2, which this one lacks; build it on this machine with `./build.sh`"),
            &["processor-too-old"], "`./build.sh`"),
        ("CPU build, nothing to use", built(&[]), &["no-gpu"], "base-q8_0"),
        ("CPU build beside NVIDIA", nvidia_only(&[]), &["build-without-gpu"], "./build.sh cuda"),
        ("CPU build beside AMD", built(&[]).gpu(Vendor::Amd, "amdgpu", None), &["build-without-gpu"], "./build.sh vulkan"),
        ("CPU build beside Intel", built(&[]).gpu(Vendor::Intel, "i915", None), &["build-without-gpu"], "./build.sh vulkan"),
        ("CPU build on a Mac", built(&[]).with(|facts| facts.platform.os = "macos".to_owned()), &["build-without-gpu"], "./build.sh gpu"),
        ("WHISPER_CUBLAS on a CPU build", nvidia_only(&[]).variable("WHISPER_CUBLAS", "1"),
            &["cublas-variable-without-feature", "build-without-gpu"], "--features cuda"),
        ("WHISPER_CUBLAS=0 says nothing", nvidia_only(&[]).variable("WHISPER_CUBLAS", "0"), &["build-without-gpu"], "./build.sh cuda"),
        ("WHISPER_OPENCL on a CPU build", built(&[]).variable("WHISPER_OPENCL", "ON"),
            &["opencl-variable-without-feature", "no-gpu"], "--features opencl"),
        ("CUDA build beside AMD", built(&[Backend::Cuda]).gpu(Vendor::Amd, "amdgpu", None), &["backend-does-not-fit"], "./build.sh vulkan"),
        ("ROCm build beside NVIDIA", nvidia_only(&[Backend::Hip]), &["backend-does-not-fit"], "./build.sh cuda"),
        ("GPU build, no GPU anywhere", built(&[Backend::Cuda]), &["no-gpu"], "lspci"),
        ("Vulkan build, lavapipe only, no GPU", built(&[Backend::Vulkan]).vulkan_driver("libvulkan_lvp.so"), &["no-gpu"], "GGML_VK_VISIBLE_DEVICES=0"),
        // NVIDIA.
        ("no NVIDIA driver, Debian", nvidia_only(&[Backend::Cuda]), &["nvidia-driver-missing"], "sudo apt install nvidia-driver"),
        ("no NVIDIA driver, Ubuntu", nvidia_only(&[Backend::Cuda]).distribution("ubuntu"), &["nvidia-driver-missing"], "sudo ubuntu-drivers install"),
        ("no NVIDIA driver, Fedora, as root",
            nvidia_only(&[Backend::Cuda]).distribution("fedora").with(|facts| facts.platform.root = true),
            &["nvidia-driver-missing"], "`dnf install akmod-nvidia`"),
        ("nouveau", built(&[Backend::Cuda]).gpu(Vendor::Nvidia, "nouveau", None), &["nvidia-nouveau"], "restart"),
        ("set aside for a virtual machine", built(&[Backend::Cuda]).gpu(Vendor::Nvidia, "vfio-pci", None), &["gpu-reserved-for-vm"], "vfio-pci.ids"),
        ("driver updated without restart, by its words",
            cuda().smi_fails("Failed to initialize NVML: Driver/library version mismatch"), &["nvidia-version-mismatch"], "rmmod nvidia_uvm"),
        ("driver updated without restart, by its files",
            cuda().with(|facts| facts.nvidia_module = Some("570.1.2".to_owned())), &["nvidia-version-mismatch"], "Restart"),
        ("image with its own driver",
            cuda().in_a(ContainerRuntime::Docker).with(|facts| facts.nvidia_module = Some("570.1.2".to_owned())),
            &["nvidia-version-mismatch-in-container"], "--gpus all"),
        ("module refused by Secure Boot",
            cuda().smi_fails("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
                .with(|facts| facts.platform.secure_boot = Some(true)),
            &["nvidia-secure-boot"], "mokutil --import"),
        ("module not built for this kernel",
            cuda().smi_fails("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
            &["nvidia-module-not-loaded"], "linux-headers-$(uname -r)"),
        ("driver without devices", cuda().smi_fails("No devices were found"), &["nvidia-no-devices"], "dmesg"),
        ("fallen off the bus", cuda().smi_fails("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"),
            &["nvidia-gpu-lost"], "Xid 79"),
        ("any other failure keeps its words", cuda().smi_fails("NVML: Unknown Error"), &["nvidia-smi-failed"], "nvidia-smi"),
        ("hanging driver", cuda().with(|facts| facts.nvidia_smi = NvidiaSmi::TimedOut), &["nvidia-smi-timeout"], "dmesg"),
        ("no permission for NVIDIA", cuda().closed_node("/dev/nvidiactl", "video", false), &["group-missing"], "usermod -aG video $USER"),
        ("permission refused by the driver", cuda().smi_fails("Failed to initialize NVML: Insufficient Permissions"), &["nvidia-permissions"], "usermod"),
        ("no unified memory device", cuda().with(|facts| { facts.device_nodes.remove("/dev/nvidia-uvm"); }), &["nvidia-uvm-missing"], "modprobe nvidia-uvm"),
        ("CUDA_VISIBLE_DEVICES empty", cuda().variable("CUDA_VISIBLE_DEVICES", ""), &["cuda-visible-devices"], "unset CUDA_VISIBLE_DEVICES"),
        ("CUDA_VISIBLE_DEVICES beyond the last", cuda().variable("CUDA_VISIBLE_DEVICES", "3,0"), &["cuda-visible-devices"], "nvidia-smi -L"),
        ("CUDA_VISIBLE_DEVICES that is right", cuda().variable("CUDA_VISIBLE_DEVICES", "0"), &["gpu-unexplained"], "RUST_LOG=debug"),
        ("driver older than the toolkit",
            cuda().with(|facts| if let NvidiaSmi::Answered { cuda_version, .. } = &mut facts.nvidia_smi { *cuda_version = Some("12.4".to_owned()); }),
            &["nvidia-driver-too-old"], "CUDA_PATH=/usr/local/cuda-12 ./build.sh cuda"),
        ("driver older than the toolkit, by CUDA's words",
            cuda().log("ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"),
            &["nvidia-driver-too-old"], "Update the driver"),
        ("driver older than the toolkit, in a container without nvidia-smi",
            cuda().in_a(ContainerRuntime::Docker).with(|facts| facts.nvidia_smi = NvidiaSmi::NotFound)
                .log("ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"),
            &["nvidia-driver-too-old"], "./build.sh cuda"),
        ("driver updated without restart, by CUDA's words",
            cuda().log("ggml_cuda_init: failed to initialize CUDA: system has unsupported display driver / cuda driver combination"),
            &["nvidia-version-mismatch"], "Restart"),
        ("CUDA sees no GPU", cuda().log("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"), &["cuda-no-device"], "nvidia-smi -L"),
        ("CUDA sees no GPU, and OpenCL has no driver",
            built(&[Backend::Cuda, Backend::OpenCl]).library("cuda", "/usr/lib/libcuda.so.580.65.06").library("OpenCL", "/usr/lib/libOpenCL.so.1")
                .log("ggml found no GPU (ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected; ggml_opencl: plaform IDs not available.)"),
            &["cuda-no-device"], "--gpus all"),
        ("the toolkit's stub for the driver",
            cuda().library("cuda", "/usr/local/cuda/lib64/stubs/libcuda.so.1").log("ggml_cuda_init: failed to initialize CUDA: CUDA driver is a stub library"),
            &["cuda-stub-library"], "`/usr/local/cuda/lib64/stubs`"),
        ("compatibility library on a consumer card",
            cuda().log("ggml_cuda_init: failed to initialize CUDA: forward compatibility was attempted on non supported HW"),
            &["cuda-compatibility-library"], "apt purge 'cuda-compat-*'"),
        ("fabric manager not running", cuda().log("ggml_cuda_init: failed to initialize CUDA: system not yet initialized"),
            &["cuda-fabric-manager"], "systemctl enable --now nvidia-fabricmanager"),
        ("GPU held by another program", cuda().log("ggml_cuda_init: failed to initialize CUDA: CUDA-capable device(s) is/are busy or unavailable"),
            &["cuda-device-busy"], "--compute-mode=DEFAULT"),
        ("after suspend and resume", cuda().log("ggml_cuda_init: failed to initialize CUDA: unknown error"),
            &["cuda-unknown-error"], "rmmod nvidia_uvm"),
        ("CUDA fails in words of its own", cuda().log("ggml_cuda_init: failed to initialize CUDA: OS call failed or operation not supported on this OS"),
            &["cuda-start-failed"], "dmesg"),
        ("no cuBLAS", cuda().with(|facts| { facts.libraries.remove("cublas"); }), &["cublas-missing"], "apt install libcublas-13-0"),
        ("cuBLAS where nobody looks", cuda().library_outside("cublas", "/usr/local/cuda/lib64/libcublas.so.13"),
            &["cublas-not-searched"], "LD_LIBRARY_PATH=/usr/local/cuda/lib64"),
        ("code for another architecture",
            cuda().with(|facts| facts.build.cuda_architectures = vec!["90-real".to_owned()]),
            &["cuda-architecture"], "CMAKE_CUDA_ARCHITECTURES=89 ./build.sh cuda"),
        ("code for another architecture, by CUDA's words",
            cuda().log("CUDA error: no kernel image is available for execution on the device"), &["cuda-architecture"], "CMAKE_CUDA_ARCHITECTURES=89"),
        // Containers.
        ("Docker without --gpus", nvidia_only(&[Backend::Cuda]).in_a(ContainerRuntime::Docker), &["container-without-nvidia"], "--gpus all"),
        ("Docker without /dev/dri",
            vulkan().in_a(ContainerRuntime::Docker).with(|facts| { facts.device_nodes.remove("/dev/dri"); }),
            &["container-without-dri"], "--device /dev/dri"),
        ("Docker without /dev/kfd",
            rocm("gfx1100").in_a(ContainerRuntime::Docker).with(|facts| { facts.device_nodes.remove("/dev/kfd"); }),
            &["container-without-rocm"], "--device /dev/kfd"),
        ("Docker with CUDA only, Vulkan build",
            cuda().in_a(ContainerRuntime::Docker).with(|facts| facts.build.backends = vec![Backend::Vulkan]).vulkan_driver("libvulkan_lvp.so"),
            &["container-nvidia-vulkan"], "NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics"),
        ("container user outside the group", vulkan().in_a(ContainerRuntime::Podman).closed_node("/dev/dri", "105", false), &["group-in-container"], "--group-add"),
        // WSL.
        ("WSL 1", nvidia_only(&[Backend::Cuda]).wsl(Wsl::Wsl1), &["wsl1"], "wsl --set-version"),
        ("WSL 1, CPU build", built(&[]).wsl(Wsl::Wsl1), &["wsl1"], "wsl --set-version"),
        ("WSL 2 without dxg", built(&[Backend::Cuda]).library("cuda", "/usr/lib/wsl/lib/libcuda.so.1").wsl(Wsl::Wsl2), &["wsl2-no-dxg"], "wsl --update"),
        ("WSL 2 with a Linux driver inside",
            built(&[Backend::Cuda]).wsl(Wsl::Wsl2).node("/dev/dxg").library("cuda", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"),
            &["wsl2-linux-driver"], "/usr/lib/wsl/lib"),
        ("WSL 2, ROCm", built(&[Backend::Hip]).wsl(Wsl::Wsl2).node("/dev/dxg"), &["wsl2-rocm"], "./build.sh vulkan"),
        ("WSL 2, Vulkan without dzn",
            built(&[Backend::Vulkan]).wsl(Wsl::Wsl2).node("/dev/dxg").vulkan_driver("libvulkan_lvp.so"), &["wsl2-vulkan"], "kisak-mesa"),
        ("WSL 2, CPU build", built(&[]).wsl(Wsl::Wsl2).node("/dev/dxg"), &["build-without-gpu"], "./build.sh vulkan"),
        // AMD.
        ("780M under ROCm", rocm("gfx1103"), &["amd-integrated-override"], "HSA_OVERRIDE_GFX_VERSION=11.0.0"),
        ("ROCm where nobody looks", rocm("gfx1100").library_outside("amdhip64", "/opt/rocm/lib/libamdhip64.so.6"),
            &["rocm-not-searched"], "LD_LIBRARY_PATH=/opt/rocm/lib"),
        ("780M under ROCm, override set", rocm("gfx1103").variable("HSA_OVERRIDE_GFX_VERSION", "11.0.0"), &["gpu-unexplained"], "RUST_LOG"),
        ("780M under Vulkan needs no override", vulkan(), &["gpu-unexplained"], "RUST_LOG"),
        ("ROCm code for another card", rocm("gfx1201"), &["hip-target"], "AMDGPU_TARGETS=gfx1201 ./build.sh hip"),
        ("amdgpu without compute", rocm("gfx1100").with(|facts| { facts.device_nodes.remove("/dev/kfd"); }), &["amd-kernel-driver"], "modprobe amdgpu"),
        ("no permission for ROCm", rocm("gfx1100").closed_node("/dev/kfd", "render", false), &["group-missing"], "usermod -aG render $USER"),
        ("no ROCm, Arch", rocm("gfx1100").distribution("arch").with(|facts| { facts.libraries.remove("amdhip64"); }), &["rocm-missing"], "pacman -S rocm-hip-runtime"),
        ("ROCm hidden", rocm("gfx1100").variable("HIP_VISIBLE_DEVICES", "-1"), &["hip-visible-devices"], "rocminfo"),
        // Vulkan.
        ("no Vulkan loader, Alpine", vulkan().distribution("alpine").with(|facts| { facts.libraries.remove("vulkan"); }), &["vulkan-loader-missing"], "apk add vulkan-loader"),
        ("no Vulkan driver", vulkan().with(|facts| facts.vulkan_drivers.clear()), &["vulkan-driver-missing"], "apt install mesa-vulkan-drivers"),
        ("lavapipe beside a GPU", vulkan().vulkan_driver("libvulkan_lvp.so").with(software), &["vulkan-software-only"], "mesa-vulkan-drivers"),
        ("NVIDIA without its Vulkan part", nvidia_only(&[Backend::Vulkan]).vulkan_driver("libvulkan_lvp.so"), &["nvidia-vulkan-driver-missing"], "nvidia-driver"),
        ("driver override to nowhere",
            vulkan().variable("VK_DRIVER_FILES", "/nowhere.json").with(|facts| facts.vulkan_drivers.clear()), &["vulkan-driver-files"], "unset VK_DRIVER_FILES"),
        ("no permission for Vulkan", vulkan().closed_node("/dev/dri", "render", false), &["group-missing"], "usermod -aG render $USER"),
        ("in the group since a moment ago", vulkan().closed_node("/dev/dri", "render", true), &["group-needs-login"], "sg render"),
        ("Vulkan selector that is no number", vulkan().variable("GGML_VK_VISIBLE_DEVICES", "abc"), &["vulkan-visible-devices"], "vulkaninfo --summary"),
        ("Vulkan selector out of range, no GPU",
            built(&[Backend::Vulkan]).vulkan_driver("libvulkan_lvp.so").vulkan_driver("libvulkan_intel.so").variable("GGML_VK_VISIBLE_DEVICES", "7")
                .log("ggml_vulkan: Invalid device index 7"),
            &["vulkan-visible-devices"], "unset GGML_VK_VISIBLE_DEVICES"),
        ("Vulkan selector out of range, software driver chosen by hand",
            built(&[Backend::Vulkan, Backend::OpenCl]).vulkan_driver("libvulkan_lvp.so").variable("GGML_VK_VISIBLE_DEVICES", "7")
                .variable("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
                .log("ggml found no GPU (ggml_vulkan: Invalid device index 7; ggml_opencl: device does not support FP16)")
                .log("ggml_opencl: device: 'pthread-Intel(R) Xeon(R) (OpenCL 3.0 PoCL)'"),
            &["vulkan-visible-devices", "opencl-device-refused"], "unset GGML_VK_VISIBLE_DEVICES"),
        ("kernel driver not loaded", vulkan().with(|facts| { facts.device_nodes.clear(); }), &["dri-missing"], "modprobe amdgpu"),
        ("software Vulkan at work",
            vulkan().engine(|engine| engine.actual = Some(DeviceReport {
                gpu: true, backend: "Vulkan".to_owned(), description: "llvmpipe (LLVM 15.0.6, 256 bits)".to_owned(), ..DeviceReport::default()
            })),
            &["vulkan-software-in-use"], "--cpu"),
        // OpenCL.
        ("OpenCL device refused",
            opencl().log("Unsupported GPU: pthread-skylake-avx512-AMD EPYC"), &["opencl-device-refused"], "./build.sh vulkan"),
        ("OpenCL on Intel without half precision",
            opencl().log("ggml_opencl: device: 'Intel(R) HD Graphics 4000 (OpenCL 1.2)'").log("ggml_opencl: device does not support FP16"),
            &["opencl-device-refused"], "intel-opencl-icd"),
        ("OpenCL on Intel, too old a version",
            opencl().log("ggml_opencl: device: 'Intel(R) HD Graphics 4000 (OpenCL 1.2)'").log("ggml_opencl: OpenCL 2.0 or above is required"),
            &["opencl-device-refused"], "./build.sh vulkan"),
        ("no OpenCL loader", opencl().with(|facts| { facts.libraries.clear(); }), &["opencl-loader-missing"], "ocl-icd-libopencl1"),
        ("no OpenCL driver", opencl().with(|facts| facts.opencl_drivers.clear()), &["opencl-driver-missing"], "intel-opencl-icd"),
        ("OpenCL selector", opencl().variable("GGML_OPENCL_PLATFORM", "NVIDIA"), &["opencl-selector"], "clinfo -l"),
        ("OpenCL selector that matches nothing, no GPU",
            built(&[Backend::Vulkan, Backend::OpenCl]).variable("GGML_OPENCL_PLATFORM", "nobody").library("OpenCL", "/usr/lib/libOpenCL.so.1")
                .log("looking for GPUs ended with exit status: 1: ggml_opencl: no platform matching 'nobody' was found."),
            &["opencl-selector"], "unset GGML_OPENCL_PLATFORM"),
        // Drivers that end or hang whoever asks them.
        ("Vulkan driver that crashes",
            vulkan().log("looking for GPUs ended with segmentation fault"), &["gpu-search-ended"], "vulkaninfo --summary"),
        ("driver that hangs", vulkan().log("the GPU driver did not answer within 60 s"), &["gpu-search-ended"], "vulkaninfo --summary"),
        ("NVIDIA driver that hangs, as nvidia-smi does",
            cuda().with(|facts| facts.nvidia_smi = NvidiaSmi::TimedOut).log("the GPU driver did not answer within 60 s"),
            &["nvidia-smi-timeout", "gpu-search-ended"], "dmesg"),
        ("ROCm that crashes on a processor's own graphics",
            rocm("gfx1103").log("looking for GPUs ended with segmentation fault"), &["amd-integrated-override", "gpu-search-ended"], "HSA_OVERRIDE_GFX_VERSION=11.0.0"),
        // While running.
        ("memory full",
            cuda().log("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1550.00 MiB on device 0: cudaMalloc failed: out of memory"),
            &["gpu-out-of-memory"], "slots = 1"),
        ("memory full, Vulkan", vulkan().log("alloc_tensor_range: failed to allocate Vulkan0 buffer of size 77107200"), &["gpu-out-of-memory"], "smaller model"),
        ("engine died for no known reason",
            cuda().engine(|engine| engine.fallbacks.push(DeviceMove { at: 1, reason: "killed by signal 9".to_owned(), ..DeviceMove::default() })), &["gpu-engine-died"], "RUST_LOG=debug"),
        ("weights of a type that the GPU does not know", cuda().engine(|engine| engine.actual = Some(DeviceReport {
            gpu: true, backend: "CUDA".to_owned(), description: "NVIDIA RTX 4090".to_owned(),
            weights_bytes: [("CUDA0".to_owned(), 60_100_000), ("CPU".to_owned(), 17_000_000)].into(), ..DeviceReport::default()
        })), &["weights-on-cpu"], "models pull base-q8_0"),
        ("memory full with a selector that was right",
            vulkan().variable("GGML_VK_VISIBLE_DEVICES", "0").log("alloc_tensor_range: failed to allocate Vulkan0 buffer of size 77107200"),
            &["gpu-out-of-memory"], "slots = 1"),
        ("engine on lavapipe, chosen by hand, was killed",
            built(&[Backend::Vulkan]).vulkan_driver("libvulkan_lvp.so").variable("GGML_VK_VISIBLE_DEVICES", "0")
                .engine(|engine| engine.fallbacks.push(DeviceMove { at: 1, reason: "the engine process ended (signal 9)".to_owned(), ..DeviceMove::default() })),
            &["gpu-engine-died"], "RUST_LOG=debug"),
        ("engine died beside an OpenCL device of another maker",
            built(&[Backend::Vulkan, Backend::OpenCl]).vulkan_driver("libvulkan_lvp.so").variable("GGML_VK_VISIBLE_DEVICES", "0")
                .log("Unsupported GPU: pthread-skylake")
                .engine(|engine| engine.fallbacks.push(DeviceMove { at: 1, reason: "the engine process ended (signal 9)".to_owned(), ..DeviceMove::default() })),
            &["gpu-engine-died", "opencl-device-refused"], "RUST_LOG=debug"),
        ("all is well", cuda().engine(|engine| engine.actual = Some(DeviceReport {
            gpu: true, backend: "CUDA".to_owned(), description: "NVIDIA RTX 4090".to_owned(), ..DeviceReport::default()
        })), &[], ""),
    ]
}

#[test]
fn every_situation_gets_its_own_advice() {
    let mut failures = Vec::new();
    for (situation, Machine(facts, engine), expected, words) in rows() {
        let advice = advise(&facts, &engine);
        let ids: Vec<&str> = advice.iter().map(|one| one.id).collect();
        if ids != expected {
            failures.push(format!("{situation}: {ids:?}, expected {expected:?}"));
        } else if let Some(first) = advice.first() {
            for text in [&first.remedy.en, &first.remedy.ja] {
                // Commands are the same in both languages; plain words are looked for in English only.
                let command = words.contains(['`', '/', '=', '-', '$']);
                if !text.contains(words) && (command || text.is_ascii()) {
                    failures.push(format!("{situation}: `{words}` is not in: {text}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Cause and what to type, word for word and in both languages; `cargo insta review` after an intended change.
#[test]
fn the_sentences_are_these() {
    let mut text = String::new();
    for (situation, Machine(facts, engine), ..) in rows() {
        let advice = advise(&facts, &engine);
        text.extend(["# ", situation, "\n"]);
        for one in &advice {
            for words in [&one.cause, &one.remedy] {
                for sentence in [&words.en, &words.ja] {
                    text.extend(["  ", sentence.as_ref(), "\n"]);
                }
            }
        }
    }
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("advice", text);
    });
}

#[test]
fn every_rule_speaks_both_languages_and_names_something_to_do() {
    for (situation, Machine(facts, engine), ..) in rows() {
        for one in advise(&facts, &engine) {
            for text in [&one.cause.en, &one.remedy.en] {
                assert!(
                    text.ends_with(['.', ')']) || one.id.ends_with("failed") || one.id.ends_with("died"),
                    "{situation}: {text}"
                );
                assert!(!text.contains("  "), "{situation}: {text}");
            }
            for text in [&one.cause.ja, &one.remedy.ja] {
                assert!(
                    text.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c)),
                    "{situation}: {text}"
                );
            }
            assert_eq!(
                one.cause.en.matches('`').count() % 2,
                0,
                "{situation}: unpaired backtick"
            );
            assert_eq!(
                one.remedy.ja.matches('`').count() % 2,
                0,
                "{situation}: unpaired backtick"
            );
        }
    }
}

#[test]
fn every_rule_in_the_source_has_a_row() {
    let mut seen: Vec<&str> = rows()
        .iter()
        .flat_map(|(_, Machine(facts, engine), ..)| advise(facts, engine))
        .map(|one| one.id)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let sources = [
        include_str!("mod.rs"),
        include_str!("surroundings.rs"),
        include_str!("nvidia.rs"),
        include_str!("cuda.rs"),
        include_str!("amd.rs"),
        include_str!("vulkan.rs"),
        include_str!("opencl.rs"),
    ];
    let mut missing = Vec::new();
    for source in sources {
        for after in source
            .split("found.add(")
            .chain(source.split("self.add("))
            .skip(1)
        {
            let Some(id) = after
                .trim_start()
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next())
            else {
                continue;
            };
            if id.contains('-') && !id.contains(' ') && !seen.contains(&id) && !missing.contains(&id) {
                missing.push(id);
            }
        }
    }
    assert!(missing.is_empty(), "rules without a row: {missing:?}");
}
