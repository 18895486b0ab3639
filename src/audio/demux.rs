//! From a region of the upload to packets of one audio track.

use std::io::Read;
use std::sync::Arc;

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::errors::{Error as SymphoniaError, Result as SymphoniaResult};
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions, ReadBytes};
use symphonia::core::packet::Packet;
use symphonia::default::formats;

#[cfg(feature = "amr")]
use super::amr::{self, AmrReader};
use super::blocks::{BlockReader, Coding, corrupt};
use super::decoder::Decoder;
use super::matroska::MatroskaReader;
use super::mp4::{self, Edit};
use super::mpeg::{self, Elementary, ElementaryStream};
use super::sniff::{Container, Sniffed};
use super::source::{Meter, Region};
use super::track::{ChosenTrack, Span, UNKNOWN, check_params, check_tracks, choose_track};
use super::upload::UploadedAudio;
use super::{AudioError, AudioLimits, aiff, au, caf, names, riff};

/// Bytes a demuxer may read to find its tracks, besides `max_metadata_bytes`: tables, first packets, the last page.
const OPEN_BYTES: u64 = 16 << 20;

/// Bytes a demuxer may read for one packet, garbage between packets included.
const STEP_BYTES: u64 = 64 << 20;

/// Why a demuxer gave nothing.
pub(super) enum Fault {
    /// This packet is lost; the next may be good.
    Packet(String),
    /// A chained stream begins; its tracks are new.
    NewStream,
    /// Nothing more will come.
    End(String),
    /// Not the recording's fault, or beyond a limit.
    Fatal(AudioError),
}

/// Gives the packets of one track.
pub(super) struct PacketSource {
    demuxer: Demuxer,
    pub(super) container: &'static str,
    pub(super) track: ChosenTrack,
    meter: Arc<Meter>,
}

enum Demuxer {
    Format(Box<dyn FormatReader>),
    Blocks(BlockReader),
    #[cfg(feature = "amr")]
    Amr(AmrReader),
    Matroska(MatroskaReader),
}

impl PacketSource {
    fn new(demuxer: Demuxer, container: &'static str, track: ChosenTrack, meter: &Arc<Meter>) -> Self {
        Self {
            demuxer,
            container,
            track,
            meter: Arc::clone(meter),
        }
    }

    /// Finds the first decodable audio track, and its decoder.
    ///
    /// # Errors
    ///
    /// All but [`AudioError::TooShort`] and [`AudioError::TooLong`].
    pub(super) fn open(
        upload: UploadedAudio,
        sniffed: Sniffed,
        limits: &AudioLimits,
    ) -> Result<(Self, Decoder), AudioError> {
        let meter = Arc::new(Meter::default());
        meter.allow(OPEN_BYTES + limits.max_metadata_bytes as u64);
        let len = upload.len().saturating_sub(sniffed.offset);
        let region = Region::new(upload, sniffed.offset, len, Arc::clone(&meter));
        let opened = open(region, len, sniffed.container, limits, &meter);
        // Asked for first: an exhausted meter or a failing disk shows as all kinds of errors.
        if let Some(error) = meter.take_failure() {
            return Err(AudioError::Io(error));
        }
        match opened {
            Err(_) if meter.is_exhausted() => Err(AudioError::Metadata {
                limit_bytes: limits.max_metadata_bytes,
            }),
            opened => opened,
        }
    }

    /// The next packet of any track; `None` at the end.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, Fault> {
        self.meter.allow(STEP_BYTES);
        let next = match &mut self.demuxer {
            Demuxer::Format(reader) => reader.next_packet(),
            Demuxer::Blocks(reader) => reader.next_packet().map_err(SymphoniaError::IoError),
            #[cfg(feature = "amr")]
            Demuxer::Amr(reader) => reader.next_packet().map_err(SymphoniaError::IoError),
            Demuxer::Matroska(reader) => reader.next_packet(),
        };
        if let Some(error) = self.meter.take_failure() {
            return Err(Fault::Fatal(AudioError::Io(error)));
        }
        if self.meter.is_exhausted() {
            return Err(Fault::End("a packet of absurd size".to_owned()));
        }
        next.map_err(|error| match error {
            SymphoniaError::DecodeError(_) => Fault::Packet(error.to_string()),
            SymphoniaError::ResetRequired => Fault::NewStream,
            error => Fault::End(error.to_string()),
        })
    }

    /// After [`Fault::NewStream`]: chooses among the new tracks. `None` when none is audio.
    pub(super) fn choose_again(&mut self, limits: &AudioLimits) -> Result<Option<Decoder>, AudioError> {
        let Demuxer::Format(reader) = &self.demuxer else {
            return Ok(None);
        };
        match choose_track(reader.tracks(), &[], self.container, limits) {
            Ok((track, decoder)) => {
                self.track = track;
                Ok(Some(decoder))
            }
            Err(AudioError::NoAudioTrack { .. } | AudioError::UnsupportedCodec { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open(
    mut region: Region,
    len: u64,
    container: Container,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let name = container.name();
    let layout = match container {
        Container::Wav => riff::read_wav(&mut region, len)?,
        Container::Wave64 => riff::read_w64(&mut region, len)?,
        Container::Au => au::read_au(&mut region, len)?,
        Container::Aiff => aiff::read_aiff(&mut region, len)?,
        Container::Caf => match caf::read_caf(&mut region, len)? {
            Some(layout) => layout,
            None => return open_format(region, len, container, name, limits, meter),
        },
        Container::MpegProgram | Container::MpegTransport => {
            return open_elementary(region, container, limits, meter);
        }
        Container::Matroska => return open_matroska(region, len, name, limits, meter),
        #[cfg(feature = "amr")]
        Container::AmrNarrow => return open_amr(region, amr::Band::Narrow, name, meter),
        #[cfg(feature = "amr")]
        Container::AmrWide => return open_amr(region, amr::Band::Wide, name, meter),
        #[cfg(not(feature = "amr"))]
        Container::AmrNarrow | Container::AmrWide => {
            return Err(AudioError::UnsupportedCodec {
                container: name.to_owned(),
                codec: "amr (this server was built without it)".to_owned(),
            });
        }
        _ => return open_format(region, len, container, name, limits, meter),
    };
    let blocks = match &layout.coding {
        Coding::Blocks(blocks) => blocks,
        Coding::Mpeg => {
            let region = region.narrow(layout.start, layout.bytes);
            return open_format(region, layout.bytes, Container::Mpeg, name, limits, meter);
        }
    };
    let params = blocks.params.clone();
    check_params(&params, name, limits)?;
    let decoder = decoder_for(&params, name)?;
    let rate_hz = params.sample_rate.unwrap_or(1);
    let reader = BlockReader::new(region, &layout, blocks)?;
    let track = ChosenTrack {
        length: blocks.frames.map(|frames| Span::per_second(frames, rate_hz)),
        ..ChosenTrack::of_blocks(params, reader.frames())
    };
    let demuxer = Demuxer::Blocks(reader);
    Ok((PacketSource::new(demuxer, name, track, meter), decoder))
}

/// The decoder of the only track there is.
fn decoder_for(params: &AudioCodecParameters, container: &str) -> Result<Decoder, AudioError> {
    Decoder::new(params).map_err(|_| AudioError::UnsupportedCodec {
        container: container.to_owned(),
        codec: names::codec(params.codec),
    })
}

#[cfg(feature = "amr")]
fn open_amr(
    region: Region,
    band: amr::Band,
    name: &'static str,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let params = amr::parameters(band);
    let decoder = decoder_for(&params, name)?;
    let demuxer = Demuxer::Amr(AmrReader::new(region, band)?);
    let track = ChosenTrack::whole(params);
    Ok((PacketSource::new(demuxer, name, track, meter), decoder))
}

fn open_matroska(
    region: Region,
    len: u64,
    name: &'static str,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let mut reader = MatroskaReader::open(region, len, name, limits.max_tracks)?;
    let chosen = choose_track(&reader.tracks(), &reader.edits(), name, limits);
    let (track, decoder) = chosen.map_err(|error| match (error, reader.codec_name()) {
        (AudioError::UnsupportedCodec { container, codec }, Some(name)) if codec == UNKNOWN => {
            AudioError::UnsupportedCodec {
                container,
                codec: name.to_owned(),
            }
        }
        (error, _) => error,
    })?;
    reader.choose(track.id);
    let demuxer = Demuxer::Matroska(reader);
    Ok((PacketSource::new(demuxer, name, track, meter), decoder))
}

/// Opens one of Symphonia's readers; `name` is what the outermost container is called.
fn open_format(
    mut region: Region,
    len: u64,
    container: Container,
    name: &'static str,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    if container == Container::Mp4 {
        return open_mp4(region, len, name, limits, meter);
    }
    region.rewind();
    open_source(Box::new(region), &[], container, name, limits, meter)
}

fn open_mp4(
    mut region: Region,
    len: u64,
    name: &'static str,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let end = mp4::declared_end(&mut region, len);
    region.declare_end(end);
    let movie = mp4::read_movie(&mut region, len);
    let edits = movie.edits();
    let Some(sound) = movie.uncompressed(&mut region) else {
        region.rewind();
        return open_source(Box::new(region), &edits, Container::Mp4, name, limits, meter);
    };
    check_tracks(movie.tracks.len(), limits)?;
    check_params(&sound.params, name, limits)?;
    let decoder = decoder_for(&sound.params, name)?;
    let bytes: u64 = sound.chunks.iter().map(|(_, bytes)| bytes).sum();
    let edit = edits.iter().find(|edit| edit.track_id == sound.track_id);
    let track = ChosenTrack {
        id: sound.track_id,
        lead: edit.map(Edit::lead),
        length: edit.and_then(Edit::length),
        ..ChosenTrack::of_blocks(sound.params, bytes / sound.frame_bytes)
    };
    let reader = BlockReader::of_extents(region, sound.chunks, track.id, sound.frame_bytes);
    let demuxer = Demuxer::Blocks(reader);
    Ok((PacketSource::new(demuxer, name, track, meter), decoder))
}

/// The sound of an MPEG stream, as the file it would be by itself.
fn open_elementary(
    mut region: Region,
    container: Container,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let name = container.name();
    let mut stream = if container == Container::MpegProgram {
        ElementaryStream::program(region)
    } else {
        let mut head = [0; 1024];
        let filled = region.read(&mut head)?;
        let shape = mpeg::transport_shape(&head[..filled]).ok_or_else(|| corrupt(name, "no packets"))?;
        ElementaryStream::transport(region, shape)
    };
    let kind = match stream.find(name)? {
        Elementary::Mpeg => Container::Mpeg,
        Elementary::Adts => Container::Adts,
    };
    open_source(Box::new(stream), &[], kind, name, limits, meter)
}

fn open_source(
    source: Box<dyn MediaSource>,
    edits: &[Edit],
    container: Container,
    name: &'static str,
    limits: &AudioLimits,
    meter: &Arc<Meter>,
) -> Result<(PacketSource, Decoder), AudioError> {
    let reader = make_reader(source, container).map_err(|error| corrupt(name, &error.to_string()))?;
    let (track, decoder) = choose_track(reader.tracks(), edits, name, limits)?;
    let demuxer = Demuxer::Format(reader);
    Ok((PacketSource::new(demuxer, name, track, meter), decoder))
}

fn make_reader(source: Box<dyn MediaSource>, container: Container) -> SymphoniaResult<Box<dyn FormatReader>> {
    let mut stream = MediaSourceStream::new(source, MediaSourceStreamOptions::default());
    let options = FormatOptions::default();
    Ok(match container {
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
        Container::Wav
        | Container::Wave64
        | Container::Au
        | Container::Aiff
        | Container::Matroska
        | Container::MpegProgram
        | Container::MpegTransport
        | Container::AmrNarrow
        | Container::AmrWide => return Err(SymphoniaError::Unsupported("read by hand")),
    })
}
