//! The walk itself: decode → windows → schedule → assemble, with nothing held for longer than it must.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::decoding::{Decoder, DecoderMessage};
use super::second_look::{Heard, LanguageTracker, Verdict, is_mostly_vocabulary};
use super::{
    JobError, JobEvent, JobHandle, JobRunner, LanguageMode, TranscribeOptions, WordingRequest, end_of_prompt,
};
use crate::admission::turns::Turn;
use crate::admission::{Admission, Admitted};
use crate::audio::{AudioError, ChannelMode, Decoders, SAMPLE_RATE_HZ, UploadedAudio};
use crate::config::{Config, Switch};
use crate::engine::{DecodeOptions, EngineError, VocabularyOptions};
use crate::locale::Locale;
use crate::metrics::Metrics;
use crate::schedule::{Deadline, PriorityClass, RequestId, Scheduler, WindowTask};
use crate::serving::{Lease, ModelInfo, Registry, ServingError};
use crate::speech::{Window, WindowerOptions};
use crate::transcript::wording::{Wording, WordingRules};
use crate::transcript::{Assembler, Place, Segment, Task, Transcript, WindowTranscript};

/// Windows decoded ahead of the engine, beyond those that it runs side by side.
const WINDOWS_AHEAD: usize = 2;
/// Events a slow client may leave unread before its request pauses.
const EVENTS_AHEAD: usize = 64;
/// Lengths of windows that may each have a language of their own: long enough to recognise one, short enough that few
/// hold two (bench/RESULTS.md).
const PER_WINDOW_TARGET: Duration = Duration::from_secs(8);
const PER_WINDOW_MINIMUM: Duration = Duration::from_secs(3);
const PER_WINDOW_GAP: Duration = Duration::from_millis(500);
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

/// Whether each window may have a language of its own.
fn is_per_window(config: &Config, options: &TranscribeOptions) -> bool {
    let configured = config.whisper.language.as_str() != "auto" && options.candidate_languages.is_empty();
    let mode = options
        .language_mode
        .unwrap_or(if options.candidate_languages.len() > 1 {
            LanguageMode::PerWindow
        } else {
            config.whisper.language_mode
        });
    // A language that is given leaves nothing to find.
    mode == LanguageMode::PerWindow && options.language.is_none() && !configured
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
    /// Given by the request or the configuration.
    language: Option<String>,
    /// Every window may have a language of its own.
    per_window: bool,
    vocabulary: Option<VocabularyOptions>,
    wording: Wording,
    channels: Vec<ChannelState>,
    /// Windows under way whose channel's language is still to be found.
    undecided: usize,
    segments: Vec<Segment>,
}

/// What is known of one channel, or of the whole recording.
struct ChannelState {
    assembler: Assembler,
    tracker: LanguageTracker<Again>,
}

/// How to run a window again.
struct Again {
    place: Place,
    channel: u16,
    /// Absent where no second run can be wanted.
    task: Option<WindowTask>,
}

type Outcome = (Again, bool, Result<WindowTranscript, EngineError>);

impl<'j> Request<'j> {
    fn new(jobs: &'j Inner, admitted: Arc<Admitted>, options: TranscribeOptions) -> Self {
        let configured = match jobs.config.whisper.language.as_str() {
            "auto" => None,
            code => Some(code.to_owned()),
        };
        // A list of candidates is a wish to detect.
        let configured = configured.filter(|_| options.candidate_languages.is_empty());
        let language = options.language.clone().or(configured);
        let mut phrases = options.keywords.clone();
        phrases.extend(jobs.config.vocabulary.phrases.iter().cloned());
        let weight = options.keyword_weight.unwrap_or(jobs.config.vocabulary.weight);
        Self {
            jobs,
            admitted,
            id: RequestId::next(),
            per_window: is_per_window(&jobs.config, &options),
            language,
            vocabulary: (!phrases.is_empty()).then_some(VocabularyOptions { phrases, weight }),
            wording: Wording::new(&wording_rules(&jobs.config, &options.wording)),
            options,
            channels: Vec::new(),
            undecided: 0,
            segments: Vec::new(),
        }
    }

    async fn consume(
        &mut self,
        mut service: Service<'_>,
        mut messages: mpsc::Receiver<DecoderMessage>,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
    ) -> Result<Transcript, JobError> {
        let most = side_by_side(&self.admitted.lease, &self.jobs.scheduler) + WINDOWS_AHEAD;
        let mut running: FuturesOrdered<BoxFuture<'static, Outcome>> = FuturesOrdered::new();
        // Windows whose language is settled, in order; some of them run again.
        let mut settled: FuturesOrdered<BoxFuture<'static, Outcome>> = FuturesOrdered::new();
        let mut samples = None;
        let mut open = true;
        let mut first = true;
        loop {
            if !open && running.is_empty() {
                let rest = self.decide_rest();
                if rest.is_empty() && settled.is_empty() {
                    break;
                }
                for decided in rest {
                    settled.push_back(self.settle(decided));
                }
            }
            service.give_way(open);
            // Until a channel's language is known its windows go one by one: the first with text decides for the file.
            let room = service.in_turn() && self.undecided == 0 && running.len() + settled.len() < most;
            tokio::select! {
                () = service.changed(), if open => {}
                message = messages.recv(), if open && room => match message {
                    Some(DecoderMessage::Window { channel, channels, window }) => {
                        self.has_channels(channels)?;
                        if self.is_wanted(channel) {
                            running.push_back(self.run(window, channel, channels, std::mem::take(&mut first)));
                        }
                        service.used = true;
                    }
                    Some(DecoderMessage::End { samples: n }) => samples = Some(n),
                    None => open = false,
                },
                Some((again, undecided, outcome)) = running.next(), if !running.is_empty() => {
                    self.undecided -= usize::from(undecided);
                    let window = outcome.map_err(engine_error)?;
                    for decided in self.decide(again, window) {
                        settled.push_back(self.settle(decided));
                    }
                }
                Some((again, _, outcome)) = settled.next(), if !settled.is_empty() => {
                    let window = outcome.map_err(engine_error)?;
                    let fresh = self.assemble(again.place, again.channel, window);
                    if !fresh.is_empty() {
                        self.segments.extend(fresh.iter().cloned());
                        service.send(events, JobEvent::Segments(fresh)).await?;
                    }
                }
            }
        }
        let dropped: u64 = self.channels.iter().map(|c| c.assembler.dropped()).sum();
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
                .channels
                .iter()
                .find_map(|c| c.assembler.language().map(str::to_owned))
                .or_else(|| self.language.clone()),
            duration: samples.unwrap_or(0) as f32 / SAMPLE_RATE_HZ as f32,
            languages: self.per_window.then(|| languages_of(&segments)),
            segments,
        })
    }

    fn is_wanted(&self, channel: u16) -> bool {
        let only = self.options.only_channels.as_ref();
        only.is_none_or(|list| !self.options.separate_channels || list.contains(&channel))
    }

    /// Refuses a recording with too few channels.
    fn has_channels(&self, count: u16) -> Result<(), JobError> {
        let wanted = self.options.only_channels.iter().flatten();
        match wanted.copied().find(|channel| *channel >= count) {
            Some(asked) => Err(JobError::NoSuchChannel { asked, count }),
            None => Ok(()),
        }
    }

    fn channel(&mut self, channel: u16) -> &mut ChannelState {
        let word_times = self.options.word_times;
        let most = usize::from(channel) + 1;
        while self.channels.len() < most {
            self.channels.push(ChannelState {
                assembler: Assembler::new(word_times),
                tracker: LanguageTracker::new(),
            });
        }
        &mut self.channels[usize::from(channel)]
    }

    /// The language that the channel's windows are to be written in; `None` lets the model find it.
    fn language_of(&mut self, channel: u16) -> Option<String> {
        if let Some(language) = &self.language {
            return Some(language.clone());
        }
        if self.per_window {
            return None;
        }
        self.channel(channel).assembler.language().map(str::to_owned)
    }

    /// A window's first run, and its second where its text is only what it was told to expect.
    fn run(
        &mut self,
        window: Window,
        channel: u16,
        channels: u16,
        first: bool,
    ) -> BoxFuture<'static, Outcome> {
        let vad = self.options.vad.unwrap_or(self.jobs.config.speech.vad);
        let place = place(&window, channel, channels, vad);
        let language = self.language_of(channel);
        let undecided = language.is_none() && self.admitted.lease.multilingual() && !self.per_window;
        self.undecided += usize::from(undecided);
        let task = WindowTask {
            request: self.id,
            class: self.admitted.class,
            first,
            lease: self.admitted.lease.clone(),
            deadline: self.admitted.deadline.clone(),
            options: self.decode_options(language),
            samples: window.samples,
        };
        let keep = self.per_window || self.vocabulary.is_some();
        let again = Again {
            place,
            channel,
            task: keep.then(|| task.clone()),
        };
        let scheduler = self.jobs.scheduler.clone();
        Box::pin(async move {
            let phrases = task.options.vocabulary.as_ref().map(|v| v.phrases.clone());
            let mut outcome = scheduler.run(task).await;
            if let (Ok(window), Some(phrases), Some(task)) = (&outcome, phrases, &again.task)
                && is_mostly_vocabulary(window, &phrases, place)
            {
                let mut task = task.clone();
                task.options.vocabulary = None;
                outcome = scheduler.run(task).await;
            }
            (again, undecided, outcome)
        })
    }

    /// Windows whose language is decided by this one, in order.
    fn decide(&mut self, again: Again, window: WindowTranscript) -> Vec<(Heard<Again>, Verdict)> {
        let heard = Heard { at: again, window };
        if self.per_window {
            self.channel(heard.at.channel).tracker.push(heard)
        } else {
            vec![(heard, Verdict::Keep)]
        }
    }

    fn decide_rest(&mut self) -> Vec<(Heard<Again>, Verdict)> {
        self.channels
            .iter_mut()
            .filter_map(|channel| channel.tracker.finish())
            .collect()
    }

    /// The window as it is, or run again in its channel's language.
    fn settle(&self, (heard, verdict): (Heard<Again>, Verdict)) -> BoxFuture<'static, Outcome> {
        let Heard { at, window } = heard;
        match (verdict, at.task.clone()) {
            (Verdict::Again(language), Some(mut task)) => {
                task.options.language = Some(language);
                task.first = false;
                let scheduler = self.jobs.scheduler.clone();
                Box::pin(async move {
                    let outcome = scheduler.run(task).await;
                    (at, false, outcome)
                })
            }
            _ => Box::pin(std::future::ready((at, false, Ok(window)))),
        }
    }

    fn assemble(&mut self, place: Place, channel: u16, window: WindowTranscript) -> Vec<Segment> {
        let mut segments = self.channel(channel).assembler.push(place, window);
        if !self.wording.is_empty() {
            let translated = self.options.task == Task::Translate;
            segments.retain_mut(|segment| {
                let language = if translated {
                    Some("en".to_owned())
                } else {
                    segment.language.clone()
                };
                self.wording.apply(segment, language.as_deref())
            });
        }
        segments
    }

    fn decode_options(&self, language: Option<String>) -> DecodeOptions {
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
            language,
            candidate_languages: self.options.candidate_languages.clone(),
            prompt: end_of_prompt(self.options.prompt.as_deref()),
            vocabulary: self.vocabulary.clone(),
            temperature: self.options.temperature,
            beam_size: self
                .options
                .beam_size
                .unwrap_or(whisper.beam_size.or(0) as u32)
                .min(8),
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

/// Codes of all segments' languages, in the order in which they come.
fn languages_of(segments: &[Segment]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for language in segments.iter().filter_map(|segment| segment.language.as_ref()) {
        if !all.contains(language) {
            all.push(language.clone());
        }
    }
    all
}

/// The request's wishes over the configuration's.
fn wording_rules(config: &Config, request: &WordingRequest) -> WordingRules {
    let configured = &config.wording;
    let mut replacements = request.replacements.clone();
    replacements.extend(
        config
            .replacements
            .iter()
            .map(|(from, to)| (from.clone(), to.clone())),
    );
    let mut profanity_words = request.profanity_words.clone();
    profanity_words.extend(configured.profanity_words.iter().cloned());
    WordingRules {
        style: request.style.unwrap_or(configured.style),
        replacements,
        profanity: request.profanity.unwrap_or(configured.profanity),
        profanity_words,
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
