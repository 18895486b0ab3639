//! OpenCL: loader, drivers, and what ggml's kernels accept (Adreno and Intel, with half precision and subgroups).

use super::{Findings, Package, Text, Vendor};

/// What ggml logs about a device of the right maker that it cannot use.
const LACKS: [&str; 4] = [
    "does not support fp16",
    "does not support subgroups",
    "opencl 2.0 or above is required",
    "adreno-specific kernels",
];

/// ggml met an OpenCL device and dropped it: a device's trace where the bus shows none.
pub(super) fn device_dropped(found: &Findings<'_>) -> bool {
    found.engine.said(&["unsupported gpu"]).is_some() || found.engine.said(&LACKS).is_some()
}

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
    // Another backend's trouble is the one to solve where no GPU is OpenCL's.
    let ours = found.list.is_empty() || facts.has_gpu(Vendor::Intel);
    if ours && facts.opencl_drivers.iter().all(|driver| driver.software) {
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

/// ggml says why it drops a device: another maker's by name, Adreno's and Intel's by what they lack.
fn refused(found: &mut Findings<'_>) -> bool {
    let maker = found
        .engine
        .said(&["unsupported gpu"])
        .and_then(|line| line.split_once("GPU:"))
        .map(|(_, name)| name.trim().to_owned());
    let lacks = found
        .engine
        .said(&LACKS)
        .map(|line| line.trim_start_matches("ggml_opencl: ").to_owned());
    let (cause, rebuild) = match (maker, lacks) {
        (Some(device), _) => (
            Text::new(
                format!(
                    "ggml's OpenCL kernels refuse the device `{device}`: they are written for Adreno and Intel GPUs."
                ),
                format!(
                    "ggml の OpenCL カーネルはデバイス `{device}` に対応していません。対応しているのは Adreno と Intel の GPU です。"
                ),
            ),
            true,
        ),
        (None, Some(lacks)) => {
            // `ggml_opencl: device: 'NAME (VERSION)'`
            let device = found
                .engine
                .said(&["ggml_opencl: device: '"])
                .and_then(|line| line.split('\'').nth(1)?.split(" (OpenCL").next())
                .map_or_else(|| "OpenCL".to_owned(), str::to_owned);
            (
                Text::new(
                    format!("ggml's OpenCL kernels refuse the device `{device}` ({lacks})."),
                    format!("ggml の OpenCL カーネルはデバイス `{device}` に対応していません({lacks})。"),
                ),
                !lacks.contains("FP16"),
            )
        }
        (None, None) => return false,
    };
    let install = found.install(&Package::OpenClIntel);
    let (newer, newer_ja) = if rebuild {
        (String::new(), String::new())
    } else {
        (
            format!(" A GPU of Intel's that has half precision shows it with a newer driver: `{install}`."),
            format!(" 半精度に対応した Intel の GPU なら、新しいドライバーで認識されます: `{install}`。"),
        )
    };
    found.add(
        "opencl-device-refused",
        cause,
        Text::new(
            format!("Build with `./build.sh vulkan`, or `./build.sh cuda` for an NVIDIA GPU.{newer}"),
            format!(
                "`./build.sh vulkan`、NVIDIA の GPU なら `./build.sh cuda` でビルドしてください。{newer_ja}"
            ),
        ),
    );
    true
}

/// ggml ended the search for devices because a selector matches nothing. True when that was said.
pub(super) fn selector_refused(found: &mut Findings<'_>) -> bool {
    let words = [
        "ggml_opencl: no platform matching",
        "ggml_opencl: no device matching",
        "ggml_opencl: invalid device number",
        "ggml_opencl: selected platform",
    ];
    found.engine.said(&words).is_some() && selector(found)
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
