//! A recording being decoded, block by block.

use std::fmt;
use std::time::{Duration, Instant};

use symphonia::core::packet::Packet;
use symphonia::core::units::Duration as Ticks;

use super::decoder::Decoder;
use super::demux::{Fault, PacketSource};
use super::resample::Resampler;
use super::track::{self, Span};
use super::upload::UploadedAudio;
use super::{AudioError, AudioInfo, AudioLimits, ChannelMode, PcmBlock, SAMPLE_RATE_HZ, downmix, names};

/// Samples a block holds at least, unless time or the recording runs out: two seconds.
const BLOCK_SAMPLES: usize = 2 * SAMPLE_RATE_HZ as usize;

/// Longest time one call may look for samples before it gives what it has.
const CALL_TIME: Duration = Duration::from_secs(2);

/// Shortest recording accepted, in samples: 0.1 s.
pub(super) const MIN_SAMPLES: u64 = SAMPLE_RATE_HZ as u64 / 10;

/// Faults in a row after which a demuxer is given up.
const MAX_FAULTS_IN_A_ROW: u32 = 256;

/// A recording being decoded, in this process: what a decoder child runs.
///
/// Panics of the libraries underneath are not caught. They end the child, and the server answers for the recording.
pub struct AudioStream {
    source: PacketSource,
    decoder: Decoder,
    info: AudioInfo,
    limits: AudioLimits,
    mode: ChannelMode,
    /// Decoded channels of one packet.
    planes: Vec<Vec<f32>>,
    /// The same after mixing.
    mixed: Vec<Vec<f32>>,
    resampler: Option<Resampler>,
    /// Samples ready to be given.
    ready: Vec<Vec<f32>>,
    /// Where the sound starts and ends in the track; made when the first packet tells the rate.
    trim: Option<Trim>,
    decoded_samples: u64,
    skipped_packets: u64,
    faults_in_a_row: u32,
    /// What the first fault said.
    damage: Option<String>,
    state: State,
}

/// Frames still to be dropped, then frames still to be given, at the decoder's rate.
#[derive(Debug, Clone, Copy)]
struct Trim {
    skip: u64,
    keep: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Decoding,
    /// No more packets; the resampler still holds samples.
    Draining,
    Done,
}

impl AudioStream {
    /// Finds out what `upload` is and prepares to decode its first audio track.
    ///
    /// # Errors
    ///
    /// Every [`AudioError`] but those that only the samples themselves can show.
    pub fn open(
        mut upload: UploadedAudio,
        limits: &AudioLimits,
        mode: ChannelMode,
    ) -> Result<Self, AudioError> {
        let sniffed = upload.sniff()?;
        let (source, decoder) = PacketSource::open(upload, sniffed, limits)?;
        Self::start(source, decoder, limits, mode)
    }

    fn start(
        source: PacketSource,
        decoder: Decoder,
        limits: &AudioLimits,
        mode: ChannelMode,
    ) -> Result<Self, AudioError> {
        let params = &source.track.params;
        let info = AudioInfo {
            container: source.container.to_owned(),
            codec: names::codec(params.codec),
            sample_rate_hz: params.sample_rate.unwrap_or(0),
            channels: params
                .channels
                .as_ref()
                .map_or(0, |channels| channels.count() as u16),
            declared_duration: source.track.duration,
        };
        let mut stream = Self {
            source,
            decoder,
            info,
            limits: limits.clone(),
            mode,
            planes: Vec::new(),
            mixed: Vec::new(),
            resampler: None,
            ready: Vec::new(),
            trim: None,
            decoded_samples: 0,
            skipped_packets: 0,
            faults_in_a_row: 0,
            damage: None,
            state: State::Decoding,
        };
        // Headers may be wrong about the rate and the channels: the first packet knows.
        let started = Instant::now();
        while stream.resampler.is_none() && stream.state == State::Decoding && started.elapsed() < CALL_TIME {
            stream.decode_packet()?;
        }
        Ok(stream)
    }

    /// What the container and the first packet say of the chosen track.
    pub fn info(&self) -> &AudioInfo {
        &self.info
    }

    /// Samples given so far in each channel, at [`SAMPLE_RATE_HZ`].
    pub fn decoded_samples(&self) -> u64 {
        self.decoded_samples
    }

    /// Packets that could not be decoded and were left out.
    pub fn skipped_packets(&self) -> u64 {
        self.skipped_packets
    }

    /// The next samples, two to three seconds of them; `None` at the end.
    ///
    /// A block is shorter, even empty, at the end of the recording and where two seconds of work find nothing more:
    /// a good moment for the caller to see whether anybody still waits.
    ///
    /// # Errors
    ///
    /// [`AudioError::TooShort`] and [`AudioError::Corrupt`] at the end, [`AudioError::TooLong`],
    /// [`AudioError::Channels`] and [`AudioError::SampleRate`] (when they change),
    /// [`AudioError::Io`]. After an error the stream has ended.
    pub fn next_block(&mut self) -> Result<Option<PcmBlock>, AudioError> {
        let result = self.fill_block();
        if result.is_err() {
            self.state = State::Done;
        }
        result
    }

    fn fill_block(&mut self) -> Result<Option<PcmBlock>, AudioError> {
        let started = Instant::now();
        while self.ready_samples() < BLOCK_SAMPLES && self.state != State::Done {
            if !self.resample()? {
                match self.state {
                    State::Decoding => self.decode_packet()?,
                    State::Draining => self.drain()?,
                    State::Done => {}
                }
            }
            if started.elapsed() >= CALL_TIME {
                break;
            }
        }
        self.give()
    }

    /// Hands out what is ready, after a look at the limits.
    fn give(&mut self) -> Result<Option<PcmBlock>, AudioError> {
        let samples = self.ready_samples() as u64;
        let total = self.decoded_samples + samples;
        let seconds = total as f64 / f64::from(SAMPLE_RATE_HZ);
        if seconds > self.limits.max_duration.as_secs_f64() {
            return Err(AudioError::TooLong {
                limit_seconds: self.limits.max_duration.as_secs(),
            });
        }
        if self.state == State::Done && samples == 0 {
            return if total >= MIN_SAMPLES {
                Ok(None)
            } else {
                Err(self.too_little(seconds))
            };
        }
        // The end comes with the last samples: a recording that is too short gives none.
        if self.state == State::Done && total < MIN_SAMPLES {
            return Err(self.too_little(seconds));
        }
        self.decoded_samples = total;
        let channels = self.ready.iter_mut().map(std::mem::take).collect();
        Ok(Some(PcmBlock { channels }))
    }

    fn too_little(&self, seconds: f64) -> AudioError {
        match &self.damage {
            Some(detail) => AudioError::Corrupt {
                container: self.info.container.clone(),
                detail: detail.clone(),
            },
            None => AudioError::TooShort { seconds },
        }
    }

    fn ready_samples(&self) -> usize {
        self.ready.first().map_or(0, Vec::len)
    }

    fn resample(&mut self) -> Result<bool, AudioError> {
        match &mut self.resampler {
            Some(resampler) => resampler
                .step(&mut self.ready)
                .map_err(|detail| self.broken_filter(detail)),
            None => Ok(false),
        }
    }

    /// Empties the resampler.
    fn drain(&mut self) -> Result<(), AudioError> {
        let more = match &mut self.resampler {
            Some(resampler) => resampler
                .finish(&mut self.ready)
                .map_err(|detail| self.broken_filter(detail))?,
            None => false,
        };
        if !more {
            self.state = State::Done;
        }
        Ok(())
    }

    fn broken_filter(&self, detail: String) -> AudioError {
        AudioError::Corrupt {
            container: self.info.container.clone(),
            detail,
        }
    }

    /// Decodes one packet of the track, or notes why there is none.
    fn decode_packet(&mut self) -> Result<(), AudioError> {
        match self.source.next_packet() {
            Ok(Some(packet)) if packet.track_id == self.source.track.id => self.take_packet(packet),
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.state = State::Draining;
                Ok(())
            }
            Err(Fault::NewStream) => self.begin_stream(),
            Err(Fault::Packet(detail)) => {
                self.note_fault(detail);
                Ok(())
            }
            Err(Fault::End(detail)) => {
                self.damage.get_or_insert(detail);
                self.state = State::Draining;
                Ok(())
            }
            Err(Fault::Fatal(error)) => Err(error),
        }
    }

    /// A chained stream begins (internet radio): decodes on with its codec.
    fn begin_stream(&mut self) -> Result<(), AudioError> {
        match self.source.choose_again(&self.limits)? {
            Some(decoder) => {
                self.decoder = decoder;
                self.trim = None;
            }
            None => self.state = State::Draining,
        }
        Ok(())
    }

    fn note_fault(&mut self, detail: String) {
        self.damage.get_or_insert(detail);
        self.skipped_packets += 1;
        self.faults_in_a_row += 1;
        if self.faults_in_a_row > MAX_FAULTS_IN_A_ROW {
            self.state = State::Draining;
        }
    }

    fn take_packet(&mut self, mut packet: Packet) -> Result<(), AudioError> {
        // Decoders disagree about the units of these; they are applied here, and what comes before zero with them.
        let early = packet.pts.get().min(0).unsigned_abs();
        let start = std::mem::replace(&mut packet.trim_start, Ticks::ZERO)
            .get()
            .max(early);
        let end = std::mem::replace(&mut packet.trim_end, Ticks::ZERO).get();
        match self.decoder.decode(&packet, &mut self.planes) {
            Ok(rate_hz) => {
                self.faults_in_a_row = 0;
                let start = self.frames(start, rate_hz);
                let end = self.frames(end, rate_hz);
                self.take_planes(rate_hz, start, end)
            }
            Err(detail) => {
                self.note_fault(detail);
                Ok(())
            }
        }
    }

    /// Trims, mixes and queues what the decoder left in `planes`.
    fn take_planes(&mut self, rate_hz: u32, start: usize, end: usize) -> Result<(), AudioError> {
        if self.planes.first().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let channels = self.planes.len();
        track::check_channels(channels, &self.limits)?;
        track::check_rate(rate_hz, &self.limits)?;
        self.trim(rate_hz, start, end);
        self.prepare_resampler(rate_hz, channels)?;
        for plane in &mut self.planes {
            downmix::sanitize(plane);
        }
        downmix::mix(&self.planes, self.mode, &mut self.mixed);
        if let Some(resampler) = &mut self.resampler {
            resampler.push(&self.mixed);
        }
        self.mixed.iter_mut().for_each(Vec::clear);
        Ok(())
    }

    /// `ticks` of the track's clock as frames at `rate_hz`.
    fn frames(&self, ticks: u64, rate_hz: u32) -> usize {
        let Some(base) = self.source.track.time_base else {
            return 0;
        };
        let span = Span {
            ticks,
            numer: base.numer.get(),
            denom: base.denom.get(),
        };
        usize::try_from(span.frames(rate_hz)).unwrap_or(usize::MAX)
    }

    /// Drops frames at the start and the end of the packet, and what lies outside what the container says is sound.
    fn trim(&mut self, rate_hz: u32, start: usize, end: usize) {
        let frames = self.planes.first().map_or(0, Vec::len);
        let track = &self.source.track;
        let left = self.trim.get_or_insert_with(|| Trim {
            skip: track.lead.map_or(0, |lead| lead.frames(rate_hz)),
            keep: track.length.map_or(u64::MAX, |length| length.frames(rate_hz)),
        });
        // A packet's own trim and the container's are two ways to say the same.
        let start = left.skip.min(frames as u64).max(start.min(frames) as u64) as usize;
        left.skip -= left.skip.min(start as u64);
        let stop = frames.saturating_sub(end).max(start);
        let stop = start + usize::try_from(left.keep).unwrap_or(usize::MAX).min(stop - start);
        left.keep -= (stop - start) as u64;
        for plane in &mut self.planes {
            plane.truncate(stop);
            plane.drain(..start);
        }
    }

    /// Makes the resampler for the first packet, and again where the rate changes.
    fn prepare_resampler(&mut self, rate_hz: u32, channels: usize) -> Result<(), AudioError> {
        if self
            .resampler
            .as_ref()
            .is_some_and(|resampler| resampler.rate_hz() == rate_hz)
        {
            return Ok(());
        }
        let outputs = match (&self.resampler, self.mode) {
            (Some(_), _) => self.ready.len(),
            (None, ChannelMode::Mixed) => 1,
            (None, ChannelMode::Separate) => channels,
        };
        if let Some(mut old) = self.resampler.take() {
            while old
                .finish(&mut self.ready)
                .map_err(|detail| self.broken_filter(detail))?
            {}
        } else {
            self.info.sample_rate_hz = rate_hz;
            self.info.channels = channels as u16;
            self.ready = vec![Vec::new(); outputs];
            self.mixed = vec![Vec::new(); outputs];
        }
        let resampler = Resampler::new(rate_hz, outputs).map_err(|detail| self.broken_filter(detail))?;
        self.resampler = Some(resampler);
        Ok(())
    }
}

impl fmt::Debug for AudioStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudioStream")
            .field("info", &self.info)
            .field("mode", &self.mode)
            .field("decoded_samples", &self.decoded_samples)
            .field("skipped_packets", &self.skipped_packets)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
