//! The report as lines for people.

use std::fmt::Write;

use super::{DeviceNode, GpuReport, Library, NvidiaSmi};

/// Widest label, in columns of a terminal: Japanese characters take two.
const LABEL_COLUMNS: usize = 26;

/// `label` filled up to a column, then the value.
fn line(out: &mut String, label: &str, value: &str) {
    let columns: usize = label.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
    let _ = writeln!(
        out,
        "  {label}{}{value}",
        " ".repeat(LABEL_COLUMNS.saturating_sub(columns).max(1))
    );
}

pub(super) fn text(report: &GpuReport, japanese: bool) -> String {
    let say = |en: &'static str, ja: &'static str| if japanese { ja } else { en };
    let yes = |flag: bool| {
        if flag {
            say("yes", "はい")
        } else {
            say("no", "いいえ")
        }
    };
    let none = say("none", "なし");
    let join = |list: &[String]| {
        if list.is_empty() {
            none.to_owned()
        } else {
            list.join(", ")
        }
    };
    let mut out = String::new();

    let _ = writeln!(out, "WhisperBackendAPI {}\n", report.build.one_line());
    let _ = writeln!(out, "{}", say("GPU", "GPU"));
    line(
        &mut out,
        say("asked for", "設定で有効化"),
        yes(report.gpu_requested),
    );
    line(
        &mut out,
        say("really in use", "実際に使用中"),
        yes(report.gpu_actually_enabled),
    );
    if let Some(backend) = &report.backend {
        line(&mut out, say("backend", "バックエンド"), backend);
    }
    if let Some(device) = &report.device {
        let memory = device
            .memory_total_bytes
            .map(|total| {
                let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
                match device.memory_free_bytes {
                    Some(free) => format!(
                        " ({:.1} GiB, {:.1} GiB {})",
                        gib(total),
                        gib(free),
                        say("free", "空き")
                    ),
                    None => format!(" ({:.1} GiB)", gib(total)),
                }
            })
            .unwrap_or_default();
        line(
            &mut out,
            say("device", "デバイス"),
            &format!("{}{memory}", device.name),
        );
        if device.weights_on_cpu_bytes > 0 {
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            line(
                &mut out,
                say("weights on the CPU", "CPU 上の重み"),
                &format!(
                    "{:.1} / {:.1} MB",
                    megabytes(device.weights_on_cpu_bytes),
                    megabytes(device.weights_bytes.values().sum())
                ),
            );
        }
    }
    line(&mut out, say("reason", "理由"), &report.reason);

    let _ = writeln!(out, "\n{}", say("This binary", "このバイナリ"));
    let backends: Vec<String> = report.build.backends.iter().map(ToString::to_string).collect();
    line(
        &mut out,
        say("GPU backends", "GPU バックエンド"),
        &join(&backends),
    );
    if let Some(toolkit) = &report.build.cuda_toolkit {
        line(
            &mut out,
            "CUDA",
            &format!("{toolkit} ({})", join(&report.build.cuda_architectures)),
        );
    }

    let _ = writeln!(out, "\n{}", say("This machine", "このマシン"));
    line(&mut out, say("system", "システム"), &system(report));
    let gpus: Vec<String> = report
        .pci_gpus
        .iter()
        .map(|gpu| {
            let driver = gpu
                .kernel_driver
                .as_deref()
                .unwrap_or(say("no kernel driver", "カーネルドライバーなし"));
            format!(
                "{:?} {} ({driver})",
                gpu.vendor,
                gpu.gfx.as_deref().unwrap_or(&gpu.id)
            )
        })
        .collect();
    line(&mut out, say("GPUs on the bus", "PCI 上の GPU"), &join(&gpus));
    line(&mut out, "nvidia-smi", &nvidia(&report.nvidia_smi, japanese));
    line(
        &mut out,
        say("Vulkan drivers", "Vulkan ドライバー"),
        &join(&report.vulkan_drivers),
    );
    line(
        &mut out,
        say("OpenCL drivers", "OpenCL ドライバー"),
        &join(&report.opencl_drivers),
    );
    for (name, library) in &report.libraries {
        line(&mut out, name, &library_text(library, japanese));
    }
    for (path, node) in &report.device_nodes {
        line(&mut out, path, &node_text(node, japanese));
    }
    for (name, value) in &report.environment {
        if let Some(value) = value {
            line(&mut out, name, &format!("`{value}`"));
        }
    }

    if !report.fallbacks.is_empty() {
        let _ = writeln!(out, "\n{}", say("Steps back to the CPU", "CPU への切り替え"));
        for step in &report.fallbacks {
            let _ = writeln!(out, "  - {}", step.reason);
        }
    }
    let _ = writeln!(out, "\n{}", say("What to do", "対処"));
    if report.recommendations.is_empty() {
        let _ = writeln!(
            out,
            "  {}",
            say("Nothing: all is as it should be.", "必要ありません。正常です。")
        );
    }
    for advice in &report.advice {
        let (cause, remedy) = (advice.cause.say(japanese), advice.remedy.say(japanese));
        let _ = writeln!(out, "  - {cause}\n    → {remedy}  [{}]", advice.id);
    }
    out
}

fn system(report: &GpuReport) -> String {
    let platform = &report.platform;
    let mut parts = vec![
        platform
            .distribution
            .as_ref()
            .map(|d| d.name.clone())
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| platform.os.clone()),
        platform.architecture.clone(),
    ];
    if let Some(wsl) = platform.wsl {
        parts.push(format!("{wsl:?}").to_uppercase());
    }
    if let Some(container) = platform.container {
        parts.push(format!("{container:?}"));
    }
    parts.join(", ")
}

fn nvidia(answer: &NvidiaSmi, japanese: bool) -> String {
    let say = |en: &str, ja: &str| if japanese { ja.to_owned() } else { en.to_owned() };
    match answer {
        NvidiaSmi::NotFound => say("not installed", "未インストール"),
        NvidiaSmi::TimedOut => say("no answer within 3 s", "3 秒以内に応答なし"),
        NvidiaSmi::Failed { message } => message.clone(),
        NvidiaSmi::Answered {
            driver_version,
            cuda_version,
            gpus,
        } => {
            let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
            let cuda = cuda_version
                .as_deref()
                .map(|version| format!(", CUDA {version}"))
                .unwrap_or_default();
            format!("{} (driver {driver_version}{cuda})", names.join(", "))
        }
    }
}

fn library_text(library: &Library, japanese: bool) -> String {
    let say = |en: &str, ja: &str| if japanese { ja.to_owned() } else { en.to_owned() };
    match (&library.path, library.found) {
        (Some(path), true) => path.display().to_string(),
        (Some(path), false) => {
            format!(
                "{} {}",
                path.display(),
                say("(the linker does not look there)", "(リンカーの検索対象外)")
            )
        }
        (None, _) => say("not found", "見つかりません"),
    }
}

fn node_text(node: &DeviceNode, japanese: bool) -> String {
    let say = |en: &str, ja: &str| if japanese { ja.to_owned() } else { en.to_owned() };
    if !node.present {
        return say("not there", "ありません");
    }
    if node.accessible {
        return say("may be opened", "開けます");
    }
    let group = node.group.as_deref().unwrap_or("?");
    say(
        &format!("no permission (group `{group}`)"),
        &format!("権限がありません(グループ `{group}`)"),
    )
}
