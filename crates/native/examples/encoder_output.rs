//! The encoder's output for a spectrogram, for comparisons with other programs (`bench/equality.py`):
//! `encoder_output SHAPE FORMAT PACKED MEL POSITIONS > OUTPUT`.
//!
//! PACKED is the file of packed weights that the server leaves beside a model, MEL the spectrogram as little-endian 32-bit
//! floats, band by band. OUTPUT is POSITIONS rows of the model's width, in the same numbers.

use std::io::Write;
use std::sync::Arc;

use whisper_native::{Isa, Precision, Shape, Team, Weights};

/// What stands before the weights in a packed file.
const HEADER: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, format, packed, mel, positions] = arguments.as_slice() else {
        return Err("encoder_output SHAPE FORMAT PACKED MEL POSITIONS".into());
    };
    let shape = Shape::named(shape).ok_or_else(|| format!("no shape `{shape}`"))?;
    let precision = Precision::ALL
        .into_iter()
        .find(|precision| precision.name() == format)
        .ok_or_else(|| format!("no number format `{format}`"))?;
    let packed = std::fs::read(packed)?;
    let packed = packed.get(HEADER..).ok_or("no file of packed weights")?;
    let weights = Weights::open(
        shape,
        precision,
        Isa::from_environment()?,
        Arc::new(Aligned::copy(packed)),
    )?;
    let mel: Vec<f32> = std::fs::read(mel)?
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let output = weights.encoder_output(&mut Team::new(2), &mel, positions.parse()?)?;
    let bytes: Vec<u8> = output.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::io::stdout().write_all(&bytes)?;
    Ok(())
}

/// Bytes at a multiple of 64, where the kernels want them.
struct Aligned {
    memory: Vec<u8>,
    first: usize,
    length: usize,
}

impl Aligned {
    fn copy(bytes: &[u8]) -> Self {
        let mut memory = vec![0; bytes.len() + 64];
        let first = memory.as_ptr().align_offset(64);
        memory[first..first + bytes.len()].copy_from_slice(bytes);
        Self {
            memory,
            first,
            length: bytes.len(),
        }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.first..self.first + self.length]
    }
}
