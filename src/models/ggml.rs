//! The ggml file of a Whisper model: its header, its index of tensors, and whether whisper.cpp can load it.
//!
//! Format (whisper.cpp `whisper_model_load`), little endian: `u32` magic, eleven `i32` of [`GgmlHeader`], the mel
//! filters (`i32` bands, `i32` bins, f32 values), the tokens (`i32` count, each `i32` length and bytes), then tensors
//! to the end of the file: `i32` dimensions, `i32` name length, `i32` type, the dimensions with the contiguous one first, name, data.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::ModelError;
use super::format::WeightFormat;
use super::layout::{self, Role, TensorSpec};

/// `ggml` in ASCII (whisper.cpp `GGML_FILE_MAGIC`).
pub(crate) const MAGIC: u32 = 0x6767_6d6c;
/// Where that field stands in the file: after the magic and ten words.
const FORMAT_OFFSET: u64 = 44;
/// Bins of the mel filters: 400-sample FFT (openai-whisper `audio.py`, `N_FFT`).
pub(crate) const MEL_BINS: u32 = 201;
/// Vocabulary sizes whisper.cpp understands: English-only; multilingual; multilingual with Cantonese (large-v3).
const VOCABULARIES: [u32; 3] = [51_864, 51_865, 51_866];
/// Twice what the largest model has.
pub(crate) const MAX_LAYERS: u32 = 64;
/// The longest token of Whisper's vocabularies has 128 bytes; whisper.cpp would allocate whatever the file says.
const MAX_TOKEN_BYTES: u32 = 1024;

/// The model family by its number of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeClass {
    /// 4 encoder layers, 39 M parameters.
    Tiny,
    /// 6 encoder layers, 74 M parameters.
    Base,
    /// 12 encoder layers, 244 M parameters.
    Small,
    /// 24 encoder layers, 769 M parameters.
    Medium,
    /// 32 encoder and 32 decoder layers, 1550 M parameters.
    Large,
    /// 32 encoder and 4 decoder layers, 809 M parameters.
    Turbo,
    /// Any other shape: distilled or pruned models.
    Other,
}

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "tiny",
            Self::Base => "base",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Turbo => "turbo",
            Self::Other => "other",
        })
    }
}

/// Dimensions of a model, as the file's header has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlHeader {
    /// Rows of the token embedding.
    pub n_vocab: u32,
    /// Encoder positions; 1500 for 30 s.
    pub n_audio_ctx: u32,
    /// Width of the encoder.
    pub n_audio_state: u32,
    /// Attention heads of the encoder.
    pub n_audio_head: u32,
    /// Encoder layers.
    pub n_audio_layer: u32,
    /// Decoder positions; 448.
    pub n_text_ctx: u32,
    /// Width of the decoder; equals the encoder's.
    pub n_text_state: u32,
    /// Attention heads of the decoder.
    pub n_text_head: u32,
    /// Decoder layers.
    pub n_text_layer: u32,
    /// Mel bands: 80, or 128 from large-v3 on.
    pub n_mels: u32,
    /// How the matrices are stored.
    pub format: WeightFormat,
}

impl GgmlHeader {
    /// Whether the model knows languages other than English (whisper.cpp `is_multilingual`).
    pub fn multilingual(&self) -> bool {
        self.n_vocab >= 51_865
    }

    /// The family, from the layers (whisper.cpp, openai-whisper `__init__.py`).
    pub fn size(&self) -> SizeClass {
        match (self.n_audio_layer, self.n_text_layer) {
            (4, 4) => SizeClass::Tiny,
            (6, 6) => SizeClass::Base,
            (12, 12) => SizeClass::Small,
            (24, 24) => SizeClass::Medium,
            (32, 32) => SizeClass::Large,
            (32, 4) => SizeClass::Turbo,
            _ => SizeClass::Other,
        }
    }

    pub(crate) fn to_words(self) -> [u32; 12] {
        [
            MAGIC,
            self.n_vocab,
            self.n_audio_ctx,
            self.n_audio_state,
            self.n_audio_head,
            self.n_audio_layer,
            self.n_text_ctx,
            self.n_text_state,
            self.n_text_head,
            self.n_text_layer,
            self.n_mels,
            self.format.file_type(),
        ]
    }

    /// Refuses dimensions that whisper.cpp cannot run; the reason names the field.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !VOCABULARIES.contains(&self.n_vocab) {
            return Err(format!(
                "its vocabulary has {} entries; whisper.cpp runs 51864 (English), 51865 and 51866 (multilingual)",
                self.n_vocab
            ));
        }
        let in_range = |name: &str, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("its {name} is {value}; {low} to {high} is possible"))
            }
        };
        in_range("encoder length", self.n_audio_ctx, 1, 1500)?;
        in_range("decoder length", self.n_text_ctx, 1, 4096)?;
        in_range("width", self.n_audio_state, 32, 4096)?;
        in_range("number of encoder layers", self.n_audio_layer, 1, MAX_LAYERS)?;
        in_range("number of decoder layers", self.n_text_layer, 1, MAX_LAYERS)?;
        in_range("number of mel bands", self.n_mels, 1, 256)?;
        if self.n_text_state != self.n_audio_state {
            return Err(format!(
                "encoder and decoder differ in width: {} and {}",
                self.n_audio_state, self.n_text_state
            ));
        }
        for heads in [self.n_audio_head, self.n_text_head] {
            if heads == 0 || !self.n_audio_state.is_multiple_of(heads) {
                return Err(format!(
                    "{heads} attention heads do not divide its width of {}",
                    self.n_audio_state
                ));
            }
        }
        Ok(())
    }
}

/// Where a tensor's data stands in its file.
#[derive(Debug, Clone)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    /// Row-major, as in [`TensorSpec`].
    pub(crate) shape: Vec<u64>,
    pub(crate) format: WeightFormat,
    pub(crate) offset: u64,
}

/// Everything of a file but the tensors' data.
#[derive(Debug)]
pub(crate) struct GgmlIndex {
    pub(crate) header: GgmlHeader,
    pub(crate) mel: Vec<f32>,
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<TensorEntry>,
}

/// Reads the dimensions of a ggml model file.
///
/// # Errors
///
/// `Io` when it cannot be read, `Malformed` when it is no ggml Whisper model or has impossible dimensions.
pub fn header(path: &Path) -> Result<GgmlHeader, ModelError> {
    let mut reader = Reader::open(path)?;
    reader.header()
}

/// Reads a model file's header and walks all its tensors without reading their data, in a few milliseconds:
/// what passes has every tensor that whisper.cpp asks for, in the size it asks for, to the last byte.
///
/// # Errors
///
/// `Malformed` with the first thing that is wrong: cut short, foreign, a tensor missing or of the wrong shape.
pub fn check(path: &Path) -> Result<GgmlHeader, ModelError> {
    let index = read_index(path)?;
    let header = index.header;
    let mut found: HashMap<&str, &TensorEntry> = HashMap::with_capacity(index.tensors.len());
    for tensor in &index.tensors {
        if found.insert(&tensor.name, tensor).is_some() {
            return Err(ModelError::malformed(
                path,
                format!("tensor `{}` stands in it twice", tensor.name),
            ));
        }
    }
    for spec in layout::tensors(&header) {
        match found.remove(spec.name.as_str()) {
            Some(entry) => {
                agree(&spec, entry, header.format).map_err(|reason| ModelError::malformed(path, reason))?;
            }
            None => {
                return Err(ModelError::malformed(
                    path,
                    format!("tensor `{}` is missing", spec.name),
                ));
            }
        }
    }
    if let Some(name) = found.keys().next() {
        return Err(ModelError::malformed(
            path,
            format!("tensor `{name}` belongs to no Whisper model of its size"),
        ));
    }
    Ok(header)
}

fn agree(spec: &TensorSpec, entry: &TensorEntry, format: WeightFormat) -> Result<(), String> {
    if spec.shape != entry.shape {
        return Err(format!(
            "tensor `{}` has shape {:?}, expected {:?}",
            spec.name, entry.shape, spec.shape
        ));
    }
    let expected = match spec.role {
        Role::Small => WeightFormat::F32,
        Role::Convolution if format == WeightFormat::F32 => WeightFormat::F32,
        Role::Convolution => WeightFormat::F16,
        Role::Weight => format,
    };
    if entry.format != expected {
        return Err(format!(
            "tensor `{}` is stored as {}, expected {expected}",
            spec.name, entry.format
        ));
    }
    Ok(())
}

/// Rewrites the quantisation version in a file's header.
pub(crate) fn set_quantization_version(
    path: &Path,
    format: WeightFormat,
    version: u32,
) -> Result<(), ModelError> {
    let word = format.file_type_of_version(version);
    let mut file = File::options()
        .write(true)
        .open(path)
        .map_err(|e| ModelError::io("open", path, e))?;
    file.seek(SeekFrom::Start(FORMAT_OFFSET))
        .and_then(|_| file.write_all(&word.to_le_bytes()))
        .map_err(|e| ModelError::io("write", path, e))
}

/// # Errors
///
/// As [`check`], for what the index itself shows.
pub(crate) fn read_index(path: &Path) -> Result<GgmlIndex, ModelError> {
    let mut reader = Reader::open(path)?;
    let header = reader.header()?;
    let mel = reader.mel(&header)?;
    let tokens = reader.tokens(&header)?;
    let tensors = reader.tensors()?;
    Ok(GgmlIndex {
        header,
        mel,
        tokens,
        tensors,
    })
}

struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    position: u64,
    length: u64,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|e| ModelError::io("open", path, e))?;
        let metadata = file.metadata().map_err(|e| ModelError::io("read", path, e))?;
        if !metadata.is_file() {
            return Err(ModelError::malformed(path, "it is not a file"));
        }
        Ok(Self {
            path,
            file: BufReader::new(file),
            position: 0,
            length: metadata.len(),
        })
    }

    fn malformed(&self, reason: impl Into<String>) -> ModelError {
        ModelError::malformed(self.path, reason)
    }

    fn bytes(&mut self, buffer: &mut [u8]) -> Result<(), ModelError> {
        self.file.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                self.malformed(format!(
                    "it ends at byte {} in the middle of its contents",
                    self.length
                ))
            } else {
                ModelError::io("read", self.path, error)
            }
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn word(&mut self) -> Result<u32, ModelError> {
        let mut word = [0; 4];
        self.bytes(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn header(&mut self) -> Result<GgmlHeader, ModelError> {
        let mut magic = [0; 4];
        if self.length < 4 {
            return Err(self.malformed("it is empty"));
        }
        self.bytes(&mut magic)?;
        if &magic == b"GGUF" {
            return Err(self.malformed("it is a GGUF file; whisper.cpp reads the older `ggml` format"));
        }
        if u32::from_le_bytes(magic) != MAGIC {
            return Err(self.malformed("it does not begin with the mark of a ggml file"));
        }
        let mut words = [0_u32; 11];
        for word in &mut words {
            *word = self.word()?;
        }
        let format = WeightFormat::from_file_type(words[10])
            .ok_or_else(|| self.malformed(format!("its weight format {} is unknown", words[10])))?;
        let header = GgmlHeader {
            n_vocab: words[0],
            n_audio_ctx: words[1],
            n_audio_state: words[2],
            n_audio_head: words[3],
            n_audio_layer: words[4],
            n_text_ctx: words[5],
            n_text_state: words[6],
            n_text_head: words[7],
            n_text_layer: words[8],
            n_mels: words[9],
            format,
        };
        header.validate().map_err(|reason| self.malformed(reason))?;
        Ok(header)
    }

    fn mel(&mut self, header: &GgmlHeader) -> Result<Vec<f32>, ModelError> {
        let (bands, bins) = (self.word()?, self.word()?);
        if (bands, bins) != (header.n_mels, MEL_BINS) {
            return Err(self.malformed(format!(
                "its mel filters have {bands} bands of {bins} bins, expected {} of {MEL_BINS}",
                header.n_mels
            )));
        }
        let mut bytes = vec![0; (bands * bins * 4) as usize];
        self.bytes(&mut bytes)?;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect())
    }

    fn tokens(&mut self, header: &GgmlHeader) -> Result<Vec<Vec<u8>>, ModelError> {
        let count = self.word()?;
        if count == 0 || count > header.n_vocab {
            return Err(self.malformed(format!(
                "it lists {count} tokens for a vocabulary of {}",
                header.n_vocab
            )));
        }
        (0..count)
            .map(|_| {
                let length = self.word()?;
                if length > MAX_TOKEN_BYTES {
                    return Err(
                        self.malformed(format!("a token of {length} bytes; its vocabulary is damaged"))
                    );
                }
                let mut token = vec![0; length as usize];
                self.bytes(&mut token)?;
                Ok(token)
            })
            .collect()
    }

    fn tensors(&mut self) -> Result<Vec<TensorEntry>, ModelError> {
        let mut tensors = Vec::new();
        while self.position < self.length {
            tensors.push(self.tensor()?);
        }
        Ok(tensors)
    }

    fn tensor(&mut self) -> Result<TensorEntry, ModelError> {
        let (dimensions, name_length, tensor_type) = (self.word()?, self.word()?, self.word()?);
        if !(1..=3).contains(&dimensions) || !(1..=128).contains(&name_length) {
            return Err(self.malformed(format!("no tensor begins at byte {}", self.position - 12)));
        }
        let format = WeightFormat::from_tensor_type(tensor_type)
            .ok_or_else(|| self.malformed(format!("a tensor of unknown type {tensor_type}")))?;
        let mut shape = (0..dimensions)
            .map(|_| self.word().map(u64::from))
            .collect::<Result<Vec<_>, _>>()?;
        let row = shape[0];
        shape.reverse();
        let mut name = vec![0; name_length as usize];
        self.bytes(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| self.malformed("the name of a tensor is not text"))?;
        let size = shape
            .iter()
            .try_fold(1_u64, |product, &dimension| product.checked_mul(dimension))
            .filter(|&elements| (1..=1 << 32).contains(&elements))
            .and_then(|elements| format.bytes(row, elements))
            .ok_or_else(|| self.malformed(format!("tensor `{name}` has the impossible shape {shape:?}")))?;
        let offset = self.position;
        if size > self.length - offset {
            return Err(self.malformed(format!(
                "it is cut short: tensor `{name}` needs {size} bytes from byte {offset}, the file has {}",
                self.length
            )));
        }
        self.file
            .seek_relative(size as i64)
            .map_err(|e| ModelError::io("read", self.path, e))?;
        self.position += size;
        Ok(TensorEntry {
            name,
            shape,
            format,
            offset,
        })
    }
}
