//! The patches of whisper.cpp are in the binary, and what they promise holds with a real model.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "server/support.rs"]
#[allow(dead_code, reason = "one toolbox for several test programs")]
mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{fixture, wav, with_model};

/// Every patch of the folder is named by the binary, in order, and no other.
#[test]
fn every_patch_is_in_the_binary() {
    let mut patches: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("patches"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".patch").map(str::to_owned))
        .collect();
    patches.sort();
    assert!(!patches.is_empty());
    let output = Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
        .arg("--version")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("whisper.cpp patches: "))
        .unwrap_or_else(|| panic!("no line about patches in {said}"));
    assert_eq!(line.split(' ').collect::<Vec<_>>(), patches);
}

/// Each says what it does, why, and where upstream stands.
#[test]
fn every_patch_names_its_reason_and_upstream() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("patches")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            let text = std::fs::read_to_string(&path).unwrap();
            let (header, _) = text.split_once("\n--- a/").expect("a unified diff");
            for line in ["\nUpstream: ", "\nSources: whisper.cpp 1.8.3"] {
                assert!(header.contains(line), "{}: no {line:?}", path.display());
            }
            assert!(header.lines().count() >= 5, "{}: no reason", path.display());
        }
    }
}

/// Pieces of the JFK clip: seconds from and to. No length is a multiple of 5.12 s, at which nothing is padded.
const PIECES: [(f32, f32); 5] = [(0.0, 2.4), (3.0, 7.7), (0.0, 11.0), (7.8, 10.8), (3.2, 10.6)];

/// `0006-flash-attention-masks-its-padding`: with flash attention, what a window says must not depend on the windows
/// that its engine ran before.
#[test]
fn words_do_not_depend_on_earlier_windows() {
    let settings = "[whisper]\nengine = \"whisper.cpp\"\nflash_attention = \"on\"\nshort_context = \"on\"\n[performance]\nslots = 1\n\
                    [speech]\nvad = false\n";
    let server = with_model("tiny.en", settings).start();
    let samples = &fixture("jfk.wav")[44..];
    let at = |seconds: f32| (seconds * 16_000.0) as usize * 2;
    let clips: Vec<Vec<u8>> = PIECES
        .iter()
        .map(|&(from, to)| wav(&samples[at(from)..at(to)]))
        .collect();
    let mut first: Vec<Option<Value>> = vec![None; clips.len()];
    // Numerical Recipes' generator: the same order in each run.
    let mut random = 2_463_534_242_u32;
    for round in 0..25 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let piece = if round < clips.len() {
            round
        } else {
            (random >> 16) as usize % clips.len()
        };
        let body: Value =
            serde_json::from_str(&server.transcript(&clips[piece], &[("response_format", "verbose_json")]))
                .unwrap();
        let mut said = body["segments"].clone();
        assert!(
            said[0]["tokens"].is_array() && said[0]["avg_logprob"].is_f64(),
            "{body}"
        );
        for segment in said.as_array_mut().unwrap() {
            // What the model said and how sure it was; the rest is derived.
            segment
                .as_object_mut()
                .unwrap()
                .retain(|key, _| ["tokens", "avg_logprob", "no_speech_prob"].contains(&key.as_str()));
        }
        match &first[piece] {
            None => first[piece] = Some(said),
            Some(before) => assert_eq!(*before, said, "piece {piece} in round {round}"),
        }
    }
}
