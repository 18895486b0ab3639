//! ggml's block quantisation, bit for bit as its reference functions do it (`ggml-quants.c`,
//! `quantize_row_q4_0_ref`, `_q5_0_ref`, `_q5_1_ref`, `_q8_0_ref`): f32 arithmetic, blocks of 32 numbers of one row.

use std::fmt;
use std::str::FromStr;

use half::f16;

use super::format::WeightFormat;

/// Numbers in a block (ggml `QK4_0`, `QK5_0`, `QK5_1`, `QK8_0`).
pub const BLOCK: usize = 32;

/// A smaller form of the weights, by ggml's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 4.5 bits a weight.
    Q4_0,
    /// 5.5 bits a weight.
    Q5_0,
    /// 6 bits a weight: scale and minimum.
    Q5_1,
    /// 8.5 bits a weight; hardly to be told from f16.
    Q8_0,
}

impl Quantization {
    /// All that this program can make.
    pub const ALL: [Self; 4] = [Self::Q4_0, Self::Q5_0, Self::Q5_1, Self::Q8_0];

    /// The format of the file it makes.
    pub fn format(self) -> WeightFormat {
        match self {
            Self::Q4_0 => WeightFormat::Q4_0,
            Self::Q5_0 => WeightFormat::Q5_0,
            Self::Q5_1 => WeightFormat::Q5_1,
            Self::Q8_0 => WeightFormat::Q8_0,
        }
    }

    /// Appends the blocks of `values`, whose length is a multiple of [`BLOCK`].
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        debug_assert!(values.len().is_multiple_of(BLOCK), "blocks hold {BLOCK} numbers");
        for block in values.as_chunks::<BLOCK>().0 {
            match self {
                Self::Q4_0 => q4_0(block, out),
                Self::Q5_0 => q5_0(block, out),
                Self::Q5_1 => q5_1(block, out),
                Self::Q8_0 => q8_0(block, out),
            }
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.format().fmt(f)
    }
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|q| q.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("unknown quantization `{text}`; accepted: `q8_0`, `q5_1`, `q5_0`, `q4_0`"))
    }
}

/// Appends the numbers of whole blocks (`ggml-quants.c`, `dequantize_row_…`, exact in f32). False for a format that is
/// not one of blocks of [`BLOCK`].
pub(crate) fn dequantize(format: WeightFormat, bytes: &[u8], out: &mut Vec<f32>) -> bool {
    match format {
        WeightFormat::Q8_0 => blocks::<34>(bytes, out, |block, values| {
            let scale = half_at(block, 0);
            for (value, level) in values.iter_mut().zip(&block[2..]) {
                *value = scale * f32::from(*level as i8);
            }
        }),
        WeightFormat::Q4_0 => blocks::<18>(bytes, out, |block, values| {
            four_bits(&block[2..], values);
            scale_and_add(values, half_at(block, 0), -8.0, 0.0);
        }),
        WeightFormat::Q4_1 => blocks::<20>(bytes, out, |block, values| {
            four_bits(&block[4..], values);
            scale_and_add(values, half_at(block, 0), 0.0, half_at(block, 2));
        }),
        WeightFormat::Q5_0 => blocks::<22>(bytes, out, |block, values| {
            five_bits(&block[2..6], &block[6..], values);
            scale_and_add(values, half_at(block, 0), -16.0, 0.0);
        }),
        WeightFormat::Q5_1 => blocks::<24>(bytes, out, |block, values| {
            five_bits(&block[4..8], &block[8..], values);
            scale_and_add(values, half_at(block, 0), 0.0, half_at(block, 2));
        }),
        _ => return false,
    }
    true
}

fn blocks<const BYTES: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    decode: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    let mut values = [0.0; BLOCK];
    for block in bytes.as_chunks::<BYTES>().0 {
        decode(block, &mut values);
        out.extend_from_slice(&values);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn four_bits(levels: &[u8], values: &mut [f32; BLOCK]) {
    let (low, high) = values.split_at_mut(BLOCK / 2);
    for ((low, high), level) in low.iter_mut().zip(high).zip(levels) {
        *low = f32::from(level & 0x0F);
        *high = f32::from(level >> 4);
    }
}

fn five_bits(fifth: &[u8], levels: &[u8], values: &mut [f32; BLOCK]) {
    four_bits(levels, values);
    for (i, value) in values.iter_mut().enumerate() {
        *value += f32::from(fifth[i / 8] >> (i % 8) & 1) * 16.0;
    }
}

/// `(level + shift) * scale + add`
fn scale_and_add(values: &mut [f32; BLOCK], scale: f32, shift: f32, add: f32) {
    for value in values {
        *value = (*value + shift) * scale + add;
    }
}

/// Inverse of the scale; a block of zeros has scale 0 and stays 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The number of greatest magnitude, with its sign; the first of equals.
fn signed_max(block: &[f32; BLOCK]) -> f32 {
    let mut greatest = 0.0_f32;
    for &value in block {
        if greatest.abs() < value.abs() {
            greatest = value;
        }
    }
    greatest
}

fn push_f16(value: f32, out: &mut Vec<u8>) {
    out.extend_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let scale = signed_max(block).abs() / 127.0;
    let inverse = inverse(scale);
    push_f16(scale, out);
    // `round` goes away from zero at halves, as C's `roundf`.
    out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
}

fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let scale = signed_max(block) / -8.0;
    let inverse = inverse(scale);
    push_f16(scale, out);
    let level = |value: f32| ((value * inverse + 8.5) as i8).min(15) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    out.extend(
        low.iter()
            .zip(high)
            .map(|(&low, &high)| level(low) | (level(high) << 4)),
    );
}

fn q5_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let scale = signed_max(block) / -16.0;
    let inverse = inverse(scale);
    push_f16(scale, out);
    push_five_bits(block, |value| ((value * inverse + 16.5) as i8).min(31) as u8, out);
}

fn q5_1(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let mut least = f32::MAX;
    let mut greatest = -f32::MAX;
    for &value in block {
        if value < least {
            least = value;
        }
        if value > greatest {
            greatest = value;
        }
    }
    let scale = (greatest - least) / 31.0;
    let inverse = inverse(scale);
    push_f16(scale, out);
    push_f16(least, out);
    push_five_bits(block, |value| ((value - least) * inverse + 0.5) as u8, out);
}

/// The fifth bits as a little-endian `u32`, bit i for value i; then the low four bits, value i beside value i + 16.
fn push_five_bits(block: &[f32; BLOCK], level: impl Fn(f32) -> u8, out: &mut Vec<u8>) {
    let levels = block.map(level);
    let fifth = levels
        .iter()
        .enumerate()
        .fold(0_u32, |bits, (i, level)| bits | (u32::from(level >> 4 & 1) << i));
    out.extend_from_slice(&fifth.to_le_bytes());
    let (low, high) = levels.split_at(BLOCK / 2);
    out.extend(
        low.iter()
            .zip(high)
            .map(|(low, high)| (low & 0x0F) | ((high & 0x0F) << 4)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(quantization: Quantization, block: [f32; BLOCK]) -> Vec<u8> {
        let mut out = Vec::new();
        quantization.encode(&block, &mut out);
        out
    }

    /// 0, 1, …, 15 in the low half, their negatives in the high half; the greatest magnitude comes first as +15.
    fn ramp() -> [f32; BLOCK] {
        std::array::from_fn(|i| if i < 16 { i as f32 } else { -((i - 16) as f32) })
    }

    #[test]
    fn q8_0_block_by_hand() {
        // scale = 127 / 127 = 1 → f16 1.0 = 0x3C00; halves go away from zero.
        let mut block = [0.0; BLOCK];
        block[0] = 127.0;
        block[1] = -127.0;
        block[2] = 2.5;
        block[3] = -2.5;
        block[4] = 0.49;
        let out = encoded(Quantization::Q8_0, block);
        assert_eq!(out.len(), 34);
        assert_eq!(out[..8], [0x00, 0x3C, 127, 0x81, 3, 0xFD, 0, 0]);
    }

    #[test]
    fn q4_0_block_by_hand() {
        // m = 8 → scale -1 (0xBC00); level = trunc(8.5 - x), so 8 → 0, 0 → 8, -7 → 15, -8 → min(15, 16).
        let mut block = [0.0; BLOCK];
        block[0] = 8.0;
        block[16] = -8.0;
        block[1] = -7.0;
        block[17] = 3.0;
        let out = encoded(Quantization::Q4_0, block);
        assert_eq!(out.len(), 18);
        assert_eq!(out[..5], [0x00, 0xBC, 0xF0, 0x5F, 0x88]);
    }

    #[test]
    fn q5_0_block_by_hand() {
        // m = 16 → scale -1; level = trunc(16.5 - x): 16 → 0, 0 → 16, -15 → 31, -16 → min(31, 32).
        let mut block = [0.0; BLOCK];
        block[0] = 16.0;
        block[16] = -16.0;
        block[1] = -15.0;
        block[17] = 5.0;
        let out = encoded(Quantization::Q5_0, block);
        assert_eq!(out.len(), 22);
        // Levels 0, 31, 16, 16, … | 31, 11, 16, …: all fifth bits but those of values 0 and 17.
        assert_eq!(out[..2], [0x00, 0xBC]);
        assert_eq!(
            u32::from_le_bytes([out[2], out[3], out[4], out[5]]),
            !((1 << 0) | (1 << 17))
        );
        assert_eq!(out[6..9], [0xF0, 0xBF, 0x00]);
    }

    #[test]
    fn q5_1_block_by_hand() {
        // From -15 to 16: scale 1, minimum -15 (0xCB80); level = trunc(x + 15 + 0.5).
        let mut block = ramp();
        block[15] = 16.0;
        let out = encoded(Quantization::Q5_1, block);
        assert_eq!(out.len(), 24);
        assert_eq!(out[..4], [0x00, 0x3C, 0x80, 0xCB]);
        // Values 0..15 have levels 15, 16, …, 29, 31; values 16..31 have 15, 14, …, 0.
        assert_eq!(u32::from_le_bytes([out[4], out[5], out[6], out[7]]), 0x0000_FFFE);
        assert_eq!(out[8..11], [0xFF, 0xE0, 0xD1]);
        assert_eq!(out[23], 0x0F);
    }

    #[test]
    fn what_was_encoded_is_decoded_to_its_levels() {
        let block = ramp();
        for (quantization, most) in [
            (Quantization::Q8_0, 0.06),
            (Quantization::Q5_0, 1.0),
            (Quantization::Q5_1, 0.51),
            (Quantization::Q4_0, 2.0),
        ] {
            let mut values = Vec::new();
            assert!(dequantize(
                quantization.format(),
                &encoded(quantization, block),
                &mut values
            ));
            assert_eq!(values.len(), BLOCK);
            for (value, original) in values.iter().zip(block) {
                assert!(
                    (value - original).abs() <= most,
                    "{quantization}: {original} became {value}"
                );
            }
            // Levels stay what they are when they are encoded again.
            let again: [f32; BLOCK] = values.clone().try_into().unwrap();
            let mut twice = Vec::new();
            dequantize(quantization.format(), &encoded(quantization, again), &mut twice);
            for (once, twice) in values.iter().zip(twice) {
                assert!(
                    (once - twice).abs() < 1e-2,
                    "{quantization}: {once} became {twice}"
                );
            }
        }
    }

    #[test]
    fn q4_1_block_by_hand() {
        // Scale 0.5 (0x3800), minimum -1 (0xBC00); levels 3 and 15 in the first byte.
        let mut bytes = vec![0x00, 0x38, 0x00, 0xBC, 0xF3];
        bytes.resize(20, 0);
        let mut values = Vec::new();
        assert!(dequantize(WeightFormat::Q4_1, &bytes, &mut values));
        assert_eq!((values[0], values[16], values[1]), (0.5, 6.5, -1.0));
        assert!(!dequantize(WeightFormat::Q4K, &bytes, &mut values));
    }

    #[test]
    fn zeros_stay_zero_in_every_form() {
        for quantization in Quantization::ALL {
            let out = encoded(quantization, [0.0; BLOCK]);
            assert_eq!(f16::from_le_bytes([out[0], out[1]]), f16::ZERO, "{quantization}");
            assert_eq!(
                quantization.to_string().parse::<Quantization>().unwrap(),
                quantization
            );
        }
    }
}
