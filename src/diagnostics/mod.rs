//! What this machine has, what the engines really use, and what to type when the two differ.
//!
//! [`mod@probe`] reads facts, [`advice`] judges them, and [`GpuReport`] is both as `/gpu-status`, `doctor` and the start
//! banner show them.

pub mod advice;
pub mod build_info;
mod doctor;
pub mod probe;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::DeviceMove;
pub use advice::{Advice, EngineFacts, Text, advise};
pub use build_info::{Backend, BuildFacts};
pub use probe::{DeviceNode, Library, MachineFacts, NvidiaSmi, PciGpu, Platform, probe};

/// The body of `/gpu-status` and of `doctor --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuReport {
    /// The configuration asks for the GPU.
    pub gpu_requested: bool,
    /// A GPU serves now, by ggml's own device list.
    pub gpu_actually_enabled: bool,
    /// ggml's name of what serves now, `CPU` included; `null` while no engine runs.
    pub backend: Option<String>,
    /// The device that serves now; `null` while no engine runs.
    pub device: Option<ReportedDevice>,
    /// One sentence.
    pub reason: String,
    /// Backends in the binary by cargo feature; empty for a CPU build.
    pub compiled_backends: Vec<&'static str>,
    /// Version, commit, CUDA toolkit and architectures.
    pub build: BuildFacts,
    /// Variables that decide about GPUs; `null` when unset.
    pub environment: BTreeMap<String, Option<String>>,
    /// Libraries: found, and where.
    pub libraries: BTreeMap<String, Library>,
    /// Device files: present, and whether this process may open them.
    pub device_nodes: BTreeMap<String, DeviceNode>,
    /// Operating system, WSL, container.
    pub platform: Platform,
    /// Answer of `nvidia-smi`.
    pub nvidia_smi: NvidiaSmi,
    /// GPUs on the PCI bus.
    pub pci_gpus: Vec<PciGpu>,
    /// Vulkan drivers by library.
    pub vulkan_drivers: Vec<String>,
    /// OpenCL drivers by library.
    pub opencl_drivers: Vec<String>,
    /// Every step from the GPU to the CPU since the start, oldest first.
    pub fallbacks: Vec<DeviceMove>,
    /// Sentences that say what to do.
    pub recommendations: Vec<String>,
    /// The same findings by rule, for scripts.
    pub advice: Vec<Advice>,
}

/// The device that serves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportedDevice {
    /// Product name.
    pub name: String,
    /// Bytes; `null` when the device does not say.
    pub memory_total_bytes: Option<u64>,
    /// Bytes that were free after loading.
    pub memory_free_bytes: Option<u64>,
    /// Where the weights lie: bytes by ggml's device name.
    pub weights_bytes: BTreeMap<String, u64>,
    /// Bytes of weights that stayed in the CPU's memory although a GPU serves; 0 is usual.
    pub weights_on_cpu_bytes: u64,
}

impl GpuReport {
    /// Judges the facts; `reason` and `recommendations` are in Japanese when `japanese`.
    pub fn new(facts: &MachineFacts, engine: &EngineFacts, japanese: bool) -> Self {
        let advice = advise(facts, engine);
        let libraries =
            |drivers: &[probe::Driver]| drivers.iter().map(|driver| driver.library.clone()).collect();
        Self {
            gpu_requested: engine.requested,
            gpu_actually_enabled: engine.on_gpu(),
            backend: engine.actual.as_ref().map(|device| device.backend.clone()),
            device: engine.actual.as_ref().map(|device| ReportedDevice {
                name: device.description.clone(),
                memory_total_bytes: device.memory_total_bytes,
                memory_free_bytes: device.memory_free_bytes,
                weights_bytes: device.weights_bytes.clone(),
                weights_on_cpu_bytes: device.weights_on_cpu_bytes(),
            }),
            reason: advice::reason(engine, &advice).say(japanese).to_owned(),
            compiled_backends: facts
                .build
                .backends
                .iter()
                .map(|backend| backend.feature())
                .collect(),
            build: facts.build.clone(),
            environment: facts.environment.clone(),
            libraries: facts.libraries.clone(),
            device_nodes: facts.device_nodes.clone(),
            platform: facts.platform.clone(),
            nvidia_smi: facts.nvidia_smi.clone(),
            pci_gpus: facts.pci_gpus.clone(),
            vulkan_drivers: libraries(&facts.vulkan_drivers),
            opencl_drivers: libraries(&facts.opencl_drivers),
            fallbacks: engine.fallbacks.clone(),
            recommendations: advice
                .iter()
                .map(|one| one.sentence().say(japanese).to_owned())
                .collect(),
            advice,
        }
    }

    /// The report for people, as `doctor` prints it.
    pub fn to_text(&self, japanese: bool) -> String {
        doctor::text(self, japanese)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeviceReport;

    #[test]
    fn a_gpu_that_serves_is_reported_without_advice() {
        let engine = EngineFacts {
            requested: true,
            actual: Some(DeviceReport {
                gpu: true,
                backend: "CUDA".to_owned(),
                description: "NVIDIA H100 80GB HBM3".to_owned(),
                memory_total_bytes: Some(85_520_809_984),
                memory_free_bytes: Some(80_000_000_000),
                weights_bytes: BTreeMap::from([("CUDA0".to_owned(), 147_370_000)]),
                ..DeviceReport::default()
            }),
            ..EngineFacts::default()
        };
        let facts = MachineFacts {
            build: BuildFacts {
                whisper: true,
                backends: vec![Backend::Cuda],
                ..BuildFacts::default()
            },
            ..MachineFacts::default()
        };
        let json = serde_json::to_value(GpuReport::new(&facts, &engine, false)).unwrap();
        assert_eq!(json["gpu_requested"], true);
        assert_eq!(json["gpu_actually_enabled"], true);
        assert_eq!(json["backend"], "CUDA");
        assert_eq!(json["device"]["memory_total_bytes"], 85_520_809_984_u64);
        assert_eq!(json["device"]["weights_bytes"]["CUDA0"], 147_370_000);
        assert_eq!(json["device"]["weights_on_cpu_bytes"], 0);
        assert_eq!(
            json["reason"],
            "The model runs on NVIDIA H100 80GB HBM3 through CUDA."
        );
        assert_eq!(json["compiled_backends"], serde_json::json!(["cuda"]));
        assert_eq!(json["recommendations"], serde_json::json!([]));
    }

    #[test]
    fn the_reason_for_the_cpu_comes_in_both_languages() {
        let facts = probe();
        let engine = EngineFacts {
            requested: true,
            actual: Some(DeviceReport {
                backend: "CPU".to_owned(),
                description: "CPU".to_owned(),
                ..DeviceReport::default()
            }),
            ..EngineFacts::default()
        };
        let english = GpuReport::new(&facts, &engine, false);
        let japanese = GpuReport::new(&facts, &engine, true);
        assert!(!english.gpu_actually_enabled);
        assert!(
            english.reason.is_ascii() && english.reason.ends_with('.'),
            "{}",
            english.reason
        );
        assert!(japanese.reason.ends_with('。'), "{}", japanese.reason);
        assert_eq!(english.recommendations.len(), japanese.recommendations.len());
    }
}
