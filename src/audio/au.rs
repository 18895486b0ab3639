//! Sun and NeXT audio files.

use symphonia::core::codecs::audio::well_known as codecs;

use super::AudioError;
use super::blocks::{SampleLayout, check_shape, corrupt, layout_of, read_exact_at};
use super::source::Region;

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
/// [`AudioError::Corrupt`], [`AudioError::UnsupportedCodec`]; [`AudioError::Channels`] and
/// [`AudioError::SampleRate`] for zeros.
pub(super) fn read_au(region: &mut Region, len: u64) -> Result<SampleLayout, AudioError> {
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
    let block = (sample_bytes * u64::from(channels), 1);
    Ok(layout_of(codec, (channels, rate_hz), block, None, start, bytes))
}
