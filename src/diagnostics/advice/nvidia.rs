//! CUDA: driver, kernel module, toolkit, architectures.

use super::{Findings, Package, Text, Vendor};
use crate::diagnostics::probe::{NvidiaSmi, driver_library_version};

pub(super) fn cuda(found: &mut Findings<'_>) {
    if container(found) || wsl2(found) || bound_elsewhere(found) || versions_differ(found) || refused(found) {
        return;
    }
    for path in ["/dev/nvidiactl", "/dev/nvidia0"] {
        if found.permission(path) {
            return;
        }
    }
    unified_memory(found);
    hidden(found);
    driver_too_old(found);
    cublas(found);
    architecture(found);
}

/// Any trace of an NVIDIA GPU or its driver, so that a build with several backends does not miss what is not there.
pub(super) fn present(found: &Findings<'_>) -> bool {
    let facts = found.facts;
    facts.has_gpu(Vendor::Nvidia)
        || facts.library("cuda").found
        || facts.nvidia_smi != NvidiaSmi::NotFound
        || found.wsl2()
        || ["/dev/nvidia0", "/dev/nvidiactl"]
            .iter()
            .any(|path| facts.node(path).present)
}

/// A container that was not given the GPU its host has.
fn container(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    let given = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"]
        .iter()
        .any(|path| facts.node(path).present);
    if !found.contained() || given || !(facts.has_gpu(Vendor::Nvidia) || found.wsl2()) {
        return false;
    }
    found.add(
        "container-without-nvidia",
        Text::new(
            "The host has an NVIDIA GPU, but this container was started without it.",
            "ホストには NVIDIA の GPU がありますが、このコンテナには渡されていません。",
        ),
        Text::new(
            "Install NVIDIA's container toolkit on the host and start with `docker run --gpus all …` (Podman: `--device nvidia.com/gpu=all`; Kubernetes: `resources.limits: nvidia.com/gpu: 1`).",
            "ホストに NVIDIA Container Toolkit を入れ、`docker run --gpus all …` で起動してください(Podman: `--device nvidia.com/gpu=all`、Kubernetes: `resources.limits: nvidia.com/gpu: 1`)。",
        ),
    );
    true
}

fn wsl2(found: &mut Findings<'_>) -> bool {
    if !found.wsl2() {
        return false;
    }
    if !found.facts.node("/dev/dxg").present {
        found.add(
            "wsl2-no-dxg",
            Text::new(
                "WSL 2 runs without `/dev/dxg`, the way to the GPU of Windows.",
                "WSL 2 に `/dev/dxg` がなく、Windows の GPU に接続できません。",
            ),
            Text::new(
                "In Windows, update the GPU driver, then run `wsl --update` and `wsl --shutdown`.",
                "Windows 側で GPU ドライバーを更新し、`wsl --update` と `wsl --shutdown` を実行してください。",
            ),
        );
        return true;
    }
    let driver = found.library("cuda");
    let Some(path) = driver
        .path
        .filter(|path| driver.found && !path.starts_with("/usr/lib/wsl"))
    else {
        return false;
    };
    let sudo = found.sudo();
    found.add(
        "wsl2-linux-driver",
        Text::new(
            format!("An NVIDIA driver for Linux (`{}`) is installed inside WSL 2 and hides the one that Windows provides.", path.display()),
            format!("WSL 2 の中に Linux 用の NVIDIA ドライバー(`{}`)が入っており、Windows が提供するドライバーを隠しています。", path.display()),
        ),
        Text::new(
            format!("Remove it (`{sudo}apt purge 'nvidia-driver*' 'libnvidia-compute*'`) and start with `LD_LIBRARY_PATH=/usr/lib/wsl/lib`."),
            format!("`{sudo}apt purge 'nvidia-driver*' 'libnvidia-compute*'` で削除し、`LD_LIBRARY_PATH=/usr/lib/wsl/lib` を付けて起動してください。"),
        ),
    );
    true
}

/// The kernel gave the GPU to another driver.
fn bound_elsewhere(found: &mut Findings<'_>) -> bool {
    let first = found
        .facts
        .pci_gpus
        .iter()
        .find(|gpu| gpu.vendor == Vendor::Nvidia)
        .and_then(|gpu| gpu.kernel_driver.as_deref());
    if first == Some("nouveau") {
        let install = found.install(&Package::NvidiaDriver);
        found.add(
            "nvidia-nouveau",
            Text::new(
                "The NVIDIA GPU is driven by `nouveau`, which CUDA cannot use.",
                "NVIDIA の GPU が `nouveau` ドライバーで動作しており、CUDA からは使えません。",
            ),
            Text::new(
                format!("Install NVIDIA's driver (`{install}`) and restart the machine."),
                format!("NVIDIA のドライバーを導入し(`{install}`)、マシンを再起動してください。"),
            ),
        );
        return true;
    }
    if first == Some("vfio-pci") {
        found.add(
            "gpu-reserved-for-vm",
            Text::new(
                "The NVIDIA GPU is bound to `vfio-pci`, that is, set aside for a virtual machine.",
                "NVIDIA の GPU は `vfio-pci` に割り当てられており、仮想マシン専用になっています。",
            ),
            Text::new(
                "Run the server inside that virtual machine, or remove the `vfio-pci.ids` setting from the kernel's command line.",
                "その仮想マシンの中でサーバーを動かすか、カーネルの起動オプションから `vfio-pci.ids` を外してください。",
            ),
        );
        return true;
    }
    false
}

/// Kernel module and user-space driver of different versions: an update without a restart.
fn versions_differ(found: &mut Findings<'_>) -> bool {
    let said = matches!(&found.facts.nvidia_smi, NvidiaSmi::Failed { message } if message.contains("version mismatch"));
    let library = driver_library_version(&found.library("cuda"));
    let module = found.facts.nvidia_module.clone();
    let seen = library.is_some() && module.is_some() && library != module;
    if !(said || seen) {
        return false;
    }
    let versions = match (module, library) {
        (Some(module), Some(library)) => format!(" (module {module}, library {library})"),
        _ => String::new(),
    };
    let sudo = found.sudo();
    if found.contained() {
        found.add(
            "nvidia-version-mismatch-in-container",
            Text::new(
                format!("The container holds a driver library of another version than the host's kernel module{versions}."),
                format!("コンテナ内のドライバーライブラリとホストのカーネルモジュールのバージョンが一致していません{versions}。"),
            ),
            Text::new(
                "Use an image without an NVIDIA driver of its own: `docker run --gpus all` brings the host's.",
                "NVIDIA ドライバーを含まないイメージを使ってください。`docker run --gpus all` がホストのドライバーを渡します。",
            ),
        );
    } else {
        found.add(
            "nvidia-version-mismatch",
            Text::new(
                format!("The NVIDIA kernel module and the driver library have different versions{versions}: the driver was updated while the old module was loaded."),
                format!("NVIDIA のカーネルモジュールとドライバーライブラリのバージョンが一致していません{versions}。ドライバー更新後に古いモジュールが残っています。"),
            ),
            Text::new(
                format!("Restart the machine, or end everything on the GPU and run `{sudo}rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && {sudo}modprobe nvidia`."),
                format!("マシンを再起動するか、GPU を使うプログラムをすべて終了して `{sudo}rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && {sudo}modprobe nvidia` を実行してください。"),
            ),
        );
    }
    true
}

/// The driver is missing or says itself that it cannot work.
fn refused(found: &mut Findings<'_>) -> bool {
    let sudo = found.sudo();
    let message = match &found.facts.nvidia_smi {
        NvidiaSmi::Answered { .. } => return false,
        NvidiaSmi::NotFound => {
            if found.library("cuda").found || found.facts.node("/dev/nvidiactl").present {
                return false;
            }
            let install = found.install(&Package::NvidiaDriver);
            found.add(
                "nvidia-driver-missing",
                Text::new(
                    "The NVIDIA driver is not installed.",
                    "NVIDIA のドライバーがインストールされていません。",
                ),
                Text::new(
                    format!("Run `{install}` and restart the machine."),
                    format!("`{install}` を実行し、マシンを再起動してください。"),
                ),
            );
            return true;
        }
        NvidiaSmi::TimedOut => {
            found.add(
                "nvidia-smi-timeout",
                Text::new(
                    "`nvidia-smi` did not answer within 3 s: the driver hangs.",
                    "`nvidia-smi` が 3 秒以内に応答しません。ドライバーが停止しています。",
                ),
                Text::new(
                    format!("Look for `Xid` in `{sudo}dmesg` and restart the machine."),
                    format!("`{sudo}dmesg` に `Xid` がないか確認し、マシンを再起動してください。"),
                ),
            );
            return true;
        }
        NvidiaSmi::Failed { message } => message.clone(),
    };
    if message.contains("communicate with the NVIDIA driver") {
        module_not_loaded(found);
    } else if message.contains("No devices were found") {
        found.add(
            "nvidia-no-devices",
            Text::new(
                "The NVIDIA driver is loaded but finds no GPU it can start.",
                "NVIDIA のドライバーは読み込まれていますが、起動できる GPU がありません。",
            ),
            Text::new(
                format!("See why in `{sudo}dmesg | grep -i nvrm`: an unsupported or failed card, or missing power, are usual."),
                format!("`{sudo}dmesg | grep -i nvrm` で原因を確認してください。未対応のカード、故障、電源不足などが考えられます。"),
            ),
        );
    } else if message.contains("Insufficient Permissions") {
        if !found.permission("/dev/nvidiactl") && !found.permission("/dev/nvidia0") {
            found.add(
                "nvidia-permissions",
                Text::new(
                    "The NVIDIA driver refuses this user.",
                    "NVIDIA のドライバーがこのユーザーのアクセスを拒否しています。",
                ),
                Text::new(
                    format!("Run `{sudo}usermod -aG video $USER`, then log out and in again."),
                    format!("`{sudo}usermod -aG video $USER` を実行し、ログインし直してください。"),
                ),
            );
        }
    } else if message.contains("GPU is lost") || message.contains("Unable to determine the device handle") {
        found.add(
            "nvidia-gpu-lost",
            Text::new(
                "The NVIDIA GPU has fallen off the bus.",
                "NVIDIA の GPU がバスから切断されています。",
            ),
            Text::new(
                format!(
                    "Look for `Xid 79` in `{sudo}dmesg`, restart the machine, and check power and cooling."
                ),
                format!(
                    "`{sudo}dmesg` で `Xid 79` を確認し、マシンを再起動して、電源と冷却を点検してください。"
                ),
            ),
        );
    } else {
        found.add(
            "nvidia-smi-failed",
            Text::new(
                format!("`nvidia-smi` fails: {message}"),
                format!("`nvidia-smi` がエラーを返しています: {message}"),
            ),
            Text::new(
                "Until `nvidia-smi` lists the GPU, no program can use it.",
                "`nvidia-smi` に GPU が表示されるまで、どのプログラムからも GPU は使えません。",
            ),
        );
    }
    true
}

fn module_not_loaded(found: &mut Findings<'_>) {
    let sudo = found.sudo();
    if found.facts.platform.secure_boot == Some(true) {
        found.add(
            "nvidia-secure-boot",
            Text::new(
                "The NVIDIA kernel module is not loaded, and Secure Boot is on: the kernel refuses modules without a trusted signature.",
                "NVIDIA のカーネルモジュールが読み込まれていません。Secure Boot が有効なため、署名が登録されていないモジュールは拒否されます。",
            ),
            Text::new(
                format!("Enrol the module's key with `{sudo}mokutil --import /var/lib/dkms/mok.pub` (Ubuntu: `/var/lib/shim-signed/mok/MOK.der`; Fedora: `/etc/pki/akmods/certs/public_key.der`), restart and confirm, or switch Secure Boot off in the firmware."),
                format!("`{sudo}mokutil --import /var/lib/dkms/mok.pub`(Ubuntu: `/var/lib/shim-signed/mok/MOK.der`、Fedora: `/etc/pki/akmods/certs/public_key.der`)で鍵を登録し、再起動時に承認してください。または、ファームウェアの設定で Secure Boot を無効にしてください。"),
            ),
        );
    } else {
        let rebuild = found.install(&Package::NvidiaModule);
        found.add(
            "nvidia-module-not-loaded",
            Text::new(
                "The NVIDIA driver is installed, but its kernel module is not loaded; after a kernel update it is often missing for the new kernel.",
                "NVIDIA のドライバーは導入済みですが、カーネルモジュールが読み込まれていません。カーネル更新後によく起こります。",
            ),
            Text::new(format!("Run `{rebuild}`."), format!("`{rebuild}` を実行してください。")),
        );
    }
}

/// CUDA needs its own device file for memory; it is made on first use by a set-uid helper that may be missing.
fn unified_memory(found: &mut Findings<'_>) {
    let facts = found.facts;
    if facts.node("/dev/nvidia0").present && !facts.node("/dev/nvidia-uvm").present {
        let sudo = found.sudo();
        found.add(
            "nvidia-uvm-missing",
            Text::new(
                "`/dev/nvidia0` is there but `/dev/nvidia-uvm`, which CUDA needs, is not.",
                "`/dev/nvidia0` はありますが、CUDA に必要な `/dev/nvidia-uvm` がありません。",
            ),
            Text::new(
                format!("Run `{sudo}modprobe nvidia-uvm && {sudo}nvidia-modprobe -u -c=0`."),
                format!("`{sudo}modprobe nvidia-uvm && {sudo}nvidia-modprobe -u -c=0` を実行してください。"),
            ),
        );
    }
}

/// `CUDA_VISIBLE_DEVICES` leaves no GPU over. CUDA reads the list up to the first entry that is not a device.
fn hidden(found: &mut Findings<'_>) {
    let Some(value) = found.facts.variable("CUDA_VISIBLE_DEVICES") else {
        return;
    };
    let first = value.split(',').next().unwrap_or_default().trim();
    let count = match &found.facts.nvidia_smi {
        NvidiaSmi::Answered { gpus, .. } => gpus.len(),
        _ => usize::MAX,
    };
    let names_a_gpu = first.starts_with("GPU-")
        || first.starts_with("MIG-")
        || first.parse::<usize>().is_ok_and(|index| index < count);
    if names_a_gpu {
        return;
    }
    found.add(
        "cuda-visible-devices",
        Text::new(
            format!("`CUDA_VISIBLE_DEVICES={value}` hides every GPU from CUDA."),
            format!("`CUDA_VISIBLE_DEVICES={value}` により、CUDA からすべての GPU が隠されています。"),
        ),
        Text::new(
            "Run `unset CUDA_VISIBLE_DEVICES`, or set it to a number that `nvidia-smi -L` lists.",
            "`unset CUDA_VISIBLE_DEVICES` を実行するか、`nvidia-smi -L` に表示される番号を指定してください。",
        ),
    );
}

/// `13.0` → (13, 0)
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((
        parts.next()?.parse().ok()?,
        parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0),
    ))
}

/// Programs of one CUDA major version run on every driver of that major version (CUDA's minor version compatibility).
fn driver_too_old(found: &mut Findings<'_>) {
    let toolkit = found.facts.build.cuda_toolkit.as_deref().and_then(version);
    let NvidiaSmi::Answered {
        driver_version,
        cuda_version,
        ..
    } = &found.facts.nvidia_smi
    else {
        return;
    };
    let served = cuda_version.as_deref().and_then(version);
    let seen = matches!((toolkit, served), (Some(toolkit), Some(served)) if served.0 < toolkit.0);
    if !seen && found.engine.said(&["driver version is insufficient"]).is_none() {
        return;
    }
    let needs = toolkit.map_or_else(|| "?".to_owned(), |(major, minor)| format!("{major}.{minor}"));
    let newest = cuda_version.clone().unwrap_or_else(|| "?".to_owned());
    let install = found.install(&Package::NvidiaDriver);
    let older = served.map_or_else(|| "12".to_owned(), |(major, _)| major.to_string());
    found.add(
        "nvidia-driver-too-old",
        Text::new(
            format!("The NVIDIA driver {driver_version} serves CUDA {newest}, but this binary was built with CUDA {needs}."),
            format!("NVIDIA ドライバー {driver_version} が対応する CUDA は {newest} までですが、このバイナリは CUDA {needs} でビルドされています。"),
        ),
        Text::new(
            format!("Update the driver (`{install}`, then restart), or rebuild with a CUDA {older} toolkit: `CUDA_PATH=/usr/local/cuda-{older} ./build.sh cuda`."),
            format!("ドライバーを更新する(`{install}` の後に再起動)か、CUDA {older} で再ビルドしてください: `CUDA_PATH=/usr/local/cuda-{older} ./build.sh cuda`。"),
        ),
    );
}

fn cublas(found: &mut Findings<'_>) {
    let library = found.library("cublas");
    if library.found || !found.facts.has_gpu(Vendor::Nvidia) {
        return;
    }
    if let Some(folder) = library.path.as_deref().and_then(std::path::Path::parent) {
        let (folder, sudo) = (folder.display(), found.sudo());
        found.add(
            "cublas-not-searched",
            Text::new(
                format!("cuBLAS lies in `{folder}`, where the dynamic linker does not look."),
                format!("cuBLAS は `{folder}` にありますが、動的リンカーの検索対象になっていません。"),
            ),
            Text::new(
                format!("Start with `LD_LIBRARY_PATH={folder}`, or once and for all: `echo {folder} | {sudo}tee /etc/ld.so.conf.d/cuda.conf && {sudo}ldconfig`."),
                format!("`LD_LIBRARY_PATH={folder}` を付けて起動するか、`echo {folder} | {sudo}tee /etc/ld.so.conf.d/cuda.conf && {sudo}ldconfig` で恒久的に登録してください。"),
            ),
        );
        return;
    }
    let toolkit = found
        .facts
        .build
        .cuda_toolkit
        .clone()
        .unwrap_or_else(|| "13.0".to_owned());
    let major = toolkit.split('.').next().unwrap_or("13").to_owned();
    let install = found.install(&Package::Cublas(toolkit.clone()));
    found.add(
        "cublas-missing",
        Text::new(
            format!("cuBLAS {major} (`libcublas.so.{major}`), which the CUDA build needs, is not installed."),
            format!("CUDA 版に必要な cuBLAS {major}(`libcublas.so.{major}`)がインストールされていません。"),
        ),
        Text::new(
            format!("Run `{install}` (from NVIDIA's package repository), or put `libcublas.so.{major}` and `libcublasLt.so.{major}` beside the binary."),
            format!("`{install}`(NVIDIA のパッケージリポジトリ)を実行するか、`libcublas.so.{major}` と `libcublasLt.so.{major}` をバイナリと同じフォルダーに置いてください。"),
        ),
    );
}

/// Whether code built for `architecture` (as CMake writes it) runs on a GPU of this compute capability, `89` for 8.9.
/// Machine code runs on the same major version from its minor on; PTX on everything newer; `a` on exactly its own.
fn serves(architecture: &str, capability: u32) -> bool {
    let (number, kind) = architecture.split_once('-').unwrap_or((architecture, ""));
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let Ok(built) = digits.parse::<u32>() else {
        return true;
    };
    if number.len() > digits.len() {
        return built == capability;
    }
    let ptx = kind != "real" && built <= capability;
    let machine_code = kind != "virtual" && built / 10 == capability / 10 && built <= capability;
    ptx || machine_code
}

fn architecture(found: &mut Findings<'_>) {
    let NvidiaSmi::Answered { gpus, .. } = &found.facts.nvidia_smi else {
        return;
    };
    let built = &found.facts.build.cuda_architectures;
    let capability = |text: &str| version(text).map(|(major, minor)| major * 10 + minor);
    let unserved = gpus.iter().find(|gpu| {
        !built.is_empty()
            && gpu
                .compute_capability
                .as_deref()
                .and_then(capability)
                .is_some_and(|number| !built.iter().any(|architecture| serves(architecture, number)))
    });
    let complained = found
        .engine
        .said(&["no kernel image", "architecture mismatch", "unsupported ptx"])
        .is_some();
    let Some(gpu) = unserved.or_else(|| gpus.first().filter(|_| complained)) else {
        return;
    };
    let text = gpu.compute_capability.clone().unwrap_or_else(|| "?".to_owned());
    let (name, list, number) = (gpu.name.clone(), built.join(", "), text.replace('.', ""));
    found.add(
        "cuda-architecture",
        Text::new(
            format!("This binary holds CUDA code for {list}, none of which runs on {name} (compute capability {text})."),
            format!("このバイナリに含まれる CUDA コード({list})は、{name}(compute capability {text})では動作しません。"),
        ),
        Text::new(
            format!("Rebuild for it: `CMAKE_CUDA_ARCHITECTURES={number} ./build.sh cuda`."),
            format!("この GPU 用に再ビルドしてください: `CMAKE_CUDA_ARCHITECTURES={number} ./build.sh cuda`。"),
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::serves;

    #[test]
    fn architectures_serve_the_gpus_that_cuda_says_they_do() {
        assert!(serves("90-real", 90) && !serves("90-real", 89) && !serves("90-real", 100));
        assert!(serves("80-virtual", 90) && serves("80-virtual", 120) && !serves("80-virtual", 75));
        assert!(serves("86", 89) && serves("86", 120) && !serves("86", 80));
        assert!(
            serves("80-real", 86),
            "machine code runs on later minors of its major"
        );
        assert!(serves("120a-real", 120) && !serves("120a-real", 121));
        assert!(
            serves("native", 50),
            "unknown words are not held against the build"
        );
    }
}
