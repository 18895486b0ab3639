//! One window through a state: short context first, the second looks that a doubtful result deserves, `whisper_full` where
//! plain decoding is not what was asked for.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperState};

use super::super::child::Slot;
use super::super::courtesy::Control;
use super::super::decode::{self, Choice, Hypothesis, StepError, Steps, Vocabulary};
use super::super::guard::{MIN_AVG_LOGPROB, NO_SPEECH_THRESHOLD, better, doubtful, preferred, unusable};
use super::super::message::DecodeOptions;
use super::super::pace::Pace;
use super::alignment::{Alignment, ends_to_onsets};
use super::steps::Run;
use super::{Whisper, engine_error, quiet};
use crate::audio::SAMPLE_RATE_HZ;
use crate::languages::LANGUAGES;
use crate::transcript::{Task, WindowSegment, WindowToken, WindowTranscript};

/// Encoder positions for each second (30 s have 1,500).
const POSITIONS_PER_SECOND: f32 = 50.0;
/// Positions beyond the window's end. With 64 `base` mishears a word in a hundred more, and repeats itself now and then
/// (docs/performance.md).
const CONTEXT_MARGIN: u32 = 192;
/// whisper.cpp reads past the end of very short inputs and answers nothing below 0.1 s.
const SHORTEST_INPUT_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Each fallback is this much warmer (openai-whisper `temperature` 0.0, 0.2 … 1.0).
const TEMPERATURE_STEP: f32 = 0.2;
/// Decoders sampled at temperatures above 0 (openai-whisper `best_of`).
const BEST_OF: u32 = 5;
/// Audio left undecoded beyond this many seconds is decoded in another pass over the same window.
const REMAINDER_SECONDS: f32 = 1.0;
/// Passes over one window at most; each takes at least one segment off its front.
const MAX_PASSES: usize = 8;

/// One worker's state, and what all share.
pub(super) struct WhisperSlot {
    state: WhisperState,
    aligned: Option<WhisperState>,
    context: Arc<WhisperContext>,
    alignment: Arc<Alignment>,
    vocabulary: Arc<Vocabulary>,
    pace: Arc<Mutex<Pace>>,
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
            pace: model.pace.clone(),
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
        control: Control<'_>,
    ) -> Result<WindowTranscript, Option<String>> {
        let began = Instant::now();
        let window = Input::new(samples);
        let result = self.transcribe(&window, options, threads.max(1), control);
        let mut transcript = result.map_err(|e| match e {
            StepError::Cancelled => None,
            StepError::Engine(detail) => Some(detail),
        })?;
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

    fn context(&self, short: bool, full: u32) -> u32 {
        if !short {
            return full;
        }
        let seconds = self.samples.len() as f32 / SAMPLE_RATE_HZ as f32;
        let needed = (seconds * POSITIONS_PER_SECOND).ceil() as u32 + CONTEXT_MARGIN;
        needed.next_multiple_of(32).min(full)
    }
}

impl WhisperSlot {
    fn transcribe(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        threads: u32,
        control: Control<'_>,
    ) -> Result<WindowTranscript, StepError> {
        let full = self.context.model_n_audio_ctx() as u32;
        let short = window.context(options.short_context, full);
        let plain = options.temperature == 0.0 && options.beam_size <= 1;

        let mut language = options.language.as_deref().and_then(language_index);
        if !plain || options.word_times {
            if language.is_none() && !self.vocabulary.languages.is_empty() {
                self.encode(window, short, 0, threads)?;
                language = self.detect(options, threads)?;
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
        language = first.language.as_deref().and_then(language_index);
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
            temperature: (TEMPERATURE_STEP, TEMPERATURE_STEP),
            aligned: false,
        };
        let warm = self.full(window, options, &ask, threads, control)?;
        Ok(WindowTranscript {
            full_context_retry: retried,
            ..better(best, warm)
        })
    }

    /// Puts the window's spectrogram and encoder length into the state, then encodes from `offset` (10 ms steps).
    fn encode(
        &mut self,
        window: &Input<'_>,
        context: u32,
        offset: usize,
        threads: u32,
    ) -> Result<(), StepError> {
        // There is no call that sets the encoder's length. `whisper_full` over the first 100 ms does nothing
        // else: it stores the spectrogram and the length and finds too little to decode.
        let mut params = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
        quiet(&mut params, threads);
        params.set_duration_ms(100);
        params.set_audio_ctx(context as i32);
        self.state.full(params, &window.samples).map_err(engine_error)?;
        self.state.encode(offset, threads as usize).map_err(engine_error)
    }

    fn detect(&mut self, options: &DecodeOptions, threads: u32) -> Result<Option<usize>, StepError> {
        let start = self.vocabulary.start_of_transcript;
        self.state
            .decode(&[start], 0, threads as usize)
            .map_err(engine_error)?;
        let logits = self.state.get_logits().map_err(engine_error)?;
        Ok(decode::language(logits, &self.vocabulary, &candidates(options)).map(|(index, _)| index))
    }

    fn greedy(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        mut language: Option<usize>,
        context: u32,
        threads: u32,
        control: Control<'_>,
    ) -> Result<WindowTranscript, StepError> {
        let v = self.vocabulary.clone();
        let prompt = self.prompt_tokens(options.prompt.as_deref());
        let mut transcript = WindowTranscript::default();
        let mut offset_seconds = 0.0_f32;
        for pass in 0..MAX_PASSES {
            if control.cancelled() {
                return Err(StepError::Cancelled);
            }
            self.encode(window, context, (offset_seconds * 100.0) as usize, threads)?;
            let mut run = Run::new(&mut self.state, threads as usize, &self.pace, control);
            let mut logits = Vec::new();
            if !prompt.is_empty() && pass == 0 {
                run.step(v.previous, &mut logits)?;
                run.feed(&prompt)?;
            }
            run.step(v.start_of_transcript, &mut logits)?;
            let no_speech_prob = decode::probability(&logits, v.no_speech);
            if !v.languages.is_empty() {
                if language.is_none() {
                    language = decode::language(&logits, &v, &candidates(options)).map(|(i, _)| i);
                }
                run.step(v.languages.start + language.unwrap_or(0) as i32, &mut logits)?;
                let task = match options.task {
                    Task::Transcribe => v.transcribe,
                    Task::Translate => v.translate,
                };
                run.step(task, &mut logits)?;
            }
            let left = window.seconds - offset_seconds;
            let last_timestamp =
                v.first_timestamp + (left.min(30.0) / decode::TIMESTAMP_STEP_SECONDS).ceil() as i32;
            let last_timestamp = last_timestamp.min(v.size as i32 - 1);
            // Nobody says more than about 20 tokens a second.
            let max_tokens = v.max_tokens.min(24 + (left * 24.0) as usize);
            let forced = forced(&options.prefix, &v, max_tokens, pass == 0);
            if let Some((last, before)) = forced.split_last() {
                run.feed(before)?;
                run.step(*last, &mut logits)?;
            }
            let hypothesis = decode::greedy(&mut run, &v, &mut logits, last_timestamp, max_tokens, &forced)?;
            let silent = no_speech_prob > NO_SPEECH_THRESHOLD && hypothesis.avg_logprob < MIN_AVG_LOGPROB;
            if silent {
                break;
            }
            let consumed = self.append(&mut transcript, &hypothesis, offset_seconds, left, no_speech_prob);
            offset_seconds += consumed;
            if !hypothesis.complete || window.seconds - offset_seconds < REMAINDER_SECONDS {
                break;
            }
        }
        transcript.language = self.language_code(language);
        Ok(transcript)
    }

    /// Cuts a hypothesis into segments; returns how many seconds of audio it covers.
    fn append(
        &self,
        transcript: &mut WindowTranscript,
        hypothesis: &Hypothesis,
        offset: f32,
        left: f32,
        no_speech_prob: f32,
    ) -> f32 {
        let v = &self.vocabulary;
        let mut current: Vec<Choice> = Vec::new();
        let mut start = 0.0;
        let mut last_end = None;
        let mut push = |tokens: &mut Vec<Choice>, start: f32, end: f32| {
            if tokens.iter().any(|t| t.id < v.end_of_text) {
                transcript.segments.push(WindowSegment {
                    start: offset + start,
                    end: offset + end.min(left),
                    tokens: tokens.iter().map(|t| self.token(*t)).collect(),
                    no_speech_prob,
                });
            }
            tokens.clear();
        };
        for token in &hypothesis.tokens {
            let has_text = current.iter().any(|t| t.id < v.end_of_text);
            current.push(*token);
            if token.id >= v.first_timestamp {
                let at = v.seconds(token.id);
                if has_text {
                    push(&mut current, start, at);
                    last_end = Some(at);
                }
                start = at;
            }
        }
        let ended_in_text = current.iter().any(|t| t.id < v.end_of_text);
        push(&mut current, start, left);
        // Two timestamps at the end: the model itself says that more follows. One or none: the window is done.
        let mut tail = hypothesis.tokens.iter().rev();
        let is_time = |t: Option<&Choice>| t.is_some_and(|t| t.id >= v.first_timestamp);
        let more_follows = is_time(tail.next()) && is_time(tail.next());
        match last_end {
            Some(end) if more_follows && !ended_in_text && end > 0.0 => end,
            _ => left,
        }
    }

    fn token(&self, choice: Choice) -> WindowToken {
        let bytes = if choice.id < self.vocabulary.end_of_text {
            self.context
                .token_to_bytes(choice.id)
                .map(<[u8]>::to_vec)
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        WindowToken {
            id: choice.id,
            bytes,
            logprob: choice.logprob,
            onset: None,
        }
    }

    fn prompt_tokens(&self, prompt: Option<&str>) -> Vec<i32> {
        let Some(prompt) = prompt.map(str::trim).filter(|p| !p.is_empty()) else {
            return Vec::new();
        };
        // openai-whisper puts a space before it and keeps the last half of the text context, less one.
        let tokens = self
            .context
            .tokenize(&format!(" {prompt}"), prompt.len() + 8)
            .unwrap_or_default();
        let keep = self.context.model_n_text_ctx() as usize / 2 - 1;
        tokens[tokens.len().saturating_sub(keep)..].to_vec()
    }

    fn language_code(&self, index: Option<usize>) -> Option<String> {
        if self.vocabulary.languages.is_empty() {
            return Some("en".to_owned());
        }
        index
            .and_then(|i| LANGUAGES.get(i))
            .map(|(code, _)| (*code).to_owned())
    }

    fn full(
        &mut self,
        window: &Input<'_>,
        options: &DecodeOptions,
        ask: &FullRun,
        threads: u32,
        control: Control<'_>,
    ) -> Result<WindowTranscript, StepError> {
        let best_of = BEST_OF.min(self.max_decoders) as i32;
        let strategy = if options.beam_size > 1 {
            SamplingStrategy::BeamSearch {
                beam_size: options.beam_size.min(self.max_decoders) as i32,
                patience: -1.0,
            }
        } else {
            SamplingStrategy::Greedy { best_of }
        };
        let prompt = self.prompt_tokens(options.prompt.as_deref());
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
            language: self.language_code(ask.language),
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

/// The tokens that the first pass over a window begins with: a timestamp, as the model's grammar has it, then the text.
fn forced(prefix: &[i32], v: &Vocabulary, most: usize, first_pass: bool) -> Vec<i32> {
    let text = prefix
        .iter()
        .copied()
        .filter(|id| (0..v.end_of_text).contains(id));
    let mut forced: Vec<i32> = if first_pass {
        text.take(most).collect()
    } else {
        Vec::new()
    };
    if !forced.is_empty() {
        forced.insert(0, v.first_timestamp);
    }
    forced
}

/// One call of `whisper_full`.
#[derive(Clone, Copy)]
struct FullRun {
    language: Option<usize>,
    context: u32,
    /// First, step.
    temperature: (f32, f32),
    aligned: bool,
}

fn candidates(options: &DecodeOptions) -> Vec<usize> {
    options
        .candidate_languages
        .iter()
        .filter_map(|code| language_index(code))
        .collect()
}

fn language_index(code: &str) -> Option<usize> {
    LANGUAGES.iter().position(|(known, _)| *known == code)
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
