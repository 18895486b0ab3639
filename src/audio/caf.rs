//! Core Audio Format files with plain samples; those with compressed packets are Symphonia's.

use symphonia::core::codecs::audio::well_known as codecs;

use super::AudioError;
use super::blocks::{SampleLayout, check_shape, corrupt, layout_of, read_exact_at};
use super::source::Region;

/// Most chunks looked at.
const MAX_CHUNKS: usize = 4096;

/// Flags of linear PCM (Apple's Core Audio Format specification 1.0, audio description chunk).
const IS_FLOAT: u32 = 1;
/// See [`IS_FLOAT`].
const IS_LITTLE_ENDIAN: u32 = 2;

/// Reads the header; `None` when the samples are packed in a way that needs more than blocks.
///
/// # Errors
///
/// [`AudioError::Corrupt`] when the description or the data chunk is missing, [`AudioError::UnsupportedCodec`] for
/// samples of odd sizes; [`AudioError::Channels`] and [`AudioError::SampleRate`] for zeros.
pub(super) fn read_caf(region: &mut Region, len: u64) -> Result<Option<SampleLayout>, AudioError> {
    let mut description = [0; 32];
    // The description comes first: file header of 8 bytes, chunk header of 12.
    let mut name = [0; 4];
    if !read_exact_at(region, 8, &mut name)?
        || &name != b"desc"
        || !read_exact_at(region, 20, &mut description)?
    {
        return Err(corrupt("caf", "no audio description"));
    }
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| description[at + byte]));
    let rate_hz = f64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| description[byte]));
    let (flags, channels, bits) = (number(12), number(24), number(28));
    let little = flags & IS_LITTLE_ENDIAN != 0;
    let (codec, sample_bytes, frames) = match (&description[8..12], flags & IS_FLOAT != 0, bits) {
        (b"lpcm", false, 8) => (codecs::CODEC_ID_PCM_S8, 1, 1),
        (b"lpcm", false, 16) if little => (codecs::CODEC_ID_PCM_S16LE, 2, 1),
        (b"lpcm", false, 16) => (codecs::CODEC_ID_PCM_S16BE, 2, 1),
        (b"lpcm", false, 24) if little => (codecs::CODEC_ID_PCM_S24LE, 3, 1),
        (b"lpcm", false, 24) => (codecs::CODEC_ID_PCM_S24BE, 3, 1),
        (b"lpcm", false, 32) if little => (codecs::CODEC_ID_PCM_S32LE, 4, 1),
        (b"lpcm", false, 32) => (codecs::CODEC_ID_PCM_S32BE, 4, 1),
        (b"lpcm", true, 32) if little => (codecs::CODEC_ID_PCM_F32LE, 4, 1),
        (b"lpcm", true, 32) => (codecs::CODEC_ID_PCM_F32BE, 4, 1),
        (b"lpcm", true, 64) if little => (codecs::CODEC_ID_PCM_F64LE, 8, 1),
        (b"lpcm", true, 64) => (codecs::CODEC_ID_PCM_F64BE, 8, 1),
        (b"lpcm", _, bits) => {
            let codec = format!("pcm of {bits} bits");
            return Err(AudioError::UnsupportedCodec {
                container: "caf".to_owned(),
                codec,
            });
        }
        (b"alaw", ..) => (codecs::CODEC_ID_PCM_ALAW, 1, 1),
        (b"ulaw", ..) => (codecs::CODEC_ID_PCM_MULAW, 1, 1),
        (b"ima4", ..) if channels <= 2 => (codecs::CODEC_ID_ADPCM_IMA_QT, 34, 64),
        _ => return Ok(None),
    };
    // Rates that are no numbers become zero, those beyond 32 bits the largest.
    let rate_hz = rate_hz.round() as u32;
    check_shape(u64::from(channels), u64::from(rate_hz))?;
    let channels = u16::try_from(channels).map_err(|_| AudioError::Channels {
        found: u64::from(channels),
        limit: u16::MAX,
    })?;

    let mut at = 8;
    for _ in 0..MAX_CHUNKS {
        let mut header = [0; 12];
        if !read_exact_at(region, at, &mut header)? {
            break;
        }
        let size = i64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| header[4 + byte]));
        let body = at + 12;
        if &header[..4] == b"data" {
            // An edit count stands before the samples; a size of -1 means all that is left.
            let start = body + 4;
            let available = len.saturating_sub(start);
            let bytes = u64::try_from(size).map_or(available, |size| size.saturating_sub(4).min(available));
            let block = (sample_bytes * u64::from(channels), frames);
            return Ok(Some(layout_of(
                codec,
                (channels, rate_hz),
                block,
                None,
                start,
                bytes,
            )));
        }
        match u64::try_from(size).ok().and_then(|size| body.checked_add(size)) {
            Some(next) => at = next,
            None => break,
        }
    }
    Err(corrupt("caf", "no `data` chunk"))
}
