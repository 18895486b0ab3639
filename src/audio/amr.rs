//! AMR files, narrow and wide: phones' voice memos and call recordings.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use codec_core::codecs::amr::AmrCodec;
use codec_core::types::{CodecConfig, CodedFrame, FrameKind, VariableRateCodec};
use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};
use symphonia::core::common::FourCc;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::sniff::{AMR_MAGIC, AMR_WIDE_MAGIC};
use super::source::Region;

/// Marks AMR-NB tracks; Symphonia has no number for it.
pub(super) const CODEC_ID_AMR_NB: AudioCodecId = AudioCodecId::new(FourCc::new(*b"samr"));

/// Marks AMR-WB tracks.
pub(super) const CODEC_ID_AMR_WB: AudioCodecId = AudioCodecId::new(FourCc::new(*b"sawb"));

/// Bytes behind a frame's header, by frame type (3GPP TS 26.101, table 1a): eight rates, then comfort noise.
const NARROW_BYTES: [usize; 9] = [12, 13, 15, 17, 19, 20, 26, 31, 5];
/// The same for AMR-WB (3GPP TS 26.201, table 1a): nine rates, then comfort noise.
const WIDE_BYTES: [usize; 10] = [17, 23, 32, 36, 40, 46, 50, 58, 60, 5];

/// Frame type of a frame that was lost (AMR-WB only), and of one that holds nothing.
const LOST: u8 = 14;
/// See [`LOST`].
const NO_DATA: u8 = 15;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Band {
    Narrow,
    Wide,
}

impl Band {
    fn rate_hz(self) -> u32 {
        match self {
            Self::Narrow => 8_000,
            Self::Wide => 16_000,
        }
    }

    /// Bytes behind the header of a frame of this type; `None` for types that files cannot hold.
    fn frame_bytes(self, frame_type: u8) -> Option<usize> {
        let table: &[usize] = match self {
            Self::Narrow => &NARROW_BYTES,
            Self::Wide => &WIDE_BYTES,
        };
        match (self, frame_type) {
            (_, NO_DATA) | (Self::Wide, LOST) => Some(0),
            _ => table.get(usize::from(frame_type)).copied(),
        }
    }
}

/// What a decoder needs to know.
pub(super) fn parameters(band: Band) -> AudioCodecParameters {
    let mut params = AudioCodecParameters::new();
    let codec = if band == Band::Wide {
        CODEC_ID_AMR_WB
    } else {
        CODEC_ID_AMR_NB
    };
    params
        .for_codec(codec)
        .with_sample_rate(band.rate_hz())
        .with_channels(Channels::Discrete(1));
    params
}

/// Gives the frames of a file, each of 20 ms, with their headers.
#[derive(Debug)]
pub(super) struct AmrReader {
    file: BufReader<Region>,
    band: Band,
    frames: u64,
}

impl AmrReader {
    /// Reads behind the magic bytes.
    pub(super) fn new(mut region: Region, band: Band) -> io::Result<Self> {
        let magic = if band == Band::Wide {
            AMR_WIDE_MAGIC
        } else {
            AMR_MAGIC
        };
        region.seek(SeekFrom::Start(magic.len() as u64))?;
        Ok(Self {
            file: BufReader::new(region),
            band,
            frames: 0,
        })
    }

    /// The next frame; `None` at the end. What cannot be a header is skipped, a byte at a time.
    pub(super) fn next_packet(&mut self) -> io::Result<Option<Packet>> {
        loop {
            let mut header = [0];
            if self.file.read(&mut header)? == 0 {
                return Ok(None);
            }
            // Padding bits are zero; more of them set than the one of quality means that this is no header.
            let Some(bytes) = self
                .band
                .frame_bytes(header[0] >> 3 & 0xf)
                .filter(|_| header[0] & 0x83 == 0)
            else {
                continue;
            };
            let mut data = vec![header[0]; 1 + bytes];
            match self.file.read_exact(&mut data[1..]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            let length = u64::from(self.band.rate_hz()) / 50;
            let start = i64::try_from(self.frames * length).unwrap_or(i64::MAX);
            self.frames += 1;
            return Ok(Some(Packet::new(
                0,
                Timestamp::new(start),
                Duration::new(length),
                data,
            )));
        }
    }
}

/// Decodes frames with their headers.
pub(super) struct Amr {
    codec: AmrCodec,
    band: Band,
    /// The last speech frame's rate: lost frames have none of their own.
    mode: u8,
}

impl Amr {
    pub(super) fn new(band: Band) -> Result<Self, String> {
        let config = match band {
            Band::Narrow => CodecConfig::amr_nb(),
            Band::Wide => CodecConfig::amr_wb(),
        };
        let codec = AmrCodec::new(&config).map_err(|error| error.to_string())?;
        Ok(Self { codec, band, mode: 0 })
    }

    /// Decodes one frame into `planes`; returns the sample rate in Hz.
    pub(super) fn decode(&mut self, data: &[u8], planes: &mut Vec<Vec<f32>>) -> Result<u32, String> {
        let (header, payload) = data.split_first().ok_or("a frame without a header")?;
        let frame_type = header >> 3 & 0xf;
        let comfort_noise = if self.band == Band::Wide {
            WIDE_BYTES.len()
        } else {
            NARROW_BYTES.len()
        } as u8
            - 1;
        let kind = match frame_type {
            LOST => FrameKind::Lost,
            NO_DATA => FrameKind::NoData,
            other if other == comfort_noise => FrameKind::ComfortNoise,
            speech => {
                self.mode = speech;
                FrameKind::Speech
            }
        };
        let frame = CodedFrame {
            kind,
            mode: self.mode,
            quality_ok: header & 4 != 0,
            data: payload.to_vec(),
        };
        let samples = self
            .codec
            .decode_frame(&frame)
            .map_err(|error| error.to_string())?;
        planes.resize(1, Vec::new());
        planes[0].clear();
        planes[0].extend(samples.into_iter().map(|sample| f32::from(sample) / 32_768.0));
        Ok(self.band.rate_hz())
    }
}
