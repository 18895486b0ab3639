//! The report as lines for people.

use std::fmt::Write;

use super::{DeviceNode, GpuReport, Library, NvidiaSmi, ReportedDevice};

/// Widest label, in columns of a terminal: Japanese characters take two.
const LABEL_COLUMNS: usize = 26;

/// The report under construction.
struct Page<'r> {
    report: &'r GpuReport,
    japanese: bool,
    out: String,
}

pub(super) fn text(report: &GpuReport, japanese: bool) -> String {
    let mut page = Page {
        report,
        japanese,
        out: format!("WhisperBackendAPI {}\n", report.build.one_line()),
    };
    page.gpu();
    page.binary();
    page.machine();
    page.advice();
    page.out
}

impl Page<'_> {
    fn say(&self, en: &'static str, ja: &'static str) -> &'static str {
        if self.japanese { ja } else { en }
    }

    fn yes(&self, flag: bool) -> &'static str {
        if flag {
            self.say("yes", "はい")
        } else {
            self.say("no", "いいえ")
        }
    }

    fn join(&self, list: &[String]) -> String {
        if list.is_empty() {
            self.say("none", "なし").to_owned()
        } else {
            list.join(", ")
        }
    }

    fn heading(&mut self, en: &'static str, ja: &'static str) {
        let heading = self.say(en, ja);
        let _ = writeln!(self.out, "\n{heading}");
    }

    /// A label in both languages, filled up to a column, then the value.
    fn line(&mut self, (en, ja): (&'static str, &'static str), value: &str) {
        self.named(self.say(en, ja), value);
    }

    fn named(&mut self, label: &str, value: &str) {
        let columns: usize = label.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
        let _ = writeln!(
            self.out,
            "  {label}{}{value}",
            " ".repeat(LABEL_COLUMNS.saturating_sub(columns).max(1))
        );
    }

    /// What serves now, and why.
    fn gpu(&mut self) {
        let report = self.report;
        self.heading("GPU", "GPU");
        self.line(("asked for", "設定で有効化"), self.yes(report.gpu_requested));
        self.line(
            ("really in use", "実際に使用中"),
            self.yes(report.gpu_actually_enabled),
        );
        if let Some(backend) = &report.backend {
            self.line(("backend", "バックエンド"), backend);
        }
        if let Some(device) = &report.device {
            let memory = self.memory(device);
            self.line(("device", "デバイス"), &format!("{}{memory}", device.name));
            if device.weights_on_cpu_bytes > 0 {
                let megabytes = |bytes: u64| bytes as f64 / 1e6;
                self.line(
                    ("weights on the CPU", "CPU 上の重み"),
                    &format!(
                        "{:.1} / {:.1} MB",
                        megabytes(device.weights_on_cpu_bytes),
                        megabytes(device.weights_bytes.values().sum())
                    ),
                );
            }
        }
        self.line(("reason", "理由"), &report.reason);
    }

    fn memory(&self, device: &ReportedDevice) -> String {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        match (device.memory_total_bytes, device.memory_free_bytes) {
            (None, _) => String::new(),
            (Some(total), None) => format!(" ({:.1} GiB)", gib(total)),
            (Some(total), Some(free)) => {
                let word = self.say("free", "空き");
                format!(" ({:.1} GiB, {:.1} GiB {word})", gib(total), gib(free))
            }
        }
    }

    fn binary(&mut self) {
        let build = &self.report.build;
        self.heading("This binary", "このバイナリ");
        let backends: Vec<String> = build.backends.iter().map(ToString::to_string).collect();
        self.line(("GPU backends", "GPU バックエンド"), &self.join(&backends));
        if let Some(toolkit) = &build.cuda_toolkit {
            let architectures = self.join(&build.cuda_architectures);
            self.named("CUDA", &format!("{toolkit} ({architectures})"));
        }
    }

    fn machine(&mut self) {
        let (report, japanese) = (self.report, self.japanese);
        self.heading("This machine", "このマシン");
        self.line(("system", "システム"), &system(report));
        let no_driver = self.say("no kernel driver", "カーネルドライバーなし");
        let gpus: Vec<String> = report
            .pci_gpus
            .iter()
            .map(|gpu| {
                let driver = gpu.kernel_driver.as_deref().unwrap_or(no_driver);
                let name = gpu.gfx.as_deref().unwrap_or(&gpu.id);
                format!("{:?} {name} ({driver})", gpu.vendor)
            })
            .collect();
        self.line(("GPUs on the bus", "PCI 上の GPU"), &self.join(&gpus));
        self.named("nvidia-smi", &nvidia(&report.nvidia_smi, japanese));
        self.line(
            ("Vulkan drivers", "Vulkan ドライバー"),
            &self.join(&report.vulkan_drivers),
        );
        self.line(
            ("OpenCL drivers", "OpenCL ドライバー"),
            &self.join(&report.opencl_drivers),
        );
        for (name, library) in &report.libraries {
            self.named(name, &library_text(library, japanese));
        }
        for (path, node) in &report.device_nodes {
            self.named(path, &node_text(node, japanese));
        }
        for (name, value) in &report.environment {
            if let Some(value) = value {
                self.named(name, &format!("`{value}`"));
            }
        }
    }

    fn advice(&mut self) {
        let report = self.report;
        if !report.fallbacks.is_empty() {
            self.heading("Steps back to the CPU", "CPU への切り替え");
            for step in &report.fallbacks {
                let _ = writeln!(self.out, "  - {}", step.reason);
            }
        }
        self.heading("What to do", "対処");
        if report.recommendations.is_empty() {
            let well = self.say("Nothing: all is as it should be.", "必要ありません。正常です。");
            let _ = writeln!(self.out, "  {well}");
        }
        for advice in &report.advice {
            let (cause, remedy) = (advice.cause.say(self.japanese), advice.remedy.say(self.japanese));
            let _ = writeln!(self.out, "  - {cause}\n    → {remedy}  [{}]", advice.id);
        }
    }
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
