//! What this binary was compiled with. Filled by `build.rs` and the cargo features; never read from the machine.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// A GPU backend of ggml that a cargo feature compiles in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// NVIDIA, feature `cuda`.
    Cuda,
    /// AMD through ROCm, feature `hipblas`.
    Hip,
    /// Any vendor with a Vulkan 1.2 driver, feature `vulkan`.
    Vulkan,
    /// Adreno and Intel, feature `opencl`.
    OpenCl,
    /// Apple, feature `metal`.
    Metal,
}

impl Backend {
    /// The cargo feature, which is also the word that `build.sh` takes (but for `hip`).
    pub fn feature(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Hip => "hipblas",
            Self::Vulkan => "vulkan",
            Self::OpenCl => "opencl",
            Self::Metal => "metal",
        }
    }
}

/// The name people know it by.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuda => "CUDA",
            Self::Hip => "ROCm",
            Self::Vulkan => "Vulkan",
            Self::OpenCl => "OpenCL",
            Self::Metal => "Metal",
        })
    }
}

/// Facts fixed when the binary was compiled.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildFacts {
    /// Version of the package.
    pub version: String,
    /// Short hash of the commit; `None` outside a git checkout.
    pub git_hash: Option<String>,
    /// Whether whisper.cpp is in the binary at all (feature `whisper`).
    pub whisper: bool,
    /// GPU backends compiled in; empty for a CPU build.
    pub backends: Vec<Backend>,
    /// Version of the CUDA toolkit such as `13.0`; `None` unless built with feature `cuda`.
    pub cuda_toolkit: Option<String>,
    /// As CMake takes them: `90-real` machine code only, `80-virtual` PTX only, `86` both. Empty when unknown.
    pub cuda_architectures: Vec<String>,
    /// AMD targets such as `gfx1100`; empty when unknown or not built with feature `hipblas`.
    pub hip_targets: Vec<String>,
}

impl BuildFacts {
    /// The facts of this very binary.
    pub fn current() -> Self {
        let mut backends = Vec::new();
        for (compiled, backend) in [
            (cfg!(feature = "cuda"), Backend::Cuda),
            (cfg!(feature = "hipblas"), Backend::Hip),
            (cfg!(feature = "vulkan"), Backend::Vulkan),
            (cfg!(feature = "opencl"), Backend::OpenCl),
            (cfg!(feature = "metal"), Backend::Metal),
        ] {
            if compiled {
                backends.push(backend);
            }
        }
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_hash: said(option_env!("BUILD_GIT_HASH")).map(str::to_owned),
            whisper: cfg!(feature = "whisper"),
            backends,
            cuda_toolkit: said(option_env!("BUILD_CUDA_TOOLKIT")).map(str::to_owned),
            cuda_architectures: list(option_env!("BUILD_CUDA_ARCHITECTURES")),
            hip_targets: list(option_env!("BUILD_HIP_TARGETS")),
        }
    }

    /// True when the backend is compiled in.
    pub fn has(&self, backend: Backend) -> bool {
        self.backends.contains(&backend)
    }

    /// One line for `--version`: version, commit, backends.
    pub fn one_line(&self) -> String {
        let mut line = self.version.clone();
        if let Some(hash) = &self.git_hash {
            let _ = write!(line, " ({hash})");
        }
        let mut features: Vec<&str> = self.backends.iter().map(|backend| backend.feature()).collect();
        if features.is_empty() {
            features.push(if self.whisper {
                "cpu"
            } else {
                "cpu, without whisper.cpp"
            });
        }
        let _ = write!(line, " [{}]", features.join(", "));
        line
    }
}

/// `build.rs` sets each variable always, empty when it found nothing.
fn said(value: Option<&'static str>) -> Option<&'static str> {
    value.filter(|text| !text.is_empty())
}

/// CMake separates lists by semicolons.
fn list(value: Option<&'static str>) -> Vec<String> {
    said(value)
        .map(|text| text.split([';', ',']).map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_line_names_commit_and_backends() {
        let build = BuildFacts {
            version: "1.2.3".to_owned(),
            git_hash: Some("abc1234".to_owned()),
            whisper: true,
            backends: vec![Backend::Cuda, Backend::OpenCl],
            ..BuildFacts::default()
        };
        assert_eq!(build.one_line(), "1.2.3 (abc1234) [cuda, opencl]");
        let plain = BuildFacts {
            version: "1.2.3".to_owned(),
            whisper: true,
            ..BuildFacts::default()
        };
        assert_eq!(plain.one_line(), "1.2.3 [cpu]");
    }
}
