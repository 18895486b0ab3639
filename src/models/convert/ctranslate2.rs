//! CTranslate2's `model.bin` (faster-whisper).
//!
//! Layout (CTranslate2 `src/models/model.cc`, binary versions 4 to 6), little endian: `u32` version, string spec name,
//! `u32` spec revision, `u32` number of variables, each: string name, `u8` rank, `u32` dimensions, `u8` type,
//! `u32` bytes, data; then `u32` number of aliases, each two strings. A string is a `u16` length that counts its
//! final NUL, and the bytes. Linear layers that read the same input are stacked: query, key, value are one matrix.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use super::parts::Parts;
use super::{Checkpoint, ElementType, Located, arrange, mel_filters, vocabulary};
use crate::models::ModelError;
use crate::models::format::WeightFormat;
use crate::models::ggml::{GgmlHeader, MAX_LAYERS};
use crate::models::layout::TensorSpec;

const VERSIONS: std::ops::RangeInclusive<u32> = 4..=6;
const SPEC: &str = "WhisperSpec";
/// Far above any Whisper model (large-v3 has some 1,300); bounds what a damaged file can ask for.
const MAX_VARIABLES: u32 = 100_000;
/// Whisper's attention heads are 64 wide, for checkpoints that do not say (openai-whisper `model.py`).
const HEAD_WIDTH: u32 = 64;

#[derive(Debug, Clone)]
struct Variable {
    shape: Vec<u64>,
    kind: u8,
    bytes: u64,
    offset: u64,
}

/// Opens a CTranslate2 model; `weights` are `model.bin` or the pieces it was split into, `vocabulary` the folder or
/// file that has its tokens.
///
/// # Errors
///
/// `Malformed` when the file is damaged, `UnsupportedFolder` when it is another model or version.
pub(crate) fn open(path: &Path, weights: &[PathBuf], vocabulary: &Path) -> Result<Checkpoint, ModelError> {
    let mut data = Parts::open(weights)?;
    let variables = read_variables(path, &mut data)?;
    let mut model = CTranslate2Model {
        path,
        variables,
        data,
    };
    let header = model.header()?;
    let tensors = arrange(&header, |spec| model.locate(spec))?;
    let tokens = vocabulary::read(vocabulary, &header)?;
    Ok(Checkpoint {
        header,
        mel: mel_filters(header.n_mels),
        tokens,
        tensors,
        data: model.data,
        path: path.to_owned(),
    })
}

struct CTranslate2Model<'a> {
    path: &'a Path,
    variables: HashMap<String, Variable>,
    data: Parts,
}

impl CTranslate2Model<'_> {
    fn variable(&self, name: &str) -> Result<&Variable, ModelError> {
        self.variables.get(name).ok_or_else(|| {
            ModelError::unsupported(self.path, format!("its model lacks the variable `{name}`"))
        })
    }

    fn dimension(&self, name: &str, index: usize) -> Result<u32, ModelError> {
        let shape = &self.variable(name)?.shape;
        shape
            .get(index)
            .and_then(|&dimension| u32::try_from(dimension).ok())
            .ok_or_else(|| {
                ModelError::unsupported(self.path, format!("`{name}` has the unexpected shape {shape:?}"))
            })
    }

    fn layers(&self, side: &str) -> u32 {
        let has = |layer: &u32| {
            self.variables
                .contains_key(&format!("{side}/layer_{layer}/ffn/linear_0/weight"))
        };
        (0..=MAX_LAYERS).take_while(has).count() as u32
    }

    /// `num_heads` is a scalar of any integer type.
    fn heads(&mut self, side: &str, state: u32) -> Result<u32, ModelError> {
        let Some(variable) = self.variables.get(&format!("{side}/num_heads")).cloned() else {
            return Ok(state / HEAD_WIDTH);
        };
        let mut bytes = [0; 4];
        let length = variable.bytes.min(4) as usize;
        self.data.read_at(variable.offset, &mut bytes[..length])?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn header(&mut self) -> Result<GgmlHeader, ModelError> {
        let state = self.dimension("encoder/position_encodings/encodings", 1)?;
        let header = GgmlHeader {
            n_vocab: self.dimension("decoder/embeddings/weight", 0)?,
            n_audio_ctx: self.dimension("encoder/position_encodings/encodings", 0)?,
            n_audio_state: state,
            n_audio_head: self.heads("encoder", state)?,
            n_audio_layer: self.layers("encoder"),
            n_text_ctx: self.dimension("decoder/position_encodings/encodings", 0)?,
            n_text_state: self.dimension("decoder/position_encodings/encodings", 1)?,
            n_text_head: self.heads("decoder", state)?,
            n_text_layer: self.layers("decoder"),
            n_mels: self.dimension("encoder/conv1/weight", 1)?,
            format: WeightFormat::F16,
        };
        header
            .validate()
            .map_err(|reason| ModelError::unsupported(self.path, reason))?;
        Ok(header)
    }

    fn locate(&mut self, spec: &TensorSpec) -> Result<Located, ModelError> {
        let (name, slice) = source_name(&spec.name).ok_or_else(|| {
            ModelError::unsupported(
                self.path,
                format!("`{}` has no counterpart in CTranslate2", spec.name),
            )
        })?;
        let variable = self.variable(&name)?.clone();
        let elements: u64 = variable.shape.iter().product();
        if elements != spec.elements() * slice.of {
            return Err(ModelError::unsupported(
                self.path,
                format!(
                    "`{name}` has shape {:?}, which does not fit {:?}",
                    variable.shape, spec.shape
                ),
            ));
        }
        let element = match variable.kind {
            0 => ElementType::F32,
            1 => ElementType::I8,
            2 => ElementType::I16,
            4 => ElementType::F16,
            5 => ElementType::Bf16,
            other => {
                return Err(ModelError::unsupported(
                    self.path,
                    format!(
                        "`{name}` has data type {other}; float32, float16, bfloat16, int16 and int8 are understood"
                    ),
                ));
            }
        };
        let scale = match element {
            ElementType::I8 | ElementType::I16 => self.scale(&name, slice, spec.shape[0])?,
            ElementType::F32 | ElementType::F16 | ElementType::Bf16 | ElementType::Blocks(_) => Vec::new(),
        };
        let offset = variable.offset + element.bytes(slice.index * spec.elements());
        Ok(Located {
            offset,
            element,
            scale,
        })
    }

    /// What integer weights were multiplied by (CTranslate2 `model_spec.py`, `_quantize`): one number a row, or one.
    fn scale(&mut self, name: &str, slice: Slice, rows: u64) -> Result<Vec<f32>, ModelError> {
        let variable = self.variable(&format!("{name}_scale"))?.clone();
        let mut bytes = vec![0; variable.bytes as usize];
        self.data.read_at(variable.offset, &mut bytes)?;
        let mut scale: Vec<f32> = match variable.kind {
            0 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            4 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32())
                .collect(),
            5 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32())
                .collect(),
            _ => Vec::new(),
        };
        if scale.len() as u64 == rows * slice.of {
            scale = scale[(rows * slice.index) as usize..(rows * (slice.index + 1)) as usize].to_vec();
        }
        if !(scale.len() == 1 || scale.len() as u64 == rows) || scale.contains(&0.0) {
            return Err(ModelError::unsupported(
                self.path,
                format!(
                    "the scale of the integer weights `{name}` is not understood; use the float16 form of the model"
                ),
            ));
        }
        Ok(scale)
    }
}

/// The `index`th of `of` equal pieces, stacked along the first dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    index: u64,
    of: u64,
}

const WHOLE: Slice = Slice { index: 0, of: 1 };

/// The variable that holds a ggml tensor (CTranslate2 `specs/whisper_spec.py`, `converters/transformers.py`).
fn source_name(ggml: &str) -> Option<(String, Slice)> {
    let (module, parameter) = ggml.rsplit_once('.')?;
    let norm = if parameter == "weight" { "gamma" } else { "beta" };
    let whole = |name: String| Some((name, WHOLE));
    match ggml {
        "encoder.positional_embedding" => return whole("encoder/position_encodings/encodings".to_owned()),
        "decoder.positional_embedding" => return whole("decoder/position_encodings/encodings".to_owned()),
        "decoder.token_embedding.weight" => return whole("decoder/embeddings/weight".to_owned()),
        _ => {}
    }
    match module {
        "decoder.ln" => return whole(format!("decoder/layer_norm/{norm}")),
        "encoder.ln_post" => return whole(format!("encoder/layer_norm/{norm}")),
        "encoder.conv1" => return whole(format!("encoder/conv1/{parameter}")),
        "encoder.conv2" => return whole(format!("encoder/conv2/{parameter}")),
        _ => {}
    }
    let (side, rest) = module.split_once(".blocks.")?;
    let (layer, module) = rest.split_once('.')?;
    let layer = format!("{side}/layer_{layer}");
    let stacked = |name: &str, index, of| Some((format!("{layer}/{name}/{parameter}"), Slice { index, of }));
    match module {
        "mlp_ln" => whole(format!("{layer}/ffn/layer_norm/{norm}")),
        "mlp.0" => stacked("ffn/linear_0", 0, 1),
        "mlp.2" => stacked("ffn/linear_1", 0, 1),
        "attn_ln" => whole(format!("{layer}/self_attention/layer_norm/{norm}")),
        "attn.query" => stacked("self_attention/linear_0", 0, 3),
        "attn.key" => stacked("self_attention/linear_0", 1, 3),
        "attn.value" => stacked("self_attention/linear_0", 2, 3),
        "attn.out" => stacked("self_attention/linear_1", 0, 1),
        "cross_attn_ln" => whole(format!("{layer}/attention/layer_norm/{norm}")),
        "cross_attn.query" => stacked("attention/linear_0", 0, 1),
        "cross_attn.key" => stacked("attention/linear_1", 0, 2),
        "cross_attn.value" => stacked("attention/linear_1", 1, 2),
        "cross_attn.out" => stacked("attention/linear_2", 0, 1),
        _ => None,
    }
}

fn read_variables(path: &Path, data: &mut Parts) -> Result<HashMap<String, Variable>, ModelError> {
    let length = data.length();
    let mut reader = Index {
        path,
        reader: BufReader::new(data),
        length,
    };
    reader.read()
}

struct Index<'a> {
    path: &'a Path,
    reader: BufReader<&'a mut Parts>,
    length: u64,
}

impl Index<'_> {
    fn damaged(&self, reason: impl Into<String>) -> ModelError {
        ModelError::malformed(self.path, reason)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|_| self.damaged("the CTranslate2 model is cut short"))?;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self) -> Result<String, ModelError> {
        let length = u16::from_le_bytes(self.bytes()?);
        let mut bytes = vec![0; usize::from(length)];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|_| self.damaged("the CTranslate2 model is cut short"))?;
        if bytes.pop() != Some(0) {
            return Err(self.damaged("it is no CTranslate2 model"));
        }
        String::from_utf8(bytes).map_err(|_| self.damaged("it is no CTranslate2 model"))
    }

    fn read(&mut self) -> Result<HashMap<String, Variable>, ModelError> {
        let version = self.word()?;
        if !VERSIONS.contains(&version) {
            return Err(ModelError::unsupported(
                self.path,
                format!("its `model.bin` has CTranslate2 format version {version}; 4 to 6 are understood"),
            ));
        }
        let spec = self.string()?;
        if spec != SPEC {
            return Err(ModelError::unsupported(
                self.path,
                format!("its `model.bin` is a `{spec}`, not a Whisper model"),
            ));
        }
        let _revision = self.word()?;
        let count = self.word()?;
        if count > MAX_VARIABLES {
            return Err(self.damaged(format!("it claims {count} variables")));
        }
        let mut variables = HashMap::new();
        for _ in 0..count {
            let (name, variable) = self.variable()?;
            variables.insert(name, variable);
        }
        for _ in 0..self.word()?.min(MAX_VARIABLES) {
            let (alias, name) = (self.string()?, self.string()?);
            if let Some(variable) = variables.get(&name).cloned() {
                variables.insert(alias, variable);
            }
        }
        Ok(variables)
    }

    fn variable(&mut self) -> Result<(String, Variable), ModelError> {
        let name = self.string()?;
        let [rank] = self.bytes()?;
        let shape = (0..rank)
            .map(|_| self.word().map(u64::from))
            .collect::<Result<Vec<_>, _>>()?;
        let [kind] = self.bytes()?;
        let bytes = u64::from(self.word()?);
        let offset = self
            .reader
            .stream_position()
            .map_err(|e| ModelError::io("read", self.path, e))?;
        if bytes > self.length.saturating_sub(offset) {
            return Err(self.damaged(format!("the CTranslate2 model is cut short in `{name}`")));
        }
        let width: u64 = match kind {
            0 | 3 => 4,
            1 => 1,
            _ => 2,
        };
        let elements = shape
            .iter()
            .try_fold(width, |product, &dimension| product.checked_mul(dimension));
        if elements != Some(bytes) {
            return Err(self.damaged(format!("`{name}` has shape {shape:?} but {bytes} bytes")));
        }
        self.reader
            .seek_relative(bytes as i64)
            .map_err(|e| ModelError::io("read", self.path, e))?;
        Ok((
            name,
            Variable {
                shape,
                kind,
                bytes,
                offset,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_projections_are_found_by_piece() {
        let piece = |index, of| Slice { index, of };
        assert_eq!(
            source_name("decoder.blocks.3.cross_attn.value.weight"),
            Some((
                "decoder/layer_3/attention/linear_1/weight".to_owned(),
                piece(1, 2)
            ))
        );
        assert_eq!(
            source_name("encoder.blocks.11.attn.value.bias"),
            Some((
                "encoder/layer_11/self_attention/linear_0/bias".to_owned(),
                piece(2, 3)
            ))
        );
        assert_eq!(
            source_name("encoder.ln_post.bias"),
            Some(("encoder/layer_norm/beta".to_owned(), WHOLE))
        );
        assert_eq!(source_name("encoder.blocks.0.pool.weight"), None);
    }
}
