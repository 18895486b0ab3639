//! Build-time facts for `--version` and `/gpu-status`, and what the linker needs for GPU backends.
//!
//! whisper-rs-sys has compiled whisper.cpp by the time this runs. Nothing here may break a CPU build: what cannot be
//! found out is left empty, and disagreements are warnings. Only a feature that cannot be linked ends the build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    fact("BUILD_GIT_HASH", git_hash());
    switches_that_disagree();

    let compiled = compiled_whisper();
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let mut toolkit = None;
    if feature("CUDA") && linux {
        toolkit = cuda(compiled.as_deref());
    }
    fact("BUILD_CUDA_TOOLKIT", toolkit);
    let cached = |name: &str| compiled.as_deref().and_then(|root| cmake_cache(root, name));
    fact(
        "BUILD_CUDA_ARCHITECTURES",
        if feature("CUDA") {
            cached("CMAKE_CUDA_ARCHITECTURES")
        } else {
            None
        },
    );
    fact(
        "BUILD_HIP_TARGETS",
        if feature("HIPBLAS") {
            cached("AMDGPU_TARGETS")
        } else {
            None
        },
    );
    if feature("OPENCL") {
        opencl(compiled.as_deref(), linux);
    }
}

/// Cargo's word for a feature of this package.
fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

fn warn(text: &str) {
    println!("cargo:warning={text}");
}

/// Compiled into the crate, empty when unknown (`diagnostics/build_info.rs` reads it).
fn fact(name: &str, value: Option<String>) {
    println!("cargo:rustc-env={name}={}", value.unwrap_or_default());
}

/// Hash of the commit. Release builds look again after every commit; development builds do not, since each look
/// compiles the crate anew.
fn git_hash() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=9", "HEAD"]) else {
        warn("no git checkout: `--version` will not name the commit");
        return None;
    };
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let branch = git(&["symbolic-ref", "-q", "HEAD"]);
        for file in std::iter::once("HEAD").chain(branch.as_deref()) {
            if let Some(path) =
                git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists())
            {
                println!("cargo:rerun-if-changed={path}");
            }
        }
    }
    Some(hash)
}

/// `WHISPER_CUBLAS` and `WHISPER_OPENCL` were whisper.cpp's own switches. Here the cargo feature decides.
fn switches_that_disagree() {
    for (variable, name, word) in [
        ("WHISPER_CUBLAS", "CUDA", "cuda"),
        ("WHISPER_OPENCL", "OPENCL", "opencl"),
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
        let Ok(value) = env::var(variable) else { continue };
        let on = !["", "0", "off", "false", "no"].contains(&value.to_lowercase().as_str());
        if on && !feature(name) {
            warn(&format!(
                "{variable}={value} is set, but the feature `{word}` is off, so this build cannot use that GPU backend; \
                 add `--features {word}` or run `./build.sh {word}`"
            ));
        }
        if !on && feature(name) {
            warn(&format!(
                "{variable}={value} does not switch the feature `{word}` off; leave `--features {word}` out"
            ));
        }
    }
}

/// Where whisper-rs-sys built whisper.cpp: CMake's `build` folder, and the libraries in `lib`.
fn compiled_whisper() -> Option<PathBuf> {
    env::var_os("DEP_WHISPER_ROOT").map(PathBuf::from)
}

/// A value of `CMakeCache.txt`, whose lines are `NAME:TYPE=value`.
fn cmake_cache(root: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(root.join("build/CMakeCache.txt")).ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?.split_once('=')?.1;
        (!value.is_empty()).then(|| value.to_owned())
    })
}

/// Finds the CUDA toolkit and links its runtime into the binary, so that the binary starts where there is none; cuBLAS
/// is opened on first use (`src/engine/gpu_libraries/cublas.rs`). Returns the toolkit's version.
fn cuda(compiled: Option<&Path>) -> Option<String> {
    for name in ["CUDA_PATH", "CUDA_HOME", "CUDACXX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let compiler = compiled
        .and_then(|root| cmake_cache(root, "CMAKE_CUDA_COMPILER"))
        .map(PathBuf::from);
    let beside_compiler = compiler
        .as_deref()
        .and_then(|nvcc| Some(nvcc.parent()?.parent()?.to_owned()));
    for name in ["CUDA_PATH", "CUDA_HOME"] {
        if let Ok(value) = env::var(name)
            && !value.is_empty()
            && !Path::new(&value).is_dir()
        {
            warn(&format!(
                "{name}={value} is no folder; the CUDA toolkit is looked for in the usual places"
            ));
        }
    }
    let mut folders: Vec<PathBuf> = ["CUDA_PATH", "CUDA_HOME"]
        .iter()
        .filter_map(|name| env::var_os(name).filter(|value| !value.is_empty()))
        .map(PathBuf::from)
        .collect();
    folders.extend(beside_compiler);
    folders.extend(
        [
            "/usr/local/cuda",
            "/opt/cuda",
            "/usr/lib/cuda",
            "/usr/lib/nvidia-cuda-toolkit",
            "/usr",
        ]
        .map(PathBuf::from),
    );

    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let target = if architecture == "aarch64" {
        "sbsa-linux"
    } else {
        "x86_64-linux"
    };
    let mut runtime = None;
    for folder in &folders {
        let candidates = [
            folder.join("lib64"),
            folder.join("targets").join(target).join("lib"),
            folder.join("lib"),
            folder.join("lib").join(format!("{architecture}-linux-gnu")),
        ];
        for place in candidates
            .into_iter()
            .filter(|place| place.join("libcudart_static.a").exists())
        {
            println!("cargo:rustc-link-search=native={}", place.display());
            let stubs = place.join("stubs");
            if stubs.is_dir() {
                println!("cargo:rustc-link-search=native={}", stubs.display());
            }
            runtime.get_or_insert(place);
        }
        if runtime.is_some() {
            break;
        }
    }
    if runtime.is_some() {
        println!("cargo:rustc-link-lib=static:+whole-archive=cudart_static");
        for library in ["dl", "rt", "pthread"] {
            println!("cargo:rustc-link-lib={library}");
        }
    } else {
        warn(
            "feature `cuda`: libcudart_static.a was not found in CUDA_PATH, /usr/local/cuda, /opt/cuda or the \
             distribution's folders; the binary will need libcudart.so to start. Set CUDA_PATH to the toolkit's folder",
        );
    }
    // A CPU engine stops CUDA at its first call (src/engine/gpu_libraries/cuda_runtime.rs).
    println!("cargo:rustc-link-arg=-Wl,--wrap=cudaGetDeviceCount");
    // Libraries that travel beside the binary are found, by it and by what it opens.
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN,-rpath,$ORIGIN/../lib");

    let nvcc = compiler
        .into_iter()
        .chain(folders.iter().map(|folder| folder.join("bin/nvcc")))
        .find(|file| file.exists())?;
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_once("release ")?
        .1
        .split(',')
        .next()?
        .trim()
        .to_owned();
    Some(version)
}

/// Links ggml's OpenCL backend, which whisper-rs-sys compiles but does not name to the linker.
fn opencl(compiled: Option<&Path>, linux: bool) {
    let library = compiled
        .map(|root| root.join("lib"))
        .filter(|folder| folder.join("libggml-opencl.a").exists() || folder.join("ggml-opencl.lib").exists());
    let Some(folder) = library else {
        // Only a panic stops cargo here; the linker's own complaint would help nobody.
        panic!(
            "feature `opencl`: whisper.cpp was compiled without its OpenCL backend; run `cargo clean -p whisper-rs-sys` and \
             build again"
        );
    };
    println!("cargo:rustc-link-search=native={}", folder.display());
    // GNU's linker reads archives once, from left to right, and meets this one before its users.
    println!("cargo:rustc-link-lib=static:+whole-archive=ggml-opencl");
    if !linux {
        println!("cargo:rustc-link-lib=OpenCL"); // on Linux opened on first use (src/engine/gpu_libraries/opencl.rs)
    }
}
