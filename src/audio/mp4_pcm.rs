//! Uncompressed sound in MP4 and MOV: what it is, and where it lies.
//!
//! Symphonia gives such sound frame by frame, takes big-endian samples of 24 bits for little-endian ones, and does
//! not know A-law.

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};

use super::blocks::pcm_frame_bytes;
use super::mp4::{BoxReader, Movie, MovieTrack};
use super::source::Region;

/// Most chunks of uncompressed sound listed; more are left to Symphonia. Six hours in chunks of 1,024 frames.
const MAX_CHUNKS: u32 = 1 << 20;

/// A track of uncompressed sound.
#[derive(Debug)]
pub(super) struct Uncompressed {
    pub(super) track_id: u32,
    pub(super) params: AudioCodecParameters,
    pub(super) frame_bytes: u64,
    /// Start and length in bytes of the extents in which the sound lies.
    pub(super) chunks: Vec<(u64, u64)>,
}

impl Movie {
    /// The first track of sound, if it is not compressed; `None` as well where its tables make no sense.
    pub(super) fn uncompressed(&self, region: &mut Region) -> Option<Uncompressed> {
        let track = self.tracks.iter().find(|track| track.handler == *b"soun")?;
        let mut reader = BoxReader::new(region);
        let params = reader.describe(track)?;
        let frame_bytes = pcm_frame_bytes(&params)?;
        Some(Uncompressed {
            track_id: track.id,
            chunks: reader.chunks(track, frame_bytes)?,
            frame_bytes,
            params,
        })
    }
}

impl BoxReader<'_> {
    /// The first sample description, if it is one of uncompressed sound (QuickTime File Format, "Sound sample
    /// descriptions"; ISO 23003-5).
    fn describe(&mut self, track: &MovieTrack) -> Option<AudioCodecParameters> {
        // Behind version, flags and a count of four bytes each.
        let start = track.stsd? + 8;
        let end = start + u64::from(self.number(start)?);
        let format = self.bytes::<4>(start + 4)?;
        let version = u16::from_be_bytes(self.bytes(start + 16)?);
        let mut channels = u32::from(u16::from_be_bytes(self.bytes(start + 24)?));
        let mut bits = u32::from(u16::from_be_bytes(self.bytes(start + 26)?));
        let mut rate_hz = self.number(start + 32)? >> 16;
        let mut flags = 0;
        let mut children = start + 36;
        match version {
            1 => children += 16,
            2 => {
                rate_hz = f64::from_be_bytes(self.bytes(start + 40)?) as u32;
                channels = self.number(start + 48)?;
                bits = self.number(start + 56)?;
                flags = self.number(start + 60)?;
                children += 36;
            }
            _ => {}
        }
        if rate_hz == 0 {
            // More than 65,535 Hz do not fit into the description.
            rate_hz = track.timescale;
        }
        let (mut little, mut configured_bits) = (false, None);
        let _ = self.walk(children, end, &mut |reader, kind, start, end| {
            match &kind {
                b"wave" => {
                    let _ = reader.walk(start, end, &mut |reader, kind, start, _| {
                        if kind == *b"enda" {
                            little = u16::from_be_bytes(reader.bytes(start)?) == 1;
                        }
                        Some(())
                    });
                }
                b"enda" => little = u16::from_be_bytes(reader.bytes(start)?) == 1,
                b"pcmC" => {
                    let [endian, bits] = reader.bytes(start + 4)?;
                    (little, configured_bits) = (endian & 1 == 1, Some(u32::from(bits)));
                }
                _ => {}
            }
            Some(())
        });
        let codec = match (&format, configured_bits) {
            (b"alaw", _) => codecs::CODEC_ID_PCM_ALAW,
            (b"ulaw", _) => codecs::CODEC_ID_PCM_MULAW,
            (b"raw ", _) if bits <= 8 => codecs::CODEC_ID_PCM_U8,
            (b"sowt", _) => integer(bits, true)?,
            (b"twos" | b"NONE", _) => integer(bits, false)?,
            (b"in24", _) => integer(24, little)?,
            (b"in32", _) => integer(32, little)?,
            (b"fl32", _) => floating(32, little)?,
            (b"fl64", _) => floating(64, little)?,
            (b"ipcm", Some(bits)) => integer(bits, little)?,
            (b"fpcm", Some(bits)) => floating(bits, little)?,
            // Bits of `lpcm`: floating point, big-endian, signed.
            (b"lpcm", _) if flags & 1 != 0 => floating(bits, flags & 2 == 0)?,
            (b"lpcm", _) if flags & 4 != 0 => integer(bits, flags & 2 == 0)?,
            (b"lpcm", _) if bits == 8 => codecs::CODEC_ID_PCM_U8,
            _ => return None,
        };
        let mut params = AudioCodecParameters::new();
        params
            .for_codec(codec)
            .with_sample_rate(rate_hz)
            .with_channels(Channels::Discrete(u16::try_from(channels).ok()?));
        Some(params)
    }

    /// See [`Uncompressed::chunks`]; ISO 14496-12, 8.7.
    fn chunks(&mut self, track: &MovieTrack, frame_bytes: u64) -> Option<Vec<(u64, u64)>> {
        let (stsc, stsz) = (track.stsc?, track.stsz?);
        // QuickTime says 1 where it means a frame.
        let sample_bytes = u64::from(self.number(stsz + 4)?);
        if sample_bytes != 1 && sample_bytes != frame_bytes {
            return None;
        }
        let mut frames_left = u64::from(self.number(stsz + 8)?);
        let (offsets, offset_bytes) = match (track.stco, track.co64) {
            (Some(stco), _) => (self.table(stco, 4)?, 4),
            (None, co64) => (self.table(co64?, 8)?, 8),
        };
        let runs = self.table(stsc, 12)?;
        let mut runs = runs
            .chunks_exact(12)
            .map(|run| (be(&run[..4]), be(&run[4..8])))
            .peekable();
        let mut frames_per_chunk = 0;
        let mut chunks: Vec<(u64, u64)> = Vec::new();
        for (number, offset) in (1..).zip(offsets.chunks_exact(offset_bytes)) {
            while let Some((_, frames)) = runs.next_if(|(first, _)| *first <= number) {
                frames_per_chunk = frames;
            }
            let frames = frames_per_chunk.min(frames_left);
            frames_left -= frames;
            let (start, bytes) = (be(offset), frames * frame_bytes);
            match chunks.last_mut() {
                Some((last, length)) if last.checked_add(*length) == Some(start) => *length += bytes,
                _ if bytes > 0 => chunks.push((start, bytes)),
                _ => {}
            }
        }
        (!chunks.is_empty()).then_some(chunks)
    }

    /// The entries of a table whose number stands behind version and flags.
    fn table(&mut self, start: u64, entry_bytes: usize) -> Option<Vec<u8>> {
        let count = self.number(start + 4).filter(|count| *count <= MAX_CHUNKS)?;
        // Not before it is known that the file is so long.
        let end = start.checked_add(8 + u64::from(count) * entry_bytes as u64)?;
        self.bytes::<1>(end.checked_sub(1)?)?;
        let mut entries = vec![0; count as usize * entry_bytes];
        self.fill(start + 8, &mut entries)?;
        Some(entries)
    }
}

/// Signed samples of so many bits.
fn integer(bits: u32, little: bool) -> Option<AudioCodecId> {
    Some(match (bits, little) {
        (8, _) => codecs::CODEC_ID_PCM_S8,
        (16, true) => codecs::CODEC_ID_PCM_S16LE,
        (16, false) => codecs::CODEC_ID_PCM_S16BE,
        (24, true) => codecs::CODEC_ID_PCM_S24LE,
        (24, false) => codecs::CODEC_ID_PCM_S24BE,
        (32, true) => codecs::CODEC_ID_PCM_S32LE,
        (32, false) => codecs::CODEC_ID_PCM_S32BE,
        _ => return None,
    })
}

/// Samples in floating point of so many bits.
fn floating(bits: u32, little: bool) -> Option<AudioCodecId> {
    Some(match (bits, little) {
        (32, true) => codecs::CODEC_ID_PCM_F32LE,
        (32, false) => codecs::CODEC_ID_PCM_F32BE,
        (64, true) => codecs::CODEC_ID_PCM_F64LE,
        (64, false) => codecs::CODEC_ID_PCM_F64BE,
        _ => return None,
    })
}

/// A big-endian number.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
