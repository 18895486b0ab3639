//! How a checkpoint gets into the one region that holds a packed model.

use half::f16;

use crate::kernels::{self, BLOCK, PANEL};
use crate::plan::{Entry, MatrixAt, Plan};
use crate::{LoadError, Precision, Tensor, Tensors};

impl Plan {
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
