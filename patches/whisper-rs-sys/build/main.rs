//! Compiles whisper.cpp from the published sources of whisper-rs-sys, with `patches/*.patch` applied.
//!
//! A patch that does not apply, other sources than the known ones, or sources that cannot be found end the build.

#[allow(dead_code, reason = "its tests and this script use different parts")]
mod apply;
mod link;
mod sources;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Features of whisper-rs that this build does not know.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("COREML", "coreml"),
    ("FORCE_DEBUG", "force-debug"),
    ("INTEL_SYCL", "intel-sycl"),
    ("OPENBLAS", "openblas"),
];

/// Settings of whisper.cpp that people change between two builds; see [`users_settings`].
const WATCHED: [&str; 8] = [
    "CMAKE_BUILD_TYPE",
    "CMAKE_CUDA_ARCHITECTURES",
    "CMAKE_CUDA_STANDARD",
    "CMAKE_PROJECT_INCLUDE",
    "CUDAARCHS",
    "GGML_CUDA_GRAPHS",
    "GGML_LLAMAFILE",
    "GGML_NATIVE",
];

fn main() {
    if let Err(error) = build() {
        // A build script has no other way to end the build.
        panic!("{error}");
    }
}

/// Whether a feature of this package is on; `name` as cargo's variables spell it.
fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// Whether the binary is for this system: `linux`, `macos`, `windows`.
fn target_os(name: &str) -> bool {
    env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == name)
}

fn build() -> Result<(), Box<dyn Error>> {
    if let Some((_, name)) = UNSUPPORTED.iter().find(|(variable, _)| feature(variable)) {
        return Err(
            format!("feature `{name}` of whisper-rs is not built here (patches/whisper-rs-sys)").into(),
        );
    }
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let patches_folder = here.join("..");
    let patches = sources::patches(&patches_folder)?;
    for watched in ["build", "settings.cmake", "vulkan-compat"] {
        println!("cargo:rerun-if-changed={}", here.join(watched).display());
    }
    let pin = patches_folder.join("upstream");
    for watched in ["Cargo.toml", "SHA256SUMS"] {
        println!("cargo:rerun-if-changed={}", pin.join(watched).display());
    }
    // The folder itself for new patches, each file for changed ones.
    println!("cargo:rerun-if-changed={}", patches_folder.display());
    for patch in &patches {
        println!(
            "cargo:rerun-if-changed={}",
            patches_folder.join(format!("{}.patch", patch.name)).display()
        );
    }

    let upstream = sources::upstream(&pin, &out.join("upstream"))?;
    let whisper = out.join("whisper.cpp");
    sources::patch(&upstream.join("whisper.cpp"), &whisper, &patches)?;
    fs::copy(upstream.join("src/bindings.rs"), out.join("bindings.rs"))?;

    let libraries = configured(&here, &whisper).build();
    link::libraries(&out.join("build"), &libraries)?;
    println!("cargo:WHISPER_CPP_VERSION={}", version(&whisper)?);
    Ok(())
}

/// The CMake project with every setting that does not depend on what CMake finds out; the rest is in `settings.cmake`.
fn configured(here: &Path, whisper: &Path) -> cmake::Config {
    let switch = |on| if on { "ON" } else { "OFF" };
    let mut config = cmake::Config::new(whisper);
    config
        .profile("Release")
        .define("CMAKE_BUILD_TYPE", "Release")
        .define("BUILD_SHARED_LIBS", "OFF")
        .define("WHISPER_ALL_WARNINGS", "OFF")
        .define("WHISPER_ALL_WARNINGS_3RD_PARTY", "OFF")
        .define("WHISPER_BUILD_TESTS", "OFF")
        .define("WHISPER_BUILD_EXAMPLES", "OFF")
        .define("GGML_CUDA", switch(feature("CUDA")))
        .define("GGML_HIP", switch(feature("HIPBLAS")))
        .define("GGML_METAL", switch(feature("METAL")))
        .define("GGML_OPENCL", switch(feature("OPENCL")))
        .define("GGML_OPENMP", switch(feature("OPENMP")))
        .define("GGML_VULKAN", switch(feature("VULKAN")))
        // tinyBLAS kernels: about 15 % fewer processor seconds with q8_0 on AVX-512 (docs/performance.md).
        .define("GGML_LLAMAFILE", "ON")
        .very_verbose(true)
        .pic(true);
    if target_os("windows") {
        config.cxxflag("/utf-8");
    }
    if feature("CUDA") {
        config.define("CMAKE_POSITION_INDEPENDENT_CODE", "ON");
        config.define("CMAKE_CUDA_FLAGS", "-Xcompiler=-fPIC");
    }
    if feature("HIPBLAS") {
        config.define("CMAKE_C_COMPILER", "hipcc");
        config.define("CMAKE_CXX_COMPILER", "hipcc");
        println!("cargo:rerun-if-env-changed=AMDGPU_TARGETS");
        if let Ok(targets) = env::var("AMDGPU_TARGETS") {
            config.define("AMDGPU_TARGETS", targets);
        }
    }
    if feature("METAL") {
        config.define("GGML_METAL_NDEBUG", "ON");
        config.define("GGML_METAL_EMBED_LIBRARY", "ON");
    }
    // On by default; with them ggml refuses Intel's GPUs.
    if feature("OPENCL") && env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|name| name != "aarch64") {
        config.define("GGML_OPENCL_USE_ADRENO_KERNELS", "OFF");
    }
    users_settings(&mut config);
    config.define("CMAKE_PROJECT_INCLUDE", here.join("settings.cmake"));
    config
}

/// Hands on what the user set for whisper.cpp, ggml and CMake. The cargo features decide about backends.
fn users_settings(config: &mut cmake::Config) {
    for name in WATCHED {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for (name, value) in env::vars() {
        match name.as_str() {
            // Read by settings.cmake.
            "CMAKE_PROJECT_INCLUDE" => {
                config.define("USERS_PROJECT_INCLUDE", value);
            }
            // Backends are cargo features. The first two, old names, would end the build of whisper.cpp 1.8.3; the
            // package's own build.rs speaks about them.
            "WHISPER_CUBLAS" | "WHISPER_OPENCL" | "GGML_CUDA" | "GGML_HIP" | "GGML_METAL" | "GGML_OPENCL"
            | "GGML_OPENMP" | "GGML_VULKAN" => {}
            _ if ["WHISPER_BACKEND_", "WHISPER_DONT_"]
                .iter()
                .any(|start| name.starts_with(start)) => {}
            _ if ["WHISPER_", "GGML_", "CMAKE_"]
                .iter()
                .any(|start| name.starts_with(start)) =>
            {
                println!("cargo:rerun-if-env-changed={name}");
                config.define(&name, value);
            }
            _ => {}
        }
    }
}

/// The version in `project("whisper.cpp" VERSION 1.8.3)`.
fn version(whisper: &Path) -> Result<String, Box<dyn Error>> {
    let text = fs::read_to_string(whisper.join("CMakeLists.txt"))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("project(\"whisper.cpp\" VERSION "))
        .ok_or("whisper.cpp's CMakeLists.txt names no version")?;
    Ok(version.trim_end_matches(')').to_owned())
}
