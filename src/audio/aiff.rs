//! AIFF and AIFF-C files.

use symphonia::core::codecs::audio::well_known as codecs;

use super::AudioError;
use super::blocks::{SampleLayout, check_shape, corrupt, layout_of, read_exact_at};
use super::source::Region;

/// Most chunks looked at.
const MAX_CHUNKS: usize = 4096;

/// The COMM chunk, as far as it matters.
struct Common {
    channels: u16,
    bits: u16,
    rate_hz: u32,
    compression: [u8; 4],
}

/// Reads the header of an AIFF or AIFF-C file (Apple's Audio Interchange File Format 1.3 and its draft of 1991 on
/// compression): chunks of big-endian numbers, padded to even lengths.
///
/// # Errors
///
/// [`AudioError::Corrupt`] without a `COMM` or `SSND` chunk, [`AudioError::UnsupportedCodec`];
/// [`AudioError::Channels`] and [`AudioError::SampleRate`] for zeros.
pub(super) fn read_aiff(region: &mut Region, len: u64) -> Result<SampleLayout, AudioError> {
    let mut common = None;
    let mut samples = None;
    let mut at = 12;
    for _ in 0..MAX_CHUNKS {
        let mut header = [0; 8];
        if (common.is_some() && samples.is_some()) || !read_exact_at(region, at, &mut header)? {
            break;
        }
        let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let body = at + 8;
        match &header[..4] {
            b"COMM" => common = Some(read_common(region, body, size)?),
            b"SSND" => {
                let mut offset = [0; 4];
                if read_exact_at(region, body, &mut offset)? {
                    // Two numbers stand before the samples: how far on they start, and a block size.
                    let start = body + 8 + u64::from(u32::from_be_bytes(offset));
                    let available = len.saturating_sub(start);
                    let claimed = (body + u64::from(size)).saturating_sub(start);
                    let bytes = if size == 0 {
                        available
                    } else {
                        claimed.min(available)
                    };
                    samples = Some((start, bytes));
                }
            }
            _ => {}
        }
        at = body + u64::from(size) + u64::from(size & 1);
    }
    let common = common.ok_or_else(|| corrupt("aiff", "no `COMM` chunk"))?;
    let (start, bytes) = samples.ok_or_else(|| corrupt("aiff", "no `SSND` chunk"))?;
    layout(&common, start, bytes)
}

fn read_common(region: &mut Region, at: u64, size: u32) -> Result<Common, AudioError> {
    let mut body = [0; 22];
    let wanted = if size >= 22 { 22 } else { 18 };
    if size < 18 || !read_exact_at(region, at, &mut body[..wanted])? {
        return Err(corrupt("aiff", "the `COMM` chunk is cut off"));
    }
    let compression = if wanted == 22 {
        [body[18], body[19], body[20], body[21]]
    } else {
        *b"NONE"
    };
    Ok(Common {
        channels: u16::from_be_bytes([body[0], body[1]]),
        bits: u16::from_be_bytes([body[6], body[7]]),
        rate_hz: extended(&body[8..18]),
        compression,
    })
}

/// An 80-bit float (IEEE 754 extended) as a whole number; zero for what is none.
fn extended(bytes: &[u8]) -> u32 {
    let exponent = i32::from(u16::from_be_bytes([bytes[0], bytes[1]])) - 16_383;
    let mantissa = bytes[2..10]
        .iter()
        .fold(0_u64, |mantissa, byte| mantissa << 8 | u64::from(*byte));
    match exponent {
        // A set sign makes the exponent too large.
        0..=31 => u32::try_from(mantissa >> (63 - exponent)).unwrap_or(u32::MAX),
        32..=16_384 => u32::MAX,
        _ => 0,
    }
}

fn layout(common: &Common, start: u64, bytes: u64) -> Result<SampleLayout, AudioError> {
    check_shape(u64::from(common.channels), u64::from(common.rate_hz))?;
    // Samples stand in whole bytes, left-justified.
    let sample_bytes = common.bits.div_ceil(8);
    let (codec, sample_bytes, frames) = match (&common.compression, sample_bytes) {
        (b"raw ", 1) => (codecs::CODEC_ID_PCM_U8, 1, 1),
        (b"NONE" | b"twos" | b"sowt", 1) => (codecs::CODEC_ID_PCM_S8, 1, 1),
        (b"NONE" | b"twos", 2) => (codecs::CODEC_ID_PCM_S16BE, 2, 1),
        (b"NONE", 3) | (b"in24", _) => (codecs::CODEC_ID_PCM_S24BE, 3, 1),
        (b"NONE", 4) | (b"in32", _) => (codecs::CODEC_ID_PCM_S32BE, 4, 1),
        (b"sowt", 2) => (codecs::CODEC_ID_PCM_S16LE, 2, 1),
        (b"sowt", 3) | (b"42ni", _) => (codecs::CODEC_ID_PCM_S24LE, 3, 1),
        (b"sowt", 4) | (b"23ni", _) => (codecs::CODEC_ID_PCM_S32LE, 4, 1),
        (b"fl32" | b"FL32", _) => (codecs::CODEC_ID_PCM_F32BE, 4, 1),
        (b"fl64" | b"FL64", _) => (codecs::CODEC_ID_PCM_F64BE, 8, 1),
        (b"alaw" | b"ALAW", _) => (codecs::CODEC_ID_PCM_ALAW, 1, 1),
        (b"ulaw" | b"ULAW", _) => (codecs::CODEC_ID_PCM_MULAW, 1, 1),
        // 64 samples in two bytes of state and 32 of differences.
        (b"ima4", _) if common.channels <= 2 => (codecs::CODEC_ID_ADPCM_IMA_QT, 34, 64),
        (compression, _) => {
            let codec = match compression {
                b"NONE" | b"twos" | b"sowt" => format!("pcm of {} bits", common.bits),
                other => String::from_utf8_lossy(other).trim().escape_default().to_string(),
            };
            return Err(AudioError::UnsupportedCodec {
                container: "aiff".to_owned(),
                codec,
            });
        }
    };
    let block = (sample_bytes * u64::from(common.channels), frames);
    Ok(layout_of(
        codec,
        (common.channels, common.rate_hz),
        block,
        None,
        start,
        bytes,
    ))
}

#[cfg(test)]
mod tests {
    use super::extended;

    #[test]
    fn sample_rates_are_80_bit_floats() {
        assert_eq!(extended(&[0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0]), 44_100);
        assert_eq!(extended(&[0x40, 0x0b, 0xfa, 0, 0, 0, 0, 0, 0, 0]), 8_000);
        assert_eq!(
            extended(&[0x40, 0x1e, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            u32::MAX
        );
        assert_eq!(extended(&[0x7f, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]), u32::MAX);
        assert_eq!(extended(&[0xc0, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0]), 0);
        assert_eq!(extended(&[0; 10]), 0);
    }
}
