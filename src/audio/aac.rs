//! AAC: the core that every profile has, without the tools that rebuild what lies above it.
//!
//! HE-AAC is a core of AAC-LC at half the rate, beside it a description of the upper half of the band (spectral band
//! replication) and of the second channel (parametric stereo). Whisper hears nothing above 8 kHz and one channel, so the
//! core alone is decoded, at its own rate. A config that says it is more than a core is rewritten to one that does not.
//!
//! Symphonia decodes one and two channels, exact to the sample. More channels, and what it refuses or cannot start
//! with (program configs, coupling, frames of 960), go to `oxideav-aac`, which has 16 bits.

use oxideav_aac::asc::AudioSpecificConfig;
use oxideav_aac::decode::StreamDecoder;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::packet::Packet;
use symphonia::default::codecs::AacDecoder;

use super::decoder::copy;

/// Audio object types (ISO 14496-3, table 1.17).
mod object_type {
    /// Low complexity: the core of HE-AAC, and all that most encoders write.
    pub(super) const LC: u32 = 2;
    /// A core and spectral band replication: HE-AAC.
    pub(super) const SBR: u32 = 5;
    /// The same and parametric stereo: HE-AAC v2.
    pub(super) const PS: u32 = 29;
}

/// Sampling frequencies by index (ISO 14496-3, table 1.18).
const RATES_HZ: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350,
];

/// A decoder for one track.
pub(super) struct Aac {
    config: CoreConfig,
    core: Core,
    /// Whether any packet has been decoded.
    proven: bool,
}

enum Core {
    Symphonia(Box<dyn AudioDecoder>),
    Oxideav(Box<StreamDecoder>),
}

impl Aac {
    /// # Errors
    ///
    /// A sentence, when there is no sense in the configuration.
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        let config = CoreConfig::of(params)?;
        let core = match config.symphonia(params) {
            Some(decoder) => Core::Symphonia(decoder),
            None => Core::Oxideav(Box::new(config.oxideav()?)),
        };
        Ok(Self {
            config,
            core,
            proven: false,
        })
    }

    /// Decodes a packet into `planes`; returns the sample rate in Hz.
    pub(super) fn decode(&mut self, packet: &Packet, planes: &mut Vec<Vec<f32>>) -> Result<u32, String> {
        let decoded = match &mut self.core {
            Core::Symphonia(decoder) => decoder
                .decode(packet)
                .map(|buffer| copy(&buffer, planes))
                .map_err(|error| error.to_string()),
            Core::Oxideav(decoder) => self.config.decode(decoder, &packet.data, planes),
        };
        if decoded.is_err()
            && !self.proven
            && matches!(self.core, Core::Symphonia(_))
            && let Ok(mut other) = self.config.oxideav()
            && let Ok(rate_hz) = self.config.decode(&mut other, &packet.data, planes)
        {
            self.core = Core::Oxideav(Box::new(other));
            self.proven = true;
            return Ok(rate_hz);
        }
        self.proven |= decoded.is_ok();
        decoded
    }
}

/// What is known of the core.
struct CoreConfig {
    /// For the core, not for what is built upon it.
    object_type: u32,
    rate_hz: u32,
    /// Channel configuration (ISO 14496-3, table 1.19); 0 where the stream itself lists its channels.
    channels: u32,
    /// The container's words, absent for ADTS.
    original: Option<Box<[u8]>>,
    /// Frames of 960 samples.
    short_frames: bool,
}

impl CoreConfig {
    fn of(params: &AudioCodecParameters) -> Result<Self, String> {
        if let Some(original) = &params.extra_data {
            return Self::parse(original).ok_or_else(|| "its configuration makes no sense".to_owned());
        }
        // The packets carry headers of their own, which the demuxer has read.
        let channels = params
            .channels
            .as_ref()
            .map_or(0, |channels| channels.count() as u32);
        Ok(Self {
            object_type: object_type::LC,
            rate_hz: params.sample_rate.ok_or("no sample rate")?,
            channels: if channels == 8 { 7 } else { channels },
            original: None,
            short_frames: false,
        })
    }

    /// Reads an `AudioSpecificConfig` (ISO 14496-3, 1.6.2.1).
    fn parse(original: &[u8]) -> Option<Self> {
        let mut bits = Bits {
            bytes: original,
            at: 0,
        };
        let mut object_type = bits.object_type()?;
        let rate_hz = bits.rate_hz()?;
        let channels = bits.read(4)?;
        if matches!(object_type, object_type::SBR | object_type::PS) {
            // The rate of what is rebuilt, then what the core is.
            bits.rate_hz()?;
            object_type = bits.object_type()?;
        }
        let short_frames = bits.read(1)? == 1;
        Some(Self {
            object_type,
            rate_hz,
            channels,
            original: Some(original.into()),
            short_frames,
        })
    }

    /// An `AudioSpecificConfig` for the core alone.
    fn plain(&self) -> Option<[u8; 2]> {
        let rate = RATES_HZ.iter().position(|known| *known == self.rate_hz)?;
        if self.object_type != object_type::LC || !(1..=2).contains(&self.channels) || self.short_frames {
            return None;
        }
        Some([
            (object_type::LC << 3) as u8 | (rate >> 1) as u8,
            (rate << 7) as u8 | (self.channels << 3) as u8,
        ])
    }

    /// Symphonia's decoder, if it is one for this core.
    fn symphonia(&self, params: &AudioCodecParameters) -> Option<Box<dyn AudioDecoder>> {
        let plain = self.plain()?;
        let mut params = params.clone();
        params
            .with_extra_data(Box::new(plain))
            .with_sample_rate(self.rate_hz);
        AacDecoder::try_registry_new(&params, &AudioDecoderOptions::default()).ok()
    }

    /// The other decoder.
    fn oxideav(&self) -> Result<StreamDecoder, String> {
        let mut decoder = StreamDecoder::new();
        // At the core's rate, whatever else the stream describes.
        decoder.set_sbr_downsampled(true);
        if let Some(original) = &self.original {
            let (config, _) = AudioSpecificConfig::parse(original).map_err(|error| error.to_string())?;
            decoder.set_frame_family(config.ga_body.frame_length.family(config.aot));
            if let Some(program) = config.ga_body.pce {
                decoder.set_program_config(program);
            }
        }
        Ok(decoder)
    }

    fn decode(
        &self,
        decoder: &mut StreamDecoder,
        packet: &[u8],
        planes: &mut Vec<Vec<f32>>,
    ) -> Result<u32, String> {
        let rate = RATES_HZ
            .iter()
            .position(|known| *known == self.rate_hz)
            .ok_or("a sample rate of its own")?;
        let frame = decoder
            .decode_raw_data_block(
                self.object_type as u8,
                rate as u8,
                self.rate_hz,
                self.channels as u8,
                1,
                packet,
            )
            .map_err(|error| error.to_string())?;
        if frame.channels == 0 {
            return Err("a packet without sound".to_owned());
        }
        planes.resize(frame.channels, Vec::new());
        for (channel, plane) in planes.iter_mut().enumerate() {
            plane.clear();
            let samples = frame.pcm.iter().skip(channel).step_by(frame.channels);
            plane.extend(samples.map(|sample| f32::from(*sample) / 32_768.0));
        }
        Ok(frame.sample_rate)
    }
}

/// Bits from the highest on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.read(5)? {
            31 => Some(32 + self.read(6)?),
            object_type => Some(object_type),
        }
    }

    fn rate_hz(&mut self) -> Option<u32> {
        match self.read(4)? {
            15 => self.read(24),
            index => RATES_HZ.get(index as usize).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fields` of so many bits each, as bytes.
    fn packed(fields: &[(u32, usize)]) -> Vec<u8> {
        let bits: Vec<u8> = fields
            .iter()
            .flat_map(|(value, count)| (0..*count).rev().map(move |bit| (value >> bit & 1) as u8))
            .collect();
        bits.chunks(8)
            .map(|byte| {
                byte.iter()
                    .enumerate()
                    .fold(0, |all, (at, bit)| all | bit << (7 - at))
            })
            .collect()
    }

    #[test]
    fn what_is_built_upon_the_core_is_left_out_of_its_configuration() {
        // 22,050 Hz, two channels, SBR to 44,100 Hz, a core of LC.
        let he = packed(&[(5, 5), (7, 4), (2, 4), (4, 4), (2, 5), (0, 3)]);
        let core = CoreConfig::parse(&he).unwrap();
        assert_eq!((core.object_type, core.rate_hz, core.channels), (2, 22_050, 2));
        assert_eq!(
            core.plain().unwrap().to_vec(),
            packed(&[(2, 5), (7, 4), (2, 4), (0, 3)])
        );
        // Parametric stereo: the core has one channel.
        let v2 = packed(&[(29, 5), (7, 4), (1, 4), (4, 4), (2, 5), (0, 3)]);
        assert_eq!(
            CoreConfig::parse(&v2).unwrap().plain().unwrap().to_vec(),
            packed(&[(2, 5), (7, 4), (1, 4), (0, 3)])
        );
        // The same said behind a plain configuration (1.6.5): the plain one counts.
        let behind = packed(&[
            (2, 5),
            (7, 4),
            (2, 4),
            (0, 3),
            (0x2b7, 11),
            (5, 5),
            (1, 1),
            (4, 4),
        ]);
        assert_eq!(CoreConfig::parse(&behind).unwrap().rate_hz, 22_050);
    }

    #[test]
    fn rates_may_be_written_out_and_nonsense_is_refused() {
        let written = packed(&[(2, 5), (15, 4), (48_000, 24), (1, 4), (0, 3)]);
        assert_eq!(CoreConfig::parse(&written).unwrap().rate_hz, 48_000);
        assert!(CoreConfig::parse(&packed(&[(2, 5), (14, 4), (1, 4), (0, 3)])).is_none());
        assert!(CoreConfig::parse(&[0x12]).is_none());
        let short_frames = packed(&[(2, 5), (4, 4), (2, 4), (1, 1), (0, 2)]);
        assert!(CoreConfig::parse(&short_frames).unwrap().plain().is_none());
    }
}
