//! Which instruction set the kernels use: the best one of the processor, or the one that was asked for.

use thiserror::Error;

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "WHISPER_BACKEND_ISA";

/// An instruction set that kernels exist for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// 512-bit, `vpdpbusd` and `vdpbf16ps` (AMD Zen 4; Intel Cooper Lake, Sapphire Rapids).
    Avx512Bf16,
    /// 512-bit, `vpdpbusd`; attention in `f32` (Intel Cascade Lake, Ice Lake).
    Avx512Vnni,
    /// 256-bit `vpdpbusd`, by AVX-VNNI or by AVX-512 VL (Intel Alder Lake and later; AMD Zen 5).
    AvxVnni,
    /// 256-bit `vpmaddwd` and FMA (Intel Haswell, AMD Zen and later).
    Avx2,
    /// Plain Rust: every processor.
    Portable,
}

/// Why an instruction set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IsaError {
    /// No such name.
    #[error("unknown instruction set `{0}` in WHISPER_BACKEND_ISA; accepted: {names}", names = names())]
    Unknown(String),
    /// The processor lacks it.
    #[error("this processor has no `{0}` (WHISPER_BACKEND_ISA); it has: {1}")]
    Unavailable(String, String),
}

fn names() -> String {
    Isa::ALL.map(Isa::name).join(", ")
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: [Self; 5] = [
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::AvxVnni,
        Self::Avx2,
        Self::Portable,
    ];

    /// The name that `WHISPER_BACKEND_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512Vnni => "avx512-vnni",
            Self::AvxVnni => "avx-vnni",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor runs it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        match self {
            Self::Avx512Bf16 => vnni && is_x86_feature_detected!("avx512bf16"),
            Self::Avx512Vnni => vnni,
            Self::AvxVnni => vnni || (avx2 && is_x86_feature_detected!("avxvnni")),
            Self::Avx2 => avx2,
            Self::Portable => true,
        }
    }

    /// Whether this processor runs it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self == Self::Portable
    }

    /// The best one of this processor.
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .find(|isa| isa.available())
            .unwrap_or(Self::Portable)
    }

    /// The one named by `WHISPER_BACKEND_ISA`, or the best one where that is unset or empty.
    ///
    /// # Errors
    ///
    /// [`IsaError`] when the name is unknown or the processor lacks it.
    pub fn from_environment() -> Result<Self, IsaError> {
        match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => Self::from_name(&name),
            _ => Ok(Self::detect()),
        }
    }

    /// The one called `name`, if this processor runs it.
    ///
    /// # Errors
    ///
    /// [`IsaError`] when the name is unknown or the processor lacks it.
    pub fn from_name(name: &str) -> Result<Self, IsaError> {
        let isa = Self::ALL.into_iter().find(|isa| isa.name() == name);
        let isa = isa.ok_or_else(|| IsaError::Unknown(name.to_owned()))?;
        if isa.available() {
            return Ok(isa);
        }
        let has: Vec<&str> = Self::ALL
            .into_iter()
            .filter(|isa| isa.available())
            .map(Self::name)
            .collect();
        Err(IsaError::Unavailable(name.to_owned(), has.join(", ")))
    }
}
