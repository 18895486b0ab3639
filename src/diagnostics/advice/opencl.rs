//! OpenCL: loader, drivers, and what ggml's kernels accept (Adreno and Intel, with half precision and subgroups).

use super::{Findings, Package, Text, Vendor};

pub(super) fn opencl(found: &mut Findings<'_>) {
    if refused(found) || selector(found) {
        return;
    }
    let facts = found.facts;
    if !found.library("OpenCL").found && facts.platform.os != "macos" {
        let install = found.install(&Package::OpenClLoader);
        found.add(
            "opencl-loader-missing",
            Text::new(
                "The OpenCL loader (`libOpenCL.so.1`) is not installed.",
                "OpenCL ローダー(`libOpenCL.so.1`)がインストールされていません。",
            ),
            Text::new(
                format!("Run `{install}`."),
                format!("`{install}` を実行してください。"),
            ),
        );
        return;
    }
    if facts.opencl_drivers.iter().all(|driver| driver.software) {
        let install = found.install(&Package::OpenClIntel);
        found.add(
            "opencl-driver-missing",
            Text::new(
                "No OpenCL driver for a GPU is installed.",
                "GPU 用の OpenCL ドライバーがインストールされていません。",
            ),
            Text::new(
                format!("For an Intel GPU run `{install}`; for every other maker `./build.sh vulkan` or `./build.sh cuda` is the way."),
                format!("Intel の GPU なら `{install}` を実行してください。他社の GPU では `./build.sh vulkan` または `./build.sh cuda` を使ってください。"),
            ),
        );
        return;
    }
    if facts.has_gpu(Vendor::Intel) {
        found.permission("/dev/dri");
    }
}

/// ggml names the device it drops.
fn refused(found: &mut Findings<'_>) -> bool {
    let device = found
        .engine
        .said(&["unsupported gpu"])
        .and_then(|line| line.split_once("GPU:"))
        .map(|(_, name)| name.trim().to_owned());
    let lacks = found
        .engine
        .said(&[
            "does not support",
            "not available",
            "opencl c version",
            "required",
        ])
        .map(str::to_owned);
    let Some(device) = device else { return false };
    let lacks = lacks.filter(|line| line.contains("opencl") || line.contains("OpenCL"));
    let more = lacks.map(|line| format!(" (`{line}`)")).unwrap_or_default();
    found.add(
        "opencl-device-refused",
        Text::new(
            format!("ggml's OpenCL kernels refuse the device `{device}`{more}: they are written for Adreno and Intel GPUs."),
            format!("ggml の OpenCL カーネルはデバイス `{device}` に対応していません{more}。対応しているのは Adreno と Intel の GPU です。"),
        ),
        Text::new(
            "Build with `./build.sh vulkan`, or `./build.sh cuda` for an NVIDIA GPU.",
            "`./build.sh vulkan`、NVIDIA の GPU なら `./build.sh cuda` でビルドしてください。",
        ),
    );
    true
}

/// A selector that matches nothing makes ggml end the engine process.
fn selector(found: &mut Findings<'_>) -> bool {
    let name = ["GGML_OPENCL_PLATFORM", "GGML_OPENCL_DEVICE"]
        .into_iter()
        .find(|name| found.facts.variable(name).is_some_and(|value| !value.is_empty()));
    let Some(name) = name else { return false };
    let value = found.facts.variable(name).unwrap_or_default().to_owned();
    found.add(
        "opencl-selector",
        Text::new(
            format!("`{name}={value}` matches no OpenCL device that can be used."),
            format!("`{name}={value}` に該当する使用可能な OpenCL デバイスがありません。"),
        ),
        Text::new(
            format!("Run `unset {name}`, or set it to a name that `clinfo -l` lists."),
            format!("`unset {name}` を実行するか、`clinfo -l` に表示される名前を指定してください。"),
        ),
    );
    true
}
