//! Packets to samples, by whichever library knows the codec.

use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::packet::Packet;

use super::aac;
use super::amr::{self, Amr, Band};

/// Runs third-party code on hostile bytes; a panic there becomes `None`.
///
/// What the closure borrows must not be used again after a panic, except to drop it.
pub(super) fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Demuxers and decoders index into tables with what files claim. A panic there says that the file is damaged,
    // and must not end the server. Their state is only dropped afterwards, so broken invariants cannot be seen.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// A decoder for one track.
pub(super) struct Decoder {
    params: AudioCodecParameters,
    kind: Kind,
    /// Whether any packet has been decoded.
    proven: bool,
}

enum Kind {
    Symphonia(Box<dyn AudioDecoder>),
    Fdk(Box<aac::Fdk>),
    Amr(Box<Amr>),
}

impl Decoder {
    /// # Errors
    ///
    /// A sentence, when nothing here decodes `params`.
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        let kind =
            guard(|| make(params)).unwrap_or_else(|| Err("its configuration makes no sense".to_owned()))?;
        Ok(Self {
            params: params.clone(),
            kind,
            proven: false,
        })
    }

    /// Decodes `packet` into `planes`, one vector a channel; returns the sample rate in Hz. Nothing is trimmed but
    /// the decoder's own delay.
    ///
    /// # Errors
    ///
    /// A sentence; the next packet may be good. `Panicked` when the decoder must not be used again.
    pub(super) fn decode(&mut self, packet: &Packet, planes: &mut Vec<Vec<f32>>) -> Result<u32, Fault> {
        let result = guard(|| match &mut self.kind {
            Kind::Symphonia(decoder) => decoder
                .decode(packet)
                .map(|buffer| copy(&buffer, planes))
                .map_err(|error| error.to_string()),
            Kind::Fdk(decoder) => {
                let rate_hz = decoder.decode(&packet.data, planes)?;
                if !self.proven
                    && rate_hz <= self.params.sample_rate.unwrap_or(0)
                    && let Some(mut plain) = aac::plain(&self.params)
                    && let Ok(buffer) = plain.decode(packet)
                {
                    // No HE-AAC after all: the other decoder is exact and three times as fast.
                    let rate_hz = copy(&buffer, planes);
                    self.kind = Kind::Symphonia(plain);
                    return Ok(rate_hz);
                }
                Ok(rate_hz)
            }
            Kind::Amr(decoder) => decoder.decode(&packet.data, planes),
        });
        match result {
            Some(Ok(rate_hz)) => {
                self.proven = true;
                Ok(rate_hz)
            }
            Some(Err(detail)) => {
                if !self.proven && self.params.codec == CODEC_ID_AAC {
                    self.try_other();
                }
                Err(Fault::Packet(detail))
            }
            None => Err(Fault::Panicked),
        }
    }

    /// After the last packet: what the decoder still holds. False when nothing.
    pub(super) fn finish(&mut self, planes: &mut Vec<Vec<f32>>) -> bool {
        match &mut self.kind {
            Kind::Symphonia(_) | Kind::Amr(_) => false,
            Kind::Fdk(decoder) => guard(|| decoder.finish(planes)).unwrap_or(false),
        }
    }

    /// AAC that the simple decoder cannot start with (program configs, coupling) goes to the other one.
    fn try_other(&mut self) {
        if let (Kind::Symphonia(_), Some(Ok(fdk))) = (&self.kind, guard(|| aac::Fdk::new(&self.params))) {
            self.kind = Kind::Fdk(Box::new(fdk));
        }
    }
}

/// Why a packet gave nothing.
pub(super) enum Fault {
    Packet(String),
    Panicked,
}

fn make(params: &AudioCodecParameters) -> Result<Kind, String> {
    let options = AudioDecoderOptions::default();
    let decoder = match params.codec {
        CODEC_ID_AAC => match aac::simple(params) {
            Some(decoder) => return Ok(Kind::Symphonia(decoder)),
            None => return aac::Fdk::new(params).map(|fdk| Kind::Fdk(Box::new(fdk))),
        },
        amr::CODEC_ID_AMR_NB => return Amr::new(Band::Narrow).map(|amr| Kind::Amr(Box::new(amr))),
        amr::CODEC_ID_AMR_WB => return Amr::new(Band::Wide).map(|amr| Kind::Amr(Box::new(amr))),
        CODEC_ID_OPUS => symphonia_adapter_libopus::OpusDecoder::try_registry_new(params, &options),
        _ => symphonia::default::get_codecs().make_audio_decoder(params, &options),
    };
    decoder.map(Kind::Symphonia).map_err(|error| error.to_string())
}

fn copy(buffer: &GenericAudioBufferRef<'_>, planes: &mut Vec<Vec<f32>>) -> u32 {
    buffer.copy_to_vecs_planar::<f32>(planes);
    buffer.spec().rate()
}
