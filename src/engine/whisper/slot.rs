//! One window through a state: short context first, the second looks that a doubtful result deserves, `whisper_full` where
//! plain decoding is not what was asked for.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperState};

use super::super::child::Slot;
use super::super::decode::{self, Row, StepError, Steps, Strategy, Vocabulary};
use super::super::guard::{MIN_AVG_LOGPROB, NO_SPEECH_THRESHOLD, better, doubtful, preferred, unusable};
use super::super::message::DecodeOptions;
use super::super::preemption::Control;
use super::super::thread_tuner::ThreadTuner;
use super::super::window::{
    Attempt, BEST_OF, Forward, LIVE_TEMPERATURE, TEMPERATURE_STEP, candidates, lengths, passes, phrases,
};
use super::alignment::{Alignment, ends_to_onsets};
use super::steps::Run;
use super::{Whisper, engine_error, quiet};
use crate::audio::SAMPLE_RATE_HZ;
use crate::languages::LANGUAGES;
use crate::transcript::{Task, WindowSegment, WindowToken, WindowTranscript};

/// Positions beyond the window's end. With 64 `base` mishears a word in a hundred more, and repeats itself now and then
/// (docs/performance.md).
const CONTEXT_MARGIN: usize = 192;
/// whisper.cpp reads past the end of very short inputs and answers nothing below 0.1 s.
const SHORTEST_INPUT_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

/// One worker's state, and what all share.
pub(super) struct WhisperSlot {
    state: WhisperState,
    aligned: Option<WhisperState>,
    context: Arc<WhisperContext>,
    alignment: Arc<Alignment>,
    vocabulary: Arc<Vocabulary>,
    tuner: Arc<Mutex<ThreadTuner>>,
    /// Probability of the language detected in this run.
    heard: Option<f32>,
    max_decoders: u32,
}

impl WhisperSlot {
    pub(super) fn new(model: &Whisper, state: WhisperState) -> Self {
        Self {
            state,
            aligned: None,
            context: model.context.clone(),
            alignment: model.alignment.clone(),
            vocabulary: model.vocabulary.clone(),
            tuner: model.tuner.clone(),
            heard: None,
            max_decoders: model.spec.max_decoders.clamp(1, 8),
        }
    }
}

impl Slot for WhisperSlot {
    fn run(
        &mut self,
        samples: &[f32],
        options: &DecodeOptions,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, Option<String>> {
        let began = Instant::now();
        let window = Input::new(samples);
        self.heard = None;
        let result = self.transcribe(&window, options, threads.max(1), control);
        let mut transcript = result.map_err(|e| match e {
            StepError::Cancelled => None,
            StepError::Engine(detail) => Some(detail),
        })?;
        transcript.language_probability = self.heard;
        transcript.inference_seconds = began.elapsed().as_secs_f32();
        Ok(transcript)
    }

    fn warm(&mut self, threads: u32) -> Result<(), String> {
        let silence = vec![0.0; SHORTEST_INPUT_SAMPLES];
        let mut params = FullParams::new(SamplingStrategy::BeamSearch {
            beam_size: self.max_decoders as i32,
            patience: -1.0,
        });
        quiet(&mut params, threads);
        params.set_temperature_inc(0.0);
        params.set_audio_ctx(128);
        params.set_max_tokens(2);
        self.state
            .full(params, &silence)
            .map_err(|e| format!("the first run failed: {e}"))
    }
}

/// A window's samples, padded so that whisper.cpp takes them.
struct Input<'a> {
    samples: std::borrow::Cow<'a, [f32]>,
    seconds: f32,
}

impl<'a> Input<'a> {
    fn new(samples: &'a [f32]) -> Self {
        let seconds = samples.len() as f32 / SAMPLE_RATE_HZ as f32;
        let samples = if samples.len() < SHORTEST_INPUT_SAMPLES {
            let mut padded = samples.to_vec();
            padded.resize(SHORTEST_INPUT_SAMPLES, 0.0);
            padded.into()
        } else {
            samples.into()
        };
        Self { samples, seconds }
    }

    /// The encoder's lengths to try, shortest first.
    fn lengths(&self, short: bool, full: usize) -> Vec<usize> {
        let seconds = self.samples.len() as f32 / SAMPLE_RATE_HZ as f32;
        lengths(seconds, &[CONTEXT_MARGIN], full, short)
    }
}

impl WhisperSlot {
    fn transcribe(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, StepError> {
        let full = self.context.model_n_audio_ctx() as usize;
        let short = window.lengths(options.short_context, full)[0];
        let plain = options.temperature == 0.0 && options.beam_size <= 1;

        let mut language = options
            .language
            .as_deref()
            .and_then(|code| self.vocabulary.language_index(code));
        if !plain || options.word_times {
            if language.is_none() && !self.vocabulary.languages.is_empty() {
                language = self.detect(window, options, short, threads, control)?;
            }
            let temperature = (options.temperature, TEMPERATURE_STEP);
            let ask = FullRun {
                language,
                context: short,
                temperature,
                aligned: options.word_times,
            };
            let first = self.full(window, options, &ask, threads, control)?;
            if short == full || !doubtful(&first, window.seconds) {
                return Ok(first);
            }
            let again = self.full(
                window,
                options,
                &FullRun { context: full, ..ask },
                threads,
                control,
            )?;
            return Ok(WindowTranscript {
                full_context_retry: true,
                ..preferred(again, first)
            });
        }

        let mut first = self.greedy(window, options, language, short, threads, control)?;
        if options.draft {
            first.doubtful = doubtful(&first, window.seconds);
            return Ok(first);
        }
        if !doubtful(&first, window.seconds) || (short == full && !unusable(&first, window.seconds)) {
            return Ok(first);
        }
        language = first
            .language
            .as_deref()
            .and_then(|code| self.vocabulary.language_index(code));
        let mut best = first;
        if short < full {
            let again = self.greedy(window, options, language, full, threads, control)?;
            best = WindowTranscript {
                full_context_retry: true,
                ..preferred(again, best)
            };
            if !unusable(&best, window.seconds) {
                return Ok(best);
            }
        }
        if !options.prefix.is_empty() {
            return Ok(best); // `whisper_full` cannot be made to begin with a given text
        }
        let retried = best.full_context_retry;
        let ask = FullRun {
            language,
            context: full,
            temperature: if options.live {
                (LIVE_TEMPERATURE, 0.0)
            } else {
                (TEMPERATURE_STEP, TEMPERATURE_STEP)
            },
            aligned: false,
        };
        let warm = self.full(window, options, &ask, threads, control)?;
        Ok(WindowTranscript {
            full_context_retry: retried,
            ..better(best, warm)
        })
    }

    /// A window on this slot's state.
    fn on<'s>(&'s mut self, window: &'s Input<'_>, threads: u32, control: &'s Control) -> Run<'s> {
        Run::new(
            &mut self.state,
            &window.samples,
            threads as usize,
            &self.tuner,
            control,
        )
    }

    fn detect(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        positions: usize,
        threads: u32,
        control: &Control,
    ) -> Result<Option<usize>, StepError> {
        let v = self.vocabulary.clone();
        let mut run = self.on(window, threads, control);
        let mut logits = Vec::new();
        decode::now(async {
            run.encode(0.0, positions).await?;
            let start = Row {
                hypothesis: 0,
                tokens: &[v.start_of_transcript],
                every: false,
            };
            run.step(&[start], &mut logits).await
        })?;
        let detected = decode::language(&logits, &v, &candidates(options, &v));
        self.heard = detected.map(|(_, probability)| probability);
        Ok(detected.map(|(index, _)| index))
    }

    fn greedy(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        language: Option<usize>,
        positions: usize,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, StepError> {
        let v = self.vocabulary.clone();
        let attempt = Attempt {
            language,
            language_probability: self.heard,
            positions,
            strategy: Strategy::Greedy,
        };
        let mut run = self.on(window, threads, control);
        let transcript = decode::now(passes(&mut run, &v, window.seconds, options, attempt))?;
        self.heard = transcript.language_probability;
        Ok(transcript)
    }

    fn full(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        ask: &FullRun,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, StepError> {
        let best_of = BEST_OF.min(self.max_decoders as usize) as i32;
        let strategy = if options.beam_size > 1 {
            SamplingStrategy::BeamSearch {
                beam_size: options.beam_size.min(self.max_decoders) as i32,
                patience: -1.0,
            }
        } else {
            SamplingStrategy::Greedy { best_of }
        };
        let prompt = self
            .vocabulary
            .prompt(options.prompt.as_deref(), phrases(options));
        let mut params = FullParams::new(strategy);
        quiet(&mut params, threads);
        params.set_tokens(&prompt);
        let code = ask
            .language
            .and_then(|i| LANGUAGES.get(i))
            .map_or("en", |(code, _)| *code);
        params.set_language(Some(code));
        params.set_translate(options.task == Task::Translate);
        params.set_temperature(ask.temperature.0);
        params.set_temperature_inc(ask.temperature.1);
        params.set_audio_ctx(ask.context as i32);
        params.set_logprob_thold(MIN_AVG_LOGPROB);
        params.set_no_speech_thold(NO_SPEECH_THRESHOLD);
        set_abort(&mut params, control.flag());

        let state = if ask.aligned {
            if self.aligned.is_none() {
                self.aligned = Some(self.alignment.state().map_err(StepError::Engine)?);
            }
            self.aligned.as_mut().unwrap_or(&mut self.state)
        } else {
            &mut self.state
        };
        let outcome = state.full(params, &window.samples);
        if control.cancelled() {
            return Err(StepError::Cancelled);
        }
        outcome.map_err(engine_error)?;

        let mut transcript = WindowTranscript {
            temperature: ask.temperature.0,
            language: self.vocabulary.language_code(ask.language),
            ..WindowTranscript::default()
        };
        let state = if ask.aligned {
            self.aligned.as_ref().unwrap_or(&self.state)
        } else {
            &self.state
        };
        for segment in state.as_iter() {
            let mut tokens = Vec::new();
            for index in 0..segment.n_tokens() {
                let Some(token) = segment.get_token(index) else {
                    continue;
                };
                let data = token.token_data();
                if data.id == self.vocabulary.end_of_text {
                    continue;
                }
                let is_text = data.id < self.vocabulary.end_of_text;
                tokens.push(WindowToken {
                    id: data.id,
                    bytes: if is_text {
                        token.to_bytes().map(<[u8]>::to_vec).unwrap_or_default()
                    } else {
                        Vec::new()
                    },
                    logprob: if data.plog.is_finite() {
                        data.plog.min(0.0)
                    } else {
                        -100.0
                    },
                    onset: (ask.aligned && is_text && data.t_dtw >= 0).then_some(data.t_dtw as f32 / 100.0),
                });
            }
            transcript.segments.push(WindowSegment {
                start: (segment.start_timestamp() as f32 / 100.0).min(window.seconds),
                end: (segment.end_timestamp() as f32 / 100.0).min(window.seconds),
                tokens,
                no_speech_prob: segment.no_speech_probability(),
            });
        }
        if ask.aligned {
            ends_to_onsets(&mut transcript);
        }
        Ok(transcript)
    }
}

/// One call of `whisper_full`.
#[derive(Clone, Copy)]
struct FullRun {
    language: Option<usize>,
    context: usize,
    /// First, step.
    temperature: (f32, f32),
    aligned: bool,
}

/// whisper.cpp asks this between encoder and decoder steps whether to stop.
#[allow(
    unsafe_code,
    reason = "the safe wrapper reads its closure through the wrong type (whisper-rs 0.16.0)"
)]
fn set_abort(params: &mut FullParams<'_, '_>, cancel: &AtomicBool) {
    unsafe extern "C" fn cancelled(flag: *mut c_void) -> bool {
        // SAFETY: `flag` is the `AtomicBool` below, which outlives the call of `whisper_full`.
        unsafe { &*flag.cast::<AtomicBool>() }.load(Ordering::Relaxed)
    }
    // SAFETY: the caller runs `full` with these parameters while it still borrows `cancel`.
    unsafe {
        params.set_abort_callback(Some(cancelled));
        params.set_abort_callback_user_data(std::ptr::from_ref(cancel).cast_mut().cast());
    }
}
