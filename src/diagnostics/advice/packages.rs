//! How a missing piece is installed, by distribution.

use crate::diagnostics::probe::{Platform, Vendor};

/// Something that can be missing at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Package {
    /// Kernel module and libraries of NVIDIA.
    NvidiaDriver,
    /// Kernel headers and a rebuild of NVIDIA's module.
    NvidiaModule,
    /// cuBLAS of one CUDA version such as `13.0`.
    Cublas(String),
    /// `libvulkan.so.1`
    VulkanLoader,
    /// Mesa's Vulkan driver for one vendor.
    VulkanDriver(Vendor),
    /// `libOpenCL.so.1`
    OpenClLoader,
    /// Intel's OpenCL driver.
    OpenClIntel,
    /// HIP runtime with hipBLAS and rocBLAS.
    Rocm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Pacman,
    Apk,
    Zypper,
    Other,
}

/// The package manager of this machine, and whether it needs `sudo`.
#[derive(Debug, Clone)]
pub(super) struct Packages {
    manager: Manager,
    ubuntu: bool,
    root: bool,
}

impl Packages {
    pub(super) fn of(platform: &Platform) -> Self {
        let mut names: Vec<&str> = Vec::new();
        if let Some(distribution) = &platform.distribution {
            names.push(&distribution.id);
            names.extend(distribution.like.iter().map(String::as_str));
        }
        let any = |list: &[&str]| names.iter().any(|name| list.contains(name));
        let manager = if any(&["debian", "ubuntu"]) {
            Manager::Apt
        } else if any(&["fedora", "rhel", "centos"]) {
            Manager::Dnf
        } else if any(&["arch"]) {
            Manager::Pacman
        } else if any(&["alpine"]) {
            Manager::Apk
        } else if any(&["suse", "opensuse"]) {
            Manager::Zypper
        } else {
            Manager::Other
        };
        Self {
            manager,
            ubuntu: any(&["ubuntu"]),
            root: platform.root,
        }
    }

    pub(super) fn sudo(&self) -> &'static str {
        if self.root { "" } else { "sudo " }
    }

    /// The command that installs `package`; words where the distribution has none or is unknown.
    pub(super) fn install(&self, package: &Package) -> String {
        use Manager::{Apk, Apt, Dnf, Other, Pacman, Zypper};
        if *package == Package::NvidiaDriver && self.ubuntu {
            return format!("{}ubuntu-drivers install", self.sudo());
        }
        if *package == Package::NvidiaModule {
            return self.rebuild_module();
        }
        let cublas = |version: &str| format!("libcublas-{}", version.replace('.', "-"));
        let names: String = match (package, self.manager) {
            (Package::NvidiaDriver, Apt) => "nvidia-driver".into(),
            (Package::NvidiaDriver, Dnf) => "akmod-nvidia".into(),
            (Package::NvidiaDriver, Pacman) => "nvidia-open".into(),
            (Package::NvidiaDriver, Zypper) => "nvidia-open-driver-G06-signed-kmp-default".into(),
            (Package::Cublas(version), Apt | Dnf | Zypper) => cublas(version),
            (Package::Cublas(_), Pacman) => "cuda".into(),
            (Package::VulkanLoader, Apt | Zypper) => "libvulkan1".into(),
            (Package::VulkanLoader, Dnf | Apk) => "vulkan-loader".into(),
            (Package::VulkanLoader, Pacman) => "vulkan-icd-loader".into(),
            (Package::VulkanDriver(_), Apt | Dnf) => "mesa-vulkan-drivers".into(),
            (Package::VulkanDriver(Vendor::Intel), Pacman) => "vulkan-intel".into(),
            (Package::VulkanDriver(_), Pacman) => "vulkan-radeon".into(),
            (Package::VulkanDriver(Vendor::Intel), Apk) => "mesa-vulkan-intel".into(),
            (Package::VulkanDriver(_), Apk) => "mesa-vulkan-ati".into(),
            (Package::VulkanDriver(Vendor::Intel), Zypper) => "libvulkan_intel".into(),
            (Package::VulkanDriver(_), Zypper) => "libvulkan_radeon".into(),
            (Package::OpenClLoader, Apt) => "ocl-icd-libopencl1".into(),
            (Package::OpenClLoader, Dnf | Pacman) => "ocl-icd".into(),
            (Package::OpenClLoader, Apk) => "opencl-icd-loader".into(),
            (Package::OpenClLoader, Zypper) => "libOpenCL1".into(),
            (Package::OpenClIntel, Apt) => "intel-opencl-icd".into(),
            (Package::OpenClIntel, Dnf | Pacman | Apk) => "intel-compute-runtime".into(),
            (Package::OpenClIntel, Zypper) => "intel-opencl".into(),
            (Package::Rocm, Apt) => "libamdhip64-5 libhipblas0 librocblas0".into(),
            (Package::Rocm, Dnf) => "rocm-hip hipblas rocblas".into(),
            (Package::Rocm, Pacman) => "rocm-hip-runtime hipblas rocblas".into(),
            _ => String::new(),
        };
        if names.is_empty() {
            return Self::by_hand(package).to_owned();
        }
        let command = match self.manager {
            Apt => "apt install",
            Dnf => "dnf install",
            Pacman => "pacman -S",
            Apk => "apk add",
            Zypper => "zypper install",
            Other => return Self::by_hand(package).to_owned(),
        };
        format!("{}{command} {names}", self.sudo())
    }

    fn rebuild_module(&self) -> String {
        let sudo = self.sudo();
        match self.manager {
            Manager::Apt => format!(
                "{sudo}apt install linux-headers-$(uname -r) && {sudo}dkms autoinstall && {sudo}modprobe nvidia"
            ),
            Manager::Dnf => format!("{sudo}akmods --force && {sudo}modprobe nvidia"),
            Manager::Pacman => format!("{sudo}pacman -S linux-headers && {sudo}modprobe nvidia"),
            Manager::Apk | Manager::Zypper | Manager::Other => format!("{sudo}modprobe nvidia"),
        }
    }

    /// Where the makers themselves explain it.
    fn by_hand(package: &Package) -> &'static str {
        match package {
            Package::NvidiaDriver | Package::NvidiaModule => "https://www.nvidia.com/drivers",
            Package::Cublas(_) => "https://developer.nvidia.com/cuda-downloads",
            Package::VulkanLoader | Package::VulkanDriver(_) => "https://docs.mesa3d.org/install.html",
            Package::OpenClLoader => "https://github.com/KhronosGroup/OpenCL-ICD-Loader",
            Package::OpenClIntel => "https://github.com/intel/compute-runtime",
            Package::Rocm => "https://rocm.docs.amd.com",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::probe::Distribution;

    fn on(id: &str, like: &[&str], root: bool) -> Packages {
        Packages::of(&Platform {
            distribution: Some(Distribution {
                id: id.to_owned(),
                like: like.iter().map(|name| (*name).to_owned()).collect(),
                name: String::new(),
            }),
            root,
            ..Platform::default()
        })
    }

    #[test]
    fn each_distribution_gets_its_own_command() {
        let loader = |packages: Packages| packages.install(&Package::VulkanLoader);
        assert_eq!(loader(on("debian", &[], false)), "sudo apt install libvulkan1");
        assert_eq!(
            loader(on("linuxmint", &["ubuntu", "debian"], true)),
            "apt install libvulkan1"
        );
        assert_eq!(
            loader(on("rocky", &["rhel", "centos", "fedora"], false)),
            "sudo dnf install vulkan-loader"
        );
        assert_eq!(
            loader(on("manjaro", &["arch"], false)),
            "sudo pacman -S vulkan-icd-loader"
        );
        assert_eq!(loader(on("alpine", &[], true)), "apk add vulkan-loader");
        assert_eq!(
            loader(on("opensuse-tumbleweed", &["opensuse", "suse"], false)),
            "sudo zypper install libvulkan1"
        );
        assert_eq!(
            loader(on("nixos", &[], false)),
            "https://docs.mesa3d.org/install.html"
        );
    }

    #[test]
    fn ubuntu_chooses_its_nvidia_driver_by_itself() {
        assert_eq!(
            on("ubuntu", &["debian"], false).install(&Package::NvidiaDriver),
            "sudo ubuntu-drivers install"
        );
        assert_eq!(
            on("debian", &[], false).install(&Package::NvidiaDriver),
            "sudo apt install nvidia-driver"
        );
    }

    #[test]
    fn cublas_follows_the_toolkit_of_the_build() {
        let package = Package::Cublas("12.6".to_owned());
        assert_eq!(
            on("ubuntu", &["debian"], false).install(&package),
            "sudo apt install libcublas-12-6"
        );
    }
}
