//! The decoder process: one recording in, samples out, under limits. It reads bytes that nobody vouches for, so it
//! may open no file, reach no address, and take only so much memory and processor time; whatever it dies of, the
//! server answers for this one recording.

use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use super::wire::{FromDecoder, Order};
use super::{AudioError, AudioStream, PcmBlock, UploadedAudio, ffmpeg};
use crate::process::frame::write_frame;
use crate::process::{self, Confinement};

/// Processor time that may pass before the next block of sound: two to three seconds of sound take milliseconds, and
/// some tenths of a second where a search for the next piece reads [`STEP_BYTES`](super::demux).
const CPU_PER_BLOCK: Duration = Duration::from_secs(10);

/// When memory is short a decoder goes before an engine, and both before the server: it costs one recording a second start.
const BADNESS: u16 = 800;

/// File descriptors: three streams, the recording, the control socket, and some to spare.
const OPEN_FILES: u64 = 16;

/// Bytes of the pipe to the server: two blocks of one channel, so that a short recording is decoded in one go.
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 256 << 10;

/// Runs the decoder process to its end.
pub fn run() -> ExitCode {
    process::die_with_parent();
    process::end_first_when_memory_is_short(BADNESS);
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The server reads this when the end of the pipe surprises it.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("decoder: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Becomes ffmpeg, under the same limits. Returns only when it cannot.
pub fn run_ffmpeg(longest: Duration, memory_bytes: u64, cpu: Duration) -> ExitCode {
    process::die_with_parent();
    process::end_first_when_memory_is_short(BADNESS);
    let bounds = Confinement {
        memory_bytes: memory_bytes.saturating_add(ffmpeg::OWN_MEMORY_BYTES),
        cpu,
        open_files: ffmpeg::OPEN_FILES,
        // Its libraries.
        may_read_files: true,
    };
    let error = match process::confine(&bounds) {
        Ok(_) => process::become_program("ffmpeg", &ffmpeg::arguments(longest)),
        Err(error) => error,
    };
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("ffmpeg: {error}\n"));
    ExitCode::from(ffmpeg::EXIT_NOT_STARTED)
}

fn serve() -> io::Result<()> {
    let mut out = process::claim_stdout()?;
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(&out, PIPE_BYTES);
    warm_up();
    let input = Input::open()?;
    let Some((order, recording)) = input.receive()? else {
        return Ok(());
    };
    process::confine(&Confinement {
        memory_bytes: order.memory_bytes,
        cpu: order.cpu,
        open_files: OPEN_FILES,
        may_read_files: false,
    })?;
    process::allow_cpu(CPU_PER_BLOCK)?;
    // A thread, which must not be there before it can be confined too.
    input.end_with_it()?;
    let last = match decode(order, recording, &mut out) {
        Ok(skipped_packets) => FromDecoder::End { skipped_packets },
        Err(Stopped::Recording(error)) => FromDecoder::Failed(error),
        Err(Stopped::Pipe(error)) => return Err(error),
    };
    write_frame(&mut out, &last, &[])
}

/// Where the order comes from.
#[cfg(unix)]
struct Input(super::wire::Control);

#[cfg(unix)]
impl Input {
    fn open() -> io::Result<Self> {
        Ok(Self(rustix::io::dup(rustix::stdio::stdin())?.into()))
    }

    /// Waits for a recording.
    fn receive(&self) -> io::Result<Option<(Order, File)>> {
        super::wire::receive_order(&self.0)
    }

    /// From here on the process ends with whoever sent the order.
    fn end_with_it(self) -> io::Result<()> {
        std::thread::Builder::new()
            .name("control".to_owned())
            .stack_size(64 << 10)
            .spawn(move || {
                // Nothing more is sent: whatever this read ends with, nobody waits any more.
                let _ = io::Read::read(&mut &self.0, &mut [0]);
                process::exit_now(0);
            })?;
        Ok(())
    }
}

/// The recording is the standard input; the order is an argument. The end of the pipe ends the process.
#[cfg(not(unix))]
struct Input;

#[cfg(not(unix))]
impl Input {
    fn open() -> io::Result<Self> {
        Ok(Self)
    }

    fn receive(&self) -> io::Result<Option<(Order, File)>> {
        use std::os::windows::io::AsHandle;

        let order = std::env::args().next_back().unwrap_or_default();
        let order = serde_json::from_str(&order)?;
        let recording = io::stdin().as_handle().try_clone_to_owned()?;
        Ok(Some((order, File::from(recording))))
    }

    fn end_with_it(self) -> io::Result<()> {
        Ok(())
    }
}

/// Why decoding stopped before the end.
enum Stopped {
    Recording(AudioError),
    Pipe(io::Error),
}

impl From<AudioError> for Stopped {
    fn from(error: AudioError) -> Self {
        Self::Recording(error)
    }
}

/// Returns the packets that were left out.
fn decode(order: Order, recording: File, out: &mut File) -> Result<u64, Stopped> {
    let upload = UploadedAudio::from_file(recording, order.len, order.file_name);
    let mut stream = AudioStream::open(upload, &order.limits, order.mode)?;
    let opened = FromDecoder::Opened(stream.info().clone());
    write_frame(out, &opened, &[]).map_err(Stopped::Pipe)?;
    let mut paid_for = 0;
    while let Some(PcmBlock { channels }) = stream.next_block()? {
        let count = channels.len() as u16;
        for (channel, samples) in channels.iter().enumerate() {
            let message = FromDecoder::Samples {
                channel: channel as u16,
                channels: count,
            };
            write_frame(out, &message, samples).map_err(Stopped::Pipe)?;
        }
        // Sound buys processor time; blocks that are empty because nothing was found in time do not.
        if stream.decoded_samples() > paid_for {
            paid_for = stream.decoded_samples();
            process::allow_cpu(CPU_PER_BLOCK).map_err(Stopped::Pipe)?;
        }
    }
    Ok(stream.skipped_packets())
}

/// Decodes a moment of silence, so that the first recording does not wait for code to be read from the disk and
/// tables to be made.
fn warm_up() {
    let mut clip =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x44\xac\0\0\x88\x58\x01\0\x02\0\x10\0data".to_vec();
    clip.extend_from_slice(&0_u32.to_le_bytes());
    clip.resize(clip.len() + 20_000, 0);
    let limits = super::AudioLimits {
        max_duration: Duration::from_secs(10),
        max_channels: 1,
        max_sample_rate_hz: 48_000,
        max_tracks: 1,
        max_metadata_bytes: 0,
    };
    let stream = UploadedAudio::from_bytes(&clip, None)
        .and_then(|clip| AudioStream::open(clip, &limits, super::ChannelMode::Mixed));
    if let Ok(mut stream) = stream {
        while matches!(stream.next_block(), Ok(Some(_))) {}
    }
}
