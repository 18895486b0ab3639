//! What this machine has, as plain facts.
//!
//! Everything is read from files, folders and one child process (`nvidia-smi`): a driver library is never opened here,
//! because a broken one takes its process with it and the server must outlive that. Nothing here judges; see
//! [`super::advice`].

mod gpus;
mod libraries;
mod nodes;
mod nvidia;
mod platform;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::build_info::BuildFacts;

pub use gpus::{Driver, PciGpu, Vendor};
pub use libraries::{FoundBy, Library};
pub use nodes::DeviceNode;
pub(super) use nvidia::driver_library_version;
pub use nvidia::{NvidiaGpu, NvidiaSmi};
pub use platform::{ContainerRuntime, Distribution, Platform, Wsl};

/// Environment variables that decide about GPUs, in the order they are shown.
pub const VARIABLES: [&str; 13] = [
    "WHISPER_CUBLAS",
    "WHISPER_OPENCL",
    "CUDA_PATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_OPENCL_PLATFORM",
    "GGML_OPENCL_DEVICE",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
];

/// Everything the advice looks at. Tests build it field by field.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineFacts {
    /// What the binary was compiled with.
    pub build: BuildFacts,
    /// [`VARIABLES`] → value; `None` when unset, which differs from empty.
    pub environment: BTreeMap<String, Option<String>>,
    /// `cuda` (the driver), `cudart`, `cublas`, `OpenCL`, `vulkan`, `amdhip64` → where each lies.
    pub libraries: BTreeMap<String, Library>,
    /// Device files → whether this process may open them.
    pub device_nodes: BTreeMap<String, DeviceNode>,
    /// Operating system and what it runs in.
    pub platform: Platform,
    /// What NVIDIA's own tool says.
    pub nvidia_smi: NvidiaSmi,
    /// Version of the loaded NVIDIA kernel module.
    pub nvidia_module: Option<String>,
    /// Display controllers on the PCI bus. A container sees its host's.
    pub pci_gpus: Vec<PciGpu>,
    /// Installed Vulkan drivers, software ones included.
    pub vulkan_drivers: Vec<Driver>,
    /// Installed OpenCL drivers.
    pub opencl_drivers: Vec<Driver>,
}

impl MachineFacts {
    /// Value of an environment variable of [`VARIABLES`]; `None` when unset.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).and_then(Option::as_deref)
    }

    /// A library by its key, missing when it was not looked for.
    pub fn library(&self, name: &str) -> Library {
        self.libraries.get(name).cloned().unwrap_or_default()
    }

    /// A device file by its path, missing when it was not looked for.
    pub fn node(&self, path: &str) -> DeviceNode {
        self.device_nodes.get(path).cloned().unwrap_or_default()
    }

    /// Whether a GPU of this vendor can be seen on the bus or through its own tool.
    pub fn has_gpu(&self, vendor: Vendor) -> bool {
        let listed = matches!(&self.nvidia_smi, NvidiaSmi::Answered { gpus, .. } if !gpus.is_empty());
        (vendor == Vendor::Nvidia && listed) || self.pci_gpus.iter().any(|gpu| gpu.vendor == vendor)
    }
}

/// Where the facts are read from: the machine, or a folder that looks like one.
#[derive(Debug, Clone)]
pub(super) struct MachineSource {
    /// Stands for `/`.
    root: PathBuf,
    /// Stands for the process environment.
    environment: BTreeMap<String, String>,
}

impl MachineSource {
    /// The machine itself.
    fn machine() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self {
            root: PathBuf::from("/"),
            environment,
        }
    }

    /// The place of an absolute path.
    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// A small text file without its final newline; `None` when it cannot be read.
    fn text(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let bytes = std::fs::read(self.path(absolute)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// Names in a folder, sorted; empty when it cannot be read.
    fn names(&self, absolute: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(absolute)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// An environment variable, empty ones included.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// Folders of a `PATH`-like variable.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        self.variable(name)
            .map(|value| {
                value
                    .split(':')
                    .filter(|part| !part.is_empty())
                    .map(PathBuf::from)
                    .collect()
            })
            .unwrap_or_default()
    }

    /// True when this is the running machine, so that commands may be asked.
    fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// Reads the facts. Takes a few milliseconds, but up to 6 s where `nvidia-smi` hangs: call it off the async threads.
pub fn probe() -> MachineFacts {
    gather(&MachineSource::machine())
}

fn gather(source: &MachineSource) -> MachineFacts {
    MachineFacts {
        build: BuildFacts::current(),
        environment: VARIABLES
            .iter()
            .map(|name| ((*name).to_owned(), source.variable(name).map(str::to_owned)))
            .collect(),
        libraries: libraries::find_all(source),
        device_nodes: nodes::look(source),
        platform: platform::look(source),
        nvidia_smi: if source.is_machine() {
            nvidia::ask()
        } else {
            NvidiaSmi::NotFound
        },
        nvidia_module: nvidia::kernel_module(source),
        pci_gpus: gpus::on_the_bus(source),
        vulkan_drivers: gpus::vulkan_drivers(source),
        opencl_drivers: gpus::opencl_drivers(source),
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A folder that looks like a machine.

    use super::*;

    /// Writes `files` (absolute path, contents) under a fresh folder.
    pub(crate) fn source(
        files: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> (tempfile::TempDir, MachineSource) {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let source = MachineSource {
            root: folder.path().to_owned(),
            environment,
        };
        for (path, contents) in files {
            let path = source.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        }
        (folder, source)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::source;
    use super::*;

    #[test]
    fn this_machine_can_be_probed_and_survives_json() {
        let facts = probe();
        assert_eq!(facts.environment.len(), VARIABLES.len());
        assert!(facts.device_nodes.contains_key("/dev/dri"));
        assert!(!facts.platform.os.is_empty());
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<MachineFacts>(&json).unwrap(), facts);
    }

    #[test]
    fn an_empty_variable_is_not_an_unset_one() {
        let (_folder, source) = source(&[], &[("CUDA_VISIBLE_DEVICES", "")]);
        let facts = gather(&source);
        assert_eq!(facts.variable("CUDA_VISIBLE_DEVICES"), Some(""));
        assert_eq!(facts.variable("CUDA_PATH"), None);
    }
}
