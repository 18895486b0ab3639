//! Several GPUs, and GPUs short of memory: real engine processes, by a script in place of whisper.cpp, so that they say
//! what nobody has at hand.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use whisper_backend_api::engine::process::Launcher;
use whisper_backend_api::engine::{DecodeOptions, EngineSpec};
use whisper_backend_api::metrics::Metrics;
use whisper_backend_api::schedule::{Deadline, PriorityClass, RequestId, Scheduler, Watchdog, WindowTask};
use whisper_backend_api::serving::{EnginePlan, Lease, Model, Placement};

struct Engines {
    model: Arc<Model>,
    lease: Lease,
    scheduler: Scheduler,
    _folder: tempfile::TempDir,
}

impl Engines {
    /// Engines on GPUs 0, 1, … with so many slots each, once `ready` of them serve.
    async fn start(script: &Value, gpus: u32, slots: usize, ready: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script.json");
        std::fs::write(&file, script.to_string()).unwrap();
        let plan = EnginePlan {
            spec: EngineSpec {
                model: PathBuf::from("none"),
                gpu_device: None,
                slots,
                flash_attention: true,
                max_decoders: 1,
                threads: 1,
                engine: whisper_backend_api::engine::EngineSetting::default(),
                precision: whisper_backend_api::engine::PrecisionSetting::default(),
            },
            cpu_slots: 1,
            cpu_flash_attention: false,
            starter: Arc::new(Launcher {
                program: env!("CARGO_BIN_EXE_scripted-engine").into(),
                environment: vec![("SCRIPTED_ENGINE".to_owned(), file.display().to_string())],
            }),
            room: None,
        };
        let metrics = Arc::new(Metrics::default());
        let placements: Vec<_> = (0..gpus).map(Placement::Gpu).collect();
        let (model, lease) = Model::start("scripted".to_owned(), &plan, &placements, &metrics);
        let patience = tokio::time::timeout(Duration::from_secs(60), async {
            while model.reports().len() < ready {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        patience.await.expect("the engines become ready");
        let watchdog = Watchdog {
            factor: 100.0,
            minimum: Duration::from_secs(60),
        };
        Self {
            model,
            lease,
            scheduler: Scheduler::new(8, watchdog, metrics),
            _folder: folder,
        }
    }

    /// Runs windows side by side; the script answers with the name of the device each ran on.
    async fn devices_of(&self, windows: usize) -> Vec<String> {
        let run = |_| {
            let (lease, scheduler) = (self.lease.clone(), self.scheduler.clone());
            tokio::spawn(async move {
                let task = WindowTask {
                    waiter: None,
                    request: RequestId::next(),
                    class: PriorityClass::Interactive,
                    first: false,
                    lease,
                    deadline: Deadline::new(Duration::from_secs(60)),
                    samples: vec![0.0; 16_000],
                    options: DecodeOptions::default(),
                };
                scheduler.run(task).await
            })
        };
        let running: Vec<_> = (0..windows).map(run).collect();
        let mut devices = Vec::new();
        for window in running {
            let transcript = window.await.unwrap().expect("the window is answered");
            let bytes: Vec<u8> = transcript.segments[0]
                .tokens
                .iter()
                .flat_map(|token| token.bytes.clone())
                .collect();
            devices.push(String::from_utf8(bytes).unwrap());
        }
        devices
    }
}

#[tokio::test]
async fn several_gpus_share_the_work() {
    let script = json!({"gpus": [0, 1], "text": "{device}", "delay_ms": 300});
    let engines = Engines::start(&script, 2, 1, 2).await;
    let used: BTreeSet<String> = engines.devices_of(4).await.into_iter().collect();
    assert_eq!(
        used,
        BTreeSet::from(["scripted0".to_owned(), "scripted1".to_owned()])
    );
    assert_eq!(engines.model.fallbacks(), []);
}

#[tokio::test]
async fn the_cpu_waits_while_a_gpu_is_free() {
    // The first GPU turns out to be the CPU, as ggml does it: without an error.
    let script = json!({"gpus": [1], "text": "{device}", "delay_ms": 100});
    let engines = Engines::start(&script, 2, 1, 2).await;
    let fallbacks = engines.model.fallbacks();
    assert_eq!(fallbacks.len(), 1, "{fallbacks:?}");
    assert_eq!(fallbacks[0].from, "gpu 0");
    for _ in 0..3 {
        assert_eq!(engines.devices_of(1).await, ["scripted1"]);
    }
}

#[tokio::test]
async fn short_memory_halves_the_slots_before_the_gpu_is_given_up() {
    let script = json!({"gpus": [0], "slots_that_fit": 2, "text": "{device}"});
    let engines = Engines::start(&script, 1, 8, 1).await;
    let report = &engines.model.reports()[0];
    assert!(report.gpu, "{report:?}");
    assert_eq!(report.slots, 2);
    assert_eq!(engines.model.fallbacks(), []);
    assert_eq!(engines.devices_of(1).await, ["scripted0"]);
}

#[tokio::test]
async fn a_gpu_without_room_for_one_slot_leaves_the_work_to_the_cpu() {
    let script = json!({"gpus": [0], "slots_that_fit": 0, "text": "{device}"});
    let engines = Engines::start(&script, 1, 4, 1).await;
    assert!(!engines.model.reports()[0].gpu);
    let fallbacks = engines.model.fallbacks();
    assert_eq!(fallbacks.len(), 1, "{fallbacks:?}");
    assert!(
        fallbacks[0].reason.contains("out of memory for 1 slots"),
        "{}",
        fallbacks[0].reason
    );
    assert_eq!(engines.devices_of(1).await, ["scripted"]);
}
