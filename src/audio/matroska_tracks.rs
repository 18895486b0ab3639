//! What Matroska says of its tracks (RFC 9559, section 5.1.4), as parameters for a decoder.

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::codecs::audio::well_known::profiles::{CODEC_PROFILE_AAC_HE, CODEC_PROFILE_AAC_LC};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, CODEC_ID_NULL_AUDIO};

use super::ebml::{children, float, unsigned};

/// `TrackType` of sound.
const AUDIO: u64 = 2;

/// `SamplingFrequency` where the file does not say it, in Hz.
const DEFAULT_RATE_HZ: f64 = 8_000.0;

/// A track.
#[derive(Debug, Default)]
pub(super) struct TrackEntry {
    /// What blocks call it.
    pub(super) number: u64,
    /// Absent for films and subtitles.
    pub(super) audio: Option<AudioCodecParameters>,
    /// What the file calls the codec.
    pub(super) codec_name: String,
    /// Nanoseconds of silence that the encoder has put before the sound.
    pub(super) delay_ns: u64,
    /// Bytes that were taken away from the start of each frame.
    pub(super) stripped: Vec<u8>,
}

/// How the frames are packed.
#[derive(Debug, Default, PartialEq, Eq)]
enum Packing {
    #[default]
    Plain,
    Stripped(Vec<u8>),
    /// In a way that is not read here.
    Other(&'static str),
}

impl TrackEntry {
    /// Reads the content of a `TrackEntry`.
    pub(super) fn read(content: &[u8]) -> Self {
        let mut entry = Self::default();
        let (mut kind, mut codec, mut private) = (0, "", None);
        let (mut rate, mut channels, mut bits) = (DEFAULT_RATE_HZ, 1, 0);
        let mut packing = Packing::Plain;
        for (id, content) in children(content) {
            match id {
                0xd7 => entry.number = unsigned(content).unwrap_or(0),
                0x83 => kind = unsigned(content).unwrap_or(0),
                0x86 => codec = text(content),
                0x63a2 => private = Some(content),
                0x56aa => entry.delay_ns = unsigned(content).unwrap_or(0),
                0x6d80 => packing = read_packing(content),
                0xe1 => {
                    for (id, content) in children(content) {
                        match id {
                            0xb5 => rate = float(content).unwrap_or(0.0),
                            0x9f => channels = unsigned(content).unwrap_or(0),
                            0x6264 => bits = unsigned(content).unwrap_or(0),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if kind != AUDIO {
            return entry;
        }
        // Control characters of a hostile name would reach messages and logs.
        entry.codec_name = codec.chars().filter(char::is_ascii_graphic).take(40).collect();
        let mut params = AudioCodecParameters::new();
        params
            .for_codec(codec_id(codec, bits))
            .with_sample_rate(rate.round() as u32)
            .with_channels(Channels::Discrete(u16::try_from(channels).unwrap_or(u16::MAX)));
        match codec {
            "A_AAC" | "A_AAC/MPEG2/LC" | "A_AAC/MPEG4/LC" => {
                params.with_profile(CODEC_PROFILE_AAC_LC);
            }
            "A_AAC/MPEG2/LC/SBR" | "A_AAC/MPEG4/LC/SBR" => {
                params.with_profile(CODEC_PROFILE_AAC_HE);
            }
            _ => {}
        }
        if let Some(private) = private {
            let private = match params.codec {
                codecs::CODEC_ID_VORBIS => vorbis_headers(private),
                codecs::CODEC_ID_FLAC => flac_stream_info(private).map(<[u8]>::to_vec),
                _ => Some(private.to_vec()),
            };
            // Without its headers the decoder cannot be made, which names the codec.
            if let Some(private) = private {
                params.with_extra_data(private.into_boxed_slice());
            }
        }
        match packing {
            Packing::Plain => {}
            Packing::Stripped(bytes) => entry.stripped = bytes,
            Packing::Other(how) => {
                params.codec = CODEC_ID_NULL_AUDIO;
                entry.codec_name = format!("{} ({how})", entry.codec_name);
            }
        }
        entry.audio = Some(params);
        entry
    }

    /// Whether the sound is Opus.
    pub(super) fn is_opus(&self) -> bool {
        self.audio
            .as_ref()
            .is_some_and(|params| params.codec == codecs::CODEC_ID_OPUS)
    }
}

fn text(content: &[u8]) -> &str {
    std::str::from_utf8(content).unwrap_or("").trim_end_matches('\0')
}

/// `ContentEncodings`: only bytes that every frame starts with may have been taken away (algorithm 3).
fn read_packing(content: &[u8]) -> Packing {
    let mut packing = Packing::Plain;
    for (_, encoding) in children(content).filter(|(id, _)| *id == 0x6240) {
        if packing != Packing::Plain {
            return Packing::Other("packed twice");
        }
        for (id, content) in children(encoding) {
            match id {
                0x5035 => return Packing::Other("encrypted"),
                0x5034 => {
                    let find = |wanted| {
                        children(content)
                            .find(|(id, _)| *id == wanted)
                            .map(|(_, content)| content)
                    };
                    packing = match find(0x4254).and_then(unsigned) {
                        Some(3) => Packing::Stripped(find(0x4255).unwrap_or_default().to_vec()),
                        _ => Packing::Other("compressed"),
                    };
                }
                _ => {}
            }
        }
    }
    packing
}

/// The codecs of <https://www.matroska.org/technical/codec_specs.html>, as far as anything here knows them.
fn codec_id(name: &str, bits: u64) -> AudioCodecId {
    match (name, bits) {
        ("A_PCM/INT/LIT" | "A_PCM/INT/BIG", 8) => codecs::CODEC_ID_PCM_U8,
        ("A_PCM/INT/LIT", 16) => codecs::CODEC_ID_PCM_S16LE,
        ("A_PCM/INT/LIT", 24) => codecs::CODEC_ID_PCM_S24LE,
        ("A_PCM/INT/LIT", 32) => codecs::CODEC_ID_PCM_S32LE,
        ("A_PCM/INT/BIG", 16) => codecs::CODEC_ID_PCM_S16BE,
        ("A_PCM/INT/BIG", 24) => codecs::CODEC_ID_PCM_S24BE,
        ("A_PCM/INT/BIG", 32) => codecs::CODEC_ID_PCM_S32BE,
        ("A_PCM/FLOAT/IEEE", 32) => codecs::CODEC_ID_PCM_F32LE,
        ("A_PCM/FLOAT/IEEE", 64) => codecs::CODEC_ID_PCM_F64LE,
        ("A_MPEG/L1", _) => codecs::CODEC_ID_MP1,
        ("A_MPEG/L2", _) => codecs::CODEC_ID_MP2,
        ("A_MPEG/L3", _) => codecs::CODEC_ID_MP3,
        ("A_FLAC", _) => codecs::CODEC_ID_FLAC,
        ("A_OPUS", _) => codecs::CODEC_ID_OPUS,
        ("A_VORBIS", _) => codecs::CODEC_ID_VORBIS,
        ("A_ALAC", _) => codecs::CODEC_ID_ALAC,
        ("A_DTS" | "A_DTS/EXPRESS" | "A_DTS/LOSSLESS", _) => codecs::CODEC_ID_DCA,
        ("A_EAC3", _) => codecs::CODEC_ID_EAC3,
        ("A_TRUEHD", _) => codecs::CODEC_ID_TRUEHD,
        ("A_TTA1", _) => codecs::CODEC_ID_TTA,
        ("A_WAVPACK4", _) => codecs::CODEC_ID_WAVPACK,
        _ if name.starts_with("A_AAC") => codecs::CODEC_ID_AAC,
        _ if name.starts_with("A_AC3") => codecs::CODEC_ID_AC3,
        _ => CODEC_ID_NULL_AUDIO,
    }
}

/// The first and the third of Vorbis' three headers, which stand behind one another as if laced.
fn vorbis_headers(private: &[u8]) -> Option<Vec<u8>> {
    let (&2, mut rest) = private.split_first()? else {
        return None;
    };
    let mut lengths = [0; 2];
    for length in &mut lengths {
        let (bytes, value) = super::lacing::xiph_length(rest)?;
        rest = &rest[bytes..];
        *length = value;
    }
    let first = rest.get(..lengths[0])?;
    let third = rest.get(lengths[0] + lengths[1]..)?;
    Some([first, third].concat())
}

/// FLAC's stream information, the first block behind the signature.
fn flac_stream_info(private: &[u8]) -> Option<&[u8]> {
    let block = private.strip_prefix(b"fLaC")?;
    // The highest bit marks the last block, the others are zero for this one.
    matches!(block.first()?, 0 | 0x80)
        .then(|| block.get(4..4 + 34))
        .flatten()
}
