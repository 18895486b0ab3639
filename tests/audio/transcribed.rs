//! Every encoding of `matrix.py`, through a running server with a real model.

use std::fs;

use serde_json::Value;

use super::matrix;
use super::support::transcripts::{word_errors, words};
use super::support::{JFK, with_model};

/// Word errors forgiven among 22: the smallest model hears half a word in what is sampled at 8 kHz, or has 8 bits.
const FORGIVEN: usize = 2;

#[test]
fn every_encoding_is_transcribed_right() {
    let Some(encodings) = matrix::encodings() else {
        return;
    };
    let server = with_model("tiny.en", "").start();
    let expected = words(JFK);
    let mut failures = Vec::new();
    for encoding in encodings {
        let name = encoding.path.file_name().unwrap().to_string_lossy().into_owned();
        // Each is sent as `clip.wav`: what it is, its bytes say.
        let (status, body) = server.post(&fs::read(&encoding.path).unwrap(), &[("language", "en")]);
        let body: Value = serde_json::from_str(&body).unwrap();
        let heard = words(body["text"].as_str().unwrap_or_default());
        let errors = word_errors(&expected, &heard);
        println!("{name:32} {status} {errors} word errors");
        if status != 200 || errors > FORGIVEN {
            failures.push(format!("{name}: {status} {body}"));
        }
    }
    let said = server.said();
    assert!(
        !said.contains("clip.wav"),
        "an upload's name is in the log:\n{said}"
    );
    matrix::assert_none_failed(&failures, encodings);
}
