//! The GPU, end to end: `cargo test --test gpu_test --features vulkan` (or `cuda`).
//!
//! On a machine without a GPU a Vulkan build runs on Mesa's software driver, lavapipe (package `mesa-vulkan-drivers`):
//! slow, but the same way from the HTTP request to the device and back. Where no device can be had at all the tests say
//! "skipped: no GPU" aloud and pass, unless `GPU_TESTS_MUST_RUN` is set. They need `models/ggml-tiny.en.bin` (`WhisperBackendAPI models pull tiny.en`), or a
//! model named by `GPU_TEST_MODEL`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg_attr(
    not(feature = "vulkan"),
    allow(dead_code, reason = "a software device exists for Vulkan only")
)]

#[path = "gpu_test/server.rs"]
mod server;
#[path = "server/transcripts.rs"]
mod transcripts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Server, kill, post};
use transcripts::{word_errors, words};

const BINARY: &str = env!("CARGO_BIN_EXE_WhisperBackendAPI");

/// A software driver on a busy machine compiles shaders for minutes the first time.
const PATIENCE: Duration = Duration::from_secs(600);

type Environment = Vec<(&'static str, String)>;

/// One server at a time: software drivers take every core they can get.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Past libtest's capture, so that it is seen without `--nocapture`.
fn aloud(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn gpus(environment: &Environment) -> Vec<Value> {
    let output = Command::new(BINARY)
        .args(["engine", "--devices"])
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What makes this build find a device: nothing on a machine with a GPU, lavapipe elsewhere. `None` after saying so.
fn device() -> Option<Environment> {
    static FOUND: OnceLock<Option<Environment>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if !gpus(&Vec::new()).is_empty() {
                return Some(Vec::new());
            }
            if !cfg!(feature = "vulkan") {
                return None;
            }
            let folder = Path::new("/usr/share/vulkan/icd.d");
            let manifest = std::fs::read_dir(folder)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| {
                    path.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd"))
                })?;
            let lavapipe = vec![
                ("VK_DRIVER_FILES", manifest.display().to_string()),
                ("GGML_VK_VISIBLE_DEVICES", "0".to_owned()),
            ];
            (!gpus(&lavapipe).is_empty()).then_some(lavapipe)
        })
        .clone()
}

macro_rules! device_or_skip {
    () => {
        match device() {
            Some(environment) => environment,
            None => {
                assert!(
                    std::env::var_os("GPU_TESTS_MUST_RUN").is_none(),
                    "GPU_TESTS_MUST_RUN is set, but ggml lists no device"
                );
                return aloud(
                    "skipped: no GPU (this build has no GPU backend, or the machine no device for it)",
                );
            }
        }
    };
}

#[path = "gpu_test/script.rs"]
mod script;

fn model() -> PathBuf {
    let path = std::env::var_os("GPU_TEST_MODEL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ggml-tiny.en.bin"),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "`{}` is missing; run `{BINARY} models pull tiny.en`",
        path.display()
    );
    path
}

fn recording() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jfk.wav")).unwrap()
}

/// The first four seconds: "And so my fellow Americans".
fn short_recording() -> Vec<u8> {
    let whole = recording();
    let data = whole.windows(4).position(|name| name == b"data").unwrap() + 8;
    let samples: u32 = 4 * 32_000; // bytes: 16 kHz, 16 bits
    let mut short = whole[..data + samples as usize].to_vec();
    short[data - 4..data].copy_from_slice(&samples.to_le_bytes());
    let riff = u32::try_from(short.len() - 8).unwrap();
    short[4..8].copy_from_slice(&riff.to_le_bytes());
    short
}

const SHORT_WORDS: &str = "and so my fellow americans";
/// One word in twenty: the GPU's transcript against the CPU's, since kernels round differently.
const TOLERANCE: f64 = 0.05;
const ALL_WORDS: &str = "and so my fellow americans ask not what your country can do for you ask what you can do for \
                         your country";

/// The recording ends inside the next word, of which the smallest model may make something.
fn assert_short(text: &str) {
    let heard = words(text).join(" ");
    assert!(heard.starts_with(SHORT_WORDS), "{heard}");
}

#[test]
fn the_gpu_writes_what_the_cpu_writes_and_is_named_as_it_is() {
    let environment = device_or_skip!();
    let _alone = alone();
    let listed = gpus(&environment);
    let name = listed[0]["description"].as_str().unwrap();

    let server = Server::start(&environment, &[]);
    let on_gpu = server.transcribe(&recording());

    let (_, health) = server.get("/health");
    assert_eq!(health["device"]["gpu"], true, "{health}");
    assert_eq!(health["device"]["description"], name);
    let (_, report) = server.get("/gpu-status");
    assert_eq!(report["gpu_requested"], true);
    assert_eq!(report["gpu_actually_enabled"], true);
    assert_eq!(report["device"]["name"], name);
    assert!(
        report["device"]["memory_total_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0),
        "{report}"
    );
    assert_ne!(report["backend"], "CPU");
    assert!(
        report["reason"].as_str().unwrap().contains(name),
        "{}",
        report["reason"]
    );
    assert_eq!(report["fallbacks"], serde_json::json!([]));
    let weights = report["device"]["weights_bytes"].as_object().unwrap();
    let device = health["device"]["name"].as_str().unwrap();
    assert!(
        weights.get(device).and_then(Value::as_u64) > Some(1_000_000),
        "{report}"
    );
    assert_eq!(report["device"]["weights_on_cpu_bytes"], 0, "{report}");
    server.banner_with(&format!("{device}: {name}"));
    server.banner_with("GPU: configured on -> actual: on");
    let log = server.log();
    assert!(log.contains("Transcription starts on the GPU"), "{log}");
    assert!(log.contains("ms (GPU)"), "{log}");
    if name.contains("llvmpipe") {
        assert_eq!(report["advice"][0]["id"], "vulkan-software-in-use");
    }
    drop(server);

    let server = Server::start(&environment, &["--cpu"]);
    let (_, report) = server.get("/gpu-status");
    assert_eq!(report["gpu_actually_enabled"], false);
    assert_eq!(report["backend"], "CPU");
    assert_eq!(report["advice"][0]["id"], "gpu-not-requested");
    let on_cpu = server.transcribe(&recording());
    let log = server.log();
    assert!(
        log.contains("Transcription starts on the CPU") && log.contains("ms (CPU)"),
        "{log}"
    );
    let (on_gpu, on_cpu) = (words(&on_gpu), words(&on_cpu));
    let rate = word_errors(&on_cpu, &on_gpu) as f64 / on_cpu.len() as f64;
    assert!(rate <= TOLERANCE, "{rate}: {on_gpu:?}, on the CPU {on_cpu:?}");
    assert_eq!(on_cpu.join(" "), ALL_WORDS);
}

#[test]
fn an_engine_killed_in_the_middle_of_a_request_costs_nothing_but_time() {
    let environment = device_or_skip!();
    let _alone = alone();
    let server = Server::start(&environment, &[]);
    let first = server.engine_pids();
    assert_eq!(first.len(), 1);

    let address = server.address.clone();
    let request = std::thread::spawn(move || post(&address, &short_recording()));
    wait_for_a_running_window(&server, || request.is_finished());
    kill(first[0]);
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}\n{}", server.log());
    assert_short(body["text"].as_str().unwrap());

    let (_, stats) = server.get("/stats");
    assert!(stats["engine"]["restarts"].as_u64() >= Some(1), "{stats}");
    // One death is no reason to give the GPU up.
    let (_, health) = server.get("/health");
    assert_eq!(health["device"]["gpu"], true, "{health}");
    assert_ne!(server.engine_pids(), first);
}

#[test]
fn a_gpu_that_keeps_failing_is_given_up_for_the_cpu() {
    let environment = device_or_skip!();
    let _alone = alone();
    let server = Server::start(&environment, &[]);
    let address = server.address.clone();
    let request = std::thread::spawn(move || post(&address, &short_recording()));
    wait_for_a_running_window(&server, || request.is_finished());
    // Every engine on the GPU dies as soon as it is seen, until the CPU serves.
    let start = Instant::now();
    while !request.is_finished() {
        assert!(start.elapsed() < PATIENCE, "{}", server.log());
        let (_, health) = server.get("/health");
        if health["device"]["gpu"] == true {
            for pid in health["engine"]["pids"].as_array().unwrap() {
                let _ = Command::new("kill")
                    .args(["-9", &pid.to_string()])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}\n{}", server.log());
    assert_short(body["text"].as_str().unwrap());
    let (_, report) = server.get("/gpu-status");
    assert_eq!(report["gpu_actually_enabled"], false);
    assert_eq!(report["backend"], "CPU");
    assert!(!report["fallbacks"].as_array().unwrap().is_empty(), "{report}");
    assert!(
        report["reason"].as_str().unwrap().contains("killed"),
        "{}",
        report["reason"]
    );
}

/// The engine has work.
fn wait_for_a_running_window(server: &Server, over: impl Fn() -> bool) {
    let start = Instant::now();
    while server.get("/stats").1["queue"]["windows_running"].as_i64() < Some(1) {
        assert!(
            !over() && start.elapsed() < PATIENCE,
            "no window runs\n{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Serves a request on the CPU under broken circumstances, and returns the report.
fn serves_on_the_cpu(environment: &Environment, flags: &[&str]) -> Value {
    let server = Server::start(environment, flags);
    assert_short(&server.transcribe(&short_recording()));
    let (_, report) = server.get("/gpu-status");
    assert_eq!(report["gpu_requested"], true, "{report}");
    assert_eq!(report["gpu_actually_enabled"], false, "{report}");
    assert_eq!(report["backend"], "CPU", "{report}");
    assert!(
        !report["recommendations"].as_array().unwrap().is_empty(),
        "{report}"
    );
    report
}

fn changed(environment: &Environment, name: &'static str, value: &str) -> Environment {
    let mut changed: Environment = environment
        .iter()
        .filter(|(other, _)| *other != name)
        .cloned()
        .collect();
    changed.push((name, value.to_owned()));
    changed
}

#[cfg(feature = "vulkan")]
#[test]
fn a_device_number_that_does_not_exist_is_explained() {
    let environment = device_or_skip!();
    let _alone = alone();
    let report = serves_on_the_cpu(&changed(&environment, "GGML_VK_VISIBLE_DEVICES", "7"), &[]);
    assert_eq!(report["advice"][0]["id"], "vulkan-visible-devices", "{report}");
    assert!(
        report["reason"]
            .as_str()
            .unwrap()
            .contains("GGML_VK_VISIBLE_DEVICES=7")
    );
}

#[cfg(feature = "vulkan")]
#[test]
fn a_machine_without_a_vulkan_driver_is_explained() {
    let environment = device_or_skip!();
    let _alone = alone();
    let report = serves_on_the_cpu(&changed(&environment, "VK_DRIVER_FILES", "/nowhere.json"), &[]);
    assert_eq!(report["advice"][0]["id"], "vulkan-driver-files", "{report}");
}

/// ggml aborts the process when weights do not fit; the driver is told that nothing above 1 MB does.
#[cfg(feature = "vulkan")]
#[test]
fn weights_that_do_not_fit_end_on_the_cpu_with_the_reason() {
    let environment = device_or_skip!();
    let _alone = alone();
    let environment = changed(&environment, "GGML_VK_FORCE_MAX_ALLOCATION_SIZE", "1000000");
    let environment = changed(&environment, "GGML_VK_FORCE_MAX_BUFFER_SIZE", "1000000");
    let report = serves_on_the_cpu(&environment, &[]);
    assert_eq!(report["advice"][0]["id"], "gpu-out-of-memory", "{report}");
    assert!(!report["fallbacks"].as_array().unwrap().is_empty(), "{report}");
}

#[cfg(feature = "cuda")]
#[test]
fn hidden_cuda_devices_are_explained() {
    let environment = device_or_skip!();
    let _alone = alone();
    let report = serves_on_the_cpu(&changed(&environment, "CUDA_VISIBLE_DEVICES", ""), &[]);
    assert_eq!(report["advice"][0]["id"], "cuda-visible-devices", "{report}");
}

/// A driver can end whatever process asks it for its devices; the engine on the CPU must not ask.
#[cfg(all(feature = "vulkan", target_os = "linux"))]
#[test]
fn a_driver_that_crashes_costs_no_request() {
    let environment = device_or_skip!();
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("crash.c"), folder.path().join("libcrash.so"));
    std::fs::write(
        &source,
        "#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n",
    )
    .unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(compiled.success());
    let driver = folder.path().join("crash.json");
    let manifest = serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": library, "api_version": "1.3.0" },
    });
    std::fs::write(&driver, manifest.to_string()).unwrap();

    let environment = changed(&environment, "VK_DRIVER_FILES", &driver.display().to_string());
    let report = serves_on_the_cpu(&environment, &[]);
    assert_eq!(report["advice"][0]["id"], "gpu-search-ended", "{report}");
    assert!(
        report["reason"].as_str().unwrap().contains("ended with abort"),
        "{report}"
    );
}

/// Settings under which PoCL, OpenCL on the processor, is all that a build can find; `None`, said aloud, without PoCL.
#[cfg(all(feature = "opencl", target_os = "linux"))]
fn pocl_alone(vendors: &Path) -> Option<Environment> {
    let driver = std::fs::read_dir("/etc/OpenCL/vendors")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("pocl"));
    let Some(driver) = driver else {
        aloud("skipped: PoCL is not installed (apt install pocl-opencl-icd)");
        return None;
    };
    std::fs::copy(driver, vendors.join("pocl.icd")).unwrap();
    Some(vec![
        ("OCL_ICD_VENDORS", format!("{}/", vendors.display())),
        // A build with other backends has no device of theirs.
        ("VK_DRIVER_FILES", "/nowhere.json".to_owned()),
        ("CUDA_VISIBLE_DEVICES", String::new()),
    ])
}

/// ggml ends the process that asks it for devices when a selector matches none.
#[cfg(all(feature = "opencl", target_os = "linux"))]
#[test]
fn an_opencl_selector_that_matches_nothing_is_explained() {
    let vendors = tempfile::tempdir().unwrap();
    let Some(environment) = pocl_alone(vendors.path()) else {
        return;
    };
    let _alone = alone();
    let report = serves_on_the_cpu(&changed(&environment, "GGML_OPENCL_PLATFORM", "nobody"), &[]);
    assert_eq!(report["advice"][0]["id"], "opencl-selector", "{report}");
}

/// ggml's OpenCL kernels refuse PoCL: by its name, or where that holds "Intel" for want of half precision.
#[cfg(all(feature = "opencl", target_os = "linux"))]
#[test]
fn a_device_that_ggml_refuses_is_named_with_the_reason() {
    let vendors = tempfile::tempdir().unwrap();
    let Some(environment) = pocl_alone(vendors.path()) else {
        return;
    };
    let _alone = alone();
    let report = serves_on_the_cpu(&environment, &[]);
    let advice = report["advice"].as_array().unwrap();
    let refused = advice
        .iter()
        .find(|one| one["id"] == "opencl-device-refused")
        .unwrap_or_else(|| panic!("{report}"));
    let cause = refused["cause"]["en"].as_str().unwrap();
    // PoCL calls its device after the processor.
    assert!(cause.contains("`pthread-") || cause.contains("`cpu-"), "{cause}");
    let remedy = refused["remedy"]["en"].as_str().unwrap();
    assert!(remedy.contains("./build.sh vulkan"), "{remedy}");
}

/// A library that the loader must find before `main` is one without which there is no banner and no reason either.
#[cfg(all(target_os = "linux", not(feature = "hipblas")))]
#[test]
fn the_binary_starts_where_no_gpu_library_is() {
    let output = Command::new("ldd").arg(BINARY).output().unwrap();
    let needed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(needed.contains("libc.so"), "{needed}");
    for library in ["libvulkan", "libOpenCL", "libcuda", "libcudart", "libcublas"] {
        assert!(!needed.contains(library), "{needed}");
    }
}

/// Whatever this build and machine are: a request is answered, and the report and the health route agree.
#[test]
fn the_report_never_claims_more_than_the_engine() {
    let _alone = alone();
    let server = Server::start(&Vec::new(), &["--cpu"]);
    assert_short(&server.transcribe(&short_recording()));
    let (_, report) = server.get("/gpu-status");
    let (_, health) = server.get("/health");
    assert_eq!(report["gpu_actually_enabled"], health["device"]["gpu"]);
    assert_eq!(report["backend"], health["device"]["backend"]);
    for key in [
        "environment",
        "libraries",
        "device_nodes",
        "platform",
        "fallbacks",
        "recommendations",
        "compiled_backends",
    ] {
        assert!(!report[key].is_null(), "`{key}` is missing");
    }
    for library in ["cudart", "cublas", "OpenCL", "vulkan", "amdhip64"] {
        assert!(
            report["libraries"][library]["found"].is_boolean(),
            "`{library}` is missing"
        );
    }
    for node in ["/dev/nvidia0", "/dev/kfd", "/dev/dri", "/dev/dxg"] {
        assert!(
            report["device_nodes"][node]["present"].is_boolean(),
            "`{node}` is missing"
        );
    }
}
