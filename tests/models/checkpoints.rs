//! Tiny Whisper checkpoints with known numbers, written in the foreign formats.
//! Written from the formats' descriptions, apart from the program's own code.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

/// Dimensions that keep the files small; the vocabulary must be one that Whisper has.
#[derive(Clone, Copy)]
pub struct Shape {
    pub state: usize,
    pub heads: u16,
    pub vocabulary: usize,
    pub mels: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            state: 32,
            heads: 2,
            vocabulary: 51_865,
            mels: 80,
            encoder_layers: 2,
            decoder_layers: 1,
        }
    }
}

pub const AUDIO_CONTEXT: usize = 20;
pub const TEXT_CONTEXT: usize = 16;

/// How numbers are stored.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    F32,
    F16,
    Bf16,
    Int8,
}

/// The numbers of a tensor by its ggml name: multiples of 1/1024 below 1, so exact in f16.
pub fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(2_166_136_261_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) % 2_001) as f32 / 1024.0 - 1000.0 / 1024.0
        })
        .collect()
}

/// GPT-2 spelling of some tokens; the others are plain words.
pub fn token_spelling(number: usize) -> String {
    match number {
        0 => "Ġthe".to_owned(),
        1 => "Ċ".to_owned(),
        2 => "ãģĤ".to_owned(),
        50_256 => String::new(),
        50_257 => "<|endoftext|>".to_owned(),
        _ => format!("w{number}"),
    }
}

/// One layer's tensors: (ggml name, CTranslate2 name, Hugging Face name, shape). Stacked ones have no CTranslate2 name.
fn layer(side: &str, index: usize, state: usize) -> Vec<(String, Option<String>, String, Vec<usize>)> {
    let mut list = Vec::new();
    let mut add = |ggml: &str, ct2: Option<&str>, hf: &str, parameter: &str, shape: &[usize]| {
        let norm = if parameter == "weight" { "gamma" } else { "beta" };
        let ct2_parameter = if ggml.ends_with("_ln") { norm } else { parameter };
        list.push((
            format!("{side}.blocks.{index}.{ggml}.{parameter}"),
            ct2.map(|name| format!("{side}/layer_{index}/{name}/{ct2_parameter}")),
            format!("{side}.layers.{index}.{hf}.{parameter}"),
            shape.to_vec(),
        ));
    };
    let mut both = |ggml: &str, ct2: Option<&str>, hf: &str, outputs: usize, inputs: Option<usize>| {
        let weight: Vec<usize> = std::iter::once(outputs).chain(inputs).collect();
        add(ggml, ct2, hf, "weight", &weight);
        if !ggml.ends_with("key") {
            add(ggml, ct2, hf, "bias", &[outputs]);
        }
    };
    both("mlp_ln", Some("ffn/layer_norm"), "final_layer_norm", state, None);
    both("mlp.0", Some("ffn/linear_0"), "fc1", 4 * state, Some(state));
    both("mlp.2", Some("ffn/linear_1"), "fc2", state, Some(4 * state));
    both(
        "attn_ln",
        Some("self_attention/layer_norm"),
        "self_attn_layer_norm",
        state,
        None,
    );
    both("attn.query", None, "self_attn.q_proj", state, Some(state));
    both("attn.key", None, "self_attn.k_proj", state, Some(state));
    both("attn.value", None, "self_attn.v_proj", state, Some(state));
    both(
        "attn.out",
        Some("self_attention/linear_1"),
        "self_attn.out_proj",
        state,
        Some(state),
    );
    if side == "decoder" {
        both(
            "cross_attn_ln",
            Some("attention/layer_norm"),
            "encoder_attn_layer_norm",
            state,
            None,
        );
        both(
            "cross_attn.query",
            Some("attention/linear_0"),
            "encoder_attn.q_proj",
            state,
            Some(state),
        );
        both("cross_attn.key", None, "encoder_attn.k_proj", state, Some(state));
        both(
            "cross_attn.value",
            None,
            "encoder_attn.v_proj",
            state,
            Some(state),
        );
        both(
            "cross_attn.out",
            Some("attention/linear_2"),
            "encoder_attn.out_proj",
            state,
            Some(state),
        );
    }
    list
}

/// All tensors: (ggml name, CTranslate2 name, Hugging Face name, shape).
pub fn tensors(shape: &Shape) -> Vec<(String, Option<String>, String, Vec<usize>)> {
    let state = shape.state;
    let fixed = [
        (
            "decoder.positional_embedding",
            "decoder/position_encodings/encodings",
            "decoder.embed_positions.weight",
            vec![TEXT_CONTEXT, state],
        ),
        (
            "encoder.positional_embedding",
            "encoder/position_encodings/encodings",
            "encoder.embed_positions.weight",
            vec![AUDIO_CONTEXT, state],
        ),
        (
            "decoder.token_embedding.weight",
            "decoder/embeddings/weight",
            "decoder.embed_tokens.weight",
            vec![shape.vocabulary, state],
        ),
        (
            "decoder.ln.weight",
            "decoder/layer_norm/gamma",
            "decoder.layer_norm.weight",
            vec![state],
        ),
        (
            "decoder.ln.bias",
            "decoder/layer_norm/beta",
            "decoder.layer_norm.bias",
            vec![state],
        ),
        (
            "encoder.ln_post.weight",
            "encoder/layer_norm/gamma",
            "encoder.layer_norm.weight",
            vec![state],
        ),
        (
            "encoder.ln_post.bias",
            "encoder/layer_norm/beta",
            "encoder.layer_norm.bias",
            vec![state],
        ),
        (
            "encoder.conv1.weight",
            "encoder/conv1/weight",
            "encoder.conv1.weight",
            vec![state, shape.mels, 3],
        ),
        (
            "encoder.conv1.bias",
            "encoder/conv1/bias",
            "encoder.conv1.bias",
            vec![state],
        ),
        (
            "encoder.conv2.weight",
            "encoder/conv2/weight",
            "encoder.conv2.weight",
            vec![state, state, 3],
        ),
        (
            "encoder.conv2.bias",
            "encoder/conv2/bias",
            "encoder.conv2.bias",
            vec![state],
        ),
    ];
    let mut list: Vec<_> = fixed
        .into_iter()
        .map(|(ggml, ct2, hf, shape)| (ggml.to_owned(), Some(ct2.to_owned()), hf.to_owned(), shape))
        .collect();
    for (side, layers) in [
        ("encoder", shape.encoder_layers),
        ("decoder", shape.decoder_layers),
    ] {
        list.extend((0..layers).flat_map(|index| layer(side, index, state)));
    }
    list
}

fn encode(values: &[f32], form: Form) -> Vec<u8> {
    match form {
        Form::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Form::F16 => values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect(),
        Form::Bf16 => values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
        Form::Int8 => unreachable!("integers have scales"),
    }
}

struct Writer {
    bytes: Vec<u8>,
    count: u32,
    form: Form,
}

impl Writer {
    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as u16 + 1).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn raw(&mut self, name: &str, shape: &[usize], kind: u8, data: &[u8]) {
        self.count += 1;
        self.string(name);
        self.bytes.push(shape.len() as u8);
        for dimension in shape {
            self.bytes.extend((*dimension as u32).to_le_bytes());
        }
        self.bytes.push(kind);
        self.bytes.extend((data.len() as u32).to_le_bytes());
        self.bytes.extend(data);
    }

    fn variable(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let quantizable = name.ends_with("weight") && shape.len() > 1;
        match self.form {
            Form::Int8 if quantizable => {
                let row = values.len() / shape[0];
                let mut scales = Vec::new();
                let mut data = Vec::new();
                for row in values.chunks(row) {
                    let scale = 127.0 / row.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
                    scales.push(scale);
                    data.extend(row.iter().map(|v| (v * scale).round() as i8 as u8));
                }
                self.raw(name, shape, 1, &data);
                self.raw(
                    &format!("{name}_scale"),
                    &[shape[0]],
                    0,
                    &encode(&scales, Form::F32),
                );
            }
            Form::Int8 | Form::F32 => self.raw(name, shape, 0, &encode(values, Form::F32)),
            Form::F16 => self.raw(name, shape, 4, &encode(values, Form::F16)),
            Form::Bf16 => self.raw(name, shape, 5, &encode(values, Form::Bf16)),
        }
    }
}

/// A faster-whisper folder.
pub fn ctranslate2(folder: &Path, shape: &Shape, form: Form) {
    fs::create_dir_all(folder).unwrap();
    let state = shape.state;
    let mut writer = Writer {
        bytes: Vec::new(),
        count: 0,
        form,
    };
    writer.raw("encoder/num_heads", &[], 2, &shape.heads.to_le_bytes());
    writer.raw("decoder/num_heads", &[], 2, &shape.heads.to_le_bytes());
    for (ggml, ct2, _, dimensions) in tensors(shape) {
        if let Some(name) = ct2 {
            writer.variable(&name, &dimensions, &numbers(&ggml, dimensions.iter().product()));
        }
    }
    let stack = |prefix: &str, names: &[&str], parameter: &str| -> Vec<f32> {
        let each = if parameter == "weight" {
            state * state
        } else {
            state
        };
        names
            .iter()
            .flat_map(|name| {
                // Whisper's keys have no bias; CTranslate2 stacks zeros for it.
                if *name == "key" && parameter == "bias" {
                    vec![0.0; state]
                } else {
                    numbers(&format!("{prefix}.{name}.{parameter}"), each)
                }
            })
            .collect()
    };
    for (side, layers) in [
        ("encoder", shape.encoder_layers),
        ("decoder", shape.decoder_layers),
    ] {
        for index in 0..layers {
            let mut stacks = vec![("attn", "self_attention/linear_0", &["query", "key", "value"][..])];
            if side == "decoder" {
                stacks.push(("cross_attn", "attention/linear_1", &["key", "value"]));
                let query = format!("{side}.blocks.{index}.cross_attn.query");
                assert!(
                    tensors(shape)
                        .iter()
                        .any(|(ggml, ct2, ..)| ggml.starts_with(&query) && ct2.is_some())
                );
            }
            for (module, name, pieces) in stacks {
                let prefix = format!("{side}.blocks.{index}.{module}");
                let name = format!("{side}/layer_{index}/{name}");
                let rows = pieces.len() * state;
                writer.variable(
                    &format!("{name}/weight"),
                    &[rows, state],
                    &stack(&prefix, pieces, "weight"),
                );
                writer.variable(&format!("{name}/bias"), &[rows], &stack(&prefix, pieces, "bias"));
            }
        }
    }
    let (body, count) = (std::mem::take(&mut writer.bytes), writer.count);
    writer.bytes.extend(6_u32.to_le_bytes());
    writer.string("WhisperSpec");
    writer.bytes.extend(3_u32.to_le_bytes());
    writer.bytes.extend(count.to_le_bytes());
    writer.bytes.extend(body);
    writer.bytes.extend(1_u32.to_le_bytes());
    writer.string("decoder/projection/weight");
    writer.string("decoder/embeddings/weight");
    fs::write(folder.join("model.bin"), writer.bytes).unwrap();
    let lines: Vec<String> = (0..=50_257).map(token_spelling).collect();
    fs::write(folder.join("vocabulary.txt"), lines.join("\n")).unwrap();
}

/// A Hugging Face folder, in `shards` files.
pub fn huggingface(folder: &Path, shape: &Shape, form: Form, shards: usize) {
    fs::create_dir_all(folder).unwrap();
    let dtype = match form {
        Form::F32 => Dtype::F32,
        Form::F16 => Dtype::F16,
        Form::Bf16 => Dtype::BF16,
        Form::Int8 => unreachable!("no Hugging Face export is so"),
    };
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(shape)
        .into_iter()
        .map(|(ggml, _, hf, dimensions)| {
            let bytes = encode(&numbers(&ggml, dimensions.iter().product()), form);
            (format!("model.{hf}"), dimensions, bytes)
        })
        .collect();
    let mut index = HashMap::new();
    for (number, shard) in data.chunks(data.len().div_ceil(shards)).enumerate() {
        let name = if shards == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{number:05}.safetensors")
        };
        let views = shard.iter().map(|(tensor, dimensions, bytes)| {
            (
                tensor.as_str(),
                TensorView::new(dtype, dimensions.clone(), bytes).unwrap(),
            )
        });
        safetensors::serialize_to_file(views, None, &folder.join(&name)).unwrap();
        index.extend(shard.iter().map(|(tensor, ..)| (tensor.clone(), name.clone())));
    }
    if shards > 1 {
        let text = serde_json::json!({ "metadata": {}, "weight_map": index }).to_string();
        fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    }
    let config = serde_json::json!({
        "model_type": "whisper",
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokens: HashMap<String, usize> = (0..=50_257)
        .map(|number| (token_spelling(number), number))
        .collect();
    fs::write(folder.join("vocab.json"), serde_json::to_string(&tokens).unwrap()).unwrap();
}
