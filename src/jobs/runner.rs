//! The walk itself: decode → windows → schedule → assemble, with nothing held for longer than it must.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::decoding::{Decoder, DecoderMessage};
use super::{JobError, JobEvent, JobHandle, JobRunner, TranscribeOptions};
use crate::admission::turns::Turn;
use crate::admission::{Admission, Admitted};
use crate::audio::{AudioError, ChannelMode, Decoders, SAMPLE_RATE_HZ, UploadedAudio};
use crate::config::{Config, Switch};
use crate::engine::{DecodeOptions, EngineError};
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::schedule::{RequestId, Scheduler, WindowTask};
use crate::serving::{Lease, ModelInfo, Registry, ServingError};
use crate::speech::{Window, WindowerOptions};
use crate::transcript::{Assembler, Place, Segment, Transcript};

/// Windows decoded ahead of the engine, beyond those that it runs side by side.
const WINDOWS_AHEAD: usize = 2;
/// Events a slow client may leave unread before its request pauses.
const EVENTS_AHEAD: usize = 64;
/// Longest time in service without a window while others wait.
const TURN_TIME: Duration = Duration::from_secs(1);

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
            inner.count(&outcome, began.elapsed());
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
    fn count(&self, outcome: &Result<Transcript, JobError>, took: Duration) {
        match outcome {
            Ok(transcript) => {
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
            Err(JobError::Audio(_) | JobError::Serving(ServingError::UnknownDeployment { .. })) => {
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
        let turn = request.turn().await;
        let model = request.lease.model().clone();
        let gpu = model.reports().first().is_some_and(|r| r.gpu);
        tracing::info!("{}", self.locale.transcription_starts(gpu));
        let began = Instant::now();

        let (send, messages) = mpsc::channel(side_by_side(&request.lease, &self.scheduler) + WINDOWS_AHEAD);
        let decoder = Decoder {
            decoders: self.decoders.clone(),
            windower: self.windower(&options),
            mode: if options.separate_channels {
                ChannelMode::Separate
            } else {
                ChannelMode::Mixed
            },
            cancel: request.cancel.clone(),
            _request: request.clone(),
        };
        let decoding = tokio::spawn(tracing::Instrument::in_current_span(decoder.decode(audio, send)));

        let mut walk = Request::new(self, request.clone(), options);
        let result = walk.consume(Service::new(request, turn), messages, events).await;
        // The decoder's own error comes first: the channel's end is only its shadow.
        let decoded = match decoding.await {
            Ok(decoded) => decoded.map_err(JobError::from),
            Err(panic) => Err(JobError::Internal {
                detail: format!("decoder: {panic}"),
            }),
        };
        if !matches!(result, Err(JobError::Failed { .. } | JobError::Serving(_))) {
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

/// A request's turn in service, while it has one.
struct Service<'r> {
    request: &'r Admitted,
    turn: Option<Turn>,
    waiting: Option<BoxFuture<'r, Turn>>,
    /// The turn gave a window, or its time is over.
    used: bool,
    since: tokio::time::Instant,
}

impl<'r> Service<'r> {
    fn new(request: &'r Admitted, turn: Turn) -> Self {
        Self {
            request,
            turn: Some(turn),
            waiting: None,
            used: false,
            since: tokio::time::Instant::now(),
        }
    }

    fn in_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Gives the turn on when somebody should have it, and for good once the decoder has nothing more.
    fn give_way(&mut self, open: bool) {
        if !open || self.request.turn_is_wanted(self.used) {
            self.turn = None;
        }
    }

    /// The next turn has come, or this one should be looked at again.
    async fn changed(&mut self) {
        if self.turn.is_some() {
            return self.used_up().await;
        }
        let request = self.request;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(request.turn()));
        let turn = waiting.await;
        self.waiting = None;
        self.turn = Some(turn);
        self.used = false;
        self.since = tokio::time::Instant::now();
    }

    /// A turn without a window (silence, a slow decoder, an engine that restarts) is no reason to keep others waiting.
    async fn used_up(&mut self) {
        if self.used {
            // Somebody may have come to want it.
            tokio::time::sleep(TURN_TIME).await;
        } else {
            tokio::time::sleep_until(self.since + TURN_TIME).await;
            self.used = true;
        }
    }

    /// A client that does not read keeps no turn.
    async fn send(
        &mut self,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
        event: JobEvent,
    ) -> Result<(), JobError> {
        let event = match events.try_send(Ok(event)) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(JobError::Cancelled),
            Err(mpsc::error::TrySendError::Full(event)) => event,
        };
        self.turn = None;
        events.send(event).await.map_err(|_| JobError::Cancelled)
    }
}

/// One request's windows on their way through the engine.
struct Request<'j> {
    jobs: &'j Inner,
    admitted: Arc<Admitted>,
    options: TranscribeOptions,
    id: RequestId,
    language: Option<String>,
    assemblers: Vec<Assembler>,
    segments: Vec<Segment>,
}

impl<'j> Request<'j> {
    fn new(jobs: &'j Inner, admitted: Arc<Admitted>, options: TranscribeOptions) -> Self {
        let configured = match jobs.config.whisper.language.as_str() {
            "auto" => None,
            code => Some(code.to_owned()),
        };
        // A list of candidates is a wish to detect.
        let configured = configured.filter(|_| options.candidate_languages.is_empty());
        let language = options.language.clone().or(configured);
        Self {
            jobs,
            admitted,
            options,
            id: RequestId::next(),
            language,
            assemblers: Vec::new(),
            segments: Vec::new(),
        }
    }

    async fn consume(
        &mut self,
        mut service: Service<'_>,
        mut messages: mpsc::Receiver<DecoderMessage>,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
    ) -> Result<Transcript, JobError> {
        let scheduler = self.jobs.scheduler.clone();
        let most = side_by_side(&self.admitted.lease, &scheduler) + WINDOWS_AHEAD;
        let mut running = FuturesOrdered::new();
        let mut samples = None;
        let mut open = true;
        let mut first = true;
        while open || !running.is_empty() {
            service.give_way(open);
            // Until the language is known, windows go one by one: the first with text decides for the file.
            let room = service.in_turn() && running.len() < if self.language_open() { 1 } else { most };
            tokio::select! {
                () = service.changed(), if open => {}
                message = messages.recv(), if open && room => match message {
                    Some(DecoderMessage::Window { channel, channels, window }) => {
                        let place = place(&window, channel, channels, self.options.vad.unwrap_or(self.jobs.config.speech.vad));
                        let task = WindowTask {
                            request: self.id,
                            class: self.admitted.class,
                            first: std::mem::take(&mut first),
                            lease: self.admitted.lease.clone(),
                            deadline: self.admitted.deadline.clone(),
                            options: self.decode_options(),
                            samples: window.samples,
                        };
                        let scheduler = scheduler.clone();
                        running.push_back(async move { (place, channel, scheduler.run(task).await) });
                        service.used = true;
                    }
                    Some(DecoderMessage::End { samples: n }) => samples = Some(n),
                    None => open = false,
                },
                Some((place, channel, outcome)) = running.next(), if !running.is_empty() => {
                    let window = outcome.map_err(engine_error)?;
                    let fresh = self.assemble(place, channel, window);
                    if !fresh.is_empty() {
                        self.segments.extend(fresh.iter().cloned());
                        service.send(events, JobEvent::Segments(fresh)).await?;
                    }
                }
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
        self.language.is_none() && self.admitted.lease.multilingual()
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
        let gpu = self
            .admitted
            .lease
            .model()
            .reports()
            .first()
            .is_some_and(|r| r.gpu);
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
