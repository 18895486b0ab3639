//! Packing: where each tensor lies in the one region that holds a model, and how it gets there.

use half::f16;

use crate::buffer::ALIGN;
use crate::kernels::{self, BLOCK, Matrix, PANEL};
use crate::{LoadError, Precision, Shape, Tensor, Tensors};

/// A packed matrix's place: offsets in bytes from the region's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixAt {
    format: Precision,
    n: usize,
    k: usize,
    words: usize,
    scales: usize,
    bias: usize,
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
    entries: Vec<Entry>,
}

/// How one place is filled.
#[derive(Debug)]
enum Entry {
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

    /// Packs a checkpoint into `region`, which is at least as long as the plan.
    pub(crate) fn pack(&self, tensors: &mut dyn Tensors, region: &mut [u8]) -> Result<(), LoadError> {
        for entry in &self.entries {
            match entry {
                Entry::Values {
                    at,
                    name,
                    rows,
                    columns,
                    half,
                } => {
                    let tensor = read(tensors, name, *rows, *columns)?;
                    let size = if *half { 2 } else { 4 };
                    let to = &mut region[at.0..][..rows * columns * size];
                    for (to, value) in to.chunks_exact_mut(size).zip(&tensor.values) {
                        if *half {
                            to.copy_from_slice(&f16::from_f32(*value).to_le_bytes());
                        } else {
                            to.copy_from_slice(&value.to_le_bytes());
                        }
                    }
                }
                Entry::Matrix {
                    at,
                    parts,
                    convolution,
                } => {
                    let mut channel = 0;
                    for (name, rows, has_bias) in parts {
                        let mut tensor = read(tensors, &format!("{name}.weight"), *rows, at.k)?;
                        if let Some(inputs) = convolution {
                            taps_first(&mut tensor, *inputs);
                        }
                        pack_rows(at, region, channel, &tensor.values);
                        if *has_bias {
                            let bias = read(tensors, &format!("{name}.bias"), 1, *rows)?;
                            let to = &mut region[at.bias + channel * 4..][..rows * 4];
                            for (to, value) in to.chunks_exact_mut(4).zip(&bias.values) {
                                to.copy_from_slice(&value.to_le_bytes());
                            }
                        } else {
                            region[at.bias + channel * 4..][..rows * 4].fill(0);
                        }
                        channel += rows;
                    }
                    clear_padding(at, region);
                }
            }
        }
        Ok(())
    }
}

/// A tensor of the size that the plan expects. A vector counts as one row or one column.
fn read(tensors: &mut dyn Tensors, name: &str, rows: usize, columns: usize) -> Result<Tensor, LoadError> {
    let tensor = tensors.tensor(name)?;
    let vector = rows == 1 && tensor.rows * tensor.columns == columns;
    let fits = vector || (tensor.rows == rows && tensor.columns == columns);
    if fits && tensor.values.len() == rows * columns {
        return Ok(tensor);
    }
    Err(LoadError::TensorShape {
        name: name.to_owned(),
        rows,
        columns,
        actual_rows: tensor.rows,
        actual_columns: tensor.columns,
    })
}

/// `[channel][input][tap]` to `[channel][tap][input]`: three frames that lie one after the other are then one row.
fn taps_first(tensor: &mut Tensor, inputs: usize) {
    let mut row = vec![0.0; tensor.columns];
    for values in tensor.values.chunks_exact_mut(tensor.columns) {
        for (input, taps) in values.chunks_exact(3).enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                row[tap * inputs + input] = *value;
            }
        }
        values.copy_from_slice(&row);
    }
}

/// Packs rows of weights as the output channels from `first` on. Rows are independent: all processors take part.
fn pack_rows(at: &MatrixAt, region: &mut [u8], first: usize, values: &[f32]) {
    let word_bytes = at.k / kernels::word(at.format) * PANEL * 4;
    let blocks = kernels::blocks(at.format, at.k);
    let scale_bytes = if matches!(at.format, Precision::Int8Row | Precision::Int8Block64) {
        blocks * PANEL * 4
    } else {
        0
    };
    let count = values.len() / at.k;
    let panels = first / PANEL..(first + count).div_ceil(PANEL);
    let (words, rest) = region[at.words..].split_at_mut(at.scales - at.words);
    let words = &mut words[panels.start * word_bytes..panels.end * word_bytes];
    let scales: &mut [u8] = if scale_bytes == 0 {
        &mut []
    } else {
        &mut rest[panels.start * scale_bytes..panels.end * scale_bytes]
    };
    let one = |panel: usize, words: &mut [u8], scales: &mut [u8]| {
        let begin = (panel * PANEL).max(first);
        let end = ((panel + 1) * PANEL).min(first + count);
        for channel in begin..end {
            let row = &values[(channel - first) * at.k..][..at.k];
            pack_row(at.format, row, channel % PANEL, words, scales);
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16);
    let share = panels.len().div_ceil(threads);
    if threads == 1 || values.len() < 1 << 18 {
        let mut scales = scales;
        for (panel, words) in panels.zip(words.chunks_exact_mut(word_bytes)) {
            let (own, rest) = std::mem::take(&mut scales).split_at_mut(scale_bytes);
            one(panel, words, own);
            scales = rest;
        }
        return;
    }
    std::thread::scope(|scope| {
        let mut scales = scales;
        for (index, words) in words.chunks_mut(share * word_bytes).enumerate() {
            let taken = words.len() / word_bytes * scale_bytes;
            let (mut own, rest) = std::mem::take(&mut scales).split_at_mut(taken);
            scales = rest;
            let (one, begin) = (&one, panels.start + index * share);
            scope.spawn(move || {
                for (offset, words) in words.chunks_exact_mut(word_bytes).enumerate() {
                    let (scale, rest) = std::mem::take(&mut own).split_at_mut(scale_bytes);
                    one(begin + offset, words, scale);
                    own = rest;
                }
            });
        }
    });
}

/// One output channel into its panel.
fn pack_row(format: Precision, row: &[f32], channel: usize, words: &mut [u8], scales: &mut [u8]) {
    let place = |word: usize| (word * PANEL + channel) * 4;
    match format {
        Precision::Int8Row | Precision::Int8Block64 => {
            let block = if format == Precision::Int8Row {
                row.len()
            } else {
                BLOCK
            };
            for (index, values) in row.chunks_exact(block).enumerate() {
                let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let inverse = if largest > kernels::SMALLEST {
                    127.0 / largest
                } else {
                    0.0
                };
                for (word, values) in values.chunks_exact(4).enumerate() {
                    let to = &mut words[place(index * block / 4 + word)..][..4];
                    for (to, value) in to.iter_mut().zip(values) {
                        *to = ((value * inverse).round_ties_even() as i32)
                            .clamp(-127, 127)
                            .wrapping_add(128) as u8;
                    }
                }
                scales[(index * PANEL + channel) * 4..][..4]
                    .copy_from_slice(&(largest / 127.0).to_le_bytes());
            }
        }
        Precision::Bf16 => {
            for (word, pair) in row.chunks_exact(2).enumerate() {
                let to = &mut words[place(word)..][..4];
                to[..2].copy_from_slice(&kernels::bf16(pair[0]).to_le_bytes());
                to[2..].copy_from_slice(&kernels::bf16(pair[1]).to_le_bytes());
            }
        }
        Precision::F32 => {
            for (word, value) in row.iter().enumerate() {
                words[place(word)..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// The channels that fill up the last panel count nothing.
fn clear_padding(at: &MatrixAt, region: &mut [u8]) {
    let zero = vec![0.0; at.k];
    let last = at.n / PANEL;
    if at.n.is_multiple_of(PANEL) {
        return;
    }
    let word_bytes = at.k / kernels::word(at.format) * PANEL * 4;
    let scale_bytes = kernels::blocks(at.format, at.k) * PANEL * 4;
    for channel in at.n..at.n.next_multiple_of(PANEL) {
        let (words, rest) = region[at.words..].split_at_mut(at.scales - at.words);
        let words = &mut words[last * word_bytes..];
        let scales = &mut rest[(last * scale_bytes).min(at.bias - at.scales)..];
        pack_row(at.format, &zero, channel % PANEL, words, scales);
        region[at.bias + channel * 4..][..4].fill(0);
    }
}

/// A matrix of its own, for tests of kernels.
#[cfg(test)]
pub(crate) fn matrix(
    format: Precision,
    n: usize,
    k: usize,
    values: &[f32],
    bias: &[f32],
) -> (crate::buffer::Buffer, MatrixAt) {
    let (at, len) = MatrixAt::alone(format, n, k);
    let mut buffer = crate::buffer::Buffer::new(len);
    pack_rows(&at, buffer.bytes_mut(), 0, values);
    clear_padding(&at, buffer.bytes_mut());
    for (to, value) in buffer.bytes_mut()[at.bias..].chunks_exact_mut(4).zip(bias) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    (buffer, at)
}
