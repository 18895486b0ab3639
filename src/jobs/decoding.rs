//! The blocking half of a request: upload → windows, on a thread of its own, held back by a channel.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audio::{AudioError, AudioLimits, AudioStream, ChannelMode, UploadedAudio};
use crate::config::Config;
use crate::speech::{Window, Windower, WindowerOptions};

/// What the decoder's thread says.
pub(super) enum DecoderMessage {
    /// The next window of a channel.
    Window {
        channel: u16,
        channels: u16,
        window: Window,
    },
    /// The recording has ended.
    End {
        /// Samples decoded, at 16 kHz.
        samples: u64,
    },
}

/// The configuration's bounds on a recording.
pub(super) fn limits(config: &Config) -> AudioLimits {
    let audio = &config.audio;
    AudioLimits {
        max_duration: Duration::from_secs(audio.max_duration_seconds),
        max_channels: audio.max_channels,
        max_sample_rate_hz: audio.max_sample_rate_hz,
        max_tracks: audio.max_tracks,
        max_metadata_bytes: crate::config::mebibytes(audio.max_metadata_mb as u64) as usize,
        max_decode_seconds_per_second: audio.max_decode_seconds_per_second,
    }
}

/// The blocking half: runs on its own thread and is held back by the channel.
pub(super) struct Decoder {
    pub(super) limits: AudioLimits,
    pub(super) windower: WindowerOptions,
    pub(super) mode: ChannelMode,
    pub(super) ask_ffmpeg: bool,
    pub(super) cancel: CancellationToken,
    /// The place is free only when this thread has ended too.
    pub(super) _request: std::sync::Arc<crate::admission::Admitted>,
}

impl Decoder {
    pub(super) fn run(
        self,
        audio: UploadedAudio,
        out: &mpsc::Sender<DecoderMessage>,
    ) -> Result<(), AudioError> {
        let mut stream = if self.ask_ffmpeg {
            AudioStream::open_or_ask_ffmpeg(audio, &self.limits, self.mode)?
        } else {
            AudioStream::open(audio, &self.limits, self.mode)?
        };
        let mut windowers: Vec<Windower> = Vec::new();
        while let Some(block) = stream.next_block()? {
            if self.cancel.is_cancelled() {
                return Err(AudioError::Cancelled);
            }
            while windowers.len() < block.channels.len() {
                windowers.push(Windower::new(self.windower));
            }
            let channels = block.channels.len() as u16;
            for (channel, samples) in block.channels.iter().enumerate() {
                for window in windowers[channel].push(samples) {
                    self.send(out, channel, channels, window)?;
                }
            }
        }
        let channels = windowers.len() as u16;
        for (channel, windower) in windowers.iter_mut().enumerate() {
            for window in windower.finish() {
                self.send(out, channel, channels, window)?;
            }
        }
        let _ = out.blocking_send(DecoderMessage::End {
            samples: stream.decoded_samples(),
        });
        Ok(())
    }

    fn send(
        &self,
        out: &mpsc::Sender<DecoderMessage>,
        channel: usize,
        channels: u16,
        window: Window,
    ) -> Result<(), AudioError> {
        if self.cancel.is_cancelled() {
            return Err(AudioError::Cancelled);
        }
        let message = DecoderMessage::Window {
            channel: channel as u16,
            channels,
            window,
        };
        out.blocking_send(message).map_err(|_| AudioError::Cancelled)
    }
}
