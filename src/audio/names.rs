//! Short names of codecs, for messages.

use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known as codecs;

#[cfg(feature = "amr")]
use super::amr;

/// The codec's name as ffprobe says it.
pub(super) fn codec(id: AudioCodecId) -> String {
    let known = match id {
        codecs::CODEC_ID_PCM_S32LE => "pcm_s32le",
        codecs::CODEC_ID_PCM_S32BE => "pcm_s32be",
        codecs::CODEC_ID_PCM_S24LE => "pcm_s24le",
        codecs::CODEC_ID_PCM_S24BE => "pcm_s24be",
        codecs::CODEC_ID_PCM_S16LE => "pcm_s16le",
        codecs::CODEC_ID_PCM_S16BE => "pcm_s16be",
        codecs::CODEC_ID_PCM_S8 => "pcm_s8",
        codecs::CODEC_ID_PCM_U8 => "pcm_u8",
        codecs::CODEC_ID_PCM_F32LE => "pcm_f32le",
        codecs::CODEC_ID_PCM_F32BE => "pcm_f32be",
        codecs::CODEC_ID_PCM_F64LE => "pcm_f64le",
        codecs::CODEC_ID_PCM_F64BE => "pcm_f64be",
        codecs::CODEC_ID_PCM_ALAW => "pcm_alaw",
        codecs::CODEC_ID_PCM_MULAW => "pcm_mulaw",
        codecs::CODEC_ID_ADPCM_MS => "adpcm_ms",
        codecs::CODEC_ID_ADPCM_IMA_WAV => "adpcm_ima_wav",
        codecs::CODEC_ID_ADPCM_IMA_QT => "adpcm_ima_qt",
        codecs::CODEC_ID_ADPCM_G722 => "g722",
        codecs::CODEC_ID_VORBIS => "vorbis",
        codecs::CODEC_ID_OPUS => "opus",
        codecs::CODEC_ID_SPEEX => "speex",
        codecs::CODEC_ID_MP1 => "mp1",
        codecs::CODEC_ID_MP2 => "mp2",
        codecs::CODEC_ID_MP3 => "mp3",
        codecs::CODEC_ID_AAC => "aac",
        codecs::CODEC_ID_AC3 => "ac3",
        codecs::CODEC_ID_EAC3 => "eac3",
        codecs::CODEC_ID_AC4 => "ac4",
        codecs::CODEC_ID_DCA => "dts",
        codecs::CODEC_ID_WMA => "wma",
        codecs::CODEC_ID_FLAC => "flac",
        codecs::CODEC_ID_WAVPACK => "wavpack",
        codecs::CODEC_ID_MONKEYS_AUDIO => "ape",
        codecs::CODEC_ID_ALAC => "alac",
        codecs::CODEC_ID_TTA => "tta",
        codecs::CODEC_ID_TRUEHD => "truehd",
        #[cfg(feature = "amr")]
        amr::CODEC_ID_AMR_NB => "amr_nb",
        #[cfg(feature = "amr")]
        amr::CODEC_ID_AMR_WB => "amr_wb",
        _ => "",
    };
    if known.is_empty() {
        format!("codec {id}")
    } else {
        known.to_owned()
    }
}

/// Name of a WAVE format tag (RFC 2361 and mmreg.h) that is not read here.
pub(super) fn wave_format(tag: u16, bits: u16) -> String {
    let known = match tag {
        1 => return format!("pcm of {bits} bits"),
        3 => return format!("float of {bits} bits"),
        0x0002 => "adpcm_ms of this shape",
        0x0011 => "adpcm_ima_wav of this shape",
        0x0017 => "oki adpcm",
        0x0022 => "truespeech",
        0x0031 | 0x0032 => "gsm 6.10",
        0x0040 | 0x0045 | 0x0064 => "g726",
        0x0042 => "g723.1",
        0x0065 | 0x028f => "g722",
        0x0083 => "g729",
        0x0092 | 0x2000 => "ac3",
        0x00ff | 0x1600 | 0x1602 | 0x1610 | 0xa106 => "aac",
        0x0160..=0x0163 => "wma",
        0x0270 => "atrac3",
        0x2001 => "dts",
        0xa109 => "speex",
        0xf1ac => "flac",
        _ => "",
    };
    if known.is_empty() {
        format!("wave format 0x{tag:04x}")
    } else {
        known.to_owned()
    }
}
