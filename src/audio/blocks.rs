//! Samples in blocks of equal size, as uncompressed containers hold them.
//!
//! Recorders, browsers and call centres write headers with sizes of zero or FFFFFFFF, sizes of more than 4 GiB, and
//! chunks that are cut off, which Symphonia's readers refuse. All that matters in these headers is where the samples
//! lie and what they are: `riff`, `au` and `aiff` find that out.

use std::io::{Read, Seek, SeekFrom};

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::AudioError;
use super::source::Region;

/// Frames a packet of samples holds at most.
const FRAMES_PER_PACKET: u64 = 4096;

/// Bytes a packet holds at most, unless a single block is larger.
const BYTES_PER_PACKET: u64 = 256 << 10;

/// Where the samples lie and what they are.
#[derive(Debug)]
pub(super) struct SampleLayout {
    /// First byte of the samples.
    pub(super) start: u64,
    /// Bytes of samples.
    pub(super) bytes: u64,
    pub(super) coding: Coding,
}

/// What the samples are.
#[derive(Debug)]
pub(super) enum Coding {
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

/// Gives the blocks of a [`SampleLayout`] as packets.
#[derive(Debug)]
pub(super) struct BlockReader {
    region: Region,
    track_id: u32,
    /// Bytes left of the extent that is being read.
    left: u64,
    /// Start and bytes of the extents behind it.
    extents: std::vec::IntoIter<(u64, u64)>,
    position: u64,
    bytes_per_block: u64,
    frames_per_block: u64,
    blocks_per_packet: u64,
    pad: bool,
}

impl BlockReader {
    /// Reads the samples of `layout` from `region`.
    pub(super) fn new(
        mut region: Region,
        layout: &SampleLayout,
        blocks: &Blocks,
    ) -> Result<Self, AudioError> {
        region.seek(SeekFrom::Start(layout.start))?;
        let blocks_per_packet = (FRAMES_PER_PACKET / blocks.frames_per_block)
            .min(BYTES_PER_PACKET / blocks.bytes_per_block)
            .max(1);
        Ok(Self {
            region,
            track_id: 0,
            left: layout.bytes,
            extents: Vec::new().into_iter(),
            position: 0,
            bytes_per_block: blocks.bytes_per_block,
            frames_per_block: blocks.frames_per_block,
            blocks_per_packet,
            pad: blocks.frames_per_block > 1,
        })
    }

    /// Reads frames of `frame_bytes` each that lie in several extents, as packets of `track_id`.
    pub(super) fn of_extents(
        region: Region,
        extents: Vec<(u64, u64)>,
        track_id: u32,
        frame_bytes: u64,
    ) -> Self {
        Self {
            region,
            track_id,
            left: 0,
            extents: extents.into_iter(),
            position: 0,
            bytes_per_block: frame_bytes,
            frames_per_block: 1,
            blocks_per_packet: FRAMES_PER_PACKET.min(BYTES_PER_PACKET / frame_bytes).max(1),
            pad: false,
        }
    }

    /// Frames that are left.
    pub(super) fn frames(&self) -> u64 {
        (self.left / self.bytes_per_block).saturating_mul(self.frames_per_block)
    }

    /// The next packet; `None` at the end of the samples or of the file.
    pub(super) fn next_packet(&mut self) -> std::io::Result<Option<Packet>> {
        if self.left < self.bytes_per_block
            && let Some((start, bytes)) = self.extents.next()
        {
            self.region.seek(SeekFrom::Start(start))?;
            self.left = bytes;
        }
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
            self.track_id,
            Timestamp::new(start),
            Duration::new(frames),
            data,
        )))
    }
}

/// A layout for a decoder of Symphonia's: `shape` is channels and sample rate in Hz, `block` bytes and frames of a
/// block, `frames` how many there are where the last block may be padded.
pub(super) fn layout_of(
    codec: AudioCodecId,
    (channels, rate_hz): (u16, u32),
    (bytes_per_block, frames_per_block): (u64, u64),
    frames: Option<u64>,
    start: u64,
    bytes: u64,
) -> SampleLayout {
    let mut params = AudioCodecParameters::new();
    params
        .for_codec(codec)
        .with_sample_rate(rate_hz)
        .with_channels(Channels::Discrete(channels))
        .with_max_frames_per_packet(FRAMES_PER_PACKET.max(frames_per_block))
        .with_frames_per_block(frames_per_block);
    SampleLayout {
        start,
        bytes,
        coding: Coding::Blocks(Blocks {
            params,
            bytes_per_block,
            frames_per_block,
            frames,
        }),
    }
}

/// Bytes of one frame of uncompressed sound; `None` for other codecs.
pub(super) fn pcm_frame_bytes(params: &AudioCodecParameters) -> Option<u64> {
    let sample_bytes = match params.codec {
        codecs::CODEC_ID_PCM_U8
        | codecs::CODEC_ID_PCM_S8
        | codecs::CODEC_ID_PCM_ALAW
        | codecs::CODEC_ID_PCM_MULAW => 1,
        codecs::CODEC_ID_PCM_S16LE | codecs::CODEC_ID_PCM_S16BE => 2,
        codecs::CODEC_ID_PCM_S24LE | codecs::CODEC_ID_PCM_S24BE => 3,
        codecs::CODEC_ID_PCM_S32LE
        | codecs::CODEC_ID_PCM_S32BE
        | codecs::CODEC_ID_PCM_F32LE
        | codecs::CODEC_ID_PCM_F32BE => 4,
        codecs::CODEC_ID_PCM_F64LE | codecs::CODEC_ID_PCM_F64BE => 8,
        _ => return None,
    };
    let channels = params.channels.as_ref()?.count() as u64;
    (channels > 0).then_some(channels * sample_bytes)
}

/// Refuses what no limit needs to be known for.
pub(super) fn check_shape(channels: u64, rate_hz: u64) -> Result<(), AudioError> {
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

/// Broken before the first sample.
pub(super) fn corrupt(container: &str, detail: &str) -> AudioError {
    AudioError::Corrupt {
        container: container.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Reads exactly `buffer.len()` bytes at `offset`; false when the file ends before.
pub(super) fn read_exact_at(region: &mut Region, offset: u64, buffer: &mut [u8]) -> Result<bool, AudioError> {
    region.seek(SeekFrom::Start(offset))?;
    match region.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}
