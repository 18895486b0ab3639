//! Uncompressed containers, read by hand: WAV (RIFF, RF64, BW64), Sony Wave64 and Sun AU.
//!
//! Symphonia reads plain WAV only; recorders, browsers and call centres write headers with sizes of zero or
//! FFFFFFFF, sizes of more than 4 GiB, and chunks that are cut off. All that matters in these headers is where the
//! samples lie and what they are.

use std::io::{Read, Seek, SeekFrom};

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::codecs::audio::{AudioCodecId, CODEC_ID_NULL_AUDIO};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::source::Region;
use super::{AudioError, names};

/// Most chunks looked at before the samples.
const MAX_CHUNKS: usize = 4096;

/// Frames a packet of samples holds at most.
const FRAMES_PER_PACKET: u64 = 4096;

/// Bytes a packet holds at most, unless a single block is larger.
const BYTES_PER_PACKET: u64 = 256 << 10;

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

/// Where the samples lie and what they are.
#[derive(Debug)]
pub(super) struct Layout {
    /// First byte of the samples.
    pub(super) start: u64,
    /// Bytes of samples.
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// What the samples are.
#[derive(Debug)]
pub(super) enum Kind {
    /// Blocks of equal size, for a decoder of Symphonia's.
    Blocks(Blocks),
    /// A stream of MPEG audio frames.
    Mpeg,
}

/// Samples in blocks of equal size.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) params: AudioCodecParameters,
    bytes_per_block: u64,
    frames_per_block: u64,
    /// What the `fact` chunk says, where blocks may be padded.
    pub(super) frames: Option<u64>,
}

/// Gives the blocks of a [`Layout`] as packets.
#[derive(Debug)]
pub(super) struct BlockReader {
    region: Region,
    left: u64,
    position: u64,
    bytes_per_block: u64,
    frames_per_block: u64,
    blocks_per_packet: u64,
    pad: bool,
}

impl BlockReader {
    /// Reads the samples of `layout` from `region`.
    pub(super) fn new(mut region: Region, layout: &Layout, blocks: &Blocks) -> Result<Self, AudioError> {
        region.seek(SeekFrom::Start(layout.start))?;
        let blocks_per_packet = (FRAMES_PER_PACKET / blocks.frames_per_block)
            .min(BYTES_PER_PACKET / blocks.bytes_per_block)
            .max(1);
        Ok(Self {
            region,
            left: layout.bytes,
            position: 0,
            bytes_per_block: blocks.bytes_per_block,
            frames_per_block: blocks.frames_per_block,
            blocks_per_packet,
            pad: blocks.frames_per_block > 1,
        })
    }

    /// Frames that are left.
    pub(super) fn frames(&self) -> u64 {
        (self.left / self.bytes_per_block).saturating_mul(self.frames_per_block)
    }

    /// The next packet; `None` at the end of the samples or of the file.
    pub(super) fn next_packet(&mut self) -> std::io::Result<Option<Packet>> {
        let wanted = self.left.min(self.blocks_per_packet * self.bytes_per_block);
        let mut data = Vec::with_capacity(wanted as usize);
        (&mut self.region).take(wanted).read_to_end(&mut data)?;
        self.left -= data.len() as u64;
        if (data.len() as u64) < wanted {
            self.left = 0;
        }
        let mut blocks = data.len() as u64 / self.bytes_per_block;
        if self.pad && data.len() as u64 > blocks * self.bytes_per_block {
            // The last block of a compressed file may be short; what it lacks decodes as near silence.
            blocks += 1;
        }
        if blocks == 0 {
            return Ok(None);
        }
        data.resize((blocks * self.bytes_per_block) as usize, 0);
        let frames = blocks * self.frames_per_block;
        let start = i64::try_from(self.position).unwrap_or(i64::MAX);
        self.position = self.position.saturating_add(frames);
        Ok(Some(Packet::new(
            0,
            Timestamp::new(start),
            Duration::new(frames),
            data,
        )))
    }
}

/// Reads exactly `buffer.len()` bytes at `offset`; false when the file ends before.
fn read_exact_at(region: &mut Region, offset: u64, buffer: &mut [u8]) -> Result<bool, AudioError> {
    region.seek(SeekFrom::Start(offset))?;
    match region.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads the header of a RIFF, RF64 or BW64 file.
///
/// # Errors
///
/// [`AudioError::Corrupt`] without a `fmt ` or `data` chunk, [`AudioError::UnsupportedCodec`],
/// [`AudioError::Channels`] and [`AudioError::SampleRate`] for zeros.
pub(super) fn read_wav(region: &mut Region, len: u64) -> Result<Layout, AudioError> {
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
pub(super) fn read_w64(region: &mut Region, len: u64) -> Result<Layout, AudioError> {
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
) -> Result<Layout, AudioError> {
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
            return Ok(Layout {
                start,
                bytes,
                kind: Kind::Mpeg,
            });
        }
        (tag, _) => unsupported(&names::wave_format(tag, format.bits)),
    }?;
    let params = parameters(codec, format.channels, format.rate_hz, frames_per_block);
    let frames = fact.filter(|frames| frames_per_block > 1 && *frames > 0);
    Ok(Layout {
        start,
        bytes,
        kind: Kind::Blocks(Blocks {
            params,
            bytes_per_block,
            frames_per_block,
            frames,
        }),
    })
}

/// Parameters for a decoder of Symphonia's.
fn parameters(
    codec: AudioCodecId,
    channels: u16,
    rate_hz: u32,
    frames_per_block: u64,
) -> AudioCodecParameters {
    let mut params = AudioCodecParameters::new();
    params
        .for_codec(codec)
        .with_sample_rate(rate_hz)
        .with_channels(Channels::Discrete(channels))
        .with_max_frames_per_packet(FRAMES_PER_PACKET.max(frames_per_block))
        .with_frames_per_block(frames_per_block);
    params
}

/// Refuses what no limit needs to be known for.
fn check_shape(channels: u64, rate_hz: u64) -> Result<(), AudioError> {
    if channels == 0 {
        return Err(AudioError::Channels {
            found: 0,
            limit: u16::MAX,
        });
    }
    if rate_hz == 0 {
        return Err(AudioError::SampleRate {
            found: 0,
            limit: u32::MAX,
        });
    }
    Ok(())
}

/// Whether the bytes behind `.snd` are a plausible AU header.
pub(super) fn is_au_header(head: &[u8]) -> bool {
    match (head.get(4..8), head.get(12..16)) {
        (Some(offset), Some(encoding)) => {
            let offset = u32::from_be_bytes([offset[0], offset[1], offset[2], offset[3]]);
            let encoding = u32::from_be_bytes([encoding[0], encoding[1], encoding[2], encoding[3]]);
            (24..1 << 20).contains(&offset) && (1..=27).contains(&encoding)
        }
        _ => false,
    }
}

/// Reads the header of a Sun AU file (`man 4 au`): six big-endian numbers.
///
/// # Errors
///
/// As [`read_wav`].
pub(super) fn read_au(region: &mut Region, len: u64) -> Result<Layout, AudioError> {
    let mut header = [0; 24];
    if !read_exact_at(region, 0, &mut header)? {
        return Err(corrupt("au", "the header is cut off"));
    }
    let number = |index: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| header[index * 4 + byte]));
    let (start, size, encoding, rate_hz, channels) =
        (u64::from(number(1)), number(2), number(3), number(4), number(5));
    check_shape(u64::from(channels), u64::from(rate_hz))?;
    let channels = u16::try_from(channels).map_err(|_| AudioError::Channels {
        found: u64::from(channels),
        limit: u16::MAX,
    })?;
    let (codec, sample_bytes) = match encoding {
        1 => (codecs::CODEC_ID_PCM_MULAW, 1),
        2 => (codecs::CODEC_ID_PCM_S8, 1),
        3 => (codecs::CODEC_ID_PCM_S16BE, 2),
        4 => (codecs::CODEC_ID_PCM_S24BE, 3),
        5 => (codecs::CODEC_ID_PCM_S32BE, 4),
        6 => (codecs::CODEC_ID_PCM_F32BE, 4),
        7 => (codecs::CODEC_ID_PCM_F64BE, 8),
        27 => (codecs::CODEC_ID_PCM_ALAW, 1),
        other => {
            let codec = match other {
                23 => "g721".to_owned(),
                24 => "g722".to_owned(),
                25 | 26 => "g723".to_owned(),
                other => format!("encoding {other}"),
            };
            return Err(AudioError::UnsupportedCodec {
                container: "au".to_owned(),
                codec,
            });
        }
    };
    let available = len.saturating_sub(start);
    let bytes = if matches!(size, 0 | u32::MAX) {
        available
    } else {
        u64::from(size).min(available)
    };
    let blocks = Blocks {
        params: parameters(codec, channels, rate_hz, 1),
        bytes_per_block: sample_bytes * u64::from(channels),
        frames_per_block: 1,
        frames: None,
    };
    debug_assert_ne!(blocks.params.codec, CODEC_ID_NULL_AUDIO);
    Ok(Layout {
        start,
        bytes,
        kind: Kind::Blocks(blocks),
    })
}

fn corrupt(container: &str, detail: &str) -> AudioError {
    AudioError::Corrupt {
        container: container.to_owned(),
        detail: detail.to_owned(),
    }
}

fn le16(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn le64(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| data[at + byte]))
}
