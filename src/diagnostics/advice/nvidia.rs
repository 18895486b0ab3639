//! NVIDIA's driver: kernel module, library, device files, and who was given them.

use super::{Findings, Package, Text, Vendor};
use crate::diagnostics::probe::{NvidiaSmi, driver_library_version};

/// True when the driver alone explains why CUDA cannot work.
pub(super) fn driver(found: &mut Findings<'_>) -> bool {
    if container(found) || wsl2(found) || bound_elsewhere(found) || versions_differ(found) || refused(found) {
        return true;
    }
    if ["/dev/nvidiactl", "/dev/nvidia0"]
        .iter()
        .any(|path| found.permission(path))
    {
        return true;
    }
    unified_memory(found)
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
    // cudaErrorSystemDriverMismatch
    let refused = found
        .engine
        .said(&["unsupported display driver / cuda driver combination"])
        .is_some();
    if !(said || seen || refused) {
        return false;
    }
    let versions = match (module, library) {
        (Some(module), Some(library)) if seen => format!(" (module {module}, library {library})"),
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
fn unified_memory(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    if !facts.node("/dev/nvidia0").present || facts.node("/dev/nvidia-uvm").present {
        return false;
    }
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
    true
}
