//! The arrows between modules go one way, and some names stay in one place.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

/// Every `crate::NAME` in a module's files.
fn uses(module: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join(format!("{module}.rs"))];
    if root.join(module).is_dir() {
        files.extend(sources(&root.join(module)));
    }
    let mut out = BTreeSet::new();
    for file in files.iter().filter(|f| f.exists()) {
        let text = std::fs::read_to_string(file).unwrap();
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for part in line.split("crate::").skip(1) {
                let name: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !name.is_empty() && name != module {
                    out.insert(name);
                }
            }
        }
    }
    out
}

#[test]
fn leaves_know_nobody_and_arrows_go_one_way() {
    let allowed: [(&str, &[&str]); 13] = [
        ("process", &[]),
        ("audio", &["process"]),
        ("speech", &[]),
        ("transcript", &[]),
        ("models", &["process"]),
        ("diagnostics", &["process"]),
        ("render", &["languages", "transcript"]),
        (
            "engine",
            &["audio", "languages", "metrics", "process", "transcript"],
        ),
        ("serving", &["config", "engine", "metrics", "models"]),
        (
            "schedule",
            &["audio", "engine", "metrics", "serving", "transcript"],
        ),
        (
            "jobs",
            &[
                "audio",
                "config",
                "engine",
                "languages",
                "locale",
                "metrics",
                "schedule",
                "serving",
                "speech",
                "transcript",
            ],
        ),
        (
            "status",
            &[
                "config",
                "diagnostics",
                "engine",
                "jobs",
                "locale",
                "metrics",
                "schedule",
                "serving",
            ],
        ),
        (
            "http",
            &[
                "audio",
                "config",
                "jobs",
                "languages",
                "locale",
                "render",
                "serving",
                "status",
                "transcript",
            ],
        ),
    ];
    for (module, may) in allowed {
        let foreign: Vec<String> = uses(module)
            .into_iter()
            .filter(|u| !may.contains(&u.as_str()))
            .collect();
        assert!(foreign.is_empty(), "`{module}` must not use {foreign:?}");
    }
}

#[test]
fn only_one_folder_names_whisper_rs_and_only_one_folder_starts_engines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&root) {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let code: String = text
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .collect();
        if code.contains("whisper_rs::") {
            assert!(name.starts_with("engine/whisper/"), "{name} names whisper_rs");
        }
        if code.contains("tokio::process")
            || code.contains("process::Command")
            || code.contains("Command::new")
        {
            // Engines and ffmpeg are on their way into the same room.
            assert!(
                ["process/", "engine/process/", "audio/ffmpeg.rs"]
                    .iter()
                    .any(|room| name.starts_with(room)),
                "{name} starts processes"
            );
        }
    }
}
