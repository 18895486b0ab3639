//! Models with random weights, for benchmarks and tests: right shapes, no words.

use crate::{LoadError, Shape, Tensor, Tensors};

/// Numbers that are the same on every machine (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        ((u64::from(self.bits()) * end as u64) >> 32) as usize
    }

    /// About a normal distribution of variance 1: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        let (a, b) = (self.bits(), self.bits());
        let sum = (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);
        (sum as f32 / 65_536.0 - 2.0) * 3.0f32.sqrt()
    }
}

/// A checkpoint of a shape with random weights, scaled so that activations keep their size from layer to layer.
#[derive(Debug)]
pub struct RandomTensors {
    shape: Shape,
    seed: u64,
}

impl RandomTensors {
    /// Weights of `shape`; equal seeds give equal weights.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self { shape, seed }
    }

    /// Rows and columns of a tensor by name.
    fn size(&self, name: &str) -> Option<(usize, usize)> {
        let s = &self.shape;
        let state = if name.starts_with("encoder.") {
            s.audio_state
        } else {
            s.text_state
        };
        let (stem, last) = name.rsplit_once('.')?;
        Some(match (stem.rsplit('.').next()?, last) {
            ("encoder", "positional_embedding") => (s.n_audio_ctx, state),
            ("decoder", "positional_embedding") => (s.text_ctx, state),
            ("token_embedding", "weight") => (s.n_vocab, state),
            ("conv1", "weight") => (state, 3 * s.n_mels),
            ("conv2", "weight") => (state, 3 * state),
            ("0", "bias") => (1, 4 * state),
            ("0", "weight") => (4 * state, state),
            ("2", "weight") => (state, 4 * state),
            ("key" | "value", "weight") if stem.contains("cross_attn") => (state, s.audio_state),
            ("query" | "key" | "value" | "out", "weight") => (state, state),
            _ => (1, state),
        })
    }
}

impl Tensors for RandomTensors {
    fn tensor(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let missing = || LoadError::Missing {
            name: name.to_owned(),
        };
        let (rows, columns) = self.size(name).ok_or_else(missing)?;
        let hash = name.bytes().fold(self.seed, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let mut random = Random::new(hash);
        let norm = name.contains("ln") && rows == 1;
        let (size, base) = match (norm, name.ends_with("weight"), rows) {
            (true, true, _) => (0.1, 1.0),
            (_, _, 1) => (0.1, 0.0),
            _ if name.contains("embedding") => (0.1, 0.0),
            _ => (1.0 / (columns as f32).sqrt(), 0.0),
        };
        let values = (0..rows * columns)
            .map(|_| random.normal() * size + base)
            .collect();
        Ok(Tensor {
            rows,
            columns,
            values,
        })
    }
}
