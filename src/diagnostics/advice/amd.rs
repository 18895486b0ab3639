//! ROCm: kernel driver, runtime, targets.

use super::{Backend, Findings, Package, Text, Vendor};

/// Any trace of an AMD GPU, or a place where there cannot be one.
pub(super) fn present(found: &Findings<'_>) -> bool {
    found.facts.has_gpu(Vendor::Amd) || found.facts.node("/dev/kfd").present || found.wsl2()
}

pub(super) fn rocm(found: &mut Findings<'_>) {
    if wsl2(found) || device_files(found) || found.permission("/dev/kfd") {
        return;
    }
    if found.permission("/dev/dri") {
        return;
    }
    runtime(found);
    hidden(found);
    target(found);
}

fn wsl2(found: &mut Findings<'_>) -> bool {
    if !found.wsl2() || found.facts.node("/dev/kfd").present {
        return false;
    }
    found.add(
        "wsl2-rocm",
        Text::new(
            "ROCm needs `/dev/kfd`, which WSL 2 does not have.",
            "ROCm には `/dev/kfd` が必要ですが、WSL 2 にはありません。",
        ),
        Text::new(
            "Build with `./build.sh vulkan` (Mesa's `dzn` driver may serve it), or run natively on Windows or Linux.",
            "`./build.sh vulkan` でビルドする(Mesa の `dzn` ドライバーで動く可能性があります)か、Windows または Linux 上で直接動かしてください。",
        ),
    );
    true
}

fn device_files(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    if facts.node("/dev/kfd").present && facts.node("/dev/dri").present {
        return false;
    }
    if found.contained() {
        found.add(
            "container-without-rocm",
            Text::new(
                "This container was started without the AMD GPU's device files.",
                "このコンテナには AMD の GPU のデバイスファイルが渡されていません。",
            ),
            Text::new(
                "Start it with `docker run --device /dev/kfd --device /dev/dri --group-add video --group-add render …`.",
                "`docker run --device /dev/kfd --device /dev/dri --group-add video --group-add render …` で起動してください。",
            ),
        );
    } else {
        let sudo = found.sudo();
        found.add(
            "amd-kernel-driver",
            Text::new(
                "`/dev/kfd` is missing: the kernel driver `amdgpu` is not loaded, or was built without compute.",
                "`/dev/kfd` がありません。カーネルドライバー `amdgpu` が読み込まれていないか、計算機能なしでビルドされています。",
            ),
            Text::new(
                format!("Run `{sudo}modprobe amdgpu` and look at `{sudo}dmesg | grep -Ei 'amdgpu|kfd'`."),
                format!("`{sudo}modprobe amdgpu` を実行し、`{sudo}dmesg | grep -Ei 'amdgpu|kfd'` を確認してください。"),
            ),
        );
    }
    true
}

fn runtime(found: &mut Findings<'_>) {
    let library = found.library("amdhip64");
    if library.found {
        return;
    }
    if let Some(folder) = library.path.as_deref().and_then(std::path::Path::parent) {
        let (folder, sudo) = (folder.display(), found.sudo());
        found.add(
            "rocm-not-searched",
            Text::new(
                format!("ROCm lies in `{folder}`, where the dynamic linker does not look."),
                format!("ROCm は `{folder}` にありますが、動的リンカーの検索対象になっていません。"),
            ),
            Text::new(
                format!("Start with `LD_LIBRARY_PATH={folder}`, or once and for all: `echo {folder} | {sudo}tee /etc/ld.so.conf.d/rocm.conf && {sudo}ldconfig`."),
                format!("`LD_LIBRARY_PATH={folder}` を付けて起動するか、`echo {folder} | {sudo}tee /etc/ld.so.conf.d/rocm.conf && {sudo}ldconfig` で恒久的に登録してください。"),
            ),
        );
        return;
    }
    let install = found.install(&Package::Rocm);
    found.add(
        "rocm-missing",
        Text::new(
            "The ROCm runtime (`libamdhip64.so`) is not installed.",
            "ROCm ランタイム(`libamdhip64.so`)がインストールされていません。",
        ),
        Text::new(
            format!("Run `{install}`, or build with `./build.sh vulkan`, which needs no ROCm."),
            format!("`{install}` を実行するか、ROCm が不要な `./build.sh vulkan` でビルドしてください。"),
        ),
    );
}

fn hidden(found: &mut Findings<'_>) {
    for name in ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"] {
        let Some(value) = found.facts.variable(name) else {
            continue;
        };
        if !value.is_empty() && value != "-1" {
            continue;
        }
        found.add(
            "hip-visible-devices",
            Text::new(
                format!("`{name}={value}` hides every GPU from ROCm."),
                format!("`{name}={value}` により、ROCm からすべての GPU が隠されています。"),
            ),
            Text::new(
                format!("Run `unset {name}`, or set it to a number that `rocminfo` lists."),
                format!("`unset {name}` を実行するか、`rocminfo` に表示される番号を指定してください。"),
            ),
        );
    }
}

/// The value of `HSA_OVERRIDE_GFX_VERSION` that makes ROCm treat an unsupported processor's GPU as its nearest
/// supported relative.
fn override_for(gfx: &str) -> Option<&'static str> {
    match gfx {
        "gfx1103" => Some("11.0.0"),
        "gfx1033" | "gfx1035" | "gfx1036" | "gfx1037" => Some("10.3.0"),
        "gfx90c" | "gfx902" => Some("9.0.0"),
        _ => None,
    }
}

/// `11.0.0` → `gfx1100`
fn presented_as(version: &str) -> Option<String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor, stepping) = (parts.next()??, parts.next()??, parts.next()??);
    Some(format!("gfx{major}{minor:x}{stepping:x}"))
}

fn target(found: &mut Findings<'_>) {
    let facts = found.facts;
    let Some(gfx) = facts
        .pci_gpus
        .iter()
        .filter(|gpu| gpu.vendor == Vendor::Amd)
        .find_map(|gpu| gpu.gfx.clone())
    else {
        return;
    };
    let set = facts
        .variable("HSA_OVERRIDE_GFX_VERSION")
        .filter(|value| !value.is_empty());
    let built = &facts.build.hip_targets;
    if set.is_none()
        && let Some(version) = override_for(&gfx)
        && !built.contains(&gfx)
    {
        let elsewhere = if found.compiled(Backend::Vulkan) {
            ""
        } else {
            " (`./build.sh vulkan` needs no such setting)"
        };
        let elsewhere_ja = if found.compiled(Backend::Vulkan) {
            ""
        } else {
            "(`./build.sh vulkan` ならこの設定は不要です)"
        };
        found.add(
            "amd-integrated-override",
            Text::new(
                format!("ROCm does not support this AMD integrated GPU ({gfx}) under its own name."),
                format!("この AMD 内蔵 GPU({gfx})は、そのままでは ROCm に対応していません。"),
            ),
            Text::new(
                format!("Start with `HSA_OVERRIDE_GFX_VERSION={version}`{elsewhere}."),
                format!("`HSA_OVERRIDE_GFX_VERSION={version}` を付けて起動してください{elsewhere_ja}。"),
            ),
        );
        return;
    }
    let effective = set.and_then(presented_as).unwrap_or(gfx);
    if !built.is_empty() && !built.contains(&effective) {
        let list = built.join(", ");
        found.add(
            "hip-target",
            Text::new(
                format!("This binary holds ROCm code for {list}, but the GPU presents itself as {effective}."),
                format!("このバイナリの ROCm コードは {list} 用ですが、GPU は {effective} として認識されています。"),
            ),
            Text::new(
                format!("Rebuild for it: `AMDGPU_TARGETS={effective} ./build.sh hip`."),
                format!("この GPU 用に再ビルドしてください: `AMDGPU_TARGETS={effective} ./build.sh hip`。"),
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::presented_as;

    #[test]
    fn an_override_names_the_architecture_it_pretends() {
        assert_eq!(presented_as("11.0.0").as_deref(), Some("gfx1100"));
        assert_eq!(presented_as("9.0.10").as_deref(), Some("gfx90a"));
        assert_eq!(presented_as("eleven"), None);
    }
}
