//! Names, paths, lists, and files that whisper.cpp must never see.

use std::fs;

use tempfile::TempDir;
use whisper_backend_api::models::{
    Checked, ModelError, Quantization, Silent, SizeClass, Store, WeightFormat, check, header,
};

use crate::checkpoints::{self, Shape};

#[test]
fn what_is_missing_says_what_to_type() {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path().join("models"));
    let error = store.resolve("base").unwrap_err();
    assert!(matches!(error, ModelError::NotInstalled { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("type `WhisperBackendAPI models pull base`"),
        "{error}"
    );
    let error = store.resolve("models/ggml-large-v3-turbo-q5_0.bin").unwrap_err();
    assert!(
        matches!(&error, ModelError::NotInstalled { name, .. } if name == "large-v3-turbo-q5_0"),
        "{error}"
    );
    let error = store.resolve("/nowhere/my-own.bin").unwrap_err();
    assert!(matches!(error, ModelError::NoSuchFile { .. }), "{error}");
    let error = store.resolve("bsae").unwrap_err();
    assert!(
        matches!(&error, ModelError::Unknown { near, .. } if near.contains(&"base".to_owned())),
        "{error}"
    );
    assert!(store.list().unwrap().iter().all(|line| line.path.is_none()));
}

#[test]
fn an_installed_model_is_found_by_name_file_and_path() {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path());
    checkpoints::ctranslate2(
        &folder.path().join("mine"),
        &Shape::default(),
        checkpoints::Form::F16,
    );
    let imported = store
        .import(&folder.path().join("mine"), None, None, &Silent)
        .unwrap();
    assert_eq!(imported.path, folder.path().join("ggml-mine.bin"));
    for name in ["mine", "ggml-mine.bin", imported.path.to_str().unwrap()] {
        let model = store.resolve(name).unwrap();
        assert_eq!(
            (model.name.as_str(), &model.path),
            ("mine", &imported.path),
            "{name}"
        );
        assert_eq!(model.bytes, fs::metadata(&imported.path).unwrap().len());
        assert!(model.header.multilingual());
        assert_eq!(
            (model.header.format, model.header.size()),
            (WeightFormat::F16, SizeClass::Other)
        );
    }
    let list = store.list().unwrap();
    let line = list.iter().find(|line| line.name == "mine").unwrap();
    assert!(!line.in_catalogue && line.header.is_some() && line.problem.is_none());
    assert_eq!(list.iter().filter(|line| line.path.is_some()).count(), 1);

    // Its own checksum was recorded: a changed byte is found, though whisper.cpp would load the file.
    assert!(matches!(
        store.verify("mine", &Silent).unwrap().checked,
        Checked::Recorded(_)
    ));
    let mut bytes = fs::read(&imported.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&imported.path, &bytes).unwrap();
    assert!(store.resolve("mine").is_ok());
    let error = store.verify("mine", &Silent).unwrap_err();
    assert!(matches!(error, ModelError::ChecksumMismatch { .. }), "{error}");

    assert_eq!(store.remove("mine", None).unwrap(), bytes.len() as u64);
    assert_eq!(crate::files(folder.path()), ["mine"]);
}

#[test]
fn truncated_and_foreign_files_are_refused_with_the_reason() {
    let folder = TempDir::new().unwrap();
    checkpoints::ctranslate2(
        &folder.path().join("mine"),
        &Shape::default(),
        checkpoints::Form::F16,
    );
    let store = Store::new(folder.path());
    let path = store
        .import(&folder.path().join("mine"), None, None, &Silent)
        .unwrap()
        .path;
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = check(&path).unwrap_err();
        assert!(matches!(error, ModelError::Malformed { .. }), "{what}: {error}");
        error.to_string()
    };
    // Cut in the magic, header, filters, tokens, a tensor's head, a tensor's data, one byte short.
    for length in [0, 3, 20, 5_000, 70_000, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length], &format!("cut at {length}"));
    }
    // Cut exactly between two tensors: every byte that is there makes sense.
    let end = whole.len() - (4 * 3 + 4 + "encoder.ln_post.bias".len() + 4 * 32);
    let error = refused(&whole[..end], "last tensor missing");
    assert!(error.contains("`encoder.ln_post.bias` is missing"), "{error}");
    let error = refused(&[&whole[..], b"more"].concat(), "bytes after the end");
    assert!(error.contains("ends at byte"), "{error}");
    assert!(refused(b"<html>not found</html>", "a page").contains("mark of a ggml file"));
    assert!(refused(b"GGUF\x03\0\0\0", "GGUF").contains("GGUF"));
    // Hostile numbers: each field of the header at its greatest, a token count, a token length.
    for word in 1..14 {
        let mut bytes = whole.clone();
        bytes[word * 4..word * 4 + 4].copy_from_slice(&0x7FFF_FFFF_u32.to_le_bytes());
        refused(&bytes, &format!("word {word}"));
    }
    let tokens = 56 + 80 * 201 * 4;
    for offset in [tokens, tokens + 4] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        refused(&bytes, &format!("offset {offset}"));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(check(&path).unwrap(), header(&path).unwrap());
    let listed = store.list().unwrap();
    assert!(
        listed
            .iter()
            .any(|line| line.name == "mine" && line.problem.is_none())
    );
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let listed = store.list().unwrap();
    assert!(
        listed
            .iter()
            .any(|line| line.name == "mine"
                && line.problem.as_deref().is_some_and(|p| p.contains("cut short")))
    );
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("mine");
    checkpoints::ctranslate2(&source, &Shape::default(), checkpoints::Form::F16);
    let store = Store::new(folder.path().join("models"));
    assert!(store.import(&source, Some("../escaped"), None, &Silent).is_err());
    assert!(!folder.path().join("ggml-escaped.bin").exists());
    let outside = folder.path().join("outside.bin");
    fs::write(&outside, b"keep me").unwrap();
    fs::create_dir_all(store.folder()).unwrap();
    assert!(store.remove(outside.to_str().unwrap(), None).is_err());
    assert!(outside.exists());
    let named = store
        .import(&source, Some("renamed"), Some(Quantization::Q8_0), &Silent)
        .unwrap();
    assert_eq!(named.path, store.folder().join("ggml-renamed.bin"));
}
