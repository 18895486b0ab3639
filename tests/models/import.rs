//! Foreign folders become the ggml file one would expect, number by number.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use whisper_backend_api::models::{ModelError, Quantization, Silent, check, import};

use crate::checkpoints::{self, AUDIO_CONTEXT, Form, Shape, TEXT_CONTEXT, numbers};
use crate::ggml_file::{self, Ggml};

struct Folder {
    root: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self {
            root: TempDir::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn import(&self, source: &str, quantization: Option<Quantization>) -> (PathBuf, Ggml) {
        let out = self.path(&format!("{source}.out"));
        import(&self.path(source), &out, quantization, &Silent, None).unwrap();
        check(&out).unwrap();
        let ggml = ggml_file::read(&out);
        (out, ggml)
    }
}

fn same_bytes(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

#[test]
fn a_faster_whisper_folder_keeps_every_number() {
    let folder = Folder::new();
    let shape = Shape::default();
    checkpoints::ctranslate2(&folder.path("fw"), &shape, Form::F16);
    let (_, ggml) = folder.import("fw", None);
    let (context, text) = (AUDIO_CONTEXT as u32, TEXT_CONTEXT as u32);
    assert_eq!(
        ggml.words,
        [0x6767_6d6c, 51_865, context, 32, 2, 2, text, 32, 2, 1, 80, 1]
    );
    assert_eq!(ggml.mel.len(), 80 * 201);
    assert_eq!(ggml.tokens.len(), 50_257);
    assert_eq!(ggml.tokens[0], b" the");
    assert_eq!(ggml.tokens[1], b"\n");
    assert_eq!(ggml.tokens[2], "あ".as_bytes());
    assert_eq!(ggml.tokens[50_256], b"");

    let expected = checkpoints::tensors(&shape);
    assert_eq!(ggml.tensors.len(), expected.len());
    for (name, _, _, mut dimensions) in expected {
        let tensor = &ggml.tensors[&name];
        let count = dimensions.iter().product();
        assert_eq!(tensor.values(), numbers(&name, count), "{name}");
        let convolution_bias = name == "encoder.conv1.bias" || name == "encoder.conv2.bias";
        if convolution_bias {
            dimensions.push(1);
        }
        let stored: Vec<u32> = dimensions.iter().rev().map(|d| *d as u32).collect();
        assert_eq!(tensor.dimensions, stored, "{name}");
        let small = dimensions.len() == 1 || convolution_bias || name.ends_with("positional_embedding");
        assert_eq!(tensor.kind, u32::from(!small), "{name}");
    }
}

#[test]
fn every_form_of_the_same_weights_gives_the_same_file() {
    let folder = Folder::new();
    let shape = Shape {
        mels: 128,
        vocabulary: 51_866,
        ..Shape::default()
    };
    checkpoints::ctranslate2(&folder.path("fw16"), &shape, Form::F16);
    checkpoints::ctranslate2(&folder.path("fw32"), &shape, Form::F32);
    checkpoints::huggingface(&folder.path("hf16"), &shape, Form::F16, 1);
    checkpoints::huggingface(&folder.path("hf32"), &shape, Form::F32, 3);
    let (reference, ggml) = folder.import("fw16", None);
    assert_eq!(
        (ggml.words[1], ggml.words[10], ggml.mel.len()),
        (51_866, 128, 128 * 201)
    );
    for name in ["fw32", "hf16", "hf32"] {
        assert!(same_bytes(&folder.import(name, None).0, &reference), "{name}");
    }
}

#[test]
fn coarser_numbers_come_back_as_near_as_their_form_allows() {
    let folder = Folder::new();
    let shape = Shape::default();
    checkpoints::ctranslate2(&folder.path("int8"), &shape, Form::Int8);
    checkpoints::huggingface(&folder.path("bf16"), &shape, Form::Bf16, 1);
    checkpoints::ctranslate2(&folder.path("f16"), &shape, Form::F16);
    let int8 = folder.import("int8", None).1;
    let bf16 = folder.import("bf16", None).1;
    let q8_0 = folder.import("f16", Some(Quantization::Q8_0)).1;
    assert_eq!(q8_0.words[11], 2007);
    for (name, _, _, dimensions) in checkpoints::tensors(&shape) {
        let exact = numbers(&name, dimensions.iter().product());
        // Steps of the forms for numbers below 1: 1/127 a row or block, 2^-8; half a step is lost, and a little.
        for (form, ggml, step) in [
            ("int8", &int8, 1.0 / 127.0),
            ("bf16", &bf16, 1.0 / 256.0),
            ("q8_0", &q8_0, 1.0 / 127.0),
        ] {
            let values = ggml.tensors[&name].values();
            assert_eq!(values.len(), exact.len(), "{form} {name}");
            let worst = values
                .iter()
                .zip(&exact)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst <= 0.6 * step, "{form} {name}: off by {worst}");
        }
    }
}

#[test]
fn quantising_in_one_step_equals_quantising_the_f16_file() {
    let folder = Folder::new();
    checkpoints::huggingface(&folder.path("hf"), &Shape::default(), Form::F32, 1);
    let (plain, _) = folder.import("hf", None);
    for quantization in Quantization::ALL {
        let direct = folder.path("direct");
        let in_two = folder.path("in-two");
        import(&folder.path("hf"), &direct, Some(quantization), &Silent, None).unwrap();
        let made = import(&plain, &in_two, Some(quantization), &Silent, None).unwrap();
        assert!(same_bytes(&direct, &in_two), "{quantization}");
        assert_eq!(made.header.format, quantization.format());
        // The matrices are quantised, the rest is not.
        let ggml = ggml_file::read(&in_two);
        assert_eq!(ggml.tensors["encoder.conv2.weight"].kind, 1);
        assert_eq!(ggml.tensors["encoder.positional_embedding"].kind, 0);
        assert!(ggml.tensors["decoder.token_embedding.weight"].kind > 1);
        assert!(fs::metadata(&in_two).unwrap().len() < fs::metadata(&plain).unwrap().len());
        let error = import(&in_two, &folder.path("again"), Some(quantization), &Silent, None).unwrap_err();
        assert!(error.to_string().contains("quantised already"), "{error}");
    }
}

#[test]
fn folders_that_cannot_be_taken_say_why_and_leave_no_file() {
    let folder = Folder::new();
    let shape = Shape::default();
    let refused = |name: &str, expected: &str| {
        let out = folder.path("out.bin");
        let error = import(&folder.path(name), &out, None, &Silent, None).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(!out.exists());
        error
    };
    refused("nowhere", "no such folder");
    fs::create_dir(folder.path("empty")).unwrap();
    refused("empty", "neither `model.safetensors`");
    fs::create_dir(folder.path("pickle")).unwrap();
    fs::write(folder.path("pickle/pytorch_model.bin"), b"x").unwrap();
    refused("pickle", "safetensors");

    checkpoints::ctranslate2(&folder.path("fw"), &shape, Form::F16);
    fs::rename(folder.path("fw/vocabulary.txt"), folder.path("fw/words.txt")).unwrap();
    refused("fw", "no vocabulary");
    fs::rename(folder.path("fw/words.txt"), folder.path("fw/vocabulary.txt")).unwrap();
    let model = folder.path("fw/model.bin");
    let whole = fs::read(&model).unwrap();
    for length in [0, 7, 40, 500, whole.len() / 2, whole.len() - 60] {
        fs::write(&model, &whole[..length]).unwrap();
        assert!(matches!(
            refused("fw", ""),
            ModelError::Malformed { .. } | ModelError::UnsupportedFolder { .. }
        ));
    }
    fs::write(&model, [&9_u32.to_le_bytes(), &whole[4..]].concat()).unwrap();
    refused("fw", "version 9");

    checkpoints::huggingface(&folder.path("hf"), &shape, Form::F16, 1);
    fs::write(
        folder.path("hf/config.json"),
        r#"{"model_type":"bert","encoder_attention_heads":2,"decoder_attention_heads":2}"#,
    )
    .unwrap();
    refused("hf", "`bert`");
    fs::remove_file(folder.path("hf/config.json")).unwrap();
    refused("hf", "lacks `config.json`");
    checkpoints::huggingface(&folder.path("cut"), &shape, Form::F16, 1);
    let weights = folder.path("cut/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    refused("cut", "its header describes");
    checkpoints::huggingface(
        &folder.path("odd"),
        &Shape {
            vocabulary: 60_000,
            ..shape
        },
        Form::F16,
        1,
    );
    refused("odd", "60000 entries");
    assert!(
        crate::files(folder.root.path())
            .iter()
            .all(|name| !name.contains("out.bin"))
    );
}

#[test]
fn an_import_that_is_stopped_leaves_no_file() {
    let folder = Folder::new();
    checkpoints::ctranslate2(&folder.path("fw"), &Shape::default(), Form::F16);
    let stop = std::sync::atomic::AtomicBool::new(true);
    let error = import(
        &folder.path("fw"),
        &folder.path("out.bin"),
        None,
        &Silent,
        Some(&stop),
    )
    .unwrap_err();
    assert!(matches!(error, ModelError::Cancelled), "{error}");
    assert_eq!(crate::files(folder.root.path()), ["fw"]);
}
