//! From a region of the upload to packets of one audio track.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{
    AudioCodecParameters, AudioDecoder, AudioDecoderOptions, CODEC_ID_NULL_AUDIO,
};
use symphonia::core::codecs::registry::RegisterableAudioDecoder;
use symphonia::core::errors::{Error as SymphoniaError, Result as SymphoniaResult};
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, ReadBytes};
use symphonia::core::packet::Packet;
use symphonia::core::units::TimeBase;
use symphonia::default::{codecs, formats};

use super::sniff::{Container, Sniffed};
use super::source::{Meter, Region};
use super::upload::UploadedAudio;
use super::wave::{self, BlockReader, Kind};
use super::{AudioError, AudioLimits, names};

/// Bytes a demuxer may read to find its tracks, besides `max_metadata_bytes`: tables, first packets, the last page.
const OPEN_BYTES: u64 = 16 << 20;

/// Bytes a demuxer may read for one packet, garbage between packets included.
const STEP_BYTES: u64 = 64 << 20;

/// Most frames a codec may claim for one packet; FLAC's largest block is 65,535.
const MAX_FRAMES_PER_PACKET: u64 = 1 << 20;

/// Why a demuxer or decoder gave nothing.
pub(super) enum Fault {
    /// This packet is lost; the next may be good.
    Packet(String),
    /// Nothing more will come.
    Stream(String),
    /// Not the recording's fault, or beyond a limit.
    Fatal(AudioError),
}

/// Runs third-party code on hostile bytes; a panic there becomes `None`.
///
/// What the closure borrows must not be used again after a panic, except to drop it.
pub(super) fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Demuxers and decoders index into tables with what files claim. A panic there says that the file is damaged,
    // and must not end the server. Their state is only dropped afterwards, so broken invariants cannot be seen.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// The chosen track.
#[derive(Debug, Clone)]
pub(super) struct ChosenTrack {
    pub(super) id: u32,
    pub(super) params: AudioCodecParameters,
    pub(super) time_base: Option<TimeBase>,
    pub(super) duration: Option<Duration>,
}

/// Gives the packets of one track.
pub(super) struct Source {
    demuxer: Demuxer,
    pub(super) container: &'static str,
    pub(super) track: ChosenTrack,
    /// Frames (at the track's rate) that the container says there are, where packets may hold more.
    pub(super) frames: Option<u64>,
    meter: Arc<Meter>,
}

enum Demuxer {
    Format(Box<dyn FormatReader>),
    Blocks(BlockReader),
    /// Panicked.
    Dead,
}

impl Source {
    /// Finds the first decodable audio track.
    ///
    /// # Errors
    ///
    /// All but [`AudioError::TooShort`], [`AudioError::TooLong`] and [`AudioError::TooSlow`].
    pub(super) fn open(
        upload: UploadedAudio,
        sniffed: Sniffed,
        limits: &AudioLimits,
    ) -> Result<Self, AudioError> {
        let meter = Arc::new(Meter::default());
        meter.allow(OPEN_BYTES + limits.max_metadata_bytes as u64);
        let len = upload.len() - sniffed.offset;
        let region = Region::new(upload, sniffed.offset, len, Arc::clone(&meter));
        let opened = guard(|| open_demuxer(region, len, sniffed.container, limits, &meter));
        // Asked for first: an exhausted meter or a failing disk shows as all kinds of errors.
        if let Some(error) = meter.take_failure() {
            return Err(AudioError::Io(error));
        }
        match opened {
            Some(Ok(source)) => Ok(source),
            _ if meter.is_exhausted() => Err(AudioError::Metadata {
                limit_bytes: limits.max_metadata_bytes,
            }),
            Some(Err(error)) => Err(error),
            None => Err(AudioError::Corrupt {
                container: sniffed.name().to_owned(),
                detail: "its header makes no sense".to_owned(),
            }),
        }
    }

    /// The next packet of any track; `None` at the end.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, Fault> {
        self.meter.allow(STEP_BYTES);
        let demuxer = &mut self.demuxer;
        let next = guard(|| match demuxer {
            Demuxer::Format(reader) => reader.next_packet(),
            Demuxer::Blocks(reader) => reader.next_packet().map_err(SymphoniaError::IoError),
            Demuxer::Dead => Ok(None),
        });
        if let Some(error) = self.meter.take_failure() {
            return Err(Fault::Fatal(AudioError::Io(error)));
        }
        let Some(next) = next else {
            self.demuxer = Demuxer::Dead;
            return Err(Fault::Stream("a packet makes no sense".to_owned()));
        };
        if self.meter.is_exhausted() {
            return Err(Fault::Stream("a packet of absurd size".to_owned()));
        }
        match next {
            Ok(packet) => Ok(packet),
            Err(SymphoniaError::IoError(error)) => Err(Fault::Stream(error.to_string())),
            Err(error @ SymphoniaError::DecodeError(_)) => Err(Fault::Packet(error.to_string())),
            Err(SymphoniaError::ResetRequired) => Err(Fault::Packet(RESET.to_owned())),
            Err(error) => Err(Fault::Stream(error.to_string())),
        }
    }

    /// After a chained stream began: chooses among the new tracks. False when none is audio.
    pub(super) fn choose_again(&mut self, limits: &AudioLimits) -> Result<bool, AudioError> {
        let Demuxer::Format(reader) = &self.demuxer else {
            return Ok(false);
        };
        match choose_track(reader.tracks(), self.container, limits) {
            Ok(track) => self.track = track,
            Err(AudioError::NoAudioTrack { .. } | AudioError::UnsupportedCodec { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// The fault that says a chained stream begins.
pub(super) const RESET: &str = "a new stream begins";

fn open_demuxer(
    mut region: Region,
    len: u64,
    container: Container,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<Source, AudioError> {
    let layout = match container {
        Container::Wav => Some(wave::read_wav(&mut region, len)?),
        Container::Wave64 => Some(wave::read_w64(&mut region, len)?),
        Container::Au => Some(wave::read_au(&mut region, len)?),
        _ => None,
    };
    if let Some(layout) = layout {
        return match &layout.kind {
            Kind::Blocks(blocks) => {
                let params = blocks.params.clone();
                check_params(&params, container.name(), limits)?;
                let rate = params.sample_rate.unwrap_or(1);
                let frames = blocks.frames;
                let reader = BlockReader::new(region, &layout, blocks)?;
                let track = ChosenTrack {
                    id: 0,
                    time_base: TimeBase::try_from_recip(rate),
                    duration: Some(Duration::from_secs_f64(reader.frames() as f64 / f64::from(rate))),
                    params,
                };
                let demuxer = Demuxer::Blocks(reader);
                Ok(Source {
                    demuxer,
                    container: container.name(),
                    track,
                    frames,
                    meter: Arc::clone(meter),
                })
            }
            Kind::Mpeg => {
                let region = region.narrow(layout.start, layout.bytes);
                open_format(region, Container::Mpeg, container.name(), limits, meter)
            }
        };
    }
    open_format(region, container, container.name(), limits, meter)
}

fn open_format(
    region: Region,
    container: Container,
    name: &'static str,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<Source, AudioError> {
    let reader = make_reader(region, container).map_err(|error| AudioError::Corrupt {
        container: name.to_owned(),
        detail: error.to_string(),
    })?;
    let track = choose_track(reader.tracks(), name, limits)?;
    Ok(Source {
        demuxer: Demuxer::Format(reader),
        container: name,
        track,
        frames: None,
        meter: Arc::clone(meter),
    })
}

fn make_reader(region: Region, container: Container) -> SymphoniaResult<Box<dyn FormatReader>> {
    let mut stream = MediaSourceStream::new(
        Box::new(region),
        symphonia::core::io::MediaSourceStreamOptions::default(),
    );
    let options = FormatOptions::default();
    Ok(match container {
        Container::Aiff => Box::new(formats::AiffReader::try_new(stream, options)?),
        Container::Caf => Box::new(formats::CafReader::try_new(stream, options)?),
        Container::Flac => Box::new(formats::FlacReader::try_new(stream, options)?),
        Container::Mpeg => Box::new(formats::MpaReader::try_new(stream, options)?),
        Container::Adts => Box::new(formats::AdtsReader::try_new(stream, options)?),
        Container::Mp4 => {
            // The reader expects to stand behind the size, on `ftyp`, where Symphonia's own search puts it.
            stream.ignore_bytes(4)?;
            Box::new(formats::IsoMp4Reader::try_new(stream, options)?)
        }
        Container::Ogg => Box::new(formats::OggReader::try_new(stream, options)?),
        Container::Matroska => Box::new(formats::MkvReader::try_new(stream, options)?),
        Container::Wav | Container::Wave64 | Container::Au => {
            return Err(SymphoniaError::Unsupported("read by hand"));
        }
    })
}

/// The first audio track that can be decoded; else says what the first audio track is.
fn choose_track(tracks: &[Track], container: &str, limits: &AudioLimits) -> Result<ChosenTrack, AudioError> {
    if tracks.len() > limits.max_tracks {
        return Err(AudioError::Tracks {
            found: tracks.len(),
            limit: limits.max_tracks,
        });
    }
    let mut refused = None;
    for track in tracks {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else {
            continue;
        };
        if params.codec == CODEC_ID_NULL_AUDIO {
            refused.get_or_insert_with(|| "unknown".to_owned());
            continue;
        }
        check_params(params, container, limits)?;
        if make_decoder(params).is_err() {
            refused.get_or_insert_with(|| names::codec(params.codec));
            continue;
        }
        let duration = track
            .time_base
            .zip(track.duration)
            .and_then(|(base, ticks)| base.calc_duration(ticks))
            .and_then(|time| Duration::try_from_secs_f64(time.as_secs_f64()).ok());
        return Ok(ChosenTrack {
            id: track.id,
            params: params.clone(),
            time_base: track.time_base,
            duration,
        });
    }
    let container = container.to_owned();
    match refused {
        Some(codec) => Err(AudioError::UnsupportedCodec { container, codec }),
        // Tracks without parameters are of kinds Symphonia does not know; one of them may be audio.
        None if tracks.iter().any(|track| track.track_type().is_none()) && !has_video(tracks) => {
            Err(AudioError::UnsupportedCodec {
                container,
                codec: "unknown".to_owned(),
            })
        }
        None => Err(AudioError::NoAudioTrack { container }),
    }
}

fn has_video(tracks: &[Track]) -> bool {
    tracks
        .iter()
        .any(|track| track.track_type() == Some(TrackType::Video))
}

/// Refuses what is beyond the limits before a decoder allocates for it.
fn check_params(
    params: &AudioCodecParameters,
    container: &str,
    limits: &AudioLimits,
) -> Result<(), AudioError> {
    if let Some(channels) = &params.channels {
        check_channels(channels.count(), limits)?;
    }
    if let Some(rate) = params.sample_rate {
        check_rate(rate, limits)?;
    }
    if params.max_frames_per_packet.max(params.frames_per_block) > Some(MAX_FRAMES_PER_PACKET) {
        return Err(AudioError::Corrupt {
            container: container.to_owned(),
            detail: "its packets claim absurd lengths".to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_channels(count: usize, limits: &AudioLimits) -> Result<(), AudioError> {
    if count == 0 || count > usize::from(limits.max_channels) {
        return Err(AudioError::Channels {
            found: count as u64,
            limit: limits.max_channels,
        });
    }
    Ok(())
}

pub(super) fn check_rate(rate_hz: u32, limits: &AudioLimits) -> Result<(), AudioError> {
    if rate_hz == 0 || rate_hz > limits.max_sample_rate_hz {
        return Err(AudioError::SampleRate {
            found: u64::from(rate_hz),
            limit: limits.max_sample_rate_hz,
        });
    }
    Ok(())
}

/// A decoder for `params`.
pub(super) fn make_decoder(params: &AudioCodecParameters) -> SymphoniaResult<Box<dyn AudioDecoder>> {
    let options = AudioDecoderOptions::default();
    match params.codec {
        // FDK decodes HE-AAC, but no more than two channels; Symphonia the other way round.
        CODEC_ID_AAC => symphonia_adapter_fdk_aac::AacDecoder::try_registry_new(params, &options)
            .or_else(|_| codecs::AacDecoder::try_registry_new(params, &options)),
        CODEC_ID_OPUS => symphonia_adapter_libopus::OpusDecoder::try_registry_new(params, &options),
        _ => symphonia::default::get_codecs().make_audio_decoder(params, &options),
    }
}
