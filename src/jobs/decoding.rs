//! The blocking half of a request: upload → windows, on a thread of its own, held back by a channel.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admission::Admitted;
use crate::audio::{
    AudioError, AudioLimits, ChannelMode, DecoderSettings, Decoders, StopDecoding, UploadedAudio,
};
use crate::config::{Config, FfmpegSetting};
use crate::metrics::Metrics;
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

/// How the configuration wants recordings decoded, by children that run `program`.
pub fn decoder_settings(config: &Config, program: PathBuf) -> DecoderSettings {
    let audio = &config.audio;
    DecoderSettings {
        program,
        limits: AudioLimits {
            max_duration: Duration::from_secs(audio.max_duration_seconds),
            max_channels: audio.max_channels,
            max_sample_rate_hz: audio.max_sample_rate_hz,
            max_tracks: audio.max_tracks,
            max_metadata_bytes: crate::config::mebibytes(audio.max_metadata_mb as u64) as usize,
        },
        memory_bytes: crate::config::mebibytes(audio.max_decode_memory_mb),
        cpu: Duration::from_secs(audio.max_decode_cpu_seconds),
        ask_ffmpeg: audio.ffmpeg == FfmpegSetting::Auto,
    }
}

/// The blocking half: runs on its own thread and is held back by the channel.
pub(super) struct Decoder {
    pub(super) decoders: Decoders,
    pub(super) windower: WindowerOptions,
    pub(super) mode: ChannelMode,
    pub(super) cancel: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
    /// The place is free only when this thread has ended too.
    pub(super) _request: Arc<Admitted>,
}

impl Decoder {
    /// Sends the recording's windows to `out`. The child that decodes is killed as soon as the request is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Recording::next_block`](crate::audio::Recording::next_block); [`AudioError::Internal`] when this half
    /// panics, which is nobody's recording's fault.
    pub(super) async fn decode(
        self,
        audio: UploadedAudio,
        out: mpsc::Sender<DecoderMessage>,
    ) -> Result<(), AudioError> {
        let stop = StopDecoding::default();
        let (stopping, cancelled) = (stop.clone(), self.cancel.clone());
        let watch = tokio::spawn(async move {
            cancelled.cancelled().await;
            stopping.stop();
        });
        let span = tracing::Span::current();
        let thread = tokio::task::spawn_blocking(move || span.in_scope(|| self.run(audio, &stop, &out)));
        let result = ended(thread).await;
        watch.abort();
        result
    }

    fn run(
        self,
        audio: UploadedAudio,
        stop: &StopDecoding,
        out: &mpsc::Sender<DecoderMessage>,
    ) -> Result<(), AudioError> {
        // Without the time in which the channel holds this thread back.
        let mut began = Instant::now();
        let mut recording = self.decoders.open(audio, self.mode, stop)?;
        let mut windowers: Vec<Windower> = Vec::new();
        while let Some(block) = recording.next_block()? {
            if self.cancel.is_cancelled() {
                return Err(AudioError::Cancelled);
            }
            while windowers.len() < block.channels.len() {
                windowers.push(Windower::new(self.windower));
            }
            let channels = block.channels.len() as u16;
            for (channel, samples) in block.channels.iter().enumerate() {
                for window in windowers[channel].push(samples) {
                    self.metrics.window_decode.observe(began.elapsed());
                    self.send(out, channel, channels, window)?;
                    began = Instant::now();
                }
            }
        }
        let channels = windowers.len() as u16;
        for (channel, windower) in windowers.iter_mut().enumerate() {
            for window in windower.finish() {
                self.metrics.window_decode.observe(began.elapsed());
                self.send(out, channel, channels, window)?;
                began = Instant::now();
            }
        }
        let _ = out.blocking_send(DecoderMessage::End {
            samples: recording.decoded_samples(),
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

/// What the thread came to; a panic of ours is no fault of the recording's.
async fn ended(thread: JoinHandle<Result<(), AudioError>>) -> Result<(), AudioError> {
    thread.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "cutting a recording into windows failed");
        Err(AudioError::Internal {
            detail: panic.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_ours_is_not_the_recordings_fault() {
        let thread = tokio::task::spawn_blocking(|| panic!("on purpose"));
        let outcome = ended(thread).await;
        assert!(matches!(outcome, Err(AudioError::Internal { .. })), "{outcome:?}");
    }
}
