//! WAV (RIFF, RF64 and BW64) and Sony Wave64 files.

use symphonia::core::codecs::audio::well_known as codecs;

use super::blocks::{Coding, SampleLayout, check_shape, corrupt, layout_of, read_exact_at};
use super::source::Region;
use super::{AudioError, names};

/// Most chunks looked at before the samples.
const MAX_CHUNKS: usize = 4096;

/// GUID of a Wave64 file's outer chunk (Sony Wave64 format, section 2).
pub(super) const W64_RIFF: [u8; 16] = [
    0x72, 0x69, 0x66, 0x66, 0x2e, 0x91, 0xcf, 0x11, 0xa5, 0xd6, 0x28, 0xdb, 0x04, 0xc1, 0x00, 0x00,
];

/// Last twelve bytes of the GUIDs of Wave64's chunks; the first four are RIFF's name for the chunk.
const W64_TAIL: [u8; 12] = [
    0xf3, 0xac, 0xd3, 0x11, 0x8c, 0xd1, 0x00, 0xc0, 0x4f, 0x8e, 0xdb, 0x8a,
];

/// Tail of a WAVEFORMATEXTENSIBLE sub-format GUID that is a plain format tag (KSDATAFORMAT_SUBTYPE_*).
const SUBTYPE_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Reads the header of a RIFF, RF64 or BW64 file.
///
/// # Errors
///
/// [`AudioError::Corrupt`] without a `fmt ` or `data` chunk, [`AudioError::UnsupportedCodec`],
/// [`AudioError::Channels`] and [`AudioError::SampleRate`] for zeros.
pub(super) fn read_wav(region: &mut Region, len: u64) -> Result<SampleLayout, AudioError> {
    let mut format = None;
    let mut fact = None;
    let mut long_data = None;
    let mut at = 12;
    for _ in 0..MAX_CHUNKS {
        let mut header = [0; 8];
        if !read_exact_at(region, at, &mut header)? {
            break;
        }
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let body = at + 8;
        let available = len.saturating_sub(body);
        match &header[..4] {
            b"ds64" => {
                // EBU Tech 3306: RIFF size, data size, sample count, 64 bits each.
                let mut sizes = [0; 24];
                if read_exact_at(region, body, &mut sizes)? {
                    long_data = Some(le64(&sizes, 8));
                }
            }
            b"fmt " => format = Some(read_format(region, body, u64::from(size))?),
            b"fact" if size >= 4 => {
                let mut frames = [0; 4];
                if read_exact_at(region, body, &mut frames)? {
                    fact = Some(u64::from(u32::from_le_bytes(frames)));
                }
            }
            b"data" => {
                let bytes = match (size, long_data) {
                    (u32::MAX, Some(bytes)) if bytes > 0 => bytes.min(available),
                    (u32::MAX, _) => available,
                    // Written before the length was known, and never mended; unless another chunk follows.
                    (0, _) if !chunk_follows(region, body)? => available,
                    (size, _) => u64::from(size).min(available),
                };
                let format = format.ok_or_else(|| corrupt("wav", "no `fmt ` chunk before the samples"))?;
                return layout("wav", body, bytes, &format, fact);
            }
            _ => {}
        }
        at = body + u64::from(size) + u64::from(size & 1);
    }
    Err(corrupt("wav", "no `data` chunk"))
}

/// Whether a chunk that commonly follows the samples starts at `at`.
fn chunk_follows(region: &mut Region, at: u64) -> Result<bool, AudioError> {
    let mut name = [0; 4];
    Ok(read_exact_at(region, at, &mut name)?
        && [
            b"LIST", b"fact", b"cue ", b"bext", b"id3 ", b"ID3 ", b"PEAK", b"afsp",
        ]
        .contains(&&name))
}

/// Reads the header of a Sony Wave64 file: chunks named by GUID, with 64-bit sizes that count their 24-byte
/// header, at multiples of eight bytes.
///
/// # Errors
///
/// As [`read_wav`].
pub(super) fn read_w64(region: &mut Region, len: u64) -> Result<SampleLayout, AudioError> {
    let mut format = None;
    let mut fact = None;
    let mut at = 40;
    for _ in 0..MAX_CHUNKS {
        let mut header = [0; 24];
        if !read_exact_at(region, at, &mut header)? {
            break;
        }
        let size = le64(&header, 16).saturating_sub(24);
        let body = at + 24;
        if header[4..16] == W64_TAIL {
            match &header[..4] {
                b"fmt " => format = Some(read_format(region, body, size)?),
                b"fact" => {
                    let mut frames = [0; 8];
                    if read_exact_at(region, body, &mut frames)? {
                        fact = Some(u64::from_le_bytes(frames));
                    }
                }
                b"data" => {
                    let available = len.saturating_sub(body);
                    let bytes = if size == 0 { available } else { size.min(available) };
                    let format =
                        format.ok_or_else(|| corrupt("w64", "no `fmt ` chunk before the samples"))?;
                    return layout("w64", body, bytes, &format, fact);
                }
                _ => {}
            }
        }
        let Some(next) = body
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(8))
        else {
            break;
        };
        at = next;
    }
    Err(corrupt("w64", "no `data` chunk"))
}

/// WAVEFORMATEX, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Format {
    tag: u16,
    channels: u16,
    rate_hz: u32,
    block_bytes: u16,
    bits: u16,
}

fn read_format(region: &mut Region, at: u64, size: u64) -> Result<Format, AudioError> {
    let mut body = [0; 40];
    let wanted = size.min(40) as usize;
    if wanted < 14 || !read_exact_at(region, at, &mut body[..wanted])? {
        return Err(corrupt("wav", "the `fmt ` chunk is cut off"));
    }
    let mut tag = le16(&body, 0);
    // WAVE_FORMAT_EXTENSIBLE: the true tag starts the sub-format GUID.
    if tag == 0xfffe && wanted == 40 && body[26..40] == SUBTYPE_TAIL {
        tag = le16(&body, 24);
    }
    Ok(Format {
        tag,
        channels: le16(&body, 2),
        rate_hz: u32::from_le_bytes([body[4], body[5], body[6], body[7]]),
        block_bytes: le16(&body, 12),
        bits: if wanted >= 16 { le16(&body, 14) } else { 8 },
    })
}

/// Turns a format tag (RFC 2361 and mmreg.h) into a codec and the shape of its blocks.
fn layout(
    container: &'static str,
    start: u64,
    bytes: u64,
    format: &Format,
    fact: Option<u64>,
) -> Result<SampleLayout, AudioError> {
    let channels = u64::from(format.channels);
    let block = u64::from(format.block_bytes);
    let unsupported = |codec: &str| {
        Err(AudioError::UnsupportedCodec {
            container: container.to_owned(),
            codec: codec.to_owned(),
        })
    };
    check_shape(u64::from(format.channels), u64::from(format.rate_hz))?;
    // Samples stand in whole bytes, left-justified, whatever the count of bits that are used.
    let sample_bytes = match block / channels {
        0 => u64::from(format.bits).div_ceil(8),
        bytes => bytes,
    };
    let plain = |codec| Ok((codec, sample_bytes * channels, 1));
    let (codec, bytes_per_block, frames_per_block) = match (format.tag, sample_bytes) {
        (1, 1) => plain(codecs::CODEC_ID_PCM_U8),
        (1, 2) => plain(codecs::CODEC_ID_PCM_S16LE),
        (1, 3) => plain(codecs::CODEC_ID_PCM_S24LE),
        (1, 4) => plain(codecs::CODEC_ID_PCM_S32LE),
        (3, 4) => plain(codecs::CODEC_ID_PCM_F32LE),
        (3, 8) => plain(codecs::CODEC_ID_PCM_F64LE),
        (6, _) => Ok((codecs::CODEC_ID_PCM_ALAW, channels, 1)),
        (7, _) => Ok((codecs::CODEC_ID_PCM_MULAW, channels, 1)),
        // Four bits a sample behind a header of seven or four bytes a channel, which holds two samples or one.
        (2, _) if channels <= 2 && block > 7 * channels => Ok((
            codecs::CODEC_ID_ADPCM_MS,
            block,
            (block - 7 * channels) * 2 / channels + 2,
        )),
        (0x11, _) if channels <= 2 && block > 4 * channels => Ok((
            codecs::CODEC_ID_ADPCM_IMA_WAV,
            block,
            (block - 4 * channels) * 2 / channels + 1,
        )),
        (0x50 | 0x55, _) => {
            return Ok(SampleLayout {
                start,
                bytes,
                coding: Coding::Mpeg,
            });
        }
        (tag, _) => unsupported(&names::wave_format(tag, format.bits)),
    }?;
    let frames = fact.filter(|frames| frames_per_block > 1 && *frames > 0);
    let shape = (format.channels, format.rate_hz);
    Ok(layout_of(
        codec,
        shape,
        (bytes_per_block, frames_per_block),
        frames,
        start,
        bytes,
    ))
}

fn le16(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn le64(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| data[at + byte]))
}
