//! A reader of ggml files, written from the format's description, apart from the program's own.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::f16;

/// A tensor of a ggml file: dimensions as stored, type, data.
pub struct Tensor {
    pub dimensions: Vec<u32>,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn values(&self) -> Vec<f32> {
        match self.kind {
            0 => self
                .data
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            1 => self
                .data
                .chunks(2)
                .map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
            8 => self
                .data
                .chunks(34)
                .flat_map(|block| {
                    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                    block[2..]
                        .iter()
                        .map(move |b| f32::from(*b as i8) * scale)
                        .collect::<Vec<_>>()
                })
                .collect(),
            kind => panic!("type {kind}"),
        }
    }
}

pub struct Ggml {
    pub words: [u32; 12],
    pub mel: Vec<f32>,
    pub tokens: Vec<Vec<u8>>,
    pub tensors: HashMap<String, Tensor>,
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
}

/// Reads a ggml file.
pub fn read(path: &Path) -> Ggml {
    let bytes = fs::read(path).unwrap();
    let mut cursor = Cursor(&bytes);
    let words: [u32; 12] = std::array::from_fn(|_| cursor.word());
    let (bands, bins) = (cursor.word() as usize, cursor.word() as usize);
    let mel = cursor
        .take(bands * bins * 4)
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let tokens = (0..cursor.word())
        .map(|_| {
            let length = cursor.word() as usize;
            cursor.take(length).to_vec()
        })
        .collect();
    let mut tensors = HashMap::new();
    while !cursor.0.is_empty() {
        let (rank, name_length, kind) = (cursor.word(), cursor.word() as usize, cursor.word());
        let dimensions: Vec<u32> = (0..rank).map(|_| cursor.word()).collect();
        let name = String::from_utf8(cursor.take(name_length).to_vec()).unwrap();
        let elements: usize = dimensions.iter().map(|d| *d as usize).product();
        let size = match kind {
            0 => elements * 4,
            1 => elements * 2,
            2 => elements / 32 * 18,
            6 => elements / 32 * 22,
            7 => elements / 32 * 24,
            8 => elements / 32 * 34,
            kind => panic!("type {kind}"),
        };
        let data = cursor.take(size).to_vec();
        tensors.insert(
            name,
            Tensor {
                dimensions,
                kind,
                data,
            },
        );
    }
    Ggml {
        words,
        mel,
        tokens,
        tensors,
    }
}
