//! Models with random weights, for the engine and for the plain reference.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::HashMap;

use half::f16;
use whisper_ggml::{Device, Encode, Engine, Options, Source, Stored};
use whisper_native::random::{Random, RandomTensors};
use whisper_native::{Encoded, Isa, LoadError, Precision, Shape, Team, Tensor, Tensors, Weights};

pub const SHAPE: Shape = Shape {
    n_vocab: 331,
    n_audio_ctx: 300,
    audio_state: 128,
    audio_heads: 2,
    audio_layers: 3,
    text_ctx: 100,
    text_state: 128,
    text_heads: 2,
    text_layers: 3,
    n_mels: 16,
};

/// Random weights as a ggml file would hold them: matrices and convolutions in binary16, the rest in `f32`.
pub struct Random16 {
    shape: Shape,
    tensors: HashMap<String, (u32, Vec<u8>)>,
    pub full: bool,
}

impl Random16 {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            tensors: HashMap::new(),
            full: false,
        }
    }

    fn stored(&mut self, name: &str) -> Result<&(u32, Vec<u8>), LoadError> {
        if !self.tensors.contains_key(name) {
            let tensor = RandomTensors::new(self.shape, 7).tensor(name)?;
            let half = tensor.rows > 1 && name.ends_with("weight") && !self.full;
            let bytes = if half {
                let values = tensor.values.iter();
                values.flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
            } else {
                tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect()
            };
            self.tensors.insert(name.to_owned(), (u32::from(half), bytes));
        }
        Ok(&self.tensors[name])
    }
}

impl Source for Random16 {
    fn find(&mut self, name: &str) -> Result<Stored, LoadError> {
        let (kind, bytes) = self.stored(name)?;
        let size = if *kind == 1 { 2 } else { 4 };
        Ok(Stored {
            kind: *kind,
            elements: bytes.len() / size,
        })
    }

    fn read(&mut self, name: &str, into: &mut [u8]) -> Result<(), LoadError> {
        into.copy_from_slice(&self.stored(name)?.1);
        Ok(())
    }
}

/// The same weights for the reference: what binary16 keeps of them.
pub struct Rounded(pub Shape);

impl Tensors for Rounded {
    fn tensor(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let mut tensor = RandomTensors::new(self.0, 7).tensor(name)?;
        if tensor.rows > 1 && name.ends_with("weight") {
            for value in &mut tensor.values {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        Ok(tensor)
    }
}

pub fn device() -> Device {
    if std::env::var_os("WHISPER_GGML_TEST_GPU").is_some() {
        Device::gpu(0).expect("a GPU that ggml lists")
    } else {
        Device::processor().expect("a processor")
    }
}

pub fn options(flash_attention: bool) -> Options {
    Options {
        slots: 6,
        blocks: 2,
        hypotheses: 4,
        flash_attention,
        threads: 2,
    }
}

pub fn engine(options: Options) -> Engine {
    Engine::open(device(), &SHAPE, &mut Random16::new(SHAPE), options).expect("opens")
}

pub fn mel(positions: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..SHAPE.n_mels * 2 * positions)
        .map(|_| random.normal())
        .collect()
}

pub fn job(slot: usize, mel: &[f32]) -> Encode<'_> {
    Encode {
        slot,
        mel,
        positions: mel.len() / SHAPE.n_mels / 2,
    }
}

/// The reference in `f32`.
pub struct Reference {
    pub weights: Weights,
    pub team: Team,
}

impl Reference {
    pub fn new() -> Self {
        let isa = Isa::detect();
        Self {
            weights: Weights::pack(SHAPE, Precision::F32, isa, &mut Rounded(SHAPE)).expect("packs"),
            team: Team::new(1),
        }
    }

    pub fn encode(&mut self, mel: &[f32]) -> Encoded {
        let positions = mel.len() / SHAPE.n_mels / 2;
        self.weights
            .encode(&mut self.team, mel, positions, &|| false)
            .expect("encodes")
    }

    /// Logits after each of the tokens.
    pub fn logits(&mut self, encoded: &Encoded, tokens: &[u32]) -> Vec<f32> {
        let mut sequence = whisper_native::Sequence::new(&self.weights);
        let mut logits = vec![0.0; tokens.len() * SHAPE.n_vocab];
        let row = whisper_native::Row {
            encoded,
            sequence: &mut sequence,
            tokens,
            logits: whisper_native::Logits::All,
        };
        self.weights
            .step(&mut self.team, &mut [row], &mut logits)
            .expect("steps");
        logits
    }
}

/// The greatest difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
