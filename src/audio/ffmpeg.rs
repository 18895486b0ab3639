//! An installed `ffmpeg`, off unless the operator allows it, for formats that nothing here reads.
//!
//! It runs as a child of the server under the limits of a decoder child, reads the recording on its standard input,
//! may open nothing for writing, and writes samples at 16 kHz as a Sun AU stream.

use std::io::{self, Read};
use std::time::Duration;

use super::pipe::ChildOutput;
use super::{AudioError, AudioInfo, AudioLimits, ChannelMode, PcmBlock, SAMPLE_RATE_HZ, downmix, track};
use crate::process::Ending;

/// Address space of ffmpeg and its libraries before it has read a byte: some hundred MiB in Debian's packages.
pub(super) const OWN_MEMORY_BYTES: u64 = 1 << 30;

/// File descriptors: its libraries are opened one after the other.
pub(super) const OPEN_FILES: u64 = 32;

/// Exit code when there is no ffmpeg, as shells have it.
pub(super) const EXIT_NOT_STARTED: u8 = 127;

/// Frames of a block: two seconds.
const BLOCK_FRAMES: usize = 2 * SAMPLE_RATE_HZ as usize;

/// Longest AU header accepted, in bytes; ffmpeg writes 24 to 32.
const MAX_HEADER_BYTES: u32 = 4 << 10;

/// What ffmpeg is called with.
pub(super) fn arguments(longest: Duration) -> Vec<String> {
    let longest = (longest.as_secs() + 1).to_string();
    let rate = SAMPLE_RATE_HZ.to_string();
    [
        &["-nostdin", "-hide_banner", "-loglevel", "fatal", "-threads", "1"][..],
        // Playlists and the like must not make it open files or addresses.
        &["-protocol_whitelist", "pipe", "-i", "pipe:0"],
        &["-map", "0:a:0", "-map_metadata", "-1", "-t", &longest],
        &["-ar", &rate, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

/// Why there is nothing.
pub(super) enum Refused {
    Recording(AudioError),
    Pipe(io::Error),
}

/// What ffmpeg writes, as blocks.
#[derive(Debug)]
pub(super) struct FfmpegOutput {
    pipe: ChildOutput,
    mode: ChannelMode,
    channels: usize,
    /// Whether the header was read.
    opened: bool,
    /// What is said when ffmpeg finds no sound either.
    refusal: Option<AudioError>,
}

impl FfmpegOutput {
    pub(super) fn new(pipe: ChildOutput, mode: ChannelMode, refusal: AudioError) -> Self {
        Self {
            pipe,
            mode,
            channels: 0,
            opened: false,
            refusal: Some(refusal),
        }
    }

    /// Whether the header was read.
    pub(super) fn is_opened(&self) -> bool {
        self.opened
    }

    /// Another ffmpeg begins with the same recording.
    pub(super) fn restart(&mut self, pipe: ChildOutput) {
        self.pipe = pipe;
        self.opened = false;
    }

    /// Why an ffmpeg that ended with `ending` gave no more.
    pub(super) fn failure(&mut self, ending: Ending) -> AudioError {
        match self.refusal.take() {
            Some(refusal) if !self.opened => refusal,
            _ => AudioError::Corrupt {
                container: "ffmpeg".to_owned(),
                detail: format!("ffmpeg gave up with {ending}"),
            },
        }
    }

    /// Reads the header.
    pub(super) fn open(&mut self, limits: &AudioLimits) -> Result<AudioInfo, Refused> {
        let channels = self.read_header().map_err(Refused::Pipe)?;
        track::check_channels(channels as usize, limits).map_err(Refused::Recording)?;
        self.channels = channels as usize;
        self.opened = true;
        Ok(AudioInfo {
            container: "ffmpeg".to_owned(),
            codec: "pcm_f32be".to_owned(),
            sample_rate_hz: SAMPLE_RATE_HZ,
            channels: channels as u16,
            declared_duration: None,
        })
    }

    /// Magic, start of the samples, their bytes, encoding, rate, channels (audio/basic of Sun; all big-endian).
    fn read_header(&mut self) -> io::Result<u32> {
        let mut header = [0; 24];
        self.pipe.read_exact(&mut header)?;
        let number =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (start, rate_hz, channels) = (number(4), number(16), number(20));
        let makes_sense = header.starts_with(b".snd")
            && (24..=MAX_HEADER_BYTES).contains(&start)
            && rate_hz == SAMPLE_RATE_HZ
            && (1..=u32::from(u16::MAX)).contains(&channels);
        if !makes_sense {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.pipe.read_exact(&mut vec![0; start as usize - 24])?;
        Ok(channels)
    }

    /// The next samples. The end is an error of the kind `UnexpectedEof`: only ffmpeg's exit code tells the end of the
    /// recording from the end of ffmpeg.
    pub(super) fn next_block(&mut self) -> io::Result<PcmBlock> {
        let channels = self.channels;
        let mut bytes = Vec::new();
        let wanted = (4 * channels * (BLOCK_FRAMES / channels).max(1)) as u64;
        (&mut self.pipe).take(wanted).read_to_end(&mut bytes)?;
        let frame_bytes = 4 * channels;
        if bytes.len() < frame_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut planes = vec![Vec::with_capacity(bytes.len() / frame_bytes); channels];
        for frame in bytes.chunks_exact(frame_bytes) {
            for (plane, sample) in planes.iter_mut().zip(frame.as_chunks::<4>().0) {
                plane.push(f32::from_be_bytes(*sample));
            }
        }
        for plane in &mut planes {
            downmix::sanitize(plane);
        }
        let outputs = match self.mode {
            ChannelMode::Mixed => 1,
            ChannelMode::Separate => channels,
        };
        let mut mixed = vec![Vec::new(); outputs];
        downmix::mix(&planes, self.mode, &mut mixed);
        for sample in mixed.iter_mut().flatten() {
            *sample = sample.clamp(-1.0, 1.0);
        }
        Ok(PcmBlock { channels: mixed })
    }
}
