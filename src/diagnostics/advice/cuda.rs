//! CUDA on a driver that works: what hides the GPU, what CUDA says when it does not start, toolkit, architectures.

use super::{Findings, Package, Text, Vendor};
use crate::diagnostics::probe::{NvidiaSmi, driver_library_version};

pub(super) fn cuda(found: &mut Findings<'_>) {
    if !hidden(found) && !driver_too_old(found) {
        start_refused(found);
    }
    cublas(found);
    architecture(found);
}

/// The words of `cudaGetErrorString` after which ggml gives CUDA up (CUDA 13.0; each was seen through a driver that
/// answers `cuInit` with that error).
const NO_DEVICE: &str = "no cuda-capable device is detected";
const UNKNOWN: &str = "unknown error";
const STUB: &str = "cuda driver is a stub library";
const COMPATIBILITY: &str = "forward compatibility was attempted on non supported hw";
const NOT_READY: &str = "system not yet initialized";
const BUSY: &str = "busy or unavailable";

/// CUDA does not start although the driver seems to be in order.
fn start_refused(found: &mut Findings<'_>) {
    const BEGINNING: &str = "failed to initialize CUDA: ";
    let Some(words) = found
        .engine
        .said(&["failed to initialize cuda: "])
        .and_then(|line| line.split_once(BEGINNING))
        .map(|(_, words)| words.trim().to_owned())
    else {
        return;
    };
    let lower = words.to_lowercase();
    if lower.contains("out of memory") {
        // `surroundings::memory` has said it.
        return;
    }
    let library = found.library("cuda").path;
    let (folder, file) = library.as_deref().map_or_else(
        || ("?".to_owned(), "libcuda.so.1".to_owned()),
        |path| {
            let folder = path.parent().unwrap_or(path);
            (folder.display().to_string(), path.display().to_string())
        },
    );
    let sudo = found.sudo();
    let refusal = Refusal {
        words: &words,
        sudo,
        folder: &folder,
        file: &file,
    };
    let known = REFUSALS.iter().find(|(said, ..)| lower.contains(said));
    let (id, advice) = known.map_or(("cuda-start-failed", other as Advise), |(_, id, advice)| {
        (*id, *advice)
    });
    let (cause, remedy) = advice(&refusal);
    found.add(id, cause, remedy);
}

/// What CUDA said, and what stands in its place here.
struct Refusal<'a> {
    words: &'a str,
    /// `sudo `, or nothing for root.
    sudo: &'a str,
    /// Of the driver's library that was loaded.
    folder: &'a str,
    file: &'a str,
}

/// Cause and remedy.
type Advise = fn(&Refusal<'_>) -> (Text, Text);

/// CUDA's words, the rule's name, its advice.
const REFUSALS: [(&str, &str, Advise); 6] = [
    (NO_DEVICE, "cuda-no-device", no_device),
    (STUB, "cuda-stub-library", stub),
    (COMPATIBILITY, "cuda-compatibility-library", compatibility),
    (NOT_READY, "cuda-fabric-manager", not_ready),
    (BUSY, "cuda-device-busy", busy),
    (UNKNOWN, "cuda-unknown-error", unknown),
];

fn no_device(_: &Refusal<'_>) -> (Text, Text) {
    (
        Text::new(
            "The NVIDIA driver's library is there, but it shows CUDA no GPU.",
            "NVIDIA のドライバーライブラリはありますが、CUDA からは GPU が見えません。",
        ),
        Text::new(
            "See what `nvidia-smi -L` lists: with no GPU there, a container needs `docker run --gpus all` and a virtual machine a GPU from its host; a GPU in MIG mode needs an instance (`nvidia-smi mig -lgi`).",
            "`nvidia-smi -L` の表示を確認してください。GPU が表示されない場合、コンテナには `docker run --gpus all`、仮想マシンにはホストからの GPU の割り当てが必要です。MIG モードの GPU にはインスタンスが必要です(`nvidia-smi mig -lgi`)。",
        ),
    )
}

fn stub(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { folder, file, .. } = *refusal;
    (
        Text::new(
            format!("In place of the driver the CUDA toolkit's empty stub of it (`{file}`) was loaded."),
            format!("ドライバーの代わりに、CUDA ツールキットのスタブ(`{file}`)が読み込まれています。"),
        ),
        Text::new(
            format!(
                "Take `{folder}` out of `LD_LIBRARY_PATH`: `unset LD_LIBRARY_PATH` shows whether that was it."
            ),
            format!(
                "`LD_LIBRARY_PATH` から `{folder}` を外してください(`unset LD_LIBRARY_PATH` で確認できます)。"
            ),
        ),
    )
}

fn compatibility(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { sudo, file, .. } = *refusal;
    (
        Text::new(
            format!(
                "A CUDA compatibility library (package `cuda-compat`) stands in for the driver's (`{file}`); it works on data-centre GPUs only."
            ),
            format!(
                "ドライバーの代わりに CUDA の互換ライブラリ(`cuda-compat` パッケージ、`{file}`)が使われています。これはデータセンター向け GPU でしか動作しません。"
            ),
        ),
        Text::new(
            format!(
                "Remove it (`{sudo}apt purge 'cuda-compat-*'`) or take its folder out of `LD_LIBRARY_PATH`, and update the driver where it is too old."
            ),
            format!(
                "`{sudo}apt purge 'cuda-compat-*'` で削除するか、`LD_LIBRARY_PATH` からそのフォルダーを外してください。ドライバーが古い場合は更新してください。"
            ),
        ),
    )
}

fn not_ready(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { sudo, .. } = *refusal;
    (
        Text::new(
            "CUDA waits for the NVSwitch fabric of this machine (`system not yet initialized`).",
            "このマシンの NVSwitch が初期化されていないため、CUDA を使えません(`system not yet initialized`)。",
        ),
        Text::new(
            format!(
                "Run `{sudo}systemctl enable --now nvidia-fabricmanager`; its version must be the driver's."
            ),
            format!(
                "`{sudo}systemctl enable --now nvidia-fabricmanager` を実行してください。バージョンはドライバーと一致している必要があります。"
            ),
        ),
    )
}

fn busy(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { sudo, .. } = *refusal;
    (
        Text::new(
            "Another program holds the GPU for itself (exclusive compute mode).",
            "別のプログラムが GPU を占有しています(排他モード)。",
        ),
        Text::new(
            format!(
                "End the program that `nvidia-smi` lists, or run `{sudo}nvidia-smi --compute-mode=DEFAULT`."
            ),
            format!(
                "`nvidia-smi` に表示されるプログラムを終了するか、`{sudo}nvidia-smi --compute-mode=DEFAULT` を実行してください。"
            ),
        ),
    )
}

fn unknown(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { sudo, .. } = *refusal;
    (
        Text::new(
            "CUDA does not start and gives no reason (`unknown error`), as after suspend and resume, when the kernel module `nvidia_uvm` has lost its state.",
            "CUDA が原因不明のエラー(`unknown error`)で起動しません。スリープからの復帰後に、カーネルモジュール `nvidia_uvm` が異常な状態になった場合によく起こります。",
        ),
        Text::new(
            format!(
                "End everything on the GPU and run `{sudo}rmmod nvidia_uvm && {sudo}modprobe nvidia_uvm`, or restart the machine."
            ),
            format!(
                "GPU を使うプログラムをすべて終了して `{sudo}rmmod nvidia_uvm && {sudo}modprobe nvidia_uvm` を実行するか、マシンを再起動してください。"
            ),
        ),
    )
}

fn other(refusal: &Refusal<'_>) -> (Text, Text) {
    let Refusal { words, sudo, .. } = *refusal;
    (
        Text::new(
            format!("CUDA does not start: {words}."),
            format!("CUDA が起動しません: {words}。"),
        ),
        Text::new(
            format!(
                "Look for the driver's own message in `{sudo}dmesg | grep -i nvrm`; a restart of the machine clears most of them."
            ),
            format!(
                "`{sudo}dmesg | grep -i nvrm` でドライバーのメッセージを確認してください。多くはマシンの再起動で解消します。"
            ),
        ),
    )
}

/// `CUDA_VISIBLE_DEVICES` leaves no GPU over. CUDA reads the list up to the first entry that is not a device.
fn hidden(found: &mut Findings<'_>) -> bool {
    let Some(value) = found.facts.variable("CUDA_VISIBLE_DEVICES") else {
        return false;
    };
    let first = value.split(',').next().unwrap_or_default().trim();
    let count = match &found.facts.nvidia_smi {
        NvidiaSmi::Answered { gpus, .. } => gpus.len(),
        _ => usize::MAX,
    };
    let names_a_gpu = first.starts_with("GPU-")
        || first.starts_with("MIG-")
        || first.parse::<usize>().is_ok_and(|index| index < count);
    if names_a_gpu {
        return false;
    }
    found.add(
        "cuda-visible-devices",
        Text::new(
            format!("`CUDA_VISIBLE_DEVICES={value}` hides every GPU from CUDA."),
            format!("`CUDA_VISIBLE_DEVICES={value}` により、CUDA からすべての GPU が隠されています。"),
        ),
        Text::new(
            "Run `unset CUDA_VISIBLE_DEVICES`, or set it to a number that `nvidia-smi -L` lists.",
            "`unset CUDA_VISIBLE_DEVICES` を実行するか、`nvidia-smi -L` に表示される番号を指定してください。",
        ),
    );
    true
}

/// `13.0` → (13, 0)
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((
        parts.next()?.parse().ok()?,
        parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0),
    ))
}

/// Programs of one CUDA major version run on every driver of that major version (CUDA's minor version compatibility).
fn driver_too_old(found: &mut Findings<'_>) -> bool {
    let toolkit = found.facts.build.cuda_toolkit.as_deref().and_then(version);
    let (driver, newest) = match &found.facts.nvidia_smi {
        NvidiaSmi::Answered {
            driver_version,
            cuda_version,
            ..
        } => (Some(driver_version.clone()), cuda_version.clone()),
        // A container often gets the driver's library without the program.
        _ => (driver_library_version(&found.library("cuda")), None),
    };
    let served = newest.as_deref().and_then(version);
    let seen = matches!((toolkit, served), (Some(toolkit), Some(served)) if served.0 < toolkit.0);
    if !seen && found.engine.said(&["driver version is insufficient"]).is_none() {
        return false;
    }
    let needs = toolkit.map_or_else(|| "?".to_owned(), |(major, minor)| format!("{major}.{minor}"));
    let driver = driver.map_or_else(String::new, |version| format!(" {version}"));
    let (serves, serves_ja) = newest.map_or_else(
        || {
            (
                "serves an older CUDA only".to_owned(),
                "古い CUDA にしか対応しておらず".to_owned(),
            )
        },
        |newest| {
            (
                format!("serves CUDA {newest}"),
                format!("CUDA {newest} までしか対応しておらず"),
            )
        },
    );
    let install = found.install(&Package::NvidiaDriver);
    let older = served.map_or_else(|| "12".to_owned(), |(major, _)| major.to_string());
    found.add(
        "nvidia-driver-too-old",
        Text::new(
            format!("The NVIDIA driver{driver} {serves}, but this binary was built with CUDA {needs}."),
            format!("NVIDIA ドライバー{driver} は {serves_ja}、CUDA {needs} でビルドされたこのバイナリは動作しません。"),
        ),
        Text::new(
            format!("Update the driver (`{install}`, then restart), or rebuild with a CUDA {older} toolkit: `CUDA_PATH=/usr/local/cuda-{older} ./build.sh cuda`."),
            format!("ドライバーを更新する(`{install}` の後に再起動)か、CUDA {older} で再ビルドしてください: `CUDA_PATH=/usr/local/cuda-{older} ./build.sh cuda`。"),
        ),
    );
    true
}

fn cublas(found: &mut Findings<'_>) {
    let library = found.library("cublas");
    if library.found || !found.facts.has_gpu(Vendor::Nvidia) {
        return;
    }
    if let Some(folder) = library.path.as_deref().and_then(std::path::Path::parent) {
        let (folder, sudo) = (folder.display(), found.sudo());
        found.add(
            "cublas-not-searched",
            Text::new(
                format!("cuBLAS lies in `{folder}`, where the dynamic linker does not look."),
                format!("cuBLAS は `{folder}` にありますが、動的リンカーの検索対象になっていません。"),
            ),
            Text::new(
                format!("Start with `LD_LIBRARY_PATH={folder}`, or once and for all: `echo {folder} | {sudo}tee /etc/ld.so.conf.d/cuda.conf && {sudo}ldconfig`."),
                format!("`LD_LIBRARY_PATH={folder}` を付けて起動するか、`echo {folder} | {sudo}tee /etc/ld.so.conf.d/cuda.conf && {sudo}ldconfig` で恒久的に登録してください。"),
            ),
        );
        return;
    }
    let toolkit = found
        .facts
        .build
        .cuda_toolkit
        .clone()
        .unwrap_or_else(|| "13.0".to_owned());
    let major = toolkit.split('.').next().unwrap_or("13").to_owned();
    let install = found.install(&Package::Cublas(toolkit.clone()));
    found.add(
        "cublas-missing",
        Text::new(
            format!("cuBLAS {major} (`libcublas.so.{major}`), which the CUDA build needs, is not installed."),
            format!("CUDA 版に必要な cuBLAS {major}(`libcublas.so.{major}`)がインストールされていません。"),
        ),
        Text::new(
            format!("Run `{install}` (from NVIDIA's package repository), or put `libcublas.so.{major}` and `libcublasLt.so.{major}` beside the binary."),
            format!("`{install}`(NVIDIA のパッケージリポジトリ)を実行するか、`libcublas.so.{major}` と `libcublasLt.so.{major}` をバイナリと同じフォルダーに置いてください。"),
        ),
    );
}

/// Whether code built for `architecture` (as CMake writes it) runs on a GPU of this compute capability, `89` for 8.9.
/// Machine code runs on the same major version from its minor on; PTX on everything newer; `a` on exactly its own.
fn serves(architecture: &str, capability: u32) -> bool {
    let (number, kind) = architecture.split_once('-').unwrap_or((architecture, ""));
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let Ok(built) = digits.parse::<u32>() else {
        return true;
    };
    if number.len() > digits.len() {
        return built == capability;
    }
    let ptx = kind != "real" && built <= capability;
    let machine_code = kind != "virtual" && built / 10 == capability / 10 && built <= capability;
    ptx || machine_code
}

fn architecture(found: &mut Findings<'_>) {
    let NvidiaSmi::Answered { gpus, .. } = &found.facts.nvidia_smi else {
        return;
    };
    let built = &found.facts.build.cuda_architectures;
    let capability = |text: &str| version(text).map(|(major, minor)| major * 10 + minor);
    let unserved = gpus.iter().find(|gpu| {
        !built.is_empty()
            && gpu
                .compute_capability
                .as_deref()
                .and_then(capability)
                .is_some_and(|number| !built.iter().any(|architecture| serves(architecture, number)))
    });
    let complained = found
        .engine
        .said(&["no kernel image", "architecture mismatch", "unsupported ptx"])
        .is_some();
    let Some(gpu) = unserved.or_else(|| gpus.first().filter(|_| complained)) else {
        return;
    };
    let text = gpu.compute_capability.clone().unwrap_or_else(|| "?".to_owned());
    let (name, list, number) = (gpu.name.clone(), built.join(", "), text.replace('.', ""));
    found.add(
        "cuda-architecture",
        Text::new(
            format!("This binary holds CUDA code for {list}, none of which runs on {name} (compute capability {text})."),
            format!("このバイナリに含まれる CUDA コード({list})は、{name}(compute capability {text})では動作しません。"),
        ),
        Text::new(
            format!("Rebuild for it: `CMAKE_CUDA_ARCHITECTURES={number} ./build.sh cuda`."),
            format!("この GPU 用に再ビルドしてください: `CMAKE_CUDA_ARCHITECTURES={number} ./build.sh cuda`。"),
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::serves;

    #[test]
    fn architectures_serve_the_gpus_that_cuda_says_they_do() {
        assert!(serves("90-real", 90) && !serves("90-real", 89) && !serves("90-real", 100));
        assert!(serves("80-virtual", 90) && serves("80-virtual", 120) && !serves("80-virtual", 75));
        assert!(serves("86", 89) && serves("86", 120) && !serves("86", 80));
        assert!(
            serves("80-real", 86),
            "machine code runs on later minors of its major"
        );
        assert!(serves("120a-real", 120) && !serves("120a-real", 121));
        assert!(
            serves("native", 50),
            "unknown words are not held against the build"
        );
    }
}
