//! AAC by two decoders, each for what it does best.
//!
//! Symphonia's is safe Rust and exact to the sample, but knows AAC-LC in one or two channels only. Fraunhofer's FDK
//! decodes HE-AAC and more channels, in C, with 16 bits and a delay of its own.

use fdk_aac::dec::{Decoder, Transport};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::default::codecs::AacDecoder;

/// Highest sample rate in Hz at which an AAC-LC header may hide HE-AAC, whose core runs at half the output's rate.
///
/// Files need not say that they hold spectral band replication (ISO 14496-3, 1.6.6: implicit signalling); encoders
/// use it for outputs of up to 48 kHz.
const MAX_HIDDEN_SBR_HZ: u32 = 24_000;

/// Samples a packet decodes to at most: eight channels of 2,048 frames.
const MAX_SAMPLES: usize = 8 * 2048;

/// Sampling frequencies by index (ISO 14496-3, table 1.18).
const RATES_HZ: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350,
];

/// Symphonia's decoder, where the header says enough to be sure that it will do.
pub(super) fn simple(params: &AudioCodecParameters) -> Option<Box<dyn AudioDecoder>> {
    (params.sample_rate? > MAX_HIDDEN_SBR_HZ)
        .then(|| plain(params))
        .flatten()
}

/// Symphonia's decoder for AAC-LC; HE-AAC that hides behind such a header loses half its band in it.
pub(super) fn plain(params: &AudioCodecParameters) -> Option<Box<dyn AudioDecoder>> {
    let object_type = params
        .extra_data
        .as_ref()
        .and_then(|config| config.first())
        .map_or(2, |byte| byte >> 3);
    if object_type != 2 {
        return None;
    }
    AacDecoder::try_registry_new(params, &AudioDecoderOptions::default()).ok()
}

/// FDK's decoder, its delay taken out.
pub(super) struct Fdk {
    decoder: Decoder,
    samples: Vec<i16>,
    /// Frames of delay still to be dropped from the start; unknown before the first packet.
    delay: Option<usize>,
    /// Frames that the delay keeps from the end.
    owed: usize,
    last_packet: Vec<u8>,
}

impl Fdk {
    /// # Errors
    ///
    /// A sentence, when there is no sense in the configuration.
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        let mut decoder = Decoder::new(Transport::Raw);
        let config = match &params.extra_data {
            Some(config) => config.to_vec(),
            None => plain_config(params)?.to_vec(),
        };
        decoder
            .config_raw(&config)
            .map_err(|error| error.message().to_owned())?;
        Ok(Self {
            decoder,
            samples: vec![0; MAX_SAMPLES],
            delay: None,
            owed: 0,
            last_packet: Vec::new(),
        })
    }

    /// Decodes a packet into `planes`; returns the sample rate in Hz.
    pub(super) fn decode(&mut self, packet: &[u8], planes: &mut Vec<Vec<f32>>) -> Result<u32, String> {
        self.decoder
            .fill(packet)
            .map_err(|error| error.message().to_owned())?;
        self.decoder
            .decode_frame(&mut self.samples)
            .map_err(|error| error.message().to_owned())?;
        let info = self.decoder.stream_info();
        let (channels, frames) = (info.numChannels, info.frameSize);
        let (Ok(channels), Ok(frames), Ok(rate_hz), Ok(delay)) = (
            usize::try_from(channels),
            usize::try_from(frames),
            u32::try_from(info.sampleRate),
            usize::try_from(info.outputDelay),
        ) else {
            return Err("nonsense from the decoder".to_owned());
        };
        let Some(samples) = channels
            .checked_mul(frames)
            .and_then(|count| self.samples.get(..count))
        else {
            return Err("more samples than a packet holds".to_owned());
        };
        planes.resize(channels, Vec::new());
        for (channel, plane) in planes.iter_mut().enumerate() {
            plane.clear();
            plane.extend(
                samples
                    .iter()
                    .skip(channel)
                    .step_by(channels)
                    .map(|sample| f32::from(*sample) / 32_768.0),
            );
        }
        packet.clone_into(&mut self.last_packet);
        let left = self.delay.get_or_insert_with(|| {
            self.owed = delay;
            delay
        });
        let skip = (*left).min(frames);
        *left -= skip;
        for plane in planes.iter_mut() {
            plane.drain(..skip);
        }
        Ok(rate_hz)
    }

    /// After the last packet: the frames that the delay kept. False when there are none.
    pub(super) fn finish(&mut self, planes: &mut Vec<Vec<f32>>) -> bool {
        if self.owed == 0 || self.last_packet.is_empty() {
            return false;
        }
        // Any packet pushes the delayed frames out; what it decodes to itself stays inside.
        let packet = std::mem::take(&mut self.last_packet);
        if self.decode(&packet, planes).is_err() {
            return false;
        }
        let frames = planes.first().map_or(0, Vec::len).min(self.owed);
        self.owed -= frames;
        for plane in planes.iter_mut() {
            plane.truncate(frames);
        }
        frames > 0
    }
}

/// An AudioSpecificConfig (ISO 14496-3, 1.6.2.1) for AAC-LC, for streams whose packets carry their own headers.
fn plain_config(params: &AudioCodecParameters) -> Result<[u8; 2], String> {
    let rate = params
        .sample_rate
        .and_then(|rate| RATES_HZ.iter().position(|known| *known == rate));
    let channels = params
        .channels
        .as_ref()
        .map_or(0, |channels| match channels.count() {
            8 => 7,
            count => count,
        });
    match rate {
        Some(rate) if (1..=7).contains(&channels) => Ok([
            2 << 3 | (rate >> 1) as u8,
            (rate << 7) as u8 | (channels << 3) as u8,
        ]),
        _ => Err("no configuration".to_owned()),
    }
}
