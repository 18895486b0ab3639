//! Where each tensor lies in the one region that holds a packed model.

use crate::buffer::ALIGN;
use crate::kernels::{self, Matrix, PANEL};
use crate::{Precision, Shape};

/// A packed matrix's place: offsets in bytes from the region's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixAt {
    pub(crate) format: Precision,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) words: usize,
    pub(crate) scales: usize,
    pub(crate) bias: usize,
}

impl MatrixAt {
    /// A matrix in a region of its own, and that region's length.
    pub(crate) fn alone(format: Precision, n: usize, k: usize) -> (Self, usize) {
        let mut planner = Planner {
            used: 0,
            precision: format,
            entries: Vec::new(),
        };
        let at = planner.matrix(format, k, vec![(String::new(), n, true)], None);
        (at, planner.used)
    }

    /// The matrix in a region that holds the plan it is part of.
    pub(crate) fn of(&self, region: *const u8) -> Matrix {
        Matrix {
            format: self.format,
            n: self.n,
            k: self.k,
            words: region.wrapping_add(self.words).cast(),
            scales: region.wrapping_add(self.scales).cast(),
            bias: region.wrapping_add(self.bias).cast(),
        }
    }
}

/// The place of some `f32` (or, for the token embedding, binary16) values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValuesAt(pub(crate) usize);

impl ValuesAt {
    pub(crate) fn of(self, region: *const u8) -> *const f32 {
        region.wrapping_add(self.0).cast()
    }
}

/// Weight and bias of a normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormAt {
    pub(crate) weight: ValuesAt,
    pub(crate) bias: ValuesAt,
}

#[derive(Debug)]
pub(crate) struct EncoderLayer {
    pub(crate) attention_norm: NormAt,
    /// Query, key and value side by side.
    pub(crate) qkv: MatrixAt,
    pub(crate) out: MatrixAt,
    pub(crate) mlp_norm: NormAt,
    pub(crate) expand: MatrixAt,
    pub(crate) contract: MatrixAt,
}

#[derive(Debug)]
pub(crate) struct DecoderLayer {
    pub(crate) attention_norm: NormAt,
    pub(crate) qkv: MatrixAt,
    pub(crate) out: MatrixAt,
    pub(crate) cross_norm: NormAt,
    pub(crate) cross_query: MatrixAt,
    pub(crate) cross_out: MatrixAt,
    pub(crate) mlp_norm: NormAt,
    pub(crate) expand: MatrixAt,
    pub(crate) contract: MatrixAt,
    /// Key and value of the cross-attention: they take the encoder's output.
    pub(crate) cross_kv: MatrixAt,
}

/// Where everything lies. The same for equal shapes and formats.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) conv1: MatrixAt,
    pub(crate) conv2: MatrixAt,
    pub(crate) audio_positions: ValuesAt,
    pub(crate) encoder: Vec<EncoderLayer>,
    pub(crate) encoder_norm: NormAt,
    pub(crate) decoder: Vec<DecoderLayer>,
    pub(crate) decoder_norm: NormAt,
    pub(crate) text_positions: ValuesAt,
    /// Rows of binary16, or of `f32` in the format `F32`.
    pub(crate) embedding: ValuesAt,
    pub(crate) logits: MatrixAt,
    /// Bytes in all.
    pub(crate) len: usize,
    pub(crate) entries: Vec<Entry>,
}

/// How one place is filled.
#[derive(Debug)]
pub(crate) enum Entry {
    Matrix {
        at: MatrixAt,
        /// Tensors stacked along the output channels: name without `.weight`, channels, whether there is a bias.
        parts: Vec<(String, usize, bool)>,
        /// Inputs of a convolution, whose taps come last in the checkpoint and first here.
        convolution: Option<usize>,
    },
    Values {
        at: ValuesAt,
        name: String,
        rows: usize,
        columns: usize,
        half: bool,
    },
}

struct Planner {
    used: usize,
    precision: Precision,
    entries: Vec<Entry>,
}

impl Planner {
    fn room(&mut self, bytes: usize) -> usize {
        let at = self.used;
        self.used += bytes.next_multiple_of(ALIGN);
        at
    }

    fn matrix(
        &mut self,
        format: Precision,
        k: usize,
        parts: Vec<(String, usize, bool)>,
        convolution: Option<usize>,
    ) -> MatrixAt {
        let n: usize = parts.iter().map(|part| part.1).sum();
        let padded = n.next_multiple_of(PANEL);
        let words = self.room(padded * (k / kernels::word(format)) * 4);
        let scales = match format {
            Precision::Int8Row | Precision::Int8Block64 => self.room(padded * kernels::blocks(format, k) * 4),
            Precision::Bf16 | Precision::F32 => self.used,
        };
        // Also what a kernel may read past the last scales.
        let bias = self.room(padded * 4);
        let at = MatrixAt {
            format,
            n,
            k,
            words,
            scales,
            bias,
        };
        self.entries.push(Entry::Matrix {
            at,
            parts,
            convolution,
        });
        at
    }

    fn linear(&mut self, k: usize, parts: &[(String, usize, bool)]) -> MatrixAt {
        self.matrix(self.precision, k, parts.to_vec(), None)
    }

    fn values(&mut self, name: String, rows: usize, columns: usize, half: bool) -> ValuesAt {
        let at = ValuesAt(self.room(rows * columns * if half { 2 } else { 4 }));
        self.entries.push(Entry::Values {
            at,
            name,
            rows,
            columns,
            half,
        });
        at
    }

    fn norm(&mut self, name: &str, width: usize) -> NormAt {
        let weight = self.values(format!("{name}.weight"), 1, width, false);
        NormAt {
            weight,
            bias: self.values(format!("{name}.bias"), 1, width, false),
        }
    }

    fn attention(&mut self, name: &str, width: usize) -> (MatrixAt, MatrixAt) {
        let parts = [
            (format!("{name}.query"), width, true),
            (format!("{name}.key"), width, false),
            (format!("{name}.value"), width, true),
        ];
        (
            self.linear(width, &parts),
            self.linear(width, &[(format!("{name}.out"), width, true)]),
        )
    }

    fn mlp(&mut self, name: &str, width: usize) -> (MatrixAt, MatrixAt) {
        let expand = self.linear(width, &[(format!("{name}.mlp.0"), 4 * width, true)]);
        (
            expand,
            self.linear(4 * width, &[(format!("{name}.mlp.2"), width, true)]),
        )
    }
}

impl Plan {
    /// Lays out a model of a validated shape.
    pub(crate) fn new(shape: &Shape, precision: Precision) -> Self {
        let mut planner = Planner {
            used: 0,
            precision,
            entries: Vec::new(),
        };
        let p = &mut planner;
        let (wide, text) = (shape.audio_state, shape.text_state);
        // The first convolution is small and its input coarse in 8 bits: never integers.
        let first = if precision == Precision::F32 {
            Precision::F32
        } else {
            Precision::Bf16
        };
        let parts = vec![("encoder.conv1".to_owned(), wide, true)];
        let conv1 = p.matrix(first, 3 * shape.n_mels, parts, Some(shape.n_mels));
        let parts = vec![("encoder.conv2".to_owned(), wide, true)];
        let conv2 = p.matrix(precision, 3 * wide, parts, Some(wide));
        let audio_positions = p.values(
            "encoder.positional_embedding".to_owned(),
            shape.n_audio_ctx,
            wide,
            false,
        );
        let encoder = (0..shape.audio_layers)
            .map(|layer| {
                let name = format!("encoder.blocks.{layer}");
                let attention_norm = p.norm(&format!("{name}.attn_ln"), wide);
                let (qkv, out) = p.attention(&format!("{name}.attn"), wide);
                let mlp_norm = p.norm(&format!("{name}.mlp_ln"), wide);
                let (expand, contract) = p.mlp(&name, wide);
                EncoderLayer {
                    attention_norm,
                    qkv,
                    out,
                    mlp_norm,
                    expand,
                    contract,
                }
            })
            .collect();
        let encoder_norm = p.norm("encoder.ln_post", wide);
        let decoder = (0..shape.text_layers)
            .map(|layer| {
                let name = format!("decoder.blocks.{layer}");
                let cross = format!("{name}.cross_attn");
                let attention_norm = p.norm(&format!("{name}.attn_ln"), text);
                let (qkv, out) = p.attention(&format!("{name}.attn"), text);
                let cross_norm = p.norm(&format!("{name}.cross_attn_ln"), text);
                let cross_query = p.linear(text, &[(format!("{cross}.query"), text, true)]);
                let cross_out = p.linear(text, &[(format!("{cross}.out"), text, true)]);
                let mlp_norm = p.norm(&format!("{name}.mlp_ln"), text);
                let (expand, contract) = p.mlp(&name, text);
                let kv = [
                    (format!("{cross}.key"), text, false),
                    (format!("{cross}.value"), text, true),
                ];
                let cross_kv = p.linear(wide, &kv);
                DecoderLayer {
                    attention_norm,
                    qkv,
                    out,
                    cross_norm,
                    cross_query,
                    cross_out,
                    mlp_norm,
                    expand,
                    contract,
                    cross_kv,
                }
            })
            .collect();
        let decoder_norm = p.norm("decoder.ln", text);
        let text_positions = p.values(
            "decoder.positional_embedding".to_owned(),
            shape.text_ctx,
            text,
            false,
        );
        let half = precision != Precision::F32;
        let name = "decoder.token_embedding.weight".to_owned();
        let embedding = p.values(name, shape.n_vocab, text, half);
        // The same tensor again: its name here is without `.weight`.
        let logits = p.linear(
            text,
            &[("decoder.token_embedding".to_owned(), shape.n_vocab, false)],
        );
        Self {
            conv1,
            conv2,
            audio_positions,
            encoder,
            encoder_norm,
            decoder,
            decoder_norm,
            text_positions,
            embedding,
            logits,
            len: planner.used,
            entries: planner.entries,
        }
    }
}
