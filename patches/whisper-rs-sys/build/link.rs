//! What the linker is told: whisper.cpp's static libraries, and what they need from the system.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{feature, target_os};

fn library(name: &str) {
    println!("cargo:rustc-link-lib={name}");
}

fn search(folder: &Path) {
    println!("cargo:rustc-link-search={}", folder.display());
}

/// `build` is CMake's build folder, `installed` where it installed the libraries.
pub fn libraries(build: &Path, installed: &Path) -> io::Result<()> {
    search_all(build)?;
    search(installed);
    for name in ["whisper", "ggml", "ggml-base", "ggml-cpu"] {
        library(&format!("static={name}"));
    }
    if target_os("macos") {
        library("static=ggml-blas");
    }
    for (variable, name) in [
        ("VULKAN", "vulkan"),
        ("HIPBLAS", "hip"),
        ("METAL", "metal"),
        ("CUDA", "cuda"),
    ] {
        if feature(variable) {
            library(&format!("static=ggml-{name}"));
        }
    }
    language();
    if feature("CUDA") {
        cuda();
    }
    if feature("HIPBLAS") {
        println!("cargo:rerun-if-env-changed=HIP_PATH");
        search(
            &env::var_os("HIP_PATH")
                .map_or_else(|| PathBuf::from("/opt/rocm"), PathBuf::from)
                .join("lib"),
        );
        for name in ["hipblas", "rocblas", "amdhip64"] {
            library(name);
        }
    }
    if feature("VULKAN") {
        vulkan();
    }
    Ok(())
}

/// A folder and all that is in it: CMake's generators differ in where they put libraries.
fn search_all(folder: &Path) -> io::Result<()> {
    search(folder);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            search_all(&entry.path())?;
        }
    }
    Ok(())
}

/// The C++ library, OpenMP, and the system's frameworks.
fn language() {
    let target = env::var("TARGET").unwrap_or_default();
    let apple = target.contains("apple");
    if apple || target.contains("freebsd") || target.contains("openbsd") {
        library("dylib=c++");
    } else if target.contains("android") {
        library("dylib=c++_shared");
    } else if !target.contains("msvc") {
        library("dylib=stdc++");
    }
    if apple {
        library("framework=Accelerate");
    }
    if target_os("windows") {
        library("advapi32");
    }
    if feature("OPENMP") {
        if target.contains("gnu") {
            library("gomp");
        } else if apple {
            library("omp");
            search(Path::new("/opt/homebrew/opt/libomp/lib"));
        }
    }
}

fn cuda() {
    for name in ["cublas", "cudart", "cublasLt", "cuda"] {
        library(name);
    }
    if target_os("windows") {
        if let Some(toolkit) = env::var_os("CUDA_PATH") {
            search(&PathBuf::from(toolkit).join("lib/x64"));
        }
        return;
    }
    library("culibos");
    for folder in ["/usr/local/cuda/lib64", "/opt/cuda/lib64"] {
        search(Path::new(folder));
        search(&Path::new(folder).join("stubs"));
    }
}

fn vulkan() {
    println!("cargo:rerun-if-env-changed=VULKAN_SDK");
    let sdk = env::var_os("VULKAN_SDK").map(PathBuf::from);
    if target_os("windows") {
        if let Some(sdk) = sdk {
            search(&sdk.join("Lib"));
        }
        library("vulkan-1");
    } else {
        if target_os("macos")
            && let Some(sdk) = sdk
        {
            search(&sdk.join("lib"));
        }
        library("vulkan");
    }
}
