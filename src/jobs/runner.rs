//! The walk itself: decode → windows → schedule → assemble, with nothing held for longer than it must.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::decoding::Decoder;
use super::request::{Request, WINDOWS_AHEAD, is_per_window};
use super::service::Service;
use super::{JobError, JobEvent, JobHandle, JobRunner, TranscribeOptions};
use crate::admission::{Admission, Admitted};
use crate::audio::{AudioError, ChannelMode, Decoders, SAMPLE_RATE_HZ, UploadedAudio};
use crate::config::Config;
use crate::engine::DecodeOptions;
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::schedule::{Deadline, PriorityClass, RequestId, Scheduler, WindowTask};
use crate::serving::{Lease, ModelInfo, Registry, ServingError};
use crate::speech::WindowerOptions;
use crate::transcript::Transcript;

/// Events a slow client may leave unread before its request pauses.
const EVENTS_AHEAD: usize = 64;
/// Lengths of windows that may each have a language of their own: long enough to recognise one, short enough that few
/// hold two (bench/RESULTS.md).
const PER_WINDOW_TARGET: Duration = Duration::from_secs(8);
const PER_WINDOW_MINIMUM: Duration = Duration::from_secs(3);
const PER_WINDOW_GAP: Duration = Duration::from_millis(500);

/// The real [`JobRunner`].
#[derive(Debug, Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    admission: Admission,
    decoders: Decoders,
    metrics: Arc<Metrics>,
    locale: Locale,
}

impl Jobs {
    /// Ties the parts together.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        scheduler: Scheduler,
        admission: Admission,
        decoders: Decoders,
        metrics: Arc<Metrics>,
        locale: Locale,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                registry,
                scheduler,
                admission,
                decoders,
                metrics,
                locale,
            }),
        }
    }

    /// Runs one window on the default model, behind all others, unless its speed is known; nothing but that comes of it.
    ///
    /// # Errors
    ///
    /// One sentence, when the model does not run.
    pub async fn measure_speed(&self) -> Result<(), String> {
        let lease = self.inner.registry.resolve("").await.map_err(|e| e.to_string())?;
        lease.ready().await.map_err(|e| e.to_string())?;
        if lease.model().core_seconds_per_second().is_some() {
            return Ok(());
        }
        let task = WindowTask {
            waiter: None,
            request: RequestId::next(),
            class: PriorityClass::Batch,
            first: false,
            lease,
            deadline: Deadline::new(Duration::from_secs(
                self.inner.config.server.request_deadline_seconds,
            )),
            options: DecodeOptions {
                // One look: noise is doubted, and second looks at it would count as slowness.
                draft: true,
                ..DecodeOptions::default()
            },
            samples: noise(),
        };
        self.inner
            .scheduler
            .run(task)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }

    /// The models behind the names.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }
}

impl JobRunner for Jobs {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Lease, ServingError>> {
        let name = name.to_owned();
        Box::pin(async move { self.inner.registry.resolve(&name).await })
    }

    fn lookup(&self, name: &str) -> Result<String, ServingError> {
        self.inner.registry.lookup(name)
    }

    fn start(&self, request: Arc<Admitted>, audio: UploadedAudio, options: TranscribeOptions) -> JobHandle {
        let (send, events) = mpsc::channel(EVENTS_AHEAD);
        let cancel = request.cancel.clone();
        let inner = self.inner.clone();
        let work = async move {
            let began = Instant::now();
            let walk = AssertUnwindSafe(inner.walk(&request, audio, options, &send)).catch_unwind();
            let outcome = tokio::select! {
                outcome = walk => outcome.unwrap_or_else(|panic| Err(broken(&*panic))),
                () = request.cancel.cancelled() => Err(JobError::Cancelled),
                () = send.closed() => Err(JobError::Cancelled),
            };
            request.cancel.cancel(); // ends the decoder
            inner.count(&request, &outcome, began.elapsed());
            drop(request);
            let last = outcome.map(|transcript| JobEvent::Finished(Box::new(transcript)));
            let _ = send.send(last).await;
        };
        tokio::spawn(tracing::Instrument::instrument(work, tracing::Span::current()));
        JobHandle {
            events,
            cancel: cancel.drop_guard(),
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.inner.registry.list()
    }
}

/// A panic of our own code: no client's fault.
fn broken(panic: &(dyn std::any::Any + Send)) -> JobError {
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    JobError::Internal {
        detail: format!("panic: {}", words.unwrap_or("without words")),
    }
}

impl Inner {
    fn count(&self, request: &Admitted, outcome: &Result<Transcript, JobError>, took: Duration) {
        match outcome {
            Ok(transcript) => {
                request.charge_audio(f64::from(transcript.duration));
                self.metrics.succeeded.add(1);
                self.metrics
                    .audio_us
                    .add((f64::from(transcript.duration) * 1e6) as u64);
                self.metrics.request_us.add(took.as_micros() as u64);
                self.admission.served(took);
            }
            Err(JobError::Cancelled | JobError::Audio(AudioError::Cancelled)) => {
                self.metrics.cancelled.add(1);
            }
            Err(
                JobError::Audio(AudioError::Io(_) | AudioError::Internal { .. })
                | JobError::Failed { .. }
                | JobError::Internal { .. }
                | JobError::Deadline { .. }
                | JobError::Serving(ServingError::Unavailable { .. } | ServingError::Fetching { .. }),
            ) => {
                self.metrics.failed.add(1);
            }
            Err(
                JobError::Audio(_)
                | JobError::NoSuchChannel { .. }
                | JobError::Serving(ServingError::UnknownDeployment { .. }),
            ) => {
                self.metrics.rejected.add(1);
            }
        }
    }

    async fn walk(
        &self,
        request: &Arc<Admitted>,
        audio: UploadedAudio,
        options: TranscribeOptions,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
    ) -> Result<Transcript, JobError> {
        // A model that loads holds up nobody but its own requests.
        self.ready(request).await?;
        let waiter = self.metrics.waiters.enter();
        let turn = request.turn().await;
        let model = request.lease.model().clone();
        let gpu = model.reports().first().is_some_and(|r| r.gpu);
        tracing::info!("{}", self.locale.transcription_starts(gpu));
        let began = Instant::now();

        // Those that run side by side are taken out of it: a request that waits for its turn keeps no more than these.
        let (send, messages) = mpsc::channel(WINDOWS_AHEAD);
        let decoder = Decoder {
            decoders: self.decoders.clone(),
            windower: self.windower(&options),
            mode: if options.separate_channels {
                ChannelMode::Separate
            } else {
                ChannelMode::Mixed
            },
            cancel: request.cancel.clone(),
            metrics: self.metrics.clone(),
            _request: request.clone(),
        };
        let decoding = tokio::spawn(tracing::Instrument::in_current_span(decoder.decode(audio, send)));

        let mut walk = Request::new(
            &self.config,
            &self.scheduler,
            &self.metrics,
            request.clone(),
            waiter,
            options,
        );
        let result = walk.consume(Service::new(request, turn), messages, events).await;
        // The decoder's own error comes first: the channel's end is only its shadow.
        let decoded = match decoding.await {
            Ok(decoded) => decoded.map_err(JobError::from),
            Err(panic) => Err(JobError::Internal {
                detail: format!("decoder: {panic}"),
            }),
        };
        if !matches!(
            result,
            Err(JobError::Failed { .. } | JobError::NoSuchChannel { .. } | JobError::Serving(_))
        ) {
            decoded?;
        }
        let transcript = result?;
        let gpu = model.reports().first().is_some_and(|r| r.gpu);
        tracing::info!("{}", self.locale.inference_time(began.elapsed(), gpu));
        Ok(transcript)
    }

    async fn ready(&self, request: &Admitted) -> Result<(), JobError> {
        let began = Instant::now();
        let limit = request.deadline.at();
        let ready = tokio::time::timeout_at(limit, request.lease.ready()).await;
        ready.map_err(|_| JobError::Deadline {
            seconds: began.elapsed().as_secs(),
        })??;
        request.deadline.progressed();
        Ok(())
    }

    fn windower(&self, options: &TranscribeOptions) -> WindowerOptions {
        let speech = &self.config.speech;
        let ms = |n: u32| Duration::from_millis(u64::from(n));
        let threshold = options.vad_threshold.unwrap_or(speech.threshold);
        let whole = WindowerOptions::default();
        let per_window = is_per_window(&self.config, options);
        WindowerOptions {
            vad: options.vad.unwrap_or(speech.vad),
            threshold,
            threshold_end: speech.threshold_end.min(threshold),
            min_silence: ms(options.vad_min_silence_ms.unwrap_or(speech.min_silence_ms)),
            min_speech: ms(speech.min_speech_ms),
            padding: ms(options.vad_padding_ms.unwrap_or(speech.padding_ms)),
            max_window: Duration::from_secs_f32(speech.max_window_seconds.clamp(1.0, 30.0)),
            // Speakers change language at pauses: windows that may each have their own end there.
            target_window: if per_window {
                PER_WINDOW_TARGET
            } else {
                whole.target_window
            },
            min_window: if per_window {
                PER_WINDOW_MINIMUM
            } else {
                whole.min_window
            },
            join_gap: if per_window {
                PER_WINDOW_GAP
            } else {
                whole.join_gap
            },
        }
    }
}

/// Five seconds of sound that a model finds no words in.
fn noise() -> Vec<f32> {
    let mut state = 1_u32;
    (0..5 * SAMPLE_RATE_HZ)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 655_360.0 - 0.05
        })
        .collect()
}
