//! The encoder: from a spectrogram to the keys and values that the decoder attends to.
//!
//! A chunk of some 48 rows goes through attention, output, MLP and the next layer's query, key and value at once, so that
//! everything between stays in the second-level cache. Layers meet in one place only: a layer's keys and values must be complete
//! before the next phase attends to them. So there is one phase of the team a layer, and two buffers for keys and values.

use std::sync::Arc;

use thiserror::Error;

use crate::buffer::{Buffer, Carver, Shared};
use crate::context::{Context, QUERY_SCALE};
use crate::kernels::{Attend, Epilogue, Head, PANEL, PackHeads, Rows, attend_scratch, word};
use crate::model::Pool;
use crate::plan::Plan;
use crate::shape::HEAD;
use crate::{Precision, Team};

/// Rows of a chunk: four tiles of twelve. More would spill out of the second-level cache, fewer read the weights more often.
const CHUNK: usize = 48;

/// Why a window was not encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Positions are out of 1 to the model's audio context.
    #[error("{positions} positions; 1 to {most} are possible")]
    Positions {
        /// What was asked for.
        positions: usize,
        /// The model's audio context.
        most: usize,
    },
    /// The spectrogram is not a whole number of frames.
    #[error("a spectrogram of {len} values is no whole number of frames of {n_mels} bands")]
    Mel {
        /// Values given.
        len: usize,
        /// Bands of the model.
        n_mels: usize,
    },
}

/// The cross-attention keys and values of one window: exactly its positions, nothing else can be attended to.
pub struct Encoded {
    positions: usize,
    padded: usize,
    heads: usize,
    layers: usize,
    format: Precision,
    memory: Buffer,
    pool: Arc<Pool>,
}

impl Encoded {
    fn new(context: &Context<'_>, positions: usize, pool: &Arc<Pool>) -> Self {
        let (padded, shape) = (positions.next_multiple_of(PANEL), context.shape);
        let mut encoded = Self {
            positions,
            padded,
            heads: shape.text_heads,
            layers: shape.text_layers,
            format: context.precision.cross(),
            memory: Buffer::default(),
            pool: Arc::clone(pool),
        };
        encoded.memory = pool.window(shape.text_layers * encoded.layer_words() * 4);
        encoded
    }

    /// Positions of the window.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    pub(crate) fn fits(&self, context: &Context<'_>) -> bool {
        let shape = context.shape;
        let format = context.precision.cross();
        (self.heads, self.layers, self.format) == (shape.text_heads, shape.text_layers, format)
    }

    /// Words of the keys, and of the values, of one head.
    fn head_words(&self) -> usize {
        self.padded * (HEAD / word(self.format))
    }

    /// Words of the scales of one head: of its keys, then of its values.
    fn scale_words(&self) -> usize {
        if self.format == Precision::Int8Row {
            2 * self.padded
        } else {
            0
        }
    }

    /// Words of a layer: the keys of all heads, the values of all, the scales of all.
    fn layer_words(&self) -> usize {
        self.heads * (2 * self.head_words() + self.scale_words())
    }

    fn keys(&self, layer: usize) -> *mut u32 {
        Shared::<u32>(self.memory.shared().0.cast()).at(layer * self.layer_words())
    }

    fn values(&self, layer: usize) -> *mut u32 {
        self.keys(layer).wrapping_add(self.heads * self.head_words())
    }

    fn scales(&self, layer: usize) -> *mut f32 {
        let values = self.values(layer);
        values.wrapping_add(self.heads * self.head_words()).cast()
    }

    /// Packed keys and values of one head of one layer.
    pub(crate) fn head(&self, layer: usize, head: usize) -> Head {
        let at = head * self.head_words();
        Head {
            keys: self.keys(layer).wrapping_add(at),
            values: self.values(layer).wrapping_add(at),
            scales: self.scales(layer).wrapping_add(head * self.scale_words()),
            positions: self.positions,
            padded: self.padded,
        }
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.pool.keep_window(std::mem::take(&mut self.memory));
    }
}

/// What a call asks for. See [`crate::Weights::encode`].
pub(crate) struct Call<'a> {
    pub(crate) mel: &'a [f32],
    pub(crate) positions: usize,
    pub(crate) cancelled: &'a dyn Fn() -> bool,
    /// Takes the encoder's own output too.
    pub(crate) output: Option<&'a mut Vec<f32>>,
}

/// What all chunks of one call share.
struct Job<'a> {
    context: Context<'a>,
    plan: &'a Plan,
    mel: &'a [f32],
    frames: usize,
    encoded: &'a Encoded,
    /// The residual stream, `positions x audio_state`.
    x: Shared<f32>,
    /// Queries in the format of attention.
    queries: Shared<u8>,
    /// Keys and values of a layer, and those of the next.
    keys: [Shared<u32>; 2],
    values: [Shared<u32>; 2],
    positions: usize,
    padded: usize,
    chunk: usize,
    /// Where the encoder's own output goes too, for comparisons.
    output: Option<Shared<f32>>,
}

/// One thread's intermediates.
struct Own {
    /// The widest rows: the MLP's inside, query-key-value, the first convolution.
    wide: Shared<f32>,
    /// Rows of the model's width.
    narrow: Shared<f32>,
    /// Rows quantised.
    rows: Shared<u8>,
    mel: Shared<f32>,
    attend: Shared<u8>,
}

/// Runs the encoder. See [`crate::Weights::encode`].
pub(crate) fn encode(
    context: Context<'_>,
    plan: &Plan,
    pool: &Arc<Pool>,
    team: &mut Team,
    call: Call<'_>,
) -> Result<Encoded, EncodeError> {
    let Call {
        mel,
        positions,
        cancelled,
        mut output,
    } = call;
    let shape = context.shape;
    if positions == 0 || positions > shape.n_audio_ctx {
        return Err(EncodeError::Positions {
            positions,
            most: shape.n_audio_ctx,
        });
    }
    if !mel.len().is_multiple_of(shape.n_mels) {
        return Err(EncodeError::Mel {
            len: mel.len(),
            n_mels: shape.n_mels,
        });
    }
    let chunk = chunk_rows(positions, team.threads());
    let mut scratch = team.take_scratch();
    let encoded = Encoded::new(&context, positions, pool);
    let padded = encoded.padded();
    let format = context.attention();
    let (width, head_words) = (shape.audio_state, padded * (HEAD / word(format)));

    let carve = |carver: &mut Carver| {
        let x = carver.take::<f32>(positions * width);
        let queries = carver.take::<u8>(positions * width * context.kernels.number(format));
        let keys = [0; 2].map(|_| carver.take::<u32>(shape.audio_heads * head_words));
        let values = [0; 2].map(|_| carver.take::<u32>(shape.audio_heads * head_words));
        (x, queries, keys, values)
    };
    let mut measure = Carver::measure();
    carve(&mut measure);
    scratch.common.reserve(measure.used());
    let (x, queries, keys, values) = carve(&mut Carver::over(scratch.common.shared()));
    let output = output.as_mut().map(|output| {
        output.resize(positions * width, 0.0);
        Shared(output.as_mut_ptr())
    });
    let job = Job {
        context,
        plan,
        mel,
        frames: mel.len() / shape.n_mels,
        encoded: &encoded,
        x,
        queries,
        keys,
        values,
        positions,
        padded,
        chunk,
        output,
    };
    let mut measure = Carver::measure();
    job.own(&mut measure);
    scratch.own.resize_with(team.threads(), Buffer::default);
    for own in &mut scratch.own {
        own.reserve(measure.used());
    }
    let own: Vec<Shared<u8>> = scratch.own.iter().map(Buffer::shared).collect();

    let mut complete = true;
    for phase in 0..=shape.audio_layers {
        let work = |item: usize, thread: usize| {
            let first = item * chunk;
            let count = chunk.min(positions - first);
            let own = job.own(&mut Carver::over(own[thread]));
            // SAFETY: chunks do not overlap and each thread has its own intermediates; what a phase reads of other chunks
            // (keys and values) was written in the phase before, into the other of the two buffers.
            unsafe { job.chunk(phase, first, count, &own) };
        };
        complete = complete && team.run(positions.div_ceil(chunk), &work, Some(cancelled));
    }
    team.put_scratch(scratch);
    if complete {
        Ok(encoded)
    } else {
        Err(EncodeError::Cancelled)
    }
}

/// Rows of a chunk: a multiple of four (values of up to four positions lie in a word), near [`CHUNK`], and such that the threads get equal numbers of chunks.
fn chunk_rows(positions: usize, threads: usize) -> usize {
    let chunks = positions
        .div_ceil(CHUNK)
        .next_multiple_of(threads)
        .min(positions.div_ceil(12))
        .max(1);
    positions.div_ceil(chunks).next_multiple_of(4)
}

impl Job<'_> {
    fn own(&self, carver: &mut Carver) -> Own {
        let (shape, rows) = (self.context.shape, self.chunk);
        let (width, mels) = (shape.audio_state, shape.n_mels);
        let frames = 2 * rows + 3;
        let wide = (rows * 4 * width)
            .max(frames * width)
            .max(rows * 2 * shape.text_state);
        let first = frames * mels * self.context.kernels.number(self.context.attention());
        let quantised = (rows * self.context.row(4 * width))
            .max(rows * self.context.row(3 * width))
            .max(first);
        Own {
            wide: carver.take(wide),
            narrow: carver.take(rows * width),
            rows: carver.take(quantised),
            mel: carver.take(frames * mels),
            attend: carver.take(attend_scratch(self.padded)),
        }
    }

    /// One chunk of one phase: phase 0 is the convolutions, phase n the rest of layer n - 1; both go on to the next layer's query,
    /// key and value, the last phase to the decoder's keys and values.
    unsafe fn chunk(&self, phase: usize, first: usize, count: usize, own: &Own) {
        // SAFETY: the caller's promise.
        unsafe {
            if phase == 0 {
                self.convolutions(first, count, own);
            } else {
                self.layer(phase - 1, first, count, own);
            }
            if phase < self.plan.encoder.len() {
                self.query_key_value(phase, first, count, own);
            } else {
                self.cross(first, count, own);
            }
        }
    }

    unsafe fn convolutions(&self, first: usize, count: usize, own: &Own) {
        let (context, shape) = (&self.context, self.context.shape);
        let (width, mels) = (shape.audio_state, shape.n_mels);
        // Position r of the second convolution takes frames 2r - 1 to 2r + 1 of the first, which takes one more on each side.
        let known = self.frames.min(2 * self.positions);
        for row in 0..2 * count + 3 {
            let frame = (2 * first + row).wrapping_sub(2);
            for band in 0..mels {
                let value = if frame < known {
                    self.mel[band * self.frames + frame]
                } else {
                    0.0
                };
                // SAFETY: within `2 * count + 3` rows of this thread.
                unsafe { *own.mel.at(row * mels + band) = value };
            }
        }
        let format = context.attention();
        // SAFETY: the intermediates are this thread's and hold the rows of a chunk.
        unsafe {
            let rows = context.quantise(format, own.mel.0, mels, 2 * count + 3, mels, own.rows.0);
            // Rows of three frames overlap: each starts one frame after the last.
            let rows = Rows {
                count: 2 * count + 1,
                ..rows
            };
            context.whole(rows, &self.plan.conv1, own.wide.0, width, Epilogue::Gelu);
            if first == 0 {
                // Frame -1 is padding, not the convolution of padding.
                std::ptr::write_bytes(own.wide.0, 0, width);
            }
            let rows = context.quantise(
                context.precision,
                own.wide.0,
                2 * width,
                count,
                3 * width,
                own.rows.0,
            );
            let more = self.plan.audio_positions.of(context.base()).add(first * width);
            let epilogue = Epilogue::GeluAdd { more, stride: width };
            context.whole(rows, &self.plan.conv2, self.x.at(first * width), width, epilogue);
        }
    }

    /// The rest of a layer, from its attention on.
    unsafe fn layer(&self, index: usize, first: usize, count: usize, own: &Own) {
        let (context, shape) = (&self.context, self.context.shape);
        let (layer, width) = (&self.plan.encoder[index], shape.audio_state);
        let format = context.attention();
        let number = context.kernels.number(format);
        let head_words = self.padded * (HEAD / word(format));
        let x = self.x.at(first * width);
        // SAFETY: the keys and values of this layer are complete, the rows are this chunk's, the rest is this thread's.
        unsafe {
            for head in 0..shape.audio_heads {
                let at = first * width * number + head * HEAD * number;
                let attend = Attend {
                    queries: Rows {
                        start: self.queries.at(at),
                        stride: width * number,
                        count,
                    },
                    head: Head {
                        keys: self.keys[index % 2].at(head * head_words),
                        values: self.values[index % 2].at(head * head_words),
                        scales: std::ptr::null(),
                        positions: self.positions,
                        padded: self.padded,
                    },
                    out: own.narrow.at(head * HEAD),
                    out_stride: width,
                    scratch: own.attend.0,
                    weights: std::ptr::null_mut(),
                    weights_stride: 0,
                };
                context.kernels.attend(format)(&attend);
            }
            let rows = context.quantise(context.precision, own.narrow.0, width, count, width, own.rows.0);
            context.whole(rows, &layer.out, x, width, Epilogue::Add);
            context.norm(&layer.mlp_norm, x, own.narrow.0, count, width);
            let rows = context.quantise(context.precision, own.narrow.0, width, count, width, own.rows.0);
            context.whole(rows, &layer.expand, own.wide.0, 4 * width, Epilogue::Gelu);
            let rows = context.quantise(
                context.precision,
                own.wide.0,
                4 * width,
                count,
                4 * width,
                own.rows.0,
            );
            context.whole(rows, &layer.contract, x, width, Epilogue::Add);
        }
    }

    unsafe fn query_key_value(&self, index: usize, first: usize, count: usize, own: &Own) {
        let (context, shape) = (&self.context, self.context.shape);
        let (layer, width) = (&self.plan.encoder[index], shape.audio_state);
        let format = context.attention();
        // SAFETY: rows of this chunk and this thread's intermediates; the buffer of keys and values is not the one that this
        // phase attends to.
        unsafe {
            context.norm(
                &layer.attention_norm,
                self.x.at(first * width),
                own.narrow.0,
                count,
                width,
            );
            let rows = context.quantise(context.precision, own.narrow.0, width, count, width, own.rows.0);
            let epilogue = Epilogue::Scale {
                channels: width,
                by: QUERY_SCALE,
            };
            context.whole(rows, &layer.qkv, own.wide.0, 3 * width, epilogue);
            let to = self.queries.at(first * width * context.kernels.number(format));
            context.quantise(format, own.wide.0, 3 * width, count, width, to);
            let pack = PackHeads {
                keys_from: own.wide.at(width),
                values_from: own.wide.at(2 * width),
                from_stride: 3 * width,
                heads: shape.audio_heads,
                first,
                count,
                positions: self.positions,
                padded: self.padded,
                keys: self.keys[index % 2].0,
                values: self.values[index % 2].0,
                scales: std::ptr::null_mut(),
            };
            context.kernels.pack_heads(format)(&pack);
        }
    }

    unsafe fn cross(&self, first: usize, count: usize, own: &Own) {
        let (context, shape) = (&self.context, self.context.shape);
        let (width, text) = (shape.audio_state, shape.text_state);
        // SAFETY: rows of this chunk and this thread's intermediates; chunks write to different positions of the window.
        unsafe {
            context.norm(
                &self.plan.encoder_norm,
                self.x.at(first * width),
                own.narrow.0,
                count,
                width,
            );
            if let Some(output) = self.output {
                std::ptr::copy_nonoverlapping(own.narrow.0, output.at(first * width), count * width);
            }
            let rows = context.quantise(context.precision, own.narrow.0, width, count, width, own.rows.0);
            for (index, layer) in self.plan.decoder.iter().enumerate() {
                context.whole(rows, &layer.cross_kv, own.wide.0, 2 * text, Epilogue::Store);
                let pack = PackHeads {
                    keys_from: own.wide.0,
                    values_from: own.wide.at(text),
                    from_stride: 2 * text,
                    heads: shape.text_heads,
                    first,
                    count,
                    positions: self.positions,
                    padded: self.padded,
                    keys: self.encoded.keys(index),
                    values: self.encoded.values(index),
                    scales: self.encoded.scales(index),
                };
                context.kernels.pack_heads(self.encoded.format)(&pack);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::chunk_rows;

    #[test]
    fn chunks_are_whole_words_cover_the_window_and_suit_the_threads() {
        for positions in 1..=1500 {
            for threads in [1, 2, 3, 16, 64] {
                let rows = chunk_rows(positions, threads);
                assert!(
                    rows.is_multiple_of(4) && rows > 0 && rows <= 52,
                    "{positions} {threads}: {rows}"
                );
            }
        }
        assert_eq!(1500usize.div_ceil(chunk_rows(1500, 2)), 32);
        assert!(1500usize.div_ceil(chunk_rows(1500, 64)) >= 60);
    }
}
