//! The last resort, off unless the operator allows it: an installed `ffmpeg` decodes what nothing here can.
//!
//! It runs as a child that reads the upload on its standard input and may open nothing else, and is killed when
//! the stream is dropped.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_F32BE;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration as Ticks, Timestamp};

use super::upload::UploadedAudio;

/// Pieces of output that wait for us before ffmpeg has to.
const PIECES_AHEAD: usize = 4;

/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;

/// How long ffmpeg may take to say what it found.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for one packet; the caller looks at its own limits in between.
const WAIT: Duration = Duration::from_millis(500);

/// Track number of packets that only say that there is nothing yet.
pub(super) const NOTHING_YET: u32 = u32::MAX;

/// A running ffmpeg.
#[derive(Debug)]
pub(super) struct Ffmpeg {
    child: Child,
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Output that is not yet a whole frame.
    rest: Vec<u8>,
    frame_bytes: usize,
    frames: u64,
}

impl Ffmpeg {
    /// Starts ffmpeg on `upload`; `None` when there is none or it finds no sound.
    pub(super) fn start(
        upload: UploadedAudio,
        longest: Duration,
    ) -> io::Result<Option<(Self, AudioCodecParameters)>> {
        let input = upload.into_file()?;
        let started = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-loglevel", "quiet", "-threads", "1"])
            // Playlists and the like must not make it open files or addresses.
            .args(["-protocol_whitelist", "pipe", "-i", "pipe:0"])
            .args(["-map", "0:a:0", "-map_metadata", "-1", "-t"])
            .arg((longest.as_secs() + 1).to_string())
            .args(["-c:a", "pcm_f32be", "-f", "au", "pipe:1"])
            .stdin(Stdio::from(input))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(mut output) = child.stdout.take() else {
            return Ok(None);
        };
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        // A thread of its own: a pipe cannot be read with a time limit.
        let reader = std::thread::Builder::new()
            .name("ffmpeg-output".to_owned())
            .spawn(move || {
                loop {
                    let mut piece = vec![0; PIECE_BYTES];
                    let read = output.read(&mut piece).map(|count| {
                        piece.truncate(count);
                        piece
                    });
                    let last = read.as_ref().map_or(true, Vec::is_empty);
                    if sender.send(read).is_err() || last {
                        return;
                    }
                }
            });
        let mut ffmpeg = Self {
            child,
            pieces,
            rest: Vec::new(),
            frame_bytes: 1,
            frames: 0,
        };
        reader?;
        Ok(ffmpeg.read_header()?.map(|params| (ffmpeg, params)))
    }

    /// The header of the AU stream it writes.
    fn read_header(&mut self) -> io::Result<Option<AudioCodecParameters>> {
        let deadline = Instant::now() + PATIENCE;
        let number = |rest: &[u8], index: usize| {
            rest.get(index * 4..index * 4 + 4)
                .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        loop {
            if let (Some(start), Some(rate_hz), Some(channels)) = (
                number(&self.rest, 1),
                number(&self.rest, 4),
                number(&self.rest, 5),
            ) && self.rest.len() >= start as usize
            {
                let Ok(channels) = u16::try_from(channels) else {
                    return Ok(None);
                };
                if channels == 0 || rate_hz == 0 || !self.rest.starts_with(b".snd") {
                    return Ok(None);
                }
                self.rest.drain(..start as usize);
                self.frame_bytes = 4 * usize::from(channels);
                let mut params = AudioCodecParameters::new();
                params
                    .for_codec(CODEC_ID_PCM_F32BE)
                    .with_sample_rate(rate_hz)
                    .with_channels(Channels::Discrete(channels));
                return Ok(Some(params));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => {
                    let piece = piece?;
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    self.rest.extend(piece);
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next samples; `None` at the end.
    pub(super) fn next_packet(&mut self) -> io::Result<Option<Packet>> {
        let whole = |rest: &[u8], frame_bytes: usize| rest.len() - rest.len() % frame_bytes;
        if whole(&self.rest, self.frame_bytes) == 0 {
            match self.pieces.recv_timeout(WAIT) {
                Ok(piece) => {
                    let piece = piece?;
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    self.rest.extend(piece);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let empty: Box<[u8]> = Box::default();
                    return Ok(Some(Packet::new(
                        NOTHING_YET,
                        Timestamp::new(0),
                        Ticks::ZERO,
                        empty,
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
        let bytes = whole(&self.rest, self.frame_bytes);
        let data: Vec<u8> = self.rest.drain(..bytes).collect();
        let frames = (bytes / self.frame_bytes) as u64;
        let start = i64::try_from(self.frames).unwrap_or(i64::MAX);
        self.frames += frames;
        Ok(Some(Packet::new(
            0,
            Timestamp::new(start),
            Ticks::new(frames),
            data,
        )))
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
