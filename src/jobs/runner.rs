//! The walk itself: decode → windows → schedule → assemble, with nothing held for longer than it must.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::decoding::{Decoder, DecoderMessage, limits};
use super::{Busy, JobError, JobEvent, JobHandle, JobRunner, Ticket, TranscribeOptions};
use crate::audio::{AudioError, ChannelMode, SAMPLE_RATE_HZ, UploadedAudio};
use crate::config::{Config, FfmpegSetting, Switch};
use crate::engine::{DecodeOptions, EngineError};
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::schedule::{Deadline, PriorityClass, RequestId, Scheduler, WindowTask};
use crate::serving::{Lease, ModelInfo, Registry, ServingError};
use crate::speech::{Window, WindowerOptions};
use crate::transcript::{Assembler, Place, Segment, Transcript};

/// Windows decoded ahead of the engine, beyond those that it runs side by side.
const WINDOWS_AHEAD: usize = 2;
/// Events a slow client may leave unread before its request pauses.
const EVENTS_AHEAD: usize = 64;
/// How fast old request times fade.
const RATE_WEIGHT: f64 = 0.2;

/// Windows of one recording that run side by side: one a core, or as many as the engines have slots.
fn side_by_side(lease: &Lease, scheduler: &Scheduler) -> usize {
    let slots: usize = lease.model().reports().iter().map(|report| report.slots).sum();
    slots.max(scheduler.cores())
}

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
    metrics: Arc<Metrics>,
    locale: Locale,
    /// Requests in service and waiting together.
    places: Arc<AtomicUsize>,
    service: Arc<Semaphore>,
    /// Smoothed seconds a request is in service.
    request_seconds: Mutex<f64>,
}

struct PlaceGuard(Arc<AtomicUsize>, Arc<Metrics>);

impl Drop for PlaceGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.in_flight.add(-1);
    }
}

impl Jobs {
    /// Ties the parts together.
    pub fn new(
        config: Arc<Config>,
        registry: Arc<Registry>,
        scheduler: Scheduler,
        metrics: Arc<Metrics>,
        locale: Locale,
    ) -> Self {
        let service = Arc::new(Semaphore::new(config.performance.max_concurrent_requests.max(1)));
        Self {
            inner: Arc::new(Inner {
                config,
                registry,
                scheduler,
                metrics,
                locale,
                places: Arc::default(),
                service,
                request_seconds: Mutex::new(2.0),
            }),
        }
    }

    /// The models behind the names.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// Requests in service or waiting.
    pub fn in_flight(&self) -> usize {
        self.inner.places.load(Ordering::Relaxed)
    }
}

impl JobRunner for Jobs {
    fn admit(&self) -> Result<Ticket, Busy> {
        let inner = &self.inner;
        let performance = &inner.config.performance;
        let most = performance.max_concurrent_requests.max(1) + performance.queue_length;
        let taken = inner
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        match taken {
            Ok(_) => {
                inner.metrics.in_flight.add(1);
                Ok(Ticket::new(PlaceGuard(
                    inner.places.clone(),
                    inner.metrics.clone(),
                )))
            }
            Err(now) => {
                inner.metrics.busy.add(1);
                let each = *inner
                    .request_seconds
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let rounds = now as f64 / performance.max_concurrent_requests.max(1) as f64;
                // SDKs ignore waits above 60 s, or obey them for ever.
                let seconds = (each * rounds / 2.0).clamp(1.0, 59.0);
                Err(Busy {
                    retry_after: Duration::from_secs_f64(seconds),
                })
            }
        }
    }

    fn resolve(&self, name: &str) -> Result<String, ServingError> {
        self.inner.registry.lookup(name)
    }

    fn start(&self, audio: UploadedAudio, options: TranscribeOptions, ticket: Ticket) -> JobHandle {
        let (send, events) = mpsc::channel(EVENTS_AHEAD);
        let cancel = CancellationToken::new();
        let inner = self.inner.clone();
        let token = cancel.clone();
        let span = tracing::Span::current();
        let work = async move {
            let began = Instant::now();
            let outcome = tokio::select! {
                outcome = inner.clone().walk(audio, options, &send, &token, ticket.clone()) => outcome,
                () = token.cancelled() => Err(JobError::Cancelled),
                () = send.closed() => Err(JobError::Cancelled),
            };
            token.cancel(); // ends the decoder
            inner.count(&outcome, began.elapsed());
            drop(ticket);
            let last = outcome.map(|transcript| JobEvent::Finished(Box::new(transcript)));
            let _ = send.send(last).await;
        };
        tokio::spawn(tracing::Instrument::instrument(work, span));
        JobHandle {
            events,
            cancel: cancel.drop_guard(),
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.inner.registry.list()
    }
}

impl Inner {
    fn count(&self, outcome: &Result<Transcript, JobError>, took: Duration) {
        match outcome {
            Ok(transcript) => {
                self.metrics.succeeded.add(1);
                self.metrics
                    .audio_us
                    .add((f64::from(transcript.duration) * 1e6) as u64);
                self.metrics.request_us.add(took.as_micros() as u64);
                let mut seconds = self
                    .request_seconds
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *seconds += RATE_WEIGHT * (took.as_secs_f64() - *seconds);
            }
            Err(JobError::Cancelled | JobError::Audio(AudioError::Cancelled)) => {
                self.metrics.cancelled.add(1);
            }
            Err(
                JobError::Audio(AudioError::Io(_))
                | JobError::Failed { .. }
                | JobError::Serving(ServingError::Unavailable { .. } | ServingError::Fetching { .. }),
            ) => {
                self.metrics.failed.add(1);
            }
            Err(JobError::Audio(_) | JobError::Serving(ServingError::UnknownDeployment { .. })) => {
                self.metrics.rejected.add(1);
            }
        }
    }

    async fn walk(
        self: Arc<Self>,
        audio: UploadedAudio,
        options: TranscribeOptions,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
        cancel: &CancellationToken,
        ticket: Ticket,
    ) -> Result<Transcript, JobError> {
        let _service = self
            .service
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| JobError::Cancelled)?;
        let lease = self.registry.resolve(&options.deployment).await?;
        lease.ready().await?;
        let gpu = lease.model().reports().first().is_some_and(|r| r.gpu);
        tracing::info!("{}", self.locale.transcription_starts(gpu));
        let began = Instant::now();

        let (send, cuts) = mpsc::channel(side_by_side(&lease, &self.scheduler) + WINDOWS_AHEAD);
        let decoder = Decoder {
            limits: limits(&self.config),
            windower: self.windower(&options),
            mode: if options.separate_channels {
                ChannelMode::Separate
            } else {
                ChannelMode::Mixed
            },
            ask_ffmpeg: self.config.audio.ffmpeg == FfmpegSetting::Auto,
            cancel: cancel.clone(),
            _ticket: ticket,
        };
        let span = tracing::Span::current();
        let decoding = tokio::task::spawn_blocking(move || span.in_scope(|| decoder.run(audio, &send)));

        let mut request = Request::new(&self, lease, options);
        let result = request.consume(cuts, events).await;
        // The decoder's own error comes first: the channel's end is only its shadow.
        let decoded = decoding.await.unwrap_or_else(|panic| {
            Err(AudioError::Corrupt {
                container: "unknown".to_owned(),
                detail: panic.to_string(),
            })
        });
        if !matches!(result, Err(JobError::Failed { .. } | JobError::Serving(_))) {
            decoded?;
        }
        let transcript = result?;
        let gpu = request.lease.model().reports().first().is_some_and(|r| r.gpu);
        tracing::info!("{}", self.locale.inference_time(began.elapsed(), gpu));
        Ok(transcript)
    }

    fn windower(&self, options: &TranscribeOptions) -> WindowerOptions {
        let speech = &self.config.speech;
        let ms = |n: u32| Duration::from_millis(u64::from(n));
        let threshold = options.vad_threshold.unwrap_or(speech.threshold);
        WindowerOptions {
            vad: options.vad.unwrap_or(speech.vad),
            threshold,
            threshold_end: speech.threshold_end.min(threshold),
            min_silence: ms(options.vad_min_silence_ms.unwrap_or(speech.min_silence_ms)),
            min_speech: ms(speech.min_speech_ms),
            padding: ms(options.vad_padding_ms.unwrap_or(speech.padding_ms)),
            max_window: Duration::from_secs_f32(speech.max_window_seconds.clamp(1.0, 30.0)),
            ..WindowerOptions::default()
        }
    }
}

/// One request's windows on their way through the engine.
struct Request<'j> {
    jobs: &'j Inner,
    lease: Lease,
    options: TranscribeOptions,
    id: RequestId,
    deadline: Deadline,
    language: Option<String>,
    assemblers: Vec<Assembler>,
    segments: Vec<Segment>,
}

impl<'j> Request<'j> {
    fn new(jobs: &'j Inner, lease: Lease, options: TranscribeOptions) -> Self {
        let configured = match jobs.config.whisper.language.as_str() {
            "auto" => None,
            code => Some(code.to_owned()),
        };
        // A list of candidates is a wish to detect.
        let configured = configured.filter(|_| options.candidate_languages.is_empty());
        let language = options.language.clone().or(configured);
        Self {
            jobs,
            lease,
            options,
            id: RequestId::next(),
            deadline: Deadline::new(Duration::from_secs(jobs.config.server.request_deadline_seconds)),
            language,
            assemblers: Vec::new(),
            segments: Vec::new(),
        }
    }

    async fn consume(
        &mut self,
        mut cuts: mpsc::Receiver<DecoderMessage>,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
    ) -> Result<Transcript, JobError> {
        let scheduler = self.jobs.scheduler.clone();
        let most = side_by_side(&self.lease, &scheduler) + WINDOWS_AHEAD;
        let mut running = FuturesOrdered::new();
        let mut samples = None;
        let mut open = true;
        let mut first = true;
        loop {
            // Until the language is known, windows go one by one: the first with text decides for the file.
            let room = running.len() < if self.language_open() { 1 } else { most };
            tokio::select! {
                cut = cuts.recv(), if open && room => match cut {
                    Some(DecoderMessage::Window { channel, channels, window }) => {
                        let place = place(&window, channel, channels, self.options.vad.unwrap_or(self.jobs.config.speech.vad));
                        let task = WindowTask {
                            request: self.id,
                            class: if self.options.batch { PriorityClass::Batch } else { PriorityClass::Interactive },
                            first: std::mem::take(&mut first),
                            lease: self.lease.clone(),
                            deadline: self.deadline.clone(),
                            options: self.decode_options(),
                            samples: window.samples,
                        };
                        let scheduler = scheduler.clone();
                        running.push_back(async move { (place, channel, scheduler.run(task).await) });
                    }
                    Some(DecoderMessage::End { samples: n }) => samples = Some(n),
                    None => open = false,
                },
                Some((place, channel, outcome)) = running.next(), if !running.is_empty() => {
                    let window = outcome.map_err(engine_error)?;
                    let fresh = self.assemble(place, channel, window);
                    if !fresh.is_empty() {
                        self.segments.extend(fresh.iter().cloned());
                        events.send(Ok(JobEvent::Segments(fresh))).await.map_err(|_| JobError::Cancelled)?;
                    }
                }
                else => break,
            }
        }
        let dropped: u64 = self.assemblers.iter().map(Assembler::dropped).sum();
        self.jobs.metrics.segments_dropped.add(dropped);
        let mut segments = std::mem::take(&mut self.segments);
        if self.options.separate_channels {
            segments.sort_by(|a, b| a.start.total_cmp(&b.start));
            for (id, segment) in segments.iter_mut().enumerate() {
                segment.id = id as u32;
            }
        }
        Ok(Transcript {
            task: self.options.task,
            language: self
                .assemblers
                .iter()
                .find_map(|a| a.language().map(str::to_owned))
                .or_else(|| self.language.clone()),
            duration: samples.unwrap_or(0) as f32 / SAMPLE_RATE_HZ as f32,
            segments,
        })
    }

    fn language_open(&self) -> bool {
        self.language.is_none() && self.lease.multilingual()
    }

    fn assemble(
        &mut self,
        place: Place,
        channel: u16,
        window: crate::transcript::WindowTranscript,
    ) -> Vec<Segment> {
        let index = usize::from(channel);
        while self.assemblers.len() <= index {
            self.assemblers.push(Assembler::new(self.options.word_times));
        }
        let segments = self.assemblers[index].push(place, window);
        if self.language.is_none() {
            self.language = self.assemblers[index].language().map(str::to_owned);
        }
        segments
    }

    fn decode_options(&self) -> DecodeOptions {
        let whisper = &self.jobs.config.whisper;
        let gpu = self.lease.model().reports().first().is_some_and(|r| r.gpu);
        DecodeOptions {
            task: self.options.task,
            language: self.language.clone(),
            candidate_languages: self.options.candidate_languages.clone(),
            prompt: self.options.prompt.clone(),
            temperature: self.options.temperature,
            beam_size: self.options.beam_size.unwrap_or(whisper.beam_size).clamp(1, 8),
            word_times: self.options.word_times,
            // The encoder is cheap on a GPU and the full context is what models were trained on.
            short_context: match whisper.short_context {
                Switch::On => true,
                Switch::Off => false,
                Switch::Auto => !gpu,
            },
            ..DecodeOptions::default()
        }
    }
}

fn place(window: &Window, channel: u16, channels: u16, vad: bool) -> Place {
    let seconds = |samples: usize| samples as f32 / SAMPLE_RATE_HZ as f32;
    Place {
        start: window.start_sample as f32 / SAMPLE_RATE_HZ as f32,
        length: seconds(window.samples.len()),
        voiced: vad.then(|| window.speech.iter().map(|r| seconds(r.len())).sum()),
        channel: (channels > 1).then_some(channel),
    }
}

fn engine_error(error: EngineError) -> JobError {
    match error {
        EngineError::Cancelled => JobError::Cancelled,
        EngineError::Unavailable { reason } | EngineError::StartFailed { reason } => {
            ServingError::Unavailable { reason }.into()
        }
        late @ EngineError::Deadline { .. } => ServingError::unavailable(late.to_string()).into(),
        other => JobError::Failed {
            detail: other.to_string(),
        },
    }
}
