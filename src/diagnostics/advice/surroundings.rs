//! What does not depend on one backend: the build, the configuration, the platform, memory.

use super::{Backend, Findings, Text, Vendor, any_gpu, opencl};
use crate::diagnostics::probe::Wsl;

/// The engine's own check of its processor, before it touches ggml. True when that was said.
pub(super) fn processor(found: &mut Findings<'_>) -> bool {
    let Some((lacks, rest)) = found
        .engine
        .said(&["compiled for a processor with"])
        .and_then(|line| line.split_once("compiled for a processor with "))
        .and_then(|(_, rest)| rest.split_once(", which this one lacks"))
    else {
        return false;
    };
    // The engine knows whether a portable build would have what this processor lacks.
    let remedy = if rest.contains("GGML_NATIVE=OFF") {
        Text::new(
            "Build on this machine with `./build.sh`, or for every processor with AVX2: `GGML_NATIVE=OFF ./build.sh`.",
            "このマシンで `./build.sh` を実行するか、AVX2 対応の CPU ならどれでも動くように `GGML_NATIVE=OFF ./build.sh` でビルドしてください。",
        )
    } else {
        Text::new(
            "Build on this machine with `./build.sh`.",
            "このマシンで `./build.sh` を実行してください。",
        )
    };
    let lacks = lacks.to_owned();
    found.add(
        "processor-too-old",
        Text::new(
            format!("This binary was compiled for a newer processor: this one lacks {lacks}."),
            format!(
                "このバイナリはより新しい CPU 用にビルドされています。この CPU には {lacks} がありません。"
            ),
        ),
        remedy,
    );
    true
}

/// Tensors that the backend has no kernel for stay with the CPU; each step then waits for both.
pub(super) fn weights_on_cpu(found: &mut Findings<'_>) {
    let Some(device) = &found.engine.actual else {
        return;
    };
    let (on_cpu, all) = (
        device.weights_on_cpu_bytes(),
        device.weights_bytes.values().sum::<u64>(),
    );
    if on_cpu == 0 {
        return;
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let (backend, on_cpu, all) = (device.backend.clone(), megabytes(on_cpu), megabytes(all));
    found.add(
        "weights-on-cpu",
        Text::new(
            format!("{on_cpu} of {all} of the weights stayed on the CPU: {backend} cannot compute with their type."),
            format!("重み {all} のうち {on_cpu} は CPU に残っています。{backend} がその型の計算に対応していないためです。"),
        ),
        Text::new(
            "A model of type f16 or q8_0 is computed by the GPU alone: `WhisperBackendAPI models pull base-q8_0`, then `model_path = \"base-q8_0\"`.",
            "f16 または q8_0 のモデルなら GPU だけで計算できます。`WhisperBackendAPI models pull base-q8_0` の後、`model_path = \"base-q8_0\"` を指定してください。",
        ),
    );
}

pub(super) fn not_requested(found: &mut Findings<'_>) {
    if found.facts.build.backends.is_empty() {
        return;
    }
    found.add(
        "gpu-not-requested",
        Text::new(
            "The GPU is switched off by the configuration or by `--cpu`.",
            "GPU は設定または `--cpu` により無効になっています。",
        ),
        Text::new(
            "Set `enable_gpu = true` under `[whisper]` in `config.toml` and start without `--cpu`.",
            "`config.toml` の `[whisper]` で `enable_gpu = true` にし、`--cpu` を付けずに起動してください。",
        ),
    );
}

/// `0`, `off` and the like switch a build variable off.
fn switched_on(value: Option<&str>) -> bool {
    value.is_some_and(|value| !["", "0", "off", "false", "no"].contains(&value.to_lowercase().as_str()))
}

pub(super) fn variables_without_feature(found: &mut Findings<'_>) {
    for (variable, backend, id, word) in [
        (
            "WHISPER_CUBLAS",
            Backend::Cuda,
            "cublas-variable-without-feature",
            "cuda",
        ),
        (
            "WHISPER_OPENCL",
            Backend::OpenCl,
            "opencl-variable-without-feature",
            "opencl",
        ),
    ] {
        if switched_on(found.facts.variable(variable)) && !found.compiled(backend) {
            found.add(
                id,
                Text::new(
                    format!("`{variable}` is set, but this binary was built without the feature `{word}`; the variable alone changes nothing."),
                    format!("`{variable}` は設定されていますが、このバイナリは feature `{word}` なしでビルドされています。環境変数だけでは GPU は使われません。"),
                ),
                Text::new(
                    format!("Run `./build.sh {word}`, or `cargo build --release --features {word}`."),
                    format!("`./build.sh {word}` または `cargo build --release --features {word}` を実行してください。"),
                ),
            );
        }
    }
}

/// A build without any GPU backend.
pub(super) fn cpu_build(found: &mut Findings<'_>) {
    if wsl1(found) {
        return;
    }
    let facts = found.facts;
    let (what_en, what_ja, word) = if facts.platform.os == "macos" {
        ("Apple GPU", "Apple の GPU", "gpu")
    } else if facts.has_gpu(Vendor::Nvidia) || facts.library("cuda").found {
        ("NVIDIA GPU", "NVIDIA の GPU", "cuda")
    } else if facts.has_gpu(Vendor::Amd) {
        ("AMD GPU", "AMD の GPU", "vulkan")
    } else if facts.has_gpu(Vendor::Intel) {
        ("Intel GPU", "Intel の GPU", "vulkan")
    } else if facts.node("/dev/dxg").present {
        ("GPU behind `/dev/dxg`", "`/dev/dxg` 経由の GPU", "vulkan")
    } else {
        found.add(
            "no-gpu",
            Text::new(
                "No GPU can be seen on this machine, and this is a CPU build.",
                "このマシンには GPU が見当たらず、CPU 用のビルドです。",
            ),
            Text::new(
                "There is nothing to do; a smaller model such as `base-q8_0` is faster.",
                "対処は不要です。速度が必要なら `base-q8_0` などの小さいモデルを使ってください。",
            ),
        );
        return;
    };
    found.add(
        "build-without-gpu",
        Text::new(
            format!("This machine has an {what_en}, but this binary was built for the CPU only.")
                .replace("an GPU", "a GPU"),
            format!("このマシンには {what_ja} がありますが、このバイナリは CPU 専用でビルドされています。"),
        ),
        Text::new(
            format!("Run `./build.sh {word}` and start again."),
            format!("`./build.sh {word}` を実行して起動し直してください。"),
        ),
    );
}

/// WSL 1 has no GPU at all. True when that was said.
pub(super) fn wsl1(found: &mut Findings<'_>) -> bool {
    if found.facts.platform.wsl != Some(Wsl::Wsl1) {
        return false;
    }
    found.add(
        "wsl1",
        Text::new("WSL 1 gives Linux programs no GPU.", "WSL 1 では Linux のプログラムから GPU を使えません。"),
        Text::new(
            "In Windows, run `wsl --set-version <distribution> 2` (`wsl -l -v` lists the names).",
            "Windows 側で `wsl --set-version <ディストリビューション名> 2` を実行してください(名前は `wsl -l -v` で確認できます)。",
        ),
    );
    true
}

/// Every compiled backend wants another maker's GPU than those present. True when that was said.
pub(super) fn backend_does_not_fit(found: &mut Findings<'_>) -> bool {
    let facts = found.facts;
    if !any_gpu(facts) {
        // Virtual machines and some containers hide the bus: a driver library or device file is a GPU's trace too.
        let traces = facts.library("cuda").found
            || ["/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dri"]
                .iter()
                .any(|path| facts.node(path).present)
            || [
                "GGML_VK_VISIBLE_DEVICES",
                "VK_DRIVER_FILES",
                "VK_ICD_FILENAMES",
                "GGML_OPENCL_PLATFORM",
                "GGML_OPENCL_DEVICE",
            ]
            .iter()
            .any(|name| facts.variable(name).is_some())
            || found.engine.said(&[SEARCH_ENDED, SEARCH_HUNG]).is_some()
            || !found.engine.fallbacks.is_empty()
            || opencl::device_dropped(found)
            || found
                .engine
                .said(&["out of memory", "failed to allocate"])
                .is_some();
        if traces {
            return false;
        }
        let software =
            facts.build.has(Backend::Vulkan) && facts.vulkan_drivers.iter().any(|driver| driver.software);
        found.add(
            "no-gpu",
            Text::new(
                "No GPU can be seen on this machine.",
                "このマシンには GPU が見当たりません。",
            ),
            if software {
                Text::new(
                    "The CPU serves; Mesa's software driver is left alone, since it is slower than the CPU itself (to test with it: `GGML_VK_VISIBLE_DEVICES=0`).",
                    "CPU で動作します。Mesa のソフトウェアドライバーは CPU より遅いため使いません(試験する場合: `GGML_VK_VISIBLE_DEVICES=0`)。",
                )
            } else {
                Text::new(
                    "If there is one, see whether `lspci -nn | grep -Ei 'vga|3d|display'` lists it; a virtual machine must be given its GPU by the host.",
                    "GPU があるはずなら `lspci -nn | grep -Ei 'vga|3d|display'` に表示されるか確認してください。仮想マシンではホスト側で GPU を割り当てる必要があります。",
                )
            },
        );
        return true;
    }
    if facts.node("/dev/dxg").present || facts.platform.os != "linux" && !facts.platform.os.is_empty() {
        return false;
    }
    let fits = facts.build.backends.iter().any(|backend| match backend {
        Backend::Cuda => facts.has_gpu(Vendor::Nvidia) || facts.library("cuda").found,
        Backend::Hip => facts.has_gpu(Vendor::Amd),
        Backend::OpenCl => facts.has_gpu(Vendor::Intel) || opencl::device_dropped(found),
        Backend::Vulkan | Backend::Metal => true,
    });
    if fits {
        return false;
    }
    let built = facts
        .build
        .backends
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let (vendor, word) = if facts.has_gpu(Vendor::Nvidia) {
        ("NVIDIA", "cuda")
    } else if facts.has_gpu(Vendor::Amd) {
        ("AMD", "vulkan")
    } else {
        ("Intel", "vulkan")
    };
    found.add(
        "backend-does-not-fit",
        Text::new(
            format!("This binary is built for {built}, which cannot use this machine's {vendor} GPU."),
            format!(
                "このバイナリは {built} 用にビルドされており、このマシンの {vendor} 製 GPU では使えません。"
            ),
        ),
        Text::new(
            format!("Run `./build.sh {word}` and start again."),
            format!("`./build.sh {word}` を実行して起動し直してください。"),
        ),
    );
    true
}

/// Device memory ran out, by ggml's own words.
pub(super) fn memory(found: &mut Findings<'_>) {
    let words = [
        "out of memory",
        "failed to allocate",
        "outofdevicememory",
        "ggml_assert(buffer)",
        "of memory free, the model needs",
    ];
    let Some(line) = found.engine.said(&words) else {
        return;
    };
    let line = line.to_owned();
    found.add(
        "gpu-out-of-memory",
        Text::new(
            format!("The GPU's memory did not suffice for the model (`{line}`)."),
            format!("GPU のメモリがモデルに対して不足しました(`{line}`)。"),
        ),
        Text::new(
            "End other programs on the GPU, set `slots = 1` under `[performance]`, or choose a smaller model such as `large-v3-turbo-q5_0` or `small-q8_0` with `--model`.",
            "GPU を使う他のプログラムを終了するか、`[performance]` の `slots = 1`、または `--model` で `large-v3-turbo-q5_0` や `small-q8_0` などの小さいモデルを指定してください。",
        ),
    );
}

/// How a search for devices that did not come to its end is told (`engine/process`).
const SEARCH_ENDED: &str = "looking for gpus ended with";
const SEARCH_HUNG: &str = "the gpu driver did not answer within";

/// The process that looks for devices was ended by a driver, or by ggml. True when that was said: what the other
/// backends would have found is not known.
pub(super) fn search_ended(found: &mut Findings<'_>) -> bool {
    let Some(words) = found.engine.said(&[SEARCH_ENDED, SEARCH_HUNG]) else {
        return false;
    };
    let words = words.to_owned();
    if opencl::selector_refused(found) {
        return true;
    }
    found.add(
        "gpu-search-ended",
        Text::new(
            format!("A GPU driver fails as soon as it is asked for its devices ({words})."),
            format!("GPU ドライバーがデバイスの問い合わせに応答できず失敗します({words})。"),
        ),
        Text::new(
            "Run `nvidia-smi`, `vulkaninfo --summary` and `clinfo -l`: the one that fails as well names the driver to reinstall or to remove.",
            "`nvidia-smi`、`vulkaninfo --summary`、`clinfo -l` を実行してください。同じように失敗するものが、再インストールまたは削除すべきドライバーです。",
        ),
    );
    true
}

/// An engine that ran on the GPU and ended there: what a search for devices says about other drivers is no reason then.
/// Memory and the vendor's own messages were looked at before.
pub(super) fn engine_died(found: &mut Findings<'_>) {
    let died = |reason: &str| {
        // `EngineError::Died` and `EngineError::Hung`.
        ["the engine process ended", "the engine was stopped", "killed by"]
            .iter()
            .any(|start| reason.starts_with(start))
    };
    if found.list.is_empty()
        && found
            .engine
            .fallbacks
            .last()
            .is_some_and(|step| died(&step.reason))
    {
        last_words(found);
    }
}

/// The last words of an engine that nothing else explains.
pub(super) fn anything_else(found: &mut Findings<'_>) {
    if found.list.is_empty() {
        last_words(found);
    }
}

fn last_words(found: &mut Findings<'_>) {
    if let Some(step) = found.engine.fallbacks.last() {
        let reason = step.reason.clone();
        found.add(
            "gpu-engine-died",
            Text::new(
                format!("The engine on the GPU ended: {reason}"),
                format!("GPU 上のエンジンが終了しました: {reason}"),
            ),
            Text::new(
                "The CPU serves meanwhile. Start again with `RUST_LOG=debug` to see every line of the driver.",
                "その間は CPU で動作します。`RUST_LOG=debug` を付けて起動し直すと、ドライバーの出力をすべて確認できます。",
            ),
        );
    } else if found.engine.actual.is_some() {
        let built = found
            .facts
            .build
            .backends
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        found.add(
            "gpu-unexplained",
            Text::new(
                format!("{built} found no usable device, and nothing on this machine explains it."),
                format!("{built} で使えるデバイスが見つからず、このマシンの状態からは原因が分かりません。"),
            ),
            Text::new(
                "Start with `RUST_LOG=debug` to see every line of the driver, and attach the output of `WhisperBackendAPI doctor --json` to a report.",
                "`RUST_LOG=debug` を付けて起動するとドライバーの出力をすべて確認できます。報告の際は `WhisperBackendAPI doctor --json` の出力を添付してください。",
            ),
        );
    }
}
