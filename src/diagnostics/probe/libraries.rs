//! Where the GPU libraries lie, in the order the dynamic linker would look, without opening any of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MachineSource;
use crate::process::Program;

/// Time `ldconfig` may take to print its cache; it reads one file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most of that cache that is read: some hundred bytes a library.
const MAX_CACHE_BYTES: usize = 8 << 20;

/// A library as the linker would, or would not, find it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Library {
    /// The linker would find it (`LD_LIBRARY_PATH`, beside the binary, linker cache, system folders).
    pub found: bool,
    /// Where it lies. Set while `found` is false: it lies where the linker does not look.
    pub path: Option<PathBuf>,
    /// What led to it.
    pub found_by: Option<FoundBy>,
    /// Version in the name of the file that `path` leads to, such as `13` or `550.54.15`.
    pub version: Option<String>,
}

/// What led to a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// A folder of `LD_LIBRARY_PATH`.
    LdLibraryPath,
    /// The binary's own folder, or `lib` beside it.
    BesideBinary,
    /// The linker's cache (`ldconfig -p`).
    LinkerCache,
    /// A folder every linker looks in.
    SystemFolder,
    /// A folder where vendors install but the linker does not look.
    VendorFolder,
}

/// Key in the report, and the stem of the file name. `cuda` is the driver, `cudart` and `cublas` the toolkit.
const LIBRARIES: [&str; 6] = ["cuda", "cudart", "cublas", "OpenCL", "vulkan", "amdhip64"];

/// Folders that glibc and musl search by themselves on the architectures we build for.
const SYSTEM_FOLDERS: [&str; 7] = [
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// Where NVIDIA's, AMD's and Microsoft's installers, and Arch and Debian, put these libraries.
const VENDOR_FOLDERS: [&str; 10] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/local/cuda/targets/sbsa-linux/lib",
    "/opt/cuda/lib64",
    "/usr/lib/cuda/lib64",
    "/usr/lib/wsl/lib",
    "/opt/rocm/lib",
    "/usr/lib/nvidia",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/run/opengl-driver/lib",
];

pub(super) fn find_all(source: &MachineSource) -> BTreeMap<String, Library> {
    if cfg!(target_os = "windows") {
        return LIBRARIES
            .iter()
            .map(|name| ((*name).to_owned(), find_dll(source, name)))
            .collect();
    }
    let cache = linker_cache(source);
    LIBRARIES
        .iter()
        .map(|name| ((*name).to_owned(), find(source, name, &cache)))
        .collect()
}

fn find(source: &MachineSource, stem: &str, cache: &[(String, PathBuf)]) -> Library {
    let prefix = format!("lib{stem}.so");
    let in_folders = |folders: &[PathBuf], by: FoundBy| {
        folders.iter().find_map(|folder| {
            let name = best_name(&source.names(folder), &prefix)?;
            Some(described(source, folder.join(name), &prefix, by))
        })
    };
    let fixed = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<Vec<_>>();

    in_folders(&source.folders("LD_LIBRARY_PATH"), FoundBy::LdLibraryPath)
        .or_else(|| in_folders(&beside_binary(source), FoundBy::BesideBinary))
        .or_else(|| {
            let names: Vec<String> = cache.iter().map(|(name, _)| name.clone()).collect();
            let best = best_name(&names, &prefix)?;
            let (_, path) = cache.iter().find(|(name, _)| *name == best)?;
            Some(described(source, path.clone(), &prefix, FoundBy::LinkerCache))
        })
        .or_else(|| in_folders(&fixed(&SYSTEM_FOLDERS), FoundBy::SystemFolder))
        .or_else(|| {
            let mut folders: Vec<PathBuf> = source
                .variable("CUDA_PATH")
                .into_iter()
                .filter(|path| !path.is_empty())
                .map(|path| Path::new(path).join("lib64"))
                .collect();
            folders.extend(fixed(&VENDOR_FOLDERS));
            in_folders(&folders, FoundBy::VendorFolder)
        })
        .unwrap_or_default()
}

/// `libx.so.1` before `libx.so.1.2.3`; the highest version of those. A bare `libx.so` belongs to a development package
/// or is a link-time stub, and programs do not ask for it.
fn best_name(names: &[String], prefix: &str) -> Option<String> {
    let version = |name: &str| -> Option<Vec<u32>> {
        name.strip_prefix(prefix)?
            .strip_prefix('.')?
            .split('.')
            .map(|part| part.parse().ok())
            .collect()
    };
    names
        .iter()
        .filter_map(|name| Some((version(name)?, name)))
        .max_by_key(|(version, _)| (std::cmp::Reverse(version.len()), version.clone()))
        .map(|(_, name)| name.clone())
}

fn described(source: &MachineSource, path: PathBuf, prefix: &str, by: FoundBy) -> Library {
    let real = std::fs::canonicalize(source.path(&path)).unwrap_or_else(|_| path.clone());
    let version = [real.as_path(), path.as_path()].iter().find_map(|file| {
        let name = file.file_name()?.to_str()?;
        Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned())
    });
    Library {
        found: by != FoundBy::VendorFolder,
        path: Some(path),
        found_by: Some(by),
        version,
    }
}

fn beside_binary(source: &MachineSource) -> Vec<PathBuf> {
    if !source.is_machine() {
        return Vec::new();
    }
    let Ok(binary) = std::env::current_exe() else {
        return Vec::new();
    };
    let Some(folder) = binary.parent() else {
        return Vec::new();
    };
    vec![folder.to_owned(), folder.join("../lib")]
}

/// Soname → path of this architecture's libraries. `ldconfig` needs no privileges to print its cache; musl has none.
fn linker_cache(source: &MachineSource) -> Vec<(String, PathBuf)> {
    if !source.is_machine() || !cfg!(target_os = "linux") {
        return Vec::new();
    }
    ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .find_map(|command| {
            Program::new(command)
                .arg("-p")
                .capture(PATIENCE, MAX_CACHE_BYTES)
                .ok()
        })
        .map(|output| parse_cache(&String::from_utf8_lossy(&output.stdout), std::env::consts::ARCH))
        .unwrap_or_default()
}

/// Lines look like `libcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1`; 32-bit copies lack the architecture word.
fn parse_cache(text: &str, architecture: &str) -> Vec<(String, PathBuf)> {
    let word = match architecture {
        "x86_64" => "x86-64",
        "aarch64" => "AArch64",
        _ => "",
    };
    text.lines()
        .filter_map(|line| {
            let (entry, path) = line.trim().split_once(" => ")?;
            let (name, flags) = entry.split_once(" (")?;
            flags
                .contains(word)
                .then(|| (name.to_owned(), PathBuf::from(path)))
        })
        .collect()
}

/// Windows names its libraries freely and finds them through `PATH` and the system folder.
fn find_dll(source: &MachineSource, key: &str) -> Library {
    let stem = match key {
        "cuda" => "nvcuda",
        "vulkan" => "vulkan-1",
        "cudart" => "cudart64_",
        "cublas" => "cublas64_",
        other => other,
    };
    let mut folders: Vec<PathBuf> = source
        .variable("PATH")
        .map(|path| std::env::split_paths(path).collect())
        .unwrap_or_default();
    folders.push(PathBuf::from(r"C:\Windows\System32"));
    folders
        .iter()
        .find_map(|folder| {
            let names = std::fs::read_dir(folder).ok()?;
            names
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .find_map(|name| {
                    let lower = name.to_lowercase();
                    let ours = lower.starts_with(&stem.to_lowercase())
                        && Path::new(&lower).extension().is_some_and(|e| e == "dll");
                    ours.then(|| Library {
                        found: true,
                        path: Some(folder.join(&name)),
                        found_by: Some(FoundBy::SystemFolder),
                        version: None,
                    })
                })
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    #[test]
    fn the_linkers_order_is_kept() {
        let files = [
            ("/home/me/lib/libcublas.so.12", ""),
            ("/usr/lib64/libcublas.so.13", ""),
            ("/usr/lib/x86_64-linux-gnu/libvulkan.so.1", ""),
        ];
        let (_folder, system_only) = source(&files, &[]);
        let found = find_all(&system_only);
        assert_eq!(
            found["cublas"].path.as_deref(),
            Some(Path::new("/usr/lib64/libcublas.so.13"))
        );
        assert_eq!(found["cublas"].version.as_deref(), Some("13"));
        assert!(found["vulkan"].found);
        assert_eq!(found["OpenCL"], Library::default());

        let (_folder, with_path) = source(&files, &[("LD_LIBRARY_PATH", "/nowhere:/home/me/lib")]);
        assert_eq!(
            find_all(&with_path)["cublas"].found_by,
            Some(FoundBy::LdLibraryPath)
        );
    }

    #[test]
    fn a_vendors_folder_is_reported_but_not_as_found() {
        let (_folder, source) = source(
            &[("/opt/toolkit/lib64/libcublas.so.13", "")],
            &[("CUDA_PATH", "/opt/toolkit")],
        );
        let cublas = &find_all(&source)["cublas"];
        assert!(!cublas.found);
        assert_eq!(
            cublas.path.as_deref(),
            Some(Path::new("/opt/toolkit/lib64/libcublas.so.13"))
        );
    }

    #[test]
    fn development_stubs_do_not_count() {
        let (_folder, source) = source(
            &[
                ("/usr/lib64/libcuda.so", ""),
                ("/usr/lib64/libcudart.so.13.0.96", ""),
            ],
            &[],
        );
        let found = find_all(&source);
        assert_eq!(found["cuda"], Library::default());
        assert_eq!(found["cudart"].version.as_deref(), Some("13.0.96"));
    }

    #[test]
    fn the_linker_cache_of_the_other_architecture_is_left_out() {
        let text = "3 libs found in cache\n\tlibcuda.so.1 (libc6) => /usr/lib32/libcuda.so.1\n\
                    \tlibcuda.so.1 (libc6,x86-64) => /usr/lib64/libcuda.so.1\nCache generated by: ldconfig\n";
        assert_eq!(
            parse_cache(text, "x86_64"),
            [(
                "libcuda.so.1".to_owned(),
                PathBuf::from("/usr/lib64/libcuda.so.1")
            )]
        );
    }
}
