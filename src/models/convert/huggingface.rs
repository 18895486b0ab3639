//! A Hugging Face Whisper folder: `config.json`, `model.safetensors` (or shards with an index), a vocabulary.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::parts::Parts;
use super::{Checkpoint, ElementType, Located, arrange, mel_filters, vocabulary};
use crate::models::ModelError;
use crate::models::format::WeightFormat;
use crate::models::ggml::{GgmlHeader, MAX_LAYERS};
use crate::models::layout::TensorSpec;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// safetensors itself refuses greater headers (`MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    model_type: Option<String>,
    encoder_attention_heads: u32,
    decoder_attention_heads: u32,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

struct Tensor {
    shape: Vec<u64>,
    element: Option<ElementType>,
    dtype: String,
    offset: u64,
}

/// Whether `folder` has safetensors weights.
pub(crate) fn is_folder(folder: &Path) -> bool {
    folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
}

/// Opens the folder.
///
/// # Errors
///
/// `UnsupportedFolder` when something is missing or it is another model; `Malformed` when a file is damaged.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint, ModelError> {
    let config: ModelConfig = read_json(&folder.join("config.json"), folder)?;
    if let Some(kind) = config.model_type.filter(|kind| kind != "whisper") {
        return Err(ModelError::unsupported(
            folder,
            format!("its `config.json` says `{kind}`, not `whisper`"),
        ));
    }
    let shards = shards(folder)?;
    let data = Parts::open(&shards)?;
    let tensors = read_tensors(&shards, &data)?;
    let model = HuggingFaceModel { folder, tensors };
    let header = GgmlHeader {
        n_vocab: model.dimension("decoder.embed_tokens.weight", 0)?,
        n_audio_ctx: model.dimension("encoder.embed_positions.weight", 0)?,
        n_audio_state: model.dimension("encoder.embed_positions.weight", 1)?,
        n_audio_head: config.encoder_attention_heads,
        n_audio_layer: model.layers("encoder"),
        n_text_ctx: model.dimension("decoder.embed_positions.weight", 0)?,
        n_text_state: model.dimension("decoder.embed_positions.weight", 1)?,
        n_text_head: config.decoder_attention_heads,
        n_text_layer: model.layers("decoder"),
        n_mels: model.dimension("encoder.conv1.weight", 1)?,
        format: WeightFormat::F16,
    };
    header
        .validate()
        .map_err(|reason| ModelError::unsupported(folder, reason))?;
    let tokens = vocabulary::read(folder, &header)?;
    let tensors = arrange(&header, |spec| model.locate(spec))?;
    Ok(Checkpoint {
        header,
        mel: mel_filters(header.n_mels),
        tokens,
        tensors,
        data,
        path: folder.to_owned(),
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, folder: &Path) -> Result<T, ModelError> {
    let text = fs::read_to_string(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let name = path.file_name().unwrap_or_default().display();
            ModelError::unsupported(folder, format!("it lacks `{name}`"))
        } else {
            ModelError::io("read", path, error)
        }
    })?;
    serde_json::from_str(&text).map_err(|e| ModelError::malformed(path, e.to_string()))
}

fn shards(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index: ShardIndex = read_json(&folder.join(INDEX), folder)?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            // A shard is a file beside its index; a path that leads elsewhere is no shard.
            if Path::new(&name)
                .file_name()
                .is_none_or(|file| file != name.as_str())
            {
                return Err(ModelError::unsupported(
                    folder,
                    format!("its index names the foreign path `{name}`"),
                ));
            }
            let path = folder.join(&name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(ModelError::unsupported(folder, format!("it lacks `{name}`")))
            }
        })
        .collect()
}

fn read_tensors(shards: &[PathBuf], data: &Parts) -> Result<HashMap<String, Tensor>, ModelError> {
    let mut tensors = HashMap::new();
    for (index, path) in shards.iter().enumerate() {
        let (metadata, data_start) = read_metadata(path)?;
        for (name, info) in metadata.tensors() {
            let element = match info.dtype {
                Dtype::F32 => Some(ElementType::F32),
                Dtype::F16 => Some(ElementType::F16),
                Dtype::BF16 => Some(ElementType::Bf16),
                _ => None,
            };
            let tensor = Tensor {
                shape: info.shape.iter().map(|&dimension| dimension as u64).collect(),
                element,
                dtype: format!("{:?}", info.dtype),
                offset: data.start_of(index) + data_start + info.data_offsets.0 as u64,
            };
            // `WhisperForConditionalGeneration` prefixes `model.`, `WhisperModel` does not.
            tensors.insert(name.strip_prefix("model.").unwrap_or(&name).to_owned(), tensor);
        }
    }
    Ok(tensors)
}

/// The JSON header of a safetensors file and where its data begins. Only the header is read.
fn read_metadata(path: &Path) -> Result<(Metadata, u64), ModelError> {
    let mut file = fs::File::open(path).map_err(|e| ModelError::io("open", path, e))?;
    let length = file
        .metadata()
        .map_err(|e| ModelError::io("read", path, e))?
        .len();
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|_| ModelError::malformed(path, "it is too short for a safetensors file"))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER_BYTES.min(length.saturating_sub(8)) {
        return Err(ModelError::malformed(
            path,
            "it is no safetensors file, or cut short in its header",
        ));
    }
    let mut json = vec![0; size as usize];
    file.read_exact(&mut json)
        .map_err(|e| ModelError::io("read", path, e))?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|e| ModelError::malformed(path, e.to_string()))?;
    let expected = 8 + size + metadata.data_len() as u64;
    if expected != length {
        return Err(ModelError::malformed(
            path,
            format!("it has {length} bytes, its header describes {expected}"),
        ));
    }
    Ok((metadata, 8 + size))
}

struct HuggingFaceModel<'a> {
    folder: &'a Path,
    tensors: HashMap<String, Tensor>,
}

impl HuggingFaceModel<'_> {
    fn tensor(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.tensors.get(name).ok_or_else(|| {
            ModelError::unsupported(self.folder, format!("its model lacks the tensor `{name}`"))
        })
    }

    fn dimension(&self, name: &str, index: usize) -> Result<u32, ModelError> {
        let shape = &self.tensor(name)?.shape;
        shape
            .get(index)
            .and_then(|&dimension| u32::try_from(dimension).ok())
            .ok_or_else(|| {
                ModelError::unsupported(
                    self.folder,
                    format!("`{name}` has the unexpected shape {shape:?}"),
                )
            })
    }

    fn layers(&self, side: &str) -> u32 {
        (0..=MAX_LAYERS)
            .take_while(|layer| {
                self.tensors
                    .contains_key(&format!("{side}.layers.{layer}.fc1.weight"))
            })
            .count() as u32
    }

    fn locate(&self, spec: &TensorSpec) -> Result<Located, ModelError> {
        let name = source_name(&spec.name).ok_or_else(|| {
            ModelError::unsupported(
                self.folder,
                format!("`{}` has no counterpart in Transformers", spec.name),
            )
        })?;
        let tensor = self.tensor(&name)?;
        if tensor.shape.iter().product::<u64>() != spec.elements() || tensor.shape[0] != spec.shape[0] {
            return Err(ModelError::unsupported(
                self.folder,
                format!(
                    "`{name}` has shape {:?}, which does not fit {:?}",
                    tensor.shape, spec.shape
                ),
            ));
        }
        let element = tensor.element.ok_or_else(|| {
            ModelError::unsupported(
                self.folder,
                format!(
                    "`{name}` is stored as {}; F32, F16 and BF16 are understood",
                    tensor.dtype
                ),
            )
        })?;
        Ok(Located {
            offset: tensor.offset,
            element,
            scale: Vec::new(),
        })
    }
}

/// The tensor of Transformers' `modeling_whisper.py` behind a ggml name.
fn source_name(ggml: &str) -> Option<String> {
    let (module, parameter) = ggml.rsplit_once('.')?;
    match ggml {
        "encoder.positional_embedding" => return Some("encoder.embed_positions.weight".to_owned()),
        "decoder.positional_embedding" => return Some("decoder.embed_positions.weight".to_owned()),
        "decoder.token_embedding.weight" => return Some("decoder.embed_tokens.weight".to_owned()),
        _ => {}
    }
    match module {
        "decoder.ln" => return Some(format!("decoder.layer_norm.{parameter}")),
        "encoder.ln_post" => return Some(format!("encoder.layer_norm.{parameter}")),
        "encoder.conv1" | "encoder.conv2" => return Some(ggml.to_owned()),
        _ => {}
    }
    let (side, rest) = module.split_once(".blocks.")?;
    let (layer, module) = rest.split_once('.')?;
    let module = match module {
        "mlp_ln" => "final_layer_norm",
        "mlp.0" => "fc1",
        "mlp.2" => "fc2",
        "attn_ln" => "self_attn_layer_norm",
        "attn.query" => "self_attn.q_proj",
        "attn.key" => "self_attn.k_proj",
        "attn.value" => "self_attn.v_proj",
        "attn.out" => "self_attn.out_proj",
        "cross_attn_ln" => "encoder_attn_layer_norm",
        "cross_attn.query" => "encoder_attn.q_proj",
        "cross_attn.key" => "encoder_attn.k_proj",
        "cross_attn.value" => "encoder_attn.v_proj",
        "cross_attn.out" => "encoder_attn.out_proj",
        _ => return None,
    };
    Some(format!("{side}.layers.{layer}.{module}.{parameter}"))
}
