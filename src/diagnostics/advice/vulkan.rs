//! Vulkan: loader, drivers, render nodes, selectors.

use super::{Findings, Package, Text, Vendor};
use crate::diagnostics::probe::NvidiaSmi;

pub(super) fn vulkan(found: &mut Findings<'_>) {
    // An engine was on the GPU and failed there: nothing that leads to it is missing.
    if !found.engine.fallbacks.is_empty() {
        return;
    }
    if loader(found) {
        return;
    }
    if found.engine.said(&["invalid device index"]).is_some() {
        selectors(found);
        return;
    }
    if drivers(found) || device_files(found) {
        return;
    }
    let ours = found
        .facts
        .pci_gpus
        .iter()
        .any(|gpu| matches!(gpu.vendor, Vendor::Amd | Vendor::Intel));
    if ours && found.permission("/dev/dri") {
        return;
    }
    selectors(found);
}

/// A model on llvmpipe is on the CPU by a detour. Only a set selector leads there, so it is said, not undone.
pub(super) fn software_in_use(found: &mut Findings<'_>) {
    let Some(device) = &found.engine.actual else {
        return;
    };
    let name = device.description.clone();
    let software = ["llvmpipe", "lavapipe", "swiftshader"]
        .iter()
        .any(|word| name.to_lowercase().contains(word));
    if software {
        found.add(
            "vulkan-software-in-use",
            Text::new(
                format!("`{name}` is a software driver: it computes on the CPU and is slower than the CPU build."),
                format!("`{name}` はソフトウェアドライバーです。CPU 上で計算するため、CPU 版より低速です。"),
            ),
            Text::new(
                "Run `unset GGML_VK_VISIBLE_DEVICES VK_DRIVER_FILES`, or start with `--cpu`.",
                "`unset GGML_VK_VISIBLE_DEVICES VK_DRIVER_FILES` を実行するか、`--cpu` を付けて起動してください。",
            ),
        );
    }
}

fn loader(found: &mut Findings<'_>) -> bool {
    if found.facts.platform.os == "macos" || found.library("vulkan").found {
        return false;
    }
    let install = found.install(&Package::VulkanLoader);
    found.add(
        "vulkan-loader-missing",
        Text::new(
            "The Vulkan loader (`libvulkan.so.1`) is not installed.",
            "Vulkan ローダー(`libvulkan.so.1`)がインストールされていません。",
        ),
        Text::new(
            format!("Run `{install}`."),
            format!("`{install}` を実行してください。"),
        ),
    );
    true
}

fn drivers(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    let hardware: Vec<_> = facts
        .vulkan_drivers
        .iter()
        .filter(|driver| !driver.software)
        .collect();
    let nvidia = hardware
        .iter()
        .any(|driver| driver.library.to_lowercase().contains("nvidia") || driver.library.contains("GLX"));

    let chosen = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .find(|name| facts.variable(name).is_some_and(|v| !v.is_empty()));
    if let Some(name) = chosen
        && facts.vulkan_drivers.is_empty()
    {
        let value = facts.variable(name).unwrap_or_default().to_owned();
        found.add(
            "vulkan-driver-files",
            Text::new(
                format!("`{name}={value}` names no Vulkan driver, and hides all others."),
                format!(
                    "`{name}={value}` には有効な Vulkan ドライバーがなく、他のドライバーも隠されています。"
                ),
            ),
            Text::new(
                format!("Run `unset {name}`."),
                format!("`unset {name}` を実行してください。"),
            ),
        );
        return true;
    }
    if found.wsl2()
        && facts.node("/dev/dxg").present
        && !hardware.iter().any(|driver| driver.library.contains("dzn"))
    {
        let sudo = found.sudo();
        found.add(
            "wsl2-vulkan",
            Text::new(
                "Under WSL 2, Vulkan reaches the GPU only through Mesa's `dzn` driver, which is not installed.",
                "WSL 2 では Mesa の `dzn` ドライバー経由でのみ Vulkan から GPU を使えますが、インストールされていません。",
            ),
            Text::new(
                format!("On Ubuntu run `{sudo}add-apt-repository ppa:kisak/kisak-mesa && {sudo}apt install mesa-vulkan-drivers`; with an NVIDIA GPU `./build.sh cuda` is the better way, else run natively on Windows or Linux."),
                format!("Ubuntu では `{sudo}add-apt-repository ppa:kisak/kisak-mesa && {sudo}apt install mesa-vulkan-drivers` を実行してください。NVIDIA の GPU なら `./build.sh cuda` が確実です。それ以外は Windows または Linux 上で直接動かしてください。"),
            ),
        );
        return true;
    }
    if facts.has_gpu(Vendor::Nvidia)
        && !nvidia
        && !facts.has_gpu(Vendor::Amd)
        && !facts.has_gpu(Vendor::Intel)
    {
        nvidia_manifest(found);
        return true;
    }
    if !hardware.is_empty() {
        return false;
    }
    let vendor = if facts.has_gpu(Vendor::Intel) && !facts.has_gpu(Vendor::Amd) {
        Vendor::Intel
    } else {
        Vendor::Amd
    };
    let install = found.install(&Package::VulkanDriver(vendor));
    let software = facts.vulkan_drivers.iter().any(|driver| driver.software);
    let (id, cause) = if software {
        (
            "vulkan-software-only",
            Text::new(
                "Only a software Vulkan driver (lavapipe) is installed, none for the GPU.",
                "Vulkan ドライバーはソフトウェア版(lavapipe)だけで、GPU 用のドライバーがありません。",
            ),
        )
    } else {
        (
            "vulkan-driver-missing",
            Text::new(
                "No Vulkan driver is installed.",
                "Vulkan ドライバーがインストールされていません。",
            ),
        )
    };
    found.add(
        id,
        cause,
        Text::new(
            format!("Run `{install}`."),
            format!("`{install}` を実行してください。"),
        ),
    );
    true
}

/// NVIDIA's Vulkan driver comes with its graphics part, which containers and server packages leave out.
fn nvidia_manifest(found: &mut Findings<'_>) {
    if found.contained() && matches!(found.facts.nvidia_smi, NvidiaSmi::Answered { .. }) {
        found.add(
            "container-nvidia-vulkan",
            Text::new(
                "The container was given the NVIDIA GPU for CUDA only; its Vulkan driver was left out.",
                "コンテナには NVIDIA の GPU が CUDA 用としてのみ渡されており、Vulkan ドライバーが含まれていません。",
            ),
            Text::new(
                "Start it with `docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics …`, or use the CUDA image.",
                "`docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics …` で起動するか、CUDA 版のイメージを使ってください。",
            ),
        );
        return;
    }
    if found.contained() {
        found.add(
            "container-without-nvidia",
            Text::new(
                "The host has an NVIDIA GPU, but this container was started without it.",
                "ホストには NVIDIA の GPU がありますが、このコンテナには渡されていません。",
            ),
            Text::new(
                "Start it with `docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics …`.",
                "`docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics …` で起動してください。",
            ),
        );
        return;
    }
    let install = found.install(&Package::NvidiaDriver);
    found.add(
        "nvidia-vulkan-driver-missing",
        Text::new(
            "NVIDIA's Vulkan driver is not installed.",
            "NVIDIA の Vulkan ドライバーがインストールされていません。",
        ),
        Text::new(
            format!("Install the whole driver (`{install}`), graphics included, and restart the machine."),
            format!(
                "グラフィックス部分を含むドライバー全体を導入し(`{install}`)、マシンを再起動してください。"
            ),
        ),
    );
}

fn device_files(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    let ours = facts.has_gpu(Vendor::Amd) || facts.has_gpu(Vendor::Intel);
    if !ours || facts.node("/dev/dri").present {
        return false;
    }
    if found.contained() {
        found.add(
            "container-without-dri",
            Text::new(
                "The host has a GPU, but this container was started without `/dev/dri`.",
                "ホストには GPU がありますが、このコンテナには `/dev/dri` が渡されていません。",
            ),
            Text::new(
                "Start it with `docker run --device /dev/dri --group-add $(stat -c %g /dev/dri/renderD128) …`.",
                "`docker run --device /dev/dri --group-add $(stat -c %g /dev/dri/renderD128) …` で起動してください。",
            ),
        );
    } else {
        let sudo = found.sudo();
        let module = if facts.has_gpu(Vendor::Amd) {
            "amdgpu"
        } else {
            "i915"
        };
        found.add(
            "dri-missing",
            Text::new(
                format!("`/dev/dri` is missing: the kernel driver `{module}` is not loaded."),
                format!("`/dev/dri` がありません。カーネルドライバー `{module}` が読み込まれていません。"),
            ),
            Text::new(
                format!("Run `{sudo}modprobe {module}` and look at `{sudo}dmesg | grep -i {module}`."),
                format!("`{sudo}modprobe {module}` を実行し、`{sudo}dmesg | grep -i {module}` を確認してください。"),
            ),
        );
    }
    true
}

/// ggml counts all Vulkan devices, software ones too, and takes a wrong selector for "none".
fn selectors(found: &mut Findings<'_>) {
    // An engine that tried to put weights there was led to it by the selector.
    if found.list.iter().any(|advice| advice.id == "gpu-out-of-memory") {
        return;
    }
    let Some(value) = found.facts.variable("GGML_VK_VISIBLE_DEVICES").map(str::to_owned) else {
        return;
    };
    let numbers = !value.is_empty() && value.split(',').all(|part| part.trim().parse::<u32>().is_ok());
    if numbers && found.engine.said(&["invalid device index"]).is_none() && found.engine.actual.is_none() {
        return;
    }
    found.add(
        "vulkan-visible-devices",
        Text::new(
            format!("`GGML_VK_VISIBLE_DEVICES={value}` selects no Vulkan device."),
            format!("`GGML_VK_VISIBLE_DEVICES={value}` に該当する Vulkan デバイスがありません。"),
        ),
        Text::new(
            "Run `unset GGML_VK_VISIBLE_DEVICES`, or set it to a number that `vulkaninfo --summary` lists, counted from 0.",
            "`unset GGML_VK_VISIBLE_DEVICES` を実行するか、`vulkaninfo --summary` に表示される番号(0 始まり)を指定してください。",
        ),
    );
}
