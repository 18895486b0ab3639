//! Packets to samples, by whichever library knows the codec.

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::packet::Packet;

use super::aac;
#[cfg(feature = "amr")]
use super::amr::{self, Amr, Band};

/// A decoder for one track.
pub(super) struct Decoder {
    codec: Codec,
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Aac(Box<aac::Aac>),
    #[cfg(feature = "amr")]
    Amr(Box<Amr>),
}

impl Decoder {
    /// # Errors
    ///
    /// A sentence, when nothing here decodes `params`.
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        let options = AudioDecoderOptions::default();
        let decoder = match params.codec {
            CODEC_ID_AAC => {
                let codec = Codec::Aac(Box::new(aac::Aac::new(params)?));
                return Ok(Self { codec });
            }
            #[cfg(feature = "amr")]
            amr::CODEC_ID_AMR_NB | amr::CODEC_ID_AMR_WB => {
                let band = if params.codec == amr::CODEC_ID_AMR_WB {
                    Band::Wide
                } else {
                    Band::Narrow
                };
                let codec = Codec::Amr(Box::new(Amr::new(band)?));
                return Ok(Self { codec });
            }
            CODEC_ID_OPUS => symphonia_adapter_libopus::OpusDecoder::try_registry_new(params, &options),
            _ => symphonia::default::get_codecs().make_audio_decoder(params, &options),
        };
        decoder
            .map(|decoder| Self {
                codec: Codec::Symphonia(decoder),
            })
            .map_err(|error| error.to_string())
    }

    /// Decodes `packet` into `planes`, one vector a channel; returns the sample rate in Hz. Nothing is trimmed.
    ///
    /// # Errors
    ///
    /// A sentence; the next packet may be good.
    pub(super) fn decode(&mut self, packet: &Packet, planes: &mut Vec<Vec<f32>>) -> Result<u32, String> {
        match &mut self.codec {
            Codec::Symphonia(decoder) => decoder
                .decode(packet)
                .map(|buffer| copy(&buffer, planes))
                .map_err(|error| error.to_string()),
            Codec::Aac(decoder) => decoder.decode(packet, planes),
            #[cfg(feature = "amr")]
            Codec::Amr(decoder) => decoder.decode(&packet.data, planes),
        }
    }
}

/// Copies a buffer into `planes`; returns its sample rate in Hz.
pub(super) fn copy(buffer: &GenericAudioBufferRef<'_>, planes: &mut Vec<Vec<f32>>) -> u32 {
    buffer.copy_to_vecs_planar::<f32>(planes);
    buffer.spec().rate()
}
