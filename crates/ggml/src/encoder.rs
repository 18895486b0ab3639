//! The encoder: from spectrograms to the cross-attention keys and values in their slots, several windows in one graph.
//!
//! Windows of one graph have a common length; what a shorter one has behind its end is computed and attended to by nobody.

use whisper_native::Shape;

use crate::Error;
use crate::cache::{Cache, FLASH_STEP, HALF};
use crate::device::Backend;
use crate::graph::{Arena, Builder};
use crate::memory::{Kind, Tensor};
use crate::weights::{Linear, Mlp, Norm, Weights};

/// Width of a head (openai-whisper `model.py`).
pub(crate) const HEAD: usize = 64;
/// openai-whisper's layer norm is torch's, with its default.
const EPSILON: f32 = 1e-5;
/// Attention is divided by the square root of a head's width.
pub(crate) const SCALE: f32 = 0.125;
/// Bits of a binary16 that hides a key: minus infinity.
pub(crate) const HIDDEN: u16 = 0xfc00;

/// One window.
pub(crate) struct Input<'a> {
    pub(crate) slot: usize,
    /// `n_mels` rows of `2 * positions` frames.
    pub(crate) mel: &'a [f32],
    pub(crate) positions: usize,
}

/// Most nodes of a graph for `windows` windows.
pub(crate) fn nodes(shape: &Shape, windows: usize) -> usize {
    256 + shape.audio_layers * 64 + shape.text_layers * (8 + 8 * windows)
}

/// `x` normalised, times weight, plus bias.
pub(crate) fn norm<'g>(b: &Builder<'g>, w: &'g Weights, x: Tensor<'g>, norm: Norm) -> Tensor<'g> {
    let x = b.norm(x, EPSILON);
    b.add(b.mul(x, w.tensor(norm.weight)), w.tensor(norm.bias))
}

/// The product with a matrix, plus bias.
pub(crate) fn linear<'g>(b: &Builder<'g>, w: &'g Weights, x: Tensor<'g>, linear: Linear) -> Tensor<'g> {
    let x = b.mul_mat(w.tensor(linear.weight), x);
    match linear.bias {
        Some(bias) => b.add(x, w.tensor(bias)),
        None => x,
    }
}

/// The two layers behind an attention, without the residual.
pub(crate) fn mlp<'g>(b: &Builder<'g>, w: &'g Weights, x: Tensor<'g>, mlp: &Mlp) -> Tensor<'g> {
    let x = norm(b, w, x, mlp.norm);
    let x = b.gelu(linear(b, w, x, mlp.up));
    linear(b, w, x, mlp.down)
}

/// Sizes of an encoder graph.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    length: usize,
    windows: usize,
    flash: bool,
}

/// A convolution over time of three frames; `x` is `[time, channels, windows]`, the result `[channels, time, windows]`.
fn convolution<'g>(
    b: &Builder<'g>,
    w: &'g Weights,
    x: Tensor<'g>,
    kernel: Linear,
    stride: usize,
) -> Tensor<'g> {
    let weight = w.tensor(kernel.weight);
    let [taps, inputs, outputs, _] = weight.sizes();
    let columns = b.neighbours(weight, x, stride);
    let [row, times, windows, _] = columns.sizes();
    let columns = b.reshape(columns, [row, times * windows, 1, 1]);
    let x = b.mul_mat(b.reshape(weight, [taps * inputs, outputs, 1, 1]), columns);
    let x = match kernel.bias {
        Some(bias) => b.add(x, w.tensor(bias)),
        None => x,
    };
    b.reshape(b.gelu(x), [outputs, times, windows, 1])
}

/// Encodes windows, at most [`nodes`]' many, and leaves keys and values in their slots.
pub(crate) fn encode(
    arena: &mut Arena,
    backend: &Backend,
    shape: &Shape,
    weights: &Weights,
    cache: &Cache,
    inputs: &[Input<'_>],
) -> Result<(), Error> {
    let length = inputs.iter().map(|input| input.positions).max().unwrap_or(1);
    let sizes = Sizes {
        width: shape.audio_state,
        length,
        windows: inputs.len(),
        flash: cache.layout.flash,
    };
    let keys = if sizes.flash {
        length.next_multiple_of(FLASH_STEP)
    } else {
        length
    };
    let hides = inputs.iter().any(|input| input.positions < keys);

    let b = arena.begin(backend);
    let mel = b.input::<f32>([2 * length, shape.n_mels, sizes.windows, 1]);
    // One row a window; every query of it sees the same keys.
    let row = hides.then(|| b.input::<f32>([keys, 1, 1, sizes.windows]));
    let mask = row.map(|row| b.cast(b.repeat(row, [keys, length, 1, sizes.windows]), Kind::F16));

    let x = convolution(&b, weights, mel, weights.convolutions[0], 1);
    let x = b.contiguous(b.permute(x, [1, 0, 2, 3]));
    let x = convolution(&b, weights, x, weights.convolutions[1], 2);
    let table = weights.tensor(weights.encoder_positions);
    let row_bytes = table.stride(1);
    let table = b.view(
        table,
        [sizes.width, length, 1, 1],
        [row_bytes, row_bytes * length, row_bytes * length],
        0,
    );
    let mut x = b.reshape(b.add(x, table), [sizes.width, length * sizes.windows, 1, 1]);
    for layer in &weights.encoder {
        let a = &layer.attention;
        let normal = norm(&b, weights, x, a.norm);
        let [query, key, value] = [a.query, a.key, a.value].map(|part| linear(&b, weights, normal, part));
        let heard = attention(&b, sizes, [query, key, value], keys, mask);
        x = b.add(linear(&b, weights, heard, a.out), x);
        x = b.add(mlp(&b, weights, x, &layer.mlp), x);
    }
    let x = norm(&b, weights, x, weights.encoder_norm);
    for (layer, of_layer) in weights.decoder.iter().enumerate() {
        let key = linear(&b, weights, x, of_layer.cross.key);
        let value = linear(&b, weights, x, of_layer.cross.value);
        for (window, input) in inputs.iter().enumerate() {
            store(&b, cache, layer, (window, input), length, key, value);
        }
    }

    let mut ready = b.allocate()?;
    let mut frames = vec![0.0_f32; 2 * length * shape.n_mels * sizes.windows];
    for (input, frames) in inputs.iter().zip(frames.chunks_mut(2 * length * shape.n_mels)) {
        let own = 2 * input.positions;
        for (from, into) in input.mel.chunks(own).zip(frames.chunks_mut(2 * length)) {
            into[..own].copy_from_slice(from);
        }
    }
    ready.set(mel, &frames);
    if let Some(row) = row {
        let mut hidden = vec![f32::NEG_INFINITY; keys * sizes.windows];
        for (input, hidden) in inputs.iter().zip(hidden.chunks_mut(keys)) {
            hidden[..input.positions].fill(0.0);
        }
        ready.set(row, &hidden);
    }
    ready.run()
}

/// Self-attention of each window to itself.
fn attention<'g>(
    b: &Builder<'g>,
    sizes: Sizes,
    [query, key, value]: [Tensor<'g>; 3],
    keys: usize,
    mask: Option<Tensor<'g>>,
) -> Tensor<'g> {
    let Sizes {
        width,
        length,
        windows,
        flash,
    } = sizes;
    let heads = width / HEAD;
    let split = |x, length| b.reshape(x, [HEAD, heads, length, windows]);
    let query = b.permute(split(query, length), [0, 2, 1, 3]);
    if flash {
        let [key, value] = [key, value].map(|x| {
            let padded = b.pad_rows(b.reshape(x, [width, length, windows, 1]), keys);
            b.permute(split(b.cast(padded, Kind::F16), keys), [0, 2, 1, 3])
        });
        let heard = b.flash_attention(query, key, value, mask, SCALE);
        return b.reshape(heard, [width, length * windows, 1, 1]);
    }
    let key = b.permute(b.cast(split(key, length), Kind::F16), [0, 2, 1, 3]);
    let value = b.cast(b.permute(split(value, length), [1, 2, 0, 3]), Kind::F16);
    let weights = b.soft_max(b.mul_mat(key, query), mask, SCALE);
    let heard = b.permute(b.mul_mat(value, weights), [0, 2, 1, 3]);
    b.reshape(b.contiguous(heard), [width, length * windows, 1, 1])
}

/// Copies the keys and values of one window into its slot.
fn store<'g>(
    b: &Builder<'g>,
    cache: &'g Cache,
    layer: usize,
    (window, input): (usize, &Input<'_>),
    length: usize,
    key: Tensor<'g>,
    value: Tensor<'g>,
) {
    let layout = &cache.layout;
    let (width, room) = (layout.width, layout.positions);
    let of_window = |x: Tensor<'g>| {
        let row = x.stride(1);
        b.view(
            x,
            [width, length, 1, 1],
            [row, row * length, row * length],
            window * length * row,
        )
    };
    let offset = input.slot * room * width * HALF;
    let rows = [width * HALF, width * HALF * length, width * HALF * length];
    let into = b.view(cache.cross_keys(layer), [width, length, 1, 1], rows, offset);
    b.compute(b.copy(of_window(key), into));
    let (from, into) = if layout.flash {
        let into = b.view(cache.cross_values(layer), [width, length, 1, 1], rows, offset);
        (of_window(value), into)
    } else {
        let columns = [room * HALF, room * HALF * width, room * HALF * width];
        let into = b.view(cache.cross_values(layer), [length, width, 1, 1], columns, offset);
        (b.permute(of_window(value), [1, 0, 2, 3]), into)
    };
    b.compute(b.copy(from, into));
}
