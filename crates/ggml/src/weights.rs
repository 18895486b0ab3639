//! The weights of one model on one device.

use whisper_native::{LoadError, Shape};

use crate::Error;
use crate::device::Backend;
use crate::memory::{Blank, Kind, Store, Tensor};

/// How a source stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// ggml's number of the type (`ggml_type`).
    pub kind: u32,
    /// Numbers in all.
    pub elements: usize,
}

/// Where the tensors of a checkpoint come from, as a ggml file stores them.
///
/// Names are those of the ggml files, which are openai-whisper's: `encoder.blocks.0.attn.query.weight`.
pub trait Source {
    /// How a tensor is stored.
    ///
    /// # Errors
    ///
    /// [`LoadError::Missing`].
    fn find(&mut self, name: &str) -> Result<Stored, LoadError>;

    /// The bytes of a tensor, row-major: `into` is as long as they are.
    ///
    /// # Errors
    ///
    /// [`LoadError::Source`].
    fn read(&mut self, name: &str, into: &mut [u8]) -> Result<(), LoadError>;
}

/// A tensor's number in the store.
type Index = usize;

#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) weight: Index,
    pub(crate) bias: Index,
}

#[derive(Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) weight: Index,
    pub(crate) bias: Option<Index>,
}

pub(crate) struct Attention {
    pub(crate) norm: Norm,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
}

pub(crate) struct Mlp {
    pub(crate) norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

pub(crate) struct EncoderLayer {
    pub(crate) attention: Attention,
    pub(crate) mlp: Mlp,
}

pub(crate) struct DecoderLayer {
    pub(crate) attention: Attention,
    pub(crate) cross: Attention,
    pub(crate) mlp: Mlp,
}

pub(crate) struct Weights {
    store: Store,
    pub(crate) encoder_positions: Index,
    pub(crate) convolutions: [Linear; 2],
    pub(crate) encoder: Vec<EncoderLayer>,
    pub(crate) encoder_norm: Norm,
    pub(crate) decoder_positions: Index,
    pub(crate) tokens: Index,
    pub(crate) decoder: Vec<DecoderLayer>,
    pub(crate) decoder_norm: Norm,
}

/// Tensors to be loaded, in the order of their numbers.
struct Plan<'s> {
    source: &'s mut dyn Source,
    names: Vec<String>,
    blanks: Vec<Blank>,
}

impl Plan<'_> {
    /// `sizes` from the contiguous dimension on.
    fn tensor(&mut self, name: String, sizes: [usize; 3]) -> Result<Index, Error> {
        let stored = self.source.find(&name)?;
        let [columns, rows, more] = sizes;
        if stored.elements != columns * rows * more {
            return Err(Error::Load(LoadError::TensorShape {
                rows: rows * more,
                columns,
                actual_rows: 1,
                actual_columns: stored.elements,
                name,
            }));
        }
        let kind = Kind::of_weights(stored.kind).filter(|kind| kind.row_bytes(columns).is_some());
        let Some(kind) = kind else {
            return Err(Error::Kind {
                name,
                kind: stored.kind,
            });
        };
        self.names.push(name);
        self.blanks.push(Blank {
            kind,
            sizes: [columns, rows, more, 1],
        });
        Ok(self.names.len() - 1)
    }

    /// A bias, a norm or a table of positions: these are added to `f32`.
    fn plain(&mut self, name: String, sizes: [usize; 3]) -> Result<Index, Error> {
        let index = self.tensor(name, sizes)?;
        if self.blanks[index].kind != Kind::F32 {
            return Err(Error::Kind {
                name: self.names[index].clone(),
                kind: self.blanks[index].kind.raw(),
            });
        }
        Ok(index)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm, Error> {
        Ok(Norm {
            weight: self.plain(format!("{name}.weight"), [width, 1, 1])?,
            bias: self.plain(format!("{name}.bias"), [width, 1, 1])?,
        })
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self.tensor(format!("{name}.weight"), [inputs, outputs, 1])?,
            bias: if bias {
                Some(self.plain(format!("{name}.bias"), [outputs, 1, 1])?)
            } else {
                None
            },
        })
    }

    /// `heard` is the width of what keys and values are made from.
    fn attention(&mut self, name: &str, width: usize, heard: usize) -> Result<Attention, Error> {
        Ok(Attention {
            norm: self.norm(&format!("{name}_ln"), width)?,
            query: self.linear(&format!("{name}.query"), width, width, true)?,
            key: self.linear(&format!("{name}.key"), heard, width, false)?,
            value: self.linear(&format!("{name}.value"), heard, width, true)?,
            out: self.linear(&format!("{name}.out"), width, width, true)?,
        })
    }

    fn mlp(&mut self, block: &str, width: usize) -> Result<Mlp, Error> {
        Ok(Mlp {
            norm: self.norm(&format!("{block}.mlp_ln"), width)?,
            up: self.linear(&format!("{block}.mlp.0"), width, 4 * width, true)?,
            down: self.linear(&format!("{block}.mlp.2"), 4 * width, width, true)?,
        })
    }
}

impl Weights {
    /// Reads a checkpoint of `shape` into one buffer of the device.
    pub(crate) fn load(backend: &Backend, shape: &Shape, source: &mut dyn Source) -> Result<Self, Error> {
        shape.validate()?;
        let (audio, text) = (shape.audio_state, shape.text_state);
        let mut plan = Plan {
            source,
            names: Vec::new(),
            blanks: Vec::new(),
        };
        let convolution = |plan: &mut Plan<'_>, number: usize, inputs: usize| {
            Ok::<_, Error>(Linear {
                weight: plan.tensor(format!("encoder.conv{number}.weight"), [3, inputs, audio])?,
                bias: Some(plan.plain(format!("encoder.conv{number}.bias"), [audio, 1, 1])?),
            })
        };
        let convolutions = [
            convolution(&mut plan, 1, shape.n_mels)?,
            convolution(&mut plan, 2, audio)?,
        ];
        let encoder_positions = plan.plain(
            "encoder.positional_embedding".to_owned(),
            [audio, shape.n_audio_ctx, 1],
        )?;
        let encoder = (0..shape.audio_layers)
            .map(|layer| {
                let block = format!("encoder.blocks.{layer}");
                Ok(EncoderLayer {
                    attention: plan.attention(&format!("{block}.attn"), audio, audio)?,
                    mlp: plan.mlp(&block, audio)?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let encoder_norm = plan.norm("encoder.ln_post", audio)?;
        let decoder_positions = plan.plain(
            "decoder.positional_embedding".to_owned(),
            [text, shape.text_ctx, 1],
        )?;
        let tokens = plan.tensor(
            "decoder.token_embedding.weight".to_owned(),
            [text, shape.n_vocab, 1],
        )?;
        let decoder = (0..shape.text_layers)
            .map(|layer| {
                let block = format!("decoder.blocks.{layer}");
                Ok(DecoderLayer {
                    attention: plan.attention(&format!("{block}.attn"), text, text)?,
                    cross: plan.attention(&format!("{block}.cross_attn"), text, audio)?,
                    mlp: plan.mlp(&block, text)?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let decoder_norm = plan.norm("decoder.ln", text)?;

        let Plan {
            source,
            names,
            blanks,
        } = plan;
        let mut store = Store::new(backend, &blanks, true, "the weights")?;
        let mut bytes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            bytes.resize(store.tensor(index).bytes(), 0);
            source.read(name, &mut bytes)?;
            store.fill(index, &bytes);
        }
        Ok(Self {
            store,
            encoder_positions,
            convolutions,
            encoder,
            encoder_norm,
            decoder_positions,
            tokens,
            decoder,
            decoder_norm,
        })
    }

    pub(crate) fn tensor(&self, index: Index) -> Tensor<'_> {
        self.store.tensor(index)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.store.bytes()
    }
}
