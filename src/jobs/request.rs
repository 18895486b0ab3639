//! One request's windows: which run when and with what options, what runs again, and how they become one transcript.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;

use super::decoding::DecoderMessage;
use super::second_look::{Heard, LanguageTracker, Verdict, is_mostly_vocabulary};
use super::service::Service;
use super::{JobError, JobEvent, LanguageMode, TranscribeOptions, WordingRequest, end_of_prompt};
use crate::admission::Admitted;
use crate::audio::SAMPLE_RATE_HZ;
use crate::config::{Config, Switch};
use crate::engine::{DecodeOptions, EngineError, VocabularyOptions};
use crate::metrics::{Metrics, Waiter};
use crate::schedule::{RequestId, Scheduler, WindowTask};
use crate::serving::{Lease, ServingError};
use crate::speech::Window;
use crate::transcript::wording::{Wording, WordingRules};
use crate::transcript::{Assembler, Place, Segment, Task, Transcript, WindowTranscript};

/// Windows decoded ahead of the engine, beyond those that it runs side by side.
pub(super) const WINDOWS_AHEAD: usize = 2;

/// Windows of one recording that run side by side: one a core, or as many as the engines have slots.
fn side_by_side(lease: &Lease, scheduler: &Scheduler) -> usize {
    let slots: usize = lease.model().reports().iter().map(|report| report.slots).sum();
    slots.max(scheduler.cores())
}

/// Whether each window may have a language of its own.
pub(super) fn is_per_window(config: &Config, options: &TranscribeOptions) -> bool {
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

/// One request's windows on their way through the engine.
pub(super) struct Request<'j> {
    config: &'j Config,
    scheduler: &'j Scheduler,
    metrics: &'j Arc<Metrics>,
    admitted: Arc<Admitted>,
    options: TranscribeOptions,
    id: RequestId,
    /// Given by the request or the configuration.
    language: Option<String>,
    /// Every window may have a language of its own.
    per_window: bool,
    vocabulary: Option<VocabularyOptions>,
    /// Until its first window begins.
    waiter: Option<Waiter>,
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
    pub(super) fn new(
        config: &'j Config,
        scheduler: &'j Scheduler,
        metrics: &'j Arc<Metrics>,
        admitted: Arc<Admitted>,
        waiter: Waiter,
        options: TranscribeOptions,
    ) -> Self {
        let configured = match config.whisper.language.as_str() {
            "auto" => None,
            code => Some(code.to_owned()),
        };
        // A list of candidates is a wish to detect.
        let configured = configured.filter(|_| options.candidate_languages.is_empty());
        let language = options.language.clone().or(configured);
        let mut phrases = options.keywords.clone();
        phrases.extend(config.vocabulary.phrases.iter().cloned());
        let weight = options.keyword_weight.unwrap_or(config.vocabulary.weight);
        Self {
            config,
            scheduler,
            metrics,
            admitted,
            id: RequestId::next(),
            per_window: is_per_window(config, &options),
            language,
            vocabulary: (!phrases.is_empty()).then_some(VocabularyOptions { phrases, weight }),
            wording: Wording::new(&wording_rules(config, &options.wording)),
            options,
            waiter: Some(waiter),
            channels: Vec::new(),
            undecided: 0,
            segments: Vec::new(),
        }
    }

    /// Every window's way through the engine, and the whole transcript. The turn in service goes round meanwhile.
    pub(super) async fn consume(
        &mut self,
        mut service: Service<'_>,
        mut messages: mpsc::Receiver<DecoderMessage>,
        events: &mpsc::Sender<Result<JobEvent, JobError>>,
    ) -> Result<Transcript, JobError> {
        let most = side_by_side(&self.admitted.lease, self.scheduler) + WINDOWS_AHEAD;
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
        self.metrics.segments_dropped.add(dropped);
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
        let vad = self.options.vad.unwrap_or(self.config.speech.vad);
        let place = place(&window, channel, channels, vad);
        let language = self.language_of(channel);
        let undecided = language.is_none() && self.admitted.lease.multilingual() && !self.per_window;
        self.undecided += usize::from(undecided);
        let task = WindowTask {
            waiter: self.waiter.take(),
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
            task: keep.then(|| task.again()),
        };
        let scheduler = self.scheduler.clone();
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let phrases = task.options.vocabulary.as_ref().map(|v| v.phrases.clone());
            let mut outcome = scheduler.run(task).await;
            if let (Ok(window), Some(phrases), Some(task)) = (&outcome, phrases, &again.task)
                && is_mostly_vocabulary(window, &phrases, place)
            {
                metrics.vocabulary_retries.add(1);
                let mut task = task.again();
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
        match (verdict, at.task.as_ref().map(WindowTask::again)) {
            (Verdict::Again(language), Some(mut task)) => {
                self.metrics.language_retries.add(1);
                task.options.language = Some(language);
                task.first = false;
                let scheduler = self.scheduler.clone();
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
        let whisper = &self.config.whisper;
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
