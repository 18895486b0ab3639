//! GPUs on the PCI bus, and the manifests that Vulkan and OpenCL drivers leave on disk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MachineSource;

/// Maker of a GPU, by PCI vendor id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// `10de`
    Nvidia,
    /// `1002`
    Amd,
    /// `8086`
    Intel,
    /// Virtual display adapters, server management chips and everything else that computes nothing.
    #[default]
    Other,
}

/// A display controller.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PciGpu {
    /// Such as `0000:c1:00.0`.
    pub address: String,
    /// Who made it.
    pub vendor: Vendor,
    /// `vendor:device` in hexadecimal, as `lspci -nn` shows it.
    pub id: String,
    /// Kernel driver bound to it, such as `nvidia`, `nouveau`, `amdgpu`, `i915`, `vfio-pci`.
    pub kernel_driver: Option<String>,
    /// AMD's name of the architecture, such as `gfx1103`, from the kernel or the device id.
    pub gfx: Option<String>,
    /// Part of the processor. Known for AMD only.
    pub integrated: bool,
}

/// A driver's manifest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Driver {
    /// The manifest.
    pub manifest: PathBuf,
    /// The library it names.
    pub library: String,
    /// It computes on the CPU (lavapipe, SwiftShader, PoCL).
    pub software: bool,
}

/// AMD's processors with graphics, by device id: architecture from the kernel's `amdgpu` and from ROCm's target list.
const AMD_INTEGRATED: [(&str, &str); 21] = [
    ("15dd", "gfx902"),
    ("15d8", "gfx902"),
    ("1636", "gfx90c"),
    ("1638", "gfx90c"),
    ("15e7", "gfx90c"),
    ("164c", "gfx90c"),
    ("163f", "gfx1033"),
    ("164d", "gfx1035"),
    ("1681", "gfx1035"),
    ("164e", "gfx1036"),
    ("13c0", "gfx1036"),
    ("1506", "gfx1037"),
    ("15bf", "gfx1103"),
    ("15c8", "gfx1103"),
    ("164f", "gfx1103"),
    ("1900", "gfx1103"),
    ("1901", "gfx1103"),
    ("150e", "gfx1150"),
    ("1586", "gfx1151"),
    ("1114", "gfx1152"),
    ("98e4", "gfx810"),
];

/// Controllers of PCI class 03 (display).
pub(super) fn on_the_bus(source: &MachineSource) -> Vec<PciGpu> {
    let folder = Path::new("/sys/bus/pci/devices");
    let mut gpus = Vec::new();
    for address in source.names(folder) {
        let device = folder.join(&address);
        let read = |name: &str| {
            source
                .text(device.join(name))
                .map(|text| text.trim_start_matches("0x").to_owned())
        };
        let Some(class) = read("class") else { continue };
        if !class.starts_with("03") {
            continue;
        }
        let (vendor_id, device_id) = (
            read("vendor").unwrap_or_default(),
            read("device").unwrap_or_default(),
        );
        let vendor = match vendor_id.as_str() {
            "10de" => Vendor::Nvidia,
            "1002" => Vendor::Amd,
            "8086" => Vendor::Intel,
            _ => Vendor::Other,
        };
        let listed = AMD_INTEGRATED
            .iter()
            .find(|(id, _)| vendor == Vendor::Amd && *id == device_id);
        gpus.push(PciGpu {
            vendor,
            id: format!("{vendor_id}:{device_id}"),
            kernel_driver: std::fs::read_link(source.path(device.join("driver")))
                .ok()
                .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
            gfx: (vendor == Vendor::Amd)
                .then(|| kfd_gfx(source, &device_id).or_else(|| listed.map(|(_, gfx)| (*gfx).to_owned())))
                .flatten(),
            integrated: listed.is_some(),
            address,
        });
    }
    gpus
}

/// The compute driver's own word, where it is loaded: `gfx_target_version 110003` is gfx1103.
fn kfd_gfx(source: &MachineSource, device_id: &str) -> Option<String> {
    let wanted = u32::from_str_radix(device_id, 16).ok()?;
    let folder = Path::new("/sys/class/kfd/kfd/topology/nodes");
    source.names(folder).iter().find_map(|node| {
        let properties = source.text(folder.join(node).join("properties"))?;
        let value = |key: &str| -> Option<u32> {
            properties
                .lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        };
        (value("device_id ")? == wanted).then_some(())?;
        gfx_name(value("gfx_target_version ")?)
    })
}

/// Decimal digits `MMmmss`: major, minor, stepping; the name writes the last two in hexadecimal.
fn gfx_name(version: u32) -> Option<String> {
    let (major, minor, stepping) = (version / 10_000, version / 100 % 100, version % 100);
    (major > 0).then(|| format!("gfx{major}{minor:x}{stepping:x}"))
}

/// Manifests in the order of the Vulkan loader (its `LoaderDriverInterface.md`): an override replaces the folders.
pub(super) fn vulkan_drivers(source: &MachineSource) -> Vec<Driver> {
    let chosen = [
        source.folders("VK_DRIVER_FILES"),
        source.folders("VK_ICD_FILENAMES"),
    ]
    .into_iter()
    .find(|l| !l.is_empty());
    let manifests: Vec<PathBuf> = match chosen {
        Some(list) => list
            .into_iter()
            .flat_map(|path| {
                if source.path(&path).is_dir() {
                    json_files(source, &path)
                } else {
                    vec![path]
                }
            })
            .collect(),
        None => vulkan_folders(source)
            .iter()
            .flat_map(|folder| json_files(source, folder))
            .collect(),
    };
    manifests
        .into_iter()
        .filter_map(|manifest| {
            let json: serde_json::Value = serde_json::from_str(&source.text(&manifest)?).ok()?;
            let library = json["ICD"]["library_path"].as_str()?.to_owned();
            let software = ["lvp", "lavapipe", "swiftshader", "swrast"]
                .iter()
                .any(|name| library.to_lowercase().contains(name));
            Some(Driver {
                manifest,
                library,
                software,
            })
        })
        .collect()
}

fn vulkan_folders(source: &MachineSource) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    if let Some(home) = source.variable("HOME") {
        roots.push(Path::new(home).join(".config"));
        roots.push(Path::new(home).join(".local/share"));
    }
    roots.push("/etc/xdg".into());
    roots.push("/etc".into());
    let data = source.folders("XDG_DATA_DIRS");
    if data.is_empty() {
        roots.extend([PathBuf::from("/usr/local/share"), PathBuf::from("/usr/share")]);
    } else {
        roots.extend(data);
    }
    roots.push("/run/opengl-driver/share".into());
    roots.into_iter().map(|root| root.join("vulkan/icd.d")).collect()
}

fn json_files(source: &MachineSource, folder: &Path) -> Vec<PathBuf> {
    source
        .names(folder)
        .into_iter()
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|name| folder.join(name))
        .collect()
}

/// `*.icd` files of the OpenCL loader; each holds the name of a library.
pub(super) fn opencl_drivers(source: &MachineSource) -> Vec<Driver> {
    let folder = source
        .variable("OCL_ICD_VENDORS")
        .or_else(|| source.variable("OPENCL_VENDOR_PATH"))
        .filter(|path| !path.is_empty())
        .unwrap_or("/etc/OpenCL/vendors");
    let folder = Path::new(folder);
    source
        .names(folder)
        .into_iter()
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "icd")
        })
        .filter_map(|name| {
            let manifest = folder.join(&name);
            let library = source.text(&manifest)?.lines().next()?.trim().to_owned();
            let software = name.contains("pocl") || library.contains("pocl");
            Some(Driver {
                manifest,
                library,
                software,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    #[test]
    fn display_controllers_are_listed_and_others_are_not() {
        let (_folder, source) = source(
            &[
                ("/sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n"),
                ("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
                ("/sys/bus/pci/devices/0000:01:00.0/device", "0x2684\n"),
                ("/sys/bus/pci/devices/0000:c1:00.0/class", "0x038000\n"),
                ("/sys/bus/pci/devices/0000:c1:00.0/vendor", "0x1002\n"),
                ("/sys/bus/pci/devices/0000:c1:00.0/device", "0x15bf\n"),
                ("/sys/bus/pci/devices/0000:00:1f.0/class", "0x060100\n"),
                ("/sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n"),
            ],
            &[],
        );
        let gpus = on_the_bus(&source);
        assert_eq!(gpus.len(), 2);
        assert_eq!(
            (gpus[0].vendor, gpus[0].id.as_str()),
            (Vendor::Nvidia, "10de:2684")
        );
        assert_eq!(
            (gpus[1].gfx.as_deref(), gpus[1].integrated),
            (Some("gfx1103"), true)
        );
    }

    #[test]
    fn the_compute_drivers_word_beats_the_table() {
        let (_folder, source) = source(
            &[
                ("/sys/bus/pci/devices/0000:03:00.0/class", "0x030000"),
                ("/sys/bus/pci/devices/0000:03:00.0/vendor", "0x1002"),
                ("/sys/bus/pci/devices/0000:03:00.0/device", "0x73bf"),
                (
                    "/sys/class/kfd/kfd/topology/nodes/0/properties",
                    "cpu_cores_count 8\ndevice_id 0\n",
                ),
                (
                    "/sys/class/kfd/kfd/topology/nodes/1/properties",
                    "device_id 29631\ngfx_target_version 100300\n",
                ),
            ],
            &[],
        );
        assert_eq!(on_the_bus(&source)[0].gfx.as_deref(), Some("gfx1030"));
        assert_eq!(gfx_name(90_010).as_deref(), Some("gfx90a"));
        assert_eq!(gfx_name(0), None);
    }

    #[test]
    fn vulkan_manifests_tell_software_from_hardware() {
        let manifest =
            |library: &str| format!(r#"{{"ICD": {{"library_path": "{library}", "api_version": "1.3.0"}}}}"#);
        let (lavapipe, radeon) = (
            manifest("/usr/lib/libvulkan_lvp.so"),
            manifest("libvulkan_radeon.so"),
        );
        let files = [
            ("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json", lavapipe.as_str()),
            ("/usr/share/vulkan/icd.d/radeon_icd.x86_64.json", radeon.as_str()),
            ("/usr/share/vulkan/icd.d/README", ""),
        ];
        let (_folder, all) = source(&files, &[]);
        let found = vulkan_drivers(&all);
        assert_eq!(
            found.iter().map(|driver| driver.software).collect::<Vec<_>>(),
            [true, false]
        );

        let (_folder, one) = source(
            &files,
            &[("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")],
        );
        assert_eq!(vulkan_drivers(&one).len(), 1);
        let (_folder, none) = source(&files, &[("VK_DRIVER_FILES", "/nowhere.json")]);
        assert_eq!(vulkan_drivers(&none), []);
    }

    #[test]
    fn opencl_vendors_are_read() {
        let (_folder, source) = source(
            &[
                ("/etc/OpenCL/vendors/intel.icd", "/usr/lib/libigdrcl.so\n"),
                ("/etc/OpenCL/vendors/pocl.icd", "libpocl.so.2.9.0"),
            ],
            &[],
        );
        let found = opencl_drivers(&source);
        assert_eq!(found[0].library, "/usr/lib/libigdrcl.so");
        assert!(!found[0].software && found[1].software);
    }
}
