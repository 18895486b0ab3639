//! Where models run, as engines say it and as reports show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an engine really runs on, read from ggml, never from the flag that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// True when the weights and the work are on a GPU.
    pub gpu: bool,
    /// ggml's backend, for example `CPU`, `CUDA`, `Vulkan`.
    pub backend: String,
    /// ggml's device name, for example `CUDA0`; `CPU` without a GPU.
    pub device: String,
    /// The device's own description, for example `NVIDIA H100 80GB HBM3`.
    pub description: String,
    /// Bytes of memory on the device, when it says.
    pub memory_total_bytes: Option<u64>,
    /// Bytes of it free after loading.
    pub memory_free_bytes: Option<u64>,
    /// Where the weights lie: bytes by ggml's device name. More than one entry: some tensors stayed on the CPU.
    #[serde(default)]
    pub weights_bytes: BTreeMap<String, u64>,
    /// whisper.cpp's `print_system_info`.
    pub system_info: String,
    /// Lines ggml and whisper.cpp logged as errors or about devices while starting.
    pub device_log: Vec<String>,
    /// Whether the model knows languages other than English.
    pub multilingual: bool,
    /// Size class, for example `base`.
    pub model_type: String,
    /// Weights' type, as ggml's file type number.
    pub model_ftype: i32,
    /// Seconds from start to loaded and warm.
    pub load_seconds: f32,
    /// Whether word times by attention can be had from this model.
    pub word_times: bool,
    /// Attention without the whole matrix is in use.
    pub flash_attention: bool,
    /// Windows it runs side by side.
    pub slots: usize,
    /// `native` or `whisper.cpp`; empty for a scripted one.
    #[serde(default)]
    pub engine: String,
    /// The number format of the native engine's products: `int8`, `int8-block`, `bf16`, `exact`.
    #[serde(default)]
    pub precision: String,
    /// The instruction set of the native engine's kernels, as `WHISPER_BACKEND_ISA` names it.
    #[serde(default)]
    pub isa: String,
    /// Windows that share one core, for engines that run several in one batch; 0 and 1 are the same.
    #[serde(default)]
    pub windows_per_core: usize,
    /// Process id of the engine.
    pub pid: u32,
}

impl DeviceReport {
    /// Bytes of weights in the CPU's memory while a GPU serves.
    pub fn weights_on_cpu_bytes(&self) -> u64 {
        if self.gpu {
            self.weights_bytes.get("CPU").copied().unwrap_or(0)
        } else {
            0
        }
    }
}

/// A model's move from one device to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceMove {
    /// Seconds since 1970.
    pub at: u64,
    /// For example `gpu 0`.
    pub from: String,
    /// For example `cpu`.
    pub to: String,
    /// What happened, in one sentence or in the engine's words.
    pub reason: String,
}
