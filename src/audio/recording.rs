//! A recording that a child decodes, as the server sees it: blocks of samples, whatever happens to the child.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::decode::MIN_SAMPLES;
use super::decoders::{Busy, Decoders};
use super::ffmpeg::FfmpegOutput;
use super::pipe::ChildOutput;
use super::wire::{FromDecoder, Order};
use super::{AudioError, AudioInfo, ChannelMode, PcmBlock, SAMPLE_RATE_HZ, UploadedAudio, sniff};
use crate::process::Ending;
use crate::process::frame::read_frame;

/// Longest block accepted, in samples; children send three seconds at most.
const MAX_BLOCK_SAMPLES: usize = 5 * SAMPLE_RATE_HZ as usize;

/// Deaths at one and the same sample after which the recording is to blame, where neither the signal nor the child's
/// last words say whether it died of itself: signals can be sent by anybody.
const DEATHS_IN_ONE_PLACE: u32 = 3;

/// Deaths from outside at one and the same sample after which no further child is tried: with the pauses between, half a minute.
const MAX_DEATHS: u32 = 12;

/// Pause after the first death from outside; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Ends the decoding of one recording, from any thread.
#[derive(Debug, Clone, Default)]
pub struct StopDecoding {
    shared: Arc<StopState>,
}

#[derive(Debug, Default)]
struct StopState {
    stopped: AtomicBool,
    child: Mutex<Option<Busy>>,
    woken: Condvar,
}

impl StopDecoding {
    /// Kills the child. Whoever waits for its next block gets [`AudioError::Cancelled`].
    pub fn stop(&self) {
        let mut child = self.lock();
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(busy) = child.as_mut() {
            busy.child.kill();
        }
        self.shared.woken.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Busy>> {
        self.shared.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, unless it is stopped.
    fn pause(&self, length: Duration) {
        let guard = self.lock();
        let _ = self
            .shared
            .woken
            .wait_timeout_while(guard, length, |_| !self.is_stopped());
    }
}

/// A recording being decoded. Dropping it ends the child.
#[derive(Debug)]
pub struct Recording {
    decoders: Decoders,
    file: File,
    order: Order,
    stop: StopDecoding,
    output: Output,
    info: Option<AudioInfo>,
    /// Samples handed out in each channel.
    given: u64,
    /// Samples of the present child that were handed out by an earlier one.
    repeated: u64,
    skipped_packets: u64,
    deaths: Deaths,
    ended: bool,
}

/// What is read from the child.
#[derive(Debug)]
enum Output {
    Frames(ChildOutput),
    Ffmpeg(FfmpegOutput),
}

/// What the child says.
enum Said {
    Opened(AudioInfo),
    Block(PcmBlock),
    End { skipped_packets: u64 },
    Failed(AudioError),
}

#[derive(Debug, Default)]
struct Deaths {
    /// Where the last one happened, in samples, and how many happened there.
    place: Option<(u64, u32)>,
}

impl Recording {
    pub(super) fn open(
        decoders: Decoders,
        upload: UploadedAudio,
        mode: ChannelMode,
        stop: StopDecoding,
    ) -> Result<Self, AudioError> {
        let settings = decoders.settings();
        let order = Order {
            limits: settings.limits.clone(),
            mode,
            len: upload.len(),
            file_name: upload.file_name().map(str::to_owned),
            memory_bytes: settings.memory_bytes,
            cpu: settings.cpu,
        };
        let file = upload.into_file()?;
        let output = Output::Frames(start_frames(&decoders, &order, &file, &stop)?);
        let mut recording = Self {
            decoders,
            file,
            order,
            stop,
            output,
            info: None,
            given: 0,
            repeated: 0,
            skipped_packets: 0,
            deaths: Deaths::default(),
            ended: false,
        };
        while recording.info.is_none() && !recording.ended {
            let said = recording.listen()?;
            recording.take(said)?;
        }
        Ok(recording)
    }

    /// What the recording is.
    pub fn info(&self) -> Option<&AudioInfo> {
        self.info.as_ref()
    }

    /// Samples given so far in each channel, at [`SAMPLE_RATE_HZ`].
    pub fn decoded_samples(&self) -> u64 {
        self.given
    }

    /// Packets that could not be decoded and were left out; known at the end.
    pub fn skipped_packets(&self) -> u64 {
        self.skipped_packets
    }

    /// Number of the process that decodes it; `None` when none does any more.
    pub fn child_id(&self) -> Option<u32> {
        self.stop.lock().as_ref().map(|busy| busy.child.id())
    }

    /// The next samples, at most five seconds of them; `None` at the end. A child that was killed from outside is
    /// replaced, and nothing is given twice.
    ///
    /// # Errors
    ///
    /// As [`AudioStream::next_block`](super::AudioStream::next_block), and [`AudioError::Decoder`] when the recording
    /// is more than a child can bear, [`AudioError::Internal`] when no child survives, [`AudioError::Cancelled`] after
    /// [`StopDecoding::stop`]. After an error the recording has ended.
    pub fn next_block(&mut self) -> Result<Option<PcmBlock>, AudioError> {
        while !self.ended {
            let block = self.listen().and_then(|said| self.take(said));
            match block {
                Ok(Some(block)) => return Ok(Some(block)),
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The next thing a child says; starts another one where it dies without fault.
    fn listen(&mut self) -> Result<Said, AudioError> {
        loop {
            let said = match &mut self.output {
                Output::Frames(output) => next_said(output, &self.order),
                Output::Ffmpeg(output) => next_of_ffmpeg(output, &self.order),
            };
            if self.stop.is_stopped() {
                return Err(AudioError::Cancelled);
            }
            match said {
                Ok(said) => return Ok(said),
                Err(error) => {
                    if let Some(said) = self.recover(&error)? {
                        return Ok(said);
                    }
                }
            }
        }
    }

    /// Takes in what a child says; a block when there is one to hand out.
    fn take(&mut self, said: Said) -> Result<Option<PcmBlock>, AudioError> {
        match said {
            Said::Opened(info) => {
                self.info.get_or_insert(info);
                Ok(None)
            }
            Said::Block(block) => self.take_block(block),
            Said::End { skipped_packets } => {
                if self.given < MIN_SAMPLES {
                    return Err(AudioError::TooShort {
                        seconds: self.given as f64 / f64::from(SAMPLE_RATE_HZ),
                    });
                }
                self.skipped_packets = skipped_packets;
                self.ended = true;
                Ok(None)
            }
            Said::Failed(error) => {
                let ffmpeg = matches!(self.output, Output::Ffmpeg(_));
                if !ffmpeg && self.decoders.settings().ask_ffmpeg && is_for_ffmpeg(&error) {
                    return self.ask_ffmpeg(error).map(|()| None);
                }
                Err(error)
            }
        }
    }

    fn take_block(&mut self, mut block: PcmBlock) -> Result<Option<PcmBlock>, AudioError> {
        let length = block.channels.first().map_or(0, Vec::len) as u64;
        let known = self.repeated.min(length);
        self.repeated -= known;
        if known > 0 {
            for channel in &mut block.channels {
                channel.drain(..known as usize);
            }
        }
        self.given += length - known;
        // The child checks this too, and is not believed.
        let limit = self.order.limits.max_duration;
        if self.given as f64 / f64::from(SAMPLE_RATE_HZ) > limit.as_secs_f64() {
            return Err(AudioError::TooLong {
                limit_seconds: limit.as_secs(),
            });
        }
        Ok((known < length).then_some(block))
    }

    /// Lets ffmpeg decode what nothing here reads; `refusal` stands when there is none, or it cannot either.
    fn ask_ffmpeg(&mut self, refusal: AudioError) -> Result<(), AudioError> {
        let mut busy = Busy::ffmpeg(self.decoders.settings(), &self.file)?;
        let output = ChildOutput::of(&mut busy)?;
        hold(&self.stop, busy)?;
        self.output = Output::Ffmpeg(FfmpegOutput::new(output, self.order.mode, refusal));
        self.repeated = self.given;
        Ok(())
    }

    /// Finds out why the child fell silent, and starts another one unless the recording is to blame. ffmpeg says
    /// that it has finished by ending well.
    fn recover(&mut self, silence: &io::Error) -> Result<Option<Said>, AudioError> {
        let gone = self.stop.lock().take();
        let Some(mut busy) = gone else {
            return Err(AudioError::Cancelled);
        };
        let stalled = silence.kind() == io::ErrorKind::TimedOut;
        let broken = silence.kind() == io::ErrorKind::InvalidData;
        if stalled || broken {
            busy.child.kill();
        }
        let ending = busy.child.wait()?;
        let complaint = busy.complaint();
        drop(busy);
        if broken {
            tracing::warn!("a decoder sent what is no frame");
            return Err(blamed("the decoder lost its mind over it"));
        }
        if let Output::Ffmpeg(ffmpeg) = &self.output
            && ffmpeg.is_opened()
            && ending.is_success()
        {
            return Ok(Some(Said::End { skipped_packets: 0 }));
        }
        if let Some(error) = self.verdict(ending, &complaint, stalled) {
            tracing::info!(%ending, complaint, "a recording ended its decoder");
            return Err(error);
        }
        self.count_death(ending, stalled)?;
        tracing::warn!(%ending, stalled, samples = self.given, "a decoder was lost; another one goes on");
        self.repeated = self.given;
        match &mut self.output {
            Output::Frames(output) => {
                *output = start_frames(&self.decoders, &self.order, &self.file, &self.stop)?;
            }
            Output::Ffmpeg(_) => {
                let mut busy = Busy::ffmpeg(self.decoders.settings(), &self.file)?;
                let output = ChildOutput::of(&mut busy)?;
                hold(&self.stop, busy)?;
                if let Output::Ffmpeg(ffmpeg) = &mut self.output {
                    ffmpeg.restart(output);
                }
            }
        }
        Ok(None)
    }

    /// What is certain from one death alone.
    fn verdict(&mut self, ending: Ending, complaint: &str, stalled: bool) -> Option<AudioError> {
        if stalled {
            return None;
        }
        if ending.is_cpu_limit() {
            return Some(blamed("it takes too much processor time"));
        }
        if complaint.contains("memory allocation of") {
            let limit = self.order.memory_bytes >> 20;
            return Some(blamed(&format!("it takes more than {limit} MiB of memory")));
        }
        if complaint.contains("has overflowed its stack") {
            return Some(blamed("it is nested too deep"));
        }
        if complaint.contains("panicked at") {
            return Some(blamed("it makes no sense"));
        }
        match &mut self.output {
            Output::Ffmpeg(ffmpeg) if matches!(ending, Ending::Exited(_)) => Some(ffmpeg.failure(ending)),
            _ => None,
        }
    }

    /// Counts a death that says nothing of its cause.
    fn count_death(&mut self, ending: Ending, stalled: bool) -> Result<(), AudioError> {
        let here = match self.deaths.place {
            Some((place, times)) if place == self.given => times + 1,
            _ => 1,
        };
        self.deaths = Deaths {
            place: Some((self.given, here)),
        };
        if !ending.is_from_outside() && here >= DEATHS_IN_ONE_PLACE {
            return Err(blamed(&format!("the decoder ends over it ({ending})")));
        }
        if stalled && here >= DEATHS_IN_ONE_PLACE {
            return Err(blamed("it takes too long to decode"));
        }
        if here >= MAX_DEATHS {
            return Err(AudioError::Internal {
                detail: format!("{MAX_DEATHS} decoders in a row did not survive ({ending})"),
            });
        }
        let pause = FIRST_PAUSE * (1 << (here - 1).min(16));
        self.stop.pause(pause.min(LONGEST_PAUSE));
        if self.stop.is_stopped() {
            return Err(AudioError::Cancelled);
        }
        Ok(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Taken out first: whoever stops it must not wait for the child's end.
        let child = self.stop.lock().take();
        drop(child);
    }
}

/// The recording is more than a decoder can bear.
fn blamed(detail: &str) -> AudioError {
    AudioError::Decoder {
        detail: detail.to_owned(),
    }
}

/// Whether a recording was refused for its format, and may well be one.
fn is_for_ffmpeg(error: &AudioError) -> bool {
    match error {
        AudioError::UnsupportedContainer { found } => sniff::is_media(found),
        AudioError::UnsupportedCodec { .. } => true,
        _ => false,
    }
}

/// Hands the recording to the next child. One that died while it waited costs nothing.
fn start_frames(
    decoders: &Decoders,
    order: &Order,
    file: &File,
    stop: &StopDecoding,
) -> Result<ChildOutput, AudioError> {
    loop {
        let Ok(mut busy) = decoders.take()?.begin(order, file) else {
            stop.pause(FIRST_PAUSE);
            if stop.is_stopped() {
                return Err(AudioError::Cancelled);
            }
            continue;
        };
        let output = ChildOutput::of(&mut busy)?;
        hold(stop, busy)?;
        return Ok(output);
    }
}

/// Puts a child where [`StopDecoding::stop`] finds it.
fn hold(stop: &StopDecoding, busy: Busy) -> Result<(), AudioError> {
    let mut child = stop.lock();
    if stop.is_stopped() {
        return Err(AudioError::Cancelled);
    }
    *child = Some(busy);
    Ok(())
}

/// The next frame, or the frames of a whole block.
fn next_said(output: &mut ChildOutput, order: &Order) -> io::Result<Said> {
    let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
    let mut block: Vec<Vec<f32>> = Vec::new();
    loop {
        let Some((message, samples)) = read_frame::<FromDecoder>(output)? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let (channel, channels) = match message {
            FromDecoder::Samples { channel, channels } => (usize::from(channel), channels),
            _ if !block.is_empty() => return Err(nonsense()),
            FromDecoder::Opened(info) => return Ok(Said::Opened(info)),
            FromDecoder::End { skipped_packets } => return Ok(Said::End { skipped_packets }),
            FromDecoder::Failed(error) => return Ok(Said::Failed(error)),
        };
        let length = block.first().map_or(samples.len(), Vec::len);
        if channel != block.len()
            || channels == 0
            || channels > order.limits.max_channels
            || samples.len() != length
            || length > MAX_BLOCK_SAMPLES
            || !samples.iter().all(|sample| (-1.0..=1.0).contains(sample))
        {
            return Err(nonsense());
        }
        block.push(samples);
        if block.len() == usize::from(channels) {
            return Ok(Said::Block(PcmBlock { channels: block }));
        }
    }
}

fn next_of_ffmpeg(output: &mut FfmpegOutput, order: &Order) -> io::Result<Said> {
    if !output.is_opened() {
        return match output.open(&order.limits) {
            Ok(info) => Ok(Said::Opened(info)),
            Err(super::ffmpeg::Refused::Recording(error)) => Ok(Said::Failed(error)),
            Err(super::ffmpeg::Refused::Pipe(error)) => Err(error),
        };
    }
    output.next_block().map(Said::Block)
}
