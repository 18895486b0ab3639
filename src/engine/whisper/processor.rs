//! The processor that ggml was compiled for, beside the one at hand.
//!
//! A build takes every instruction of the machine it is built on unless `GGML_NATIVE=OFF`. Carried to an older
//! processor it would end with "illegal instruction" somewhere in the first run, without a word; so an engine looks
//! before it calls anything else of ggml. That is early enough: ggml's compute files have no code that runs before
//! `main`, and the functions asked here only return a constant.

/// One extension that ggml's kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extension {
    /// As processors list it (`/proc/cpuinfo`).
    name: &'static str,
    /// ggml's kernels were compiled with it.
    compiled: bool,
    /// This processor, and the system's kernel, have it.
    present: bool,
}

/// `Err` with one sentence when ggml would meet an instruction that this processor does not have.
pub(super) fn check() -> Result<(), String> {
    judge(&extensions())
}

fn judge(extensions: &[Extension]) -> Result<(), String> {
    let missing: Vec<&str> = extensions
        .iter()
        .filter(|extension| extension.compiled && !extension.present)
        .map(|extension| extension.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let portable = if missing.iter().any(|name| PORTABLE.contains(name)) {
        ""
    } else {
        ", or for every processor with AVX2 with `GGML_NATIVE=OFF ./build.sh`"
    };
    Err(format!(
        "this binary was compiled for a processor with {}, which this one lacks; build it on this machine with \
         `./build.sh`{portable}",
        missing.join(", ")
    ))
}

/// What a build with `GGML_NATIVE=OFF` takes for granted (ggml's defaults for x86-64: Haswell, Excavator and newer).
const PORTABLE: [&str; 6] = ["ssse3", "avx", "avx2", "bmi2", "f16c", "fma"];

/// What ggml can tell of its own compilation. Where a processor has one of these it has the smaller ones of the same
/// generation too (`lzcnt`, `movbe`, the parts of AVX-512).
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "ggml's list of compiled-in extensions has no safe wrapper"
)]
fn extensions() -> Vec<Extension> {
    use whisper_rs::whisper_rs_sys as sys;

    macro_rules! ask {
        ($($name:tt: $function:ident;)*) => {
            vec![$(Extension {
                name: $name,
                // SAFETY: takes nothing and returns a constant.
                compiled: unsafe { sys::$function() } == 1,
                present: std::arch::is_x86_feature_detected!($name),
            }),*]
        };
    }
    ask! {
        "ssse3": ggml_cpu_has_ssse3;
        "avx": ggml_cpu_has_avx;
        "avx2": ggml_cpu_has_avx2;
        "bmi2": ggml_cpu_has_bmi2;
        "f16c": ggml_cpu_has_f16c;
        "fma": ggml_cpu_has_fma;
        "avxvnni": ggml_cpu_has_avx_vnni;
        "avx512f": ggml_cpu_has_avx512;
        "avx512vbmi": ggml_cpu_has_avx512_vbmi;
        "avx512vnni": ggml_cpu_has_avx512_vnni;
        "avx512bf16": ggml_cpu_has_avx512_bf16;
    }
}

#[cfg(target_arch = "aarch64")]
#[allow(
    unsafe_code,
    reason = "ggml's list of compiled-in extensions has no safe wrapper"
)]
fn extensions() -> Vec<Extension> {
    use whisper_rs::whisper_rs_sys as sys;

    macro_rules! ask {
        ($($name:literal, $feature:tt: $function:ident;)*) => {
            vec![$(Extension {
                name: $name,
                // SAFETY: takes nothing and returns a constant.
                compiled: unsafe { sys::$function() } == 1,
                present: std::arch::is_aarch64_feature_detected!($feature),
            }),*]
        };
    }
    ask! {
        "asimdhp", "fp16": ggml_cpu_has_fp16_va;
        "asimddp", "dotprod": ggml_cpu_has_dotprod;
        "i8mm", "i8mm": ggml_cpu_has_matmul_int8;
        "sve", "sve": ggml_cpu_has_sve;
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn extensions() -> Vec<Extension> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(name: &'static str, compiled: bool, present: bool) -> Extension {
        Extension {
            name,
            compiled,
            present,
        }
    }

    #[test]
    fn only_what_is_compiled_in_and_absent_stops_an_engine() {
        let newer_than_needed = [extension("avx2", true, true), extension("avx512f", false, true)];
        assert_eq!(judge(&newer_than_needed), Ok(()));
        let plain = [extension("avx2", false, false)];
        assert_eq!(judge(&plain), Ok(()));
        let older = [
            extension("avx2", true, true),
            extension("avx512f", true, false),
            extension("avx512vnni", true, false),
        ];
        let said = judge(&older).unwrap_err();
        assert!(
            said.contains("a processor with avx512f, avx512vnni, which this one lacks"),
            "{said}"
        );
        assert!(said.contains("`GGML_NATIVE=OFF ./build.sh`"), "{said}");
        // That would not help a processor without AVX2.
        let oldest = [extension("avx2", true, false), extension("avx512f", true, false)];
        let said = judge(&oldest).unwrap_err();
        assert!(!said.contains("GGML_NATIVE"), "{said}");
        assert!(
            said.ends_with("build it on this machine with `./build.sh`"),
            "{said}"
        );
    }

    #[test]
    fn the_machine_that_compiled_it_can_run_it() {
        assert_eq!(check(), Ok(()));
        #[cfg(target_arch = "x86_64")]
        assert!(
            extensions().iter().any(|one| one.compiled),
            "ggml says nothing of itself: {:?}",
            extensions()
        );
    }
}
