//! The model store against real files, a real HTTP server on this machine and, in one test, real Python packages.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set up its case is to fail there"
)]

mod checkpoints;
mod ggml_file;
mod import;
mod packages;
mod pull;
mod server;
mod store;

use std::path::Path;
use std::sync::Mutex;

use whisper_backend_api::models::Progress;

/// Remembers what it was told.
#[derive(Default)]
struct Recorder {
    notes: Mutex<Vec<String>>,
    bytes: Mutex<u64>,
}

impl Recorder {
    fn notes(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }

    fn bytes(&self) -> u64 {
        *self.bytes.lock().unwrap()
    }
}

impl Progress for Recorder {
    fn begin(&self, what: &str, _total: Option<u64>) {
        self.notes.lock().unwrap().push(format!("begin {what}"));
        *self.bytes.lock().unwrap() = 0;
    }

    fn advance(&self, bytes: u64) {
        *self.bytes.lock().unwrap() += bytes;
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// Names of the files in a folder, hidden ones included, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
