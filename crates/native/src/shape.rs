//! What a model is made of: its sizes, its number format and where its tensors come from.

use thiserror::Error;

/// Width of an attention head; the same in every Whisper model (openai-whisper `model.py`: `n_state / n_head`).
pub const HEAD: usize = 64;

/// The sizes of a model, as a checkpoint's header gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Tokens in the vocabulary, timestamps included: 51,864 (English only), 51,865 or 51,866 (large-v3).
    pub n_vocab: usize,
    /// Positions of a whole window: 1,500 for 30 s.
    pub n_audio_ctx: usize,
    /// Width of the encoder; a multiple of 64.
    pub audio_state: usize,
    /// Attention heads of the encoder; `audio_state / 64`.
    pub audio_heads: usize,
    /// Layers of the encoder.
    pub audio_layers: usize,
    /// Tokens the decoder can hold: 448.
    pub text_ctx: usize,
    /// Width of the decoder; a multiple of 64.
    pub text_state: usize,
    /// Attention heads of the decoder; `text_state / 64`.
    pub text_heads: usize,
    /// Layers of the decoder.
    pub text_layers: usize,
    /// Bands of the spectrogram: 80, or 128 (large-v3).
    pub n_mels: usize,
}

impl Shape {
    /// The sizes of a published multilingual model: `tiny`, `base`, `small`, `medium`, `large-v3`, `large-v3-turbo`
    /// (openai-whisper `ModelDimensions` of each checkpoint).
    pub fn named(name: &str) -> Option<Self> {
        let (state, audio_layers, text_layers, n_vocab, n_mels) = match name {
            "tiny" => (384, 4, 4, 51_865, 80),
            "base" => (512, 6, 6, 51_865, 80),
            "small" => (768, 12, 12, 51_865, 80),
            "medium" => (1024, 24, 24, 51_865, 80),
            "large-v3" => (1280, 32, 32, 51_866, 128),
            "large-v3-turbo" => (1280, 32, 4, 51_866, 128),
            _ => return None,
        };
        Some(Self {
            n_vocab,
            n_audio_ctx: 1500,
            audio_state: state,
            audio_heads: state / HEAD,
            audio_layers,
            text_ctx: 448,
            text_state: state,
            text_heads: state / HEAD,
            text_layers,
            n_mels,
        })
    }

    /// Refuses sizes that no kernel can carry.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unsupported`] naming the size.
    pub fn validate(&self) -> Result<(), LoadError> {
        let bounded = |what: &'static str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(LoadError::Unsupported(format!(
                    "{what} is {value}; 1 to {most} is possible"
                )))
            }
        };
        bounded("the vocabulary", self.n_vocab, 1 << 20)?;
        bounded("the audio context", self.n_audio_ctx, 1 << 14)?;
        bounded("the encoder's layers", self.audio_layers, 256)?;
        bounded("the text context", self.text_ctx, 1 << 14)?;
        bounded("the decoder's layers", self.text_layers, 256)?;
        bounded("the number of mel bands", self.n_mels, 1024)?;
        bounded("the encoder's width", self.audio_state, 1 << 14)?;
        bounded("the decoder's width", self.text_state, 1 << 14)?;
        if !self.n_mels.is_multiple_of(16) {
            return Err(LoadError::Unsupported(format!(
                "the number of mel bands is {}; a multiple of 16 is possible",
                self.n_mels
            )));
        }
        for (state, heads) in [
            (self.audio_state, self.audio_heads),
            (self.text_state, self.text_heads),
        ] {
            if state != heads * HEAD {
                return Err(LoadError::Unsupported(format!(
                    "{heads} heads over a width of {state}; heads are {HEAD} wide in Whisper"
                )));
            }
        }
        Ok(())
    }
}

/// The number format of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 8-bit integers, one scale for each row of activations and each output channel of weights.
    Int8Row,
    /// 8-bit integers, one scale for each 64 elements of both sides.
    Int8Block64,
    /// bfloat16 weights; activations in bfloat16 where the processor multiplies it, else in `f32`.
    Bf16,
    /// `f32` throughout.
    F32,
}

impl Precision {
    /// Every format, fastest first.
    pub const ALL: [Self; 4] = [Self::Int8Row, Self::Int8Block64, Self::Bf16, Self::F32];

    /// The format's name: `int8`, `int8-64`, `bf16`, `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8Row => "int8",
            Self::Int8Block64 => "int8-64",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// The format of attention to what the same call or the same sequence computed: bfloat16, or `f32` in the exact format.
    pub(crate) fn attention(self) -> Self {
        if self == Self::F32 { Self::F32 } else { Self::Bf16 }
    }

    /// The format of a window's keys and values, which each step reads from memory: 8-bit integers with a scale for each head
    /// and position where the weights are integers, else as [`Precision::attention`].
    pub(crate) fn cross(self) -> Self {
        match self {
            Self::Int8Row | Self::Int8Block64 => Self::Int8Row,
            Self::Bf16 | Self::F32 => self.attention(),
        }
    }

    /// Bytes of a number of keys and values.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Int8Row | Self::Int8Block64 => 1,
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// One tensor, row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The first dimension: output channels of a weight, 1 for a bias or a norm.
    pub rows: usize,
    /// The product of the other dimensions: inputs of a weight; inputs times 3 taps for a convolution.
    pub columns: usize,
    /// `rows * columns` values, as the checkpoint orders them.
    pub values: Vec<f32>,
}

/// Where the tensors of a checkpoint come from.
///
/// Names are those of the ggml files, which are openai-whisper's: `encoder.blocks.0.attn.query.weight`.
pub trait Tensors {
    /// One tensor by name, dequantised. Each is asked for once or twice, in no particular order.
    ///
    /// # Errors
    ///
    /// [`LoadError::Missing`] or [`LoadError::Source`].
    fn tensor(&mut self, name: &str) -> Result<Tensor, LoadError>;
}

/// Why a model cannot be packed or opened.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The checkpoint lacks a tensor.
    #[error("the checkpoint has no tensor `{name}`")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor is not of the size that the header promises.
    #[error("tensor `{name}` has {actual_rows} x {actual_columns} values, expected {rows} x {columns}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// Rows expected.
        rows: usize,
        /// Columns expected.
        columns: usize,
        /// Rows found.
        actual_rows: usize,
        /// Columns found.
        actual_columns: usize,
    },
    /// The model's sizes are out of what the kernels carry.
    #[error("unsupported model: {0}")]
    Unsupported(String),
    /// A packed region is too short or not aligned to 64 bytes.
    #[error("packed weights: {0}")]
    Region(String),
    /// The source of the tensors failed.
    #[error("tensor `{name}`: {source}")]
    Source {
        /// The tensor's name.
        name: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
