//! Foreign checkpoints → ggml files, and ggml files → smaller ggml files.
//!
//! Each reader ([`ctranslate2`], [`huggingface`], a ggml file) gives a [`Checkpoint`]: where each tensor stands.
//! [`write`] then streams the numbers through a fixed buffer, so memory does not grow with the model.

pub(crate) mod ctranslate2;
pub(crate) mod huggingface;
mod mel;
pub(crate) mod parts;
mod tensors;
pub(crate) mod vocabulary;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use half::{bf16, f16};

use super::checksum::{Digests, HashingWriter};
use super::format::WeightFormat;
use super::ggml::{self, GgmlHeader, MEL_BINS};
use super::layout::{self, Role, TensorSpec};
use super::progress::{Progress, Watch};
use super::quantize::{BLOCK, Quantization, dequantize};
use super::{ModelError, staging};
use parts::Parts;

/// Numbers converted at a time: 256 KiB of f32; a multiple of the quantisation block.
const CHUNK: u64 = 1 << 16;

/// How a source stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ElementType {
    F32,
    F16,
    Bf16,
    I8,
    I16,
    /// ggml's blocks of [`BLOCK`] numbers.
    Blocks(WeightFormat),
}

impl ElementType {
    /// Bytes of so many numbers; in blocks a multiple of [`BLOCK`].
    pub(crate) fn bytes(self, count: u64) -> u64 {
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::Bf16 | Self::I16 => 2 * count,
            Self::I8 => count,
            // A format of larger blocks never gets this far (`of_format`).
            Self::Blocks(format) => format.bytes(count, count).unwrap_or(0),
        }
    }

    /// How a ggml file stores the numbers of a tensor; `None` for formats that are not read here.
    fn of_format(format: WeightFormat) -> Option<Self> {
        match format {
            WeightFormat::F32 => Some(Self::F32),
            WeightFormat::F16 => Some(Self::F16),
            format => dequantize(format, &[], &mut Vec::new()).then_some(Self::Blocks(format)),
        }
    }
}

/// Where one tensor's numbers stand in a [`Checkpoint`]'s files.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) offset: u64,
    pub(crate) element: ElementType,
    /// Integer weights only: what each row (first dimension) was multiplied by. One entry serves all rows.
    pub(crate) scale: Vec<f32>,
}

/// A model on disk in any form, ready to be run or to be written as ggml.
#[derive(Debug)]
pub struct Checkpoint {
    /// Dimensions; the format is the source's (f16 for foreign ones).
    pub(crate) header: GgmlHeader,
    /// `n_mels` × 201 values.
    pub(crate) mel: Vec<f32>,
    pub(crate) tokens: Vec<Vec<u8>>,
    /// In the order they are written.
    pub(crate) tensors: Vec<(TensorSpec, Located)>,
    pub(crate) data: Parts,
    /// The file or folder, for messages.
    pub(crate) path: PathBuf,
}

impl Checkpoint {
    /// Opens a ggml file of f32 or f16 weights as a source of conversion.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open_ggml`], or `UnsupportedFolder` when it is quantised already.
    pub(crate) fn open_unquantized(path: &Path) -> Result<Self, ModelError> {
        let checkpoint = Self::open_ggml(path)?;
        let format = checkpoint.header.format;
        if format.is_quantized() {
            return Err(ModelError::unsupported(
                path,
                format!("it is quantised already ({format}); quantise the f16 model instead"),
            ));
        }
        Ok(checkpoint)
    }

    /// Opens a ggml file. Its tensors keep their order, which checksums depend on.
    ///
    /// # Errors
    ///
    /// `Malformed` as [`ggml::check`]; `UnsupportedFolder` when it is quantised in blocks that are not read here.
    pub fn open_ggml(path: &Path) -> Result<Self, ModelError> {
        let header = ggml::check(path)?;
        if ElementType::of_format(header.format).is_none() {
            return Err(ModelError::unsupported(
                path,
                format!(
                    "its weights are {}; f32, f16, q8_0, q5_1, q5_0, q4_1 and q4_0 are read",
                    header.format
                ),
            ));
        }
        let index = ggml::read_index(path)?;
        let mut roles: std::collections::HashMap<String, Role> = layout::tensors(&header)
            .into_iter()
            .map(|spec| (spec.name, spec.role))
            .collect();
        let tensors = index
            .tensors
            .into_iter()
            .map(|entry| {
                // `check` found every name in the layout.
                let role = roles.remove(&entry.name).unwrap_or(Role::Small);
                // Every format of a checked file is the header's, f16 or f32.
                let element = ElementType::of_format(entry.format).unwrap_or(ElementType::F32);
                let located = Located {
                    offset: entry.offset,
                    element,
                    scale: Vec::new(),
                };
                (
                    TensorSpec {
                        name: entry.name,
                        shape: entry.shape,
                        role,
                    },
                    located,
                )
            })
            .collect();
        let data = Parts::open(&[path.to_owned()])?;
        Ok(Self {
            header,
            mel: index.mel,
            tokens: index.tokens,
            tensors,
            data,
            path: path.to_owned(),
        })
    }
}

/// Writes `checkpoint` as a ggml file.
///
/// # Errors
///
/// `Io`, `DiskFull`, `Cancelled`; `UnsupportedFolder` when a row does not divide into quantisation blocks.
pub(crate) fn write(
    checkpoint: &mut Checkpoint,
    quantization: Option<Quantization>,
    out_path: &Path,
    out: &mut impl Write,
    watch: Watch<'_>,
) -> Result<(), ModelError> {
    let format = quantization.map_or(checkpoint.header.format, Quantization::format);
    let failed = |e| ModelError::io("write", out_path, e);
    let mut head = Vec::new();
    for word in (GgmlHeader {
        format,
        ..checkpoint.header
    })
    .to_words()
    {
        head.extend_from_slice(&word.to_le_bytes());
    }
    head.extend_from_slice(&checkpoint.header.n_mels.to_le_bytes());
    head.extend_from_slice(&MEL_BINS.to_le_bytes());
    for value in &checkpoint.mel {
        head.extend_from_slice(&value.to_le_bytes());
    }
    head.extend_from_slice(&(checkpoint.tokens.len() as u32).to_le_bytes());
    for token in &checkpoint.tokens {
        head.extend_from_slice(&(token.len() as u32).to_le_bytes());
        head.extend_from_slice(token);
    }
    out.write_all(&head).map_err(failed)?;

    let mut buffers = Buffers::default();
    for (spec, located) in &checkpoint.tensors {
        let target = target(spec, format, quantization);
        if target.is_quantized()
            && !spec
                .shape
                .last()
                .is_some_and(|row| row.is_multiple_of(BLOCK as u64))
        {
            return Err(ModelError::unsupported(
                &checkpoint.path,
                format!(
                    "`{}` has rows that are no multiple of {BLOCK}, so it cannot be quantised",
                    spec.name
                ),
            ));
        }
        out.write_all(&tensor_head(spec, target)).map_err(failed)?;
        let elements = spec.elements();
        let row = elements / spec.shape[0].max(1);
        let mut start = 0;
        while start < elements {
            watch.check()?;
            let count = CHUNK.min(elements - start);
            buffers.load(&mut checkpoint.data, located, start, count, row)?;
            out.write_all(buffers.encode(target, quantization))
                .map_err(failed)?;
            watch.progress.advance(located.element.bytes(count));
            start += count;
        }
    }
    out.flush().map_err(failed)
}

/// Matrices take the file's format; of the rest only whisper.cpp's expectation counts.
fn target(spec: &TensorSpec, format: WeightFormat, quantization: Option<Quantization>) -> WeightFormat {
    match spec.role {
        Role::Small => WeightFormat::F32,
        Role::Weight => format,
        Role::Convolution if format == WeightFormat::F32 && quantization.is_none() => WeightFormat::F32,
        Role::Convolution => WeightFormat::F16,
    }
}

fn tensor_head(spec: &TensorSpec, format: WeightFormat) -> Vec<u8> {
    let mut head = Vec::with_capacity(24 + spec.name.len());
    head.extend_from_slice(&(spec.shape.len() as u32).to_le_bytes());
    head.extend_from_slice(&(spec.name.len() as u32).to_le_bytes());
    head.extend_from_slice(&format.tensor_type().to_le_bytes());
    for &dimension in spec.shape.iter().rev() {
        head.extend_from_slice(&(dimension as u32).to_le_bytes());
    }
    head.extend_from_slice(spec.name.as_bytes());
    head
}

/// One chunk of a tensor on its way.
#[derive(Default)]
struct Buffers {
    raw: Vec<u8>,
    values: Vec<f32>,
    encoded: Vec<u8>,
}

impl Buffers {
    /// Reads `count` numbers from `start` on; `row` numbers share a scale.
    fn load(
        &mut self,
        data: &mut Parts,
        located: &Located,
        start: u64,
        count: u64,
        row: u64,
    ) -> Result<(), ModelError> {
        let element = located.element;
        self.raw.resize(element.bytes(count) as usize, 0);
        data.read_at(located.offset + element.bytes(start), &mut self.raw)?;
        self.values.clear();
        match located.element {
            ElementType::F32 => self
                .values
                .extend(self.raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            ElementType::F16 => self.values.extend(
                self.raw
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32()),
            ),
            ElementType::Bf16 => {
                self.values.extend(
                    self.raw
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| bf16::from_le_bytes(*b).to_f32()),
                );
            }
            ElementType::I8 => self.values.extend(self.raw.iter().map(|&b| f32::from(b as i8))),
            ElementType::Blocks(format) => {
                dequantize(format, &self.raw, &mut self.values);
            }
            ElementType::I16 => {
                self.values.extend(
                    self.raw
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| f32::from(i16::from_le_bytes(*b))),
                );
            }
        }
        if !located.scale.is_empty() {
            for (index, value) in (start..).zip(&mut self.values) {
                *value /= located.scale[(index / row) as usize % located.scale.len()];
            }
        }
        Ok(())
    }

    fn encode(&mut self, format: WeightFormat, quantization: Option<Quantization>) -> &[u8] {
        self.encoded.clear();
        match (format, quantization) {
            (WeightFormat::F32, _) => self
                .encoded
                .extend(self.values.iter().flat_map(|value| value.to_le_bytes())),
            (WeightFormat::F16, _) | (_, None) => {
                self.encoded.extend(
                    self.values
                        .iter()
                        .flat_map(|value| f16::from_f32(*value).to_le_bytes()),
                );
            }
            (_, Some(quantization)) => {
                // As whisper.cpp's tool does, which starts from the f16 file.
                for value in &mut self.values {
                    *value = f16::from_f32(*value).to_f32();
                }
                quantization.encode(&self.values, &mut self.encoded);
            }
        }
        &self.encoded
    }
}

/// Bytes that converting reads, for progress.
pub(crate) fn source_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint
        .tensors
        .iter()
        .map(|(spec, located)| located.element.bytes(spec.elements()))
        .sum()
}

/// Writes the checkpoint into `file` and gives its checksums; the file is flushed to the disk.
pub(crate) fn write_file(
    checkpoint: &mut Checkpoint,
    quantization: Option<Quantization>,
    path: &Path,
    watch: Watch<'_>,
) -> Result<Digests, ModelError> {
    let file = File::create(path).map_err(|e| ModelError::io("create", path, e))?;
    let mut out = HashingWriter::new(BufWriter::with_capacity(1 << 20, file));
    write(checkpoint, quantization, path, &mut out, watch)?;
    let (buffered, digests) = out.finish();
    let file = buffered
        .into_inner()
        .map_err(|e| ModelError::io("write", path, e.into_error()))?;
    file.sync_all().map_err(|e| ModelError::io("write", path, e))?;
    Ok(digests)
}

/// A file made by [`import`].
#[derive(Debug, Clone)]
pub struct Imported {
    /// Where it is.
    pub path: PathBuf,
    /// Its dimensions.
    pub header: GgmlHeader,
    /// Its checksums; SHA-1 to compare with published files.
    pub digests: Digests,
}

/// Converts a checkpoint on this disk into the ggml file `out`, which appears under its name only when it is whole.
///
/// `source` is a CTranslate2 folder (faster-whisper: `model.bin`, `vocabulary.*`), a Hugging Face folder
/// (`config.json`, `model.safetensors`, `vocab.json` or `tokenizer.json`), or a ggml file to be quantised.
/// Needs a few MiB of memory for any size of model.
///
/// # Errors
///
/// `UnsupportedFolder` when it is none of these or lacks something; `Malformed`, `Io`, `DiskFull`, `Cancelled`.
pub fn import(
    source: &Path,
    out: &Path,
    quantization: Option<Quantization>,
    progress: &dyn Progress,
    cancel: Option<&AtomicBool>,
) -> Result<Imported, ModelError> {
    let watch = Watch::new(progress, cancel);
    let mut checkpoint = open(source)?;
    let needed = source_bytes(&checkpoint);
    progress.begin(&format!("converting {}", source.display()), Some(needed));
    let staged = staging::Staged::beside(out)?;
    staging::require_space(
        out,
        if quantization.is_some() {
            needed / 4
        } else {
            needed / 2
        },
    )?;
    let digests = write_file(&mut checkpoint, quantization, staged.path(), watch)?;
    let header = ggml::check(staged.path())?;
    staged.install(out)?;
    Ok(Imported {
        path: out.to_owned(),
        header,
        digests,
    })
}

/// Finds out what `source` is.
fn open(source: &Path) -> Result<Checkpoint, ModelError> {
    if source.is_file() {
        return Checkpoint::open_unquantized(source);
    }
    if !source.is_dir() {
        return Err(ModelError::unsupported(source, "there is no such folder or file"));
    }
    if huggingface::is_folder(source) {
        return huggingface::open(source);
    }
    let model = source.join("model.bin");
    if model.is_file() {
        return ctranslate2::open(source, &[model], source);
    }
    if source.join("pytorch_model.bin").is_file() {
        return Err(ModelError::unsupported(
            source,
            "its weights are `pytorch_model.bin`, a Python pickle; save the model once more as safetensors \
             (`model.save_pretrained(DIR, safe_serialization=True)`)",
        ));
    }
    Err(ModelError::unsupported(
        source,
        "it holds neither `model.safetensors` (Hugging Face) nor `model.bin` (CTranslate2, faster-whisper)",
    ))
}

/// Puts the tensors of a foreign checkpoint in the published order. `locate` finds one by its ggml name.
pub(crate) fn arrange(
    header: &GgmlHeader,
    mut locate: impl FnMut(&TensorSpec) -> Result<Located, ModelError>,
) -> Result<Vec<(TensorSpec, Located)>, ModelError> {
    layout::tensors(header)
        .into_iter()
        .map(|spec| {
            let located = locate(&spec)?;
            Ok((spec, located))
        })
        .collect()
}

pub(crate) use mel::filters as mel_filters;
