//! Operating system, distribution, and what it runs inside of.

use serde::{Deserialize, Serialize};

use super::MachineSource;

/// Where the process runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`, `macos`, `windows`.
    pub os: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Linux distribution.
    pub distribution: Option<Distribution>,
    /// Kernel release as `uname -r` prints it.
    pub kernel: Option<String>,
    /// Windows Subsystem for Linux.
    pub wsl: Option<Wsl>,
    /// Container that hides the host's devices unless told otherwise.
    pub container: Option<ContainerRuntime>,
    /// UEFI refuses unsigned kernel modules; `None` without UEFI or without permission to ask.
    pub secure_boot: Option<bool>,
    /// The process runs as root.
    pub root: bool,
}

/// What `/etc/os-release` says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribution {
    /// `debian`, `ubuntu`, `fedora`, `arch`, `alpine`, …
    pub id: String,
    /// Distributions it descends from.
    pub like: Vec<String>,
    /// For people.
    pub name: String,
}

/// Generation of the Windows Subsystem for Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wsl {
    /// Translated system calls; no GPU.
    Wsl1,
    /// A virtual machine; GPUs through `/dev/dxg`.
    Wsl2,
}

/// Kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerRuntime {
    /// Docker, and Docker Compose.
    Docker,
    /// Podman.
    Podman,
    /// A Kubernetes pod.
    Kubernetes,
    /// LXC, LXD, Incus.
    Lxc,
    /// Any other (`systemd-nspawn`, Apptainer, …).
    Other,
}

pub(super) fn look(source: &MachineSource) -> Platform {
    let kernel = source.text("/proc/sys/kernel/osrelease");
    Platform {
        os: std::env::consts::OS.to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        distribution: source
            .text("/etc/os-release")
            .or_else(|| source.text("/usr/lib/os-release"))
            .map(|text| parse_os_release(&text)),
        wsl: kernel.as_deref().and_then(parse_wsl),
        kernel,
        container: container(source),
        secure_boot: secure_boot(source),
        root: root(),
    }
}

#[cfg(unix)]
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn root() -> bool {
    false
}

fn parse_os_release(text: &str) -> Distribution {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix('=')?;
            Some(value.trim_matches(['"', '\'']).to_owned())
        })
    };
    Distribution {
        id: value("ID").unwrap_or_default(),
        like: value("ID_LIKE")
            .map(|list| list.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        name: value("PRETTY_NAME").unwrap_or_default(),
    }
}

/// WSL 1 calls itself `4.4.0-19041-Microsoft`, WSL 2 `5.15.153.1-microsoft-standard-WSL2`; own kernels keep `WSL2`.
fn parse_wsl(release: &str) -> Option<Wsl> {
    let lower = release.to_lowercase();
    if lower.contains("wsl2") || lower.contains("microsoft-standard") {
        Some(Wsl::Wsl2)
    } else if lower.contains("microsoft") {
        Some(Wsl::Wsl1)
    } else {
        None
    }
}

fn container(source: &MachineSource) -> Option<ContainerRuntime> {
    if source.variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Some(ContainerRuntime::Kubernetes);
    }
    if source.path("/run/.containerenv").exists() {
        return Some(ContainerRuntime::Podman);
    }
    if source.path("/.dockerenv").exists() {
        return Some(ContainerRuntime::Docker);
    }
    // systemd and most runtimes name themselves to the first process of a container.
    let named = source
        .variable("container")
        .map(str::to_owned)
        .or_else(|| source.text("/run/systemd/container"));
    match named.as_deref().filter(|name| !name.is_empty()) {
        Some("docker") => Some(ContainerRuntime::Docker),
        Some("podman") => Some(ContainerRuntime::Podman),
        Some(name) if name.starts_with("lxc") => Some(ContainerRuntime::Lxc),
        None | Some("wsl") => None,
        Some(_) => Some(ContainerRuntime::Other),
    }
}

/// The variable's GUID is UEFI's global one; four bytes of attributes come before the value.
fn secure_boot(source: &MachineSource) -> Option<bool> {
    let file = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    std::fs::read(source.path(file))
        .ok()?
        .get(4)
        .map(|value| *value == 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    #[test]
    fn the_distribution_is_read_with_and_without_quotes() {
        let ubuntu = parse_os_release(
            "PRETTY_NAME=\"Ubuntu 24.04 LTS\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"",
        );
        assert_eq!(
            (ubuntu.id.as_str(), ubuntu.like.as_slice()),
            ("ubuntu", ["debian".to_owned()].as_slice())
        );
        let rocky = parse_os_release("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"");
        assert_eq!((rocky.id.as_str(), rocky.like.len()), ("rocky", 3));
    }

    #[test]
    fn both_generations_of_wsl_are_told_apart() {
        assert_eq!(parse_wsl("4.4.0-19041-Microsoft"), Some(Wsl::Wsl1));
        assert_eq!(parse_wsl("5.15.153.1-microsoft-standard-WSL2"), Some(Wsl::Wsl2));
        assert_eq!(parse_wsl("6.6.0-custom-WSL2"), Some(Wsl::Wsl2));
        assert_eq!(parse_wsl("6.1.0-28-amd64"), None);
    }

    #[test]
    fn containers_are_recognised_by_what_their_runtimes_leave() {
        let kind =
            |files: &[(&str, &str)], environment: &[(&str, &str)]| container(&source(files, environment).1);
        // The folder is gone once the tuple is dropped, so keep it while looking.
        let (_folder, docker) = source(&[("/.dockerenv", "")], &[]);
        assert_eq!(container(&docker), Some(ContainerRuntime::Docker));
        let (_folder, podman) = source(&[("/run/.containerenv", "")], &[]);
        assert_eq!(container(&podman), Some(ContainerRuntime::Podman));
        assert_eq!(
            kind(&[], &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]),
            Some(ContainerRuntime::Kubernetes)
        );
        assert_eq!(kind(&[], &[("container", "lxc")]), Some(ContainerRuntime::Lxc));
        assert_eq!(
            kind(&[], &[("container", "systemd-nspawn")]),
            Some(ContainerRuntime::Other)
        );
        assert_eq!(kind(&[], &[]), None);
    }

    #[test]
    fn secure_boot_is_the_fifth_byte() {
        let file = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        let (_folder, on) = source(&[(file, "\u{6}\0\0\0\u{1}")], &[]);
        assert_eq!(secure_boot(&on), Some(true));
        let (_folder, off) = source(&[(file, "\u{6}\0\0\0\0")], &[]);
        assert_eq!(secure_boot(&off), Some(false));
        let (_folder, none) = source(&[], &[]);
        assert_eq!(secure_boot(&none), None);
    }
}
