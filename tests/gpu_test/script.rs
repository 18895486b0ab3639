//! `./test_gpu.sh`, run as people run it: what it says, its exit code, and that nothing of it stays behind.

use std::path::Path;
use std::process::{Command, Output};

#[cfg(feature = "vulkan")]
use super::changed;
use super::{BINARY, Environment, alone, aloud, device, model, short_recording};

/// Runs the script; what it starts has its temporary files in `folder`.
fn script(folder: &Path, environment: &Environment, mode: &str) -> Output {
    let audio = folder.join("short.wav");
    std::fs::write(&audio, short_recording()).unwrap();
    Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("test_gpu.sh"))
        .arg(mode)
        .env("BINARY", BINARY)
        .env("MODEL", model())
        .env("AUDIO", &audio)
        .env("TMPDIR", folder)
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_mode_that_does_not_exist_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), &Vec::new(), "everything");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("quick|full|api|bench"));
}

#[test]
fn no_gpu_is_skipped_aloud() {
    // Nothing that a build can hold lists a device under these.
    let nothing = vec![
        ("CUDA_VISIBLE_DEVICES", String::new()),
        ("HIP_VISIBLE_DEVICES", "-1".to_owned()),
        ("OCL_ICD_VENDORS", "/nowhere".to_owned()),
    ];
    if device().is_some_and(|environment| environment.is_empty()) {
        return aloud("skipped: this machine has a GPU");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), &nothing, "quick");
    assert_eq!(output.status.code(), Some(77), "{}", said(&output));
    assert!(said(&output).contains("skipped: no GPU"), "{}", said(&output));
}

/// "Skipped" is for machines without a GPU; here somebody named a driver.
#[cfg(feature = "vulkan")]
#[test]
fn a_gpu_that_is_not_used_is_a_failure() {
    let environment = device_or_skip!();
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let broken = changed(&environment, "VK_DRIVER_FILES", "/nowhere.json");
    let output = script(folder.path(), &broken, "quick");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("unset VK_DRIVER_FILES"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_routes_are_good_on_the_gpu_and_no_server_stays_behind() {
    let environment = device_or_skip!();
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), &environment, "api");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in ["ok: verbose_json", "ok: /health names a GPU (true)", "== good"] {
        assert!(text.contains(line), "`{line}` is missing: {text}");
    }
    #[cfg(target_os = "linux")]
    {
        let ours = folder.path().display().to_string();
        let still_there: Vec<String> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok())
            .filter(|line| line.contains(&ours))
            .collect();
        assert!(still_there.is_empty(), "{still_there:?}");
    }
}
