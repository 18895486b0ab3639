//! One window's text: the prompt, the language, passes over the window, segments, word times, and second looks where the
//! result is doubtful. The same for every engine that can run single steps.

use super::decode::{
    self, Choice, Hypothesis, Limits, Row, StepError, Steps, Strategy, TokenTrie, Vocabulary,
};
use super::guard::{MIN_AVG_LOGPROB, NO_SPEECH_THRESHOLD, better, doubtful, preferred, unusable};
use super::message::DecodeOptions;
use crate::transcript::{Task, WindowSegment, WindowToken, WindowTranscript};

/// Encoder positions for each second (30 s have 1,500).
pub(super) const POSITIONS_PER_SECOND: f32 = 50.0;
/// Each fallback is this much warmer (openai-whisper `temperature` 0.0, 0.2 … 1.0).
pub(super) const TEMPERATURE_STEP: f32 = 0.2;
/// The only fallback of a window that is listened to as it is spoken: the middle of those, warm enough to leave a loop.
pub(super) const LIVE_TEMPERATURE: f32 = 0.4;
/// Texts drawn at temperatures above 0 (openai-whisper `best_of`).
pub(super) const BEST_OF: usize = 5;
/// Audio left undecoded beyond this many seconds is decoded in another pass over the same window.
const REMAINDER_SECONDS: f32 = 1.0;
/// Passes over one window at most; each takes at least one segment off its front.
const MAX_PASSES: usize = 8;

/// What an engine does for one window.
pub(super) trait Forward: Steps {
    /// Encodes the sound from `offset` seconds on over `positions` positions; one empty hypothesis is left.
    async fn encode(&mut self, offset: f32, positions: usize) -> Result<(), StepError>;

    /// For the window as encoded last: seconds at which each of the tokens from `first` to the one before the last begins,
    /// where `tokens` are a whole text with its prompt and end, and the sound ends after `heard` seconds.
    async fn onsets(&mut self, tokens: &[i32], first: usize, heard: f32) -> Result<Vec<f32>, StepError>;
}

/// How a window is to be decoded once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// Index into the table of languages; `None` detects.
    pub(super) language: Option<usize>,
    /// Probability with which an attempt before this one detected it.
    pub(super) language_probability: Option<f32>,
    /// Encoder positions.
    pub(super) positions: usize,
    /// The search.
    pub(super) strategy: Strategy,
}

/// Encoder lengths for a window: shortest first, the model's own last.
pub(super) fn lengths(seconds: f32, margins: &[usize], full: usize, short: bool) -> Vec<usize> {
    let mut lengths = Vec::new();
    if short {
        let heard = (seconds * POSITIONS_PER_SECOND).ceil() as usize;
        for margin in margins {
            let length = (heard + margin).max(1).next_multiple_of(32);
            if length < full && lengths.last() != Some(&length) {
                lengths.push(length);
            }
        }
    }
    lengths.push(full);
    lengths
}

/// Decodes a window; looks again, with more context and then at higher temperatures, where the result is doubtful.
/// `lengths` are encoder lengths, ascending; a text that repeats itself or is unlikely is decoded with the next one.
pub(super) async fn transcribe(
    engine: &mut impl Forward,
    v: &Vocabulary,
    seconds: f32,
    options: &DecodeOptions,
    lengths: &[usize],
) -> Result<WindowTranscript, StepError> {
    let index = |code: &str| v.language_index(code);
    let language = options.language.as_deref().and_then(index);
    let full = lengths.last().copied().unwrap_or(1);
    let beam = (options.beam_size > 1).then_some(Strategy::Beam {
        width: options.beam_size as usize,
    });
    let strategy = match options.temperature {
        t if t > 0.0 => Strategy::Sample {
            temperature: t,
            count: BEST_OF,
        },
        _ => beam.unwrap_or(Strategy::Greedy),
    };
    let mut attempt = Attempt {
        language,
        language_probability: None,
        positions: lengths.first().copied().unwrap_or(full),
        strategy,
    };
    let mut best = passes(engine, v, seconds, options, attempt).await?;
    if options.draft {
        best.doubtful = doubtful(&best, seconds);
        return Ok(best);
    }
    for &positions in lengths.iter().skip(1) {
        if !doubtful(&best, seconds) {
            return Ok(best);
        }
        attempt.language = best.language.as_deref().and_then(index);
        attempt.language_probability = best.language_probability;
        attempt.positions = positions;
        let again = passes(engine, v, seconds, options, attempt).await?;
        best = WindowTranscript {
            full_context_retry: true,
            ..preferred(again, best)
        };
    }
    for temperature in fallbacks(options) {
        if !unusable(&best, seconds) {
            break;
        }
        attempt.language = best.language.as_deref().and_then(index);
        attempt.language_probability = best.language_probability;
        attempt.positions = full;
        attempt.strategy = Strategy::Sample {
            temperature,
            count: BEST_OF,
        };
        let retried = best.full_context_retry;
        let warm = passes(engine, v, seconds, options, attempt).await?;
        best = WindowTranscript {
            full_context_retry: retried,
            ..better(best, warm)
        };
    }
    Ok(best)
}

/// Temperatures at which an unusable text is decoded again, one after the other.
fn fallbacks(options: &DecodeOptions) -> Vec<f32> {
    if options.live {
        return vec![LIVE_TEMPERATURE];
    }
    let steps = (1..).map(|step| options.temperature + TEMPERATURE_STEP * step as f32);
    steps.take_while(|t| *t < 1.0 + TEMPERATURE_STEP / 2.0).collect()
}

/// Decodes a window once, in as many passes as the model asks for: it may say that more follows.
pub(super) async fn passes(
    engine: &mut impl Forward,
    v: &Vocabulary,
    seconds: f32,
    options: &DecodeOptions,
    attempt: Attempt,
) -> Result<WindowTranscript, StepError> {
    let prompt = v.prompt(options.prompt.as_deref(), phrases(options));
    let trie = options
        .vocabulary
        .as_ref()
        .filter(|_| !matches!(attempt.strategy, Strategy::Sample { .. }))
        .and_then(|vocabulary| TokenTrie::new(v, vocabulary));
    let mut language = attempt.language;
    let mut language_probability = attempt.language_probability;
    let mut transcript = WindowTranscript {
        temperature: match attempt.strategy {
            Strategy::Sample { temperature, .. } => temperature,
            Strategy::Greedy | Strategy::Beam { .. } => 0.0,
        },
        ..WindowTranscript::default()
    };
    let mut offset = 0.0_f32;
    for pass in 0..MAX_PASSES {
        engine.encode(offset, attempt.positions).await?;
        let mut logits = Vec::new();
        let prompt = if pass == 0 { &prompt[..] } else { &[] };
        let no_speech_prob = start(
            engine,
            v,
            prompt,
            options,
            (&mut language, &mut language_probability),
            &mut logits,
        )
        .await?;
        let left = seconds - offset;
        let limits = Limits {
            last_timestamp: v.timestamp_at(left),
            // Nobody says more than about 20 tokens a second.
            max_tokens: v.max_tokens.min(24 + (left * 24.0) as usize),
        };
        let forced = forced(&options.prefix, v, limits.max_tokens, pass == 0);
        if !forced.is_empty() {
            let row = Row {
                hypothesis: 0,
                tokens: &forced,
                every: false,
            };
            engine.step(&[row], &mut logits).await?;
        }
        let trie = trie.as_ref();
        let hypothesis =
            decode::search(engine, v, &mut logits, limits, attempt.strategy, &forced, trie).await?;
        let silent = no_speech_prob > NO_SPEECH_THRESHOLD && hypothesis.avg_logprob < MIN_AVG_LOGPROB;
        if silent {
            break;
        }
        let place = Place {
            offset,
            left,
            no_speech_prob,
        };
        let (mut segments, consumed) = cut(v, &hypothesis, place);
        if options.word_times {
            let starts = start_tokens(v, language, options.task);
            align(engine, v, &starts, &mut segments, place).await?;
        }
        transcript.segments.append(&mut segments);
        offset += consumed;
        if !hypothesis.complete || seconds - offset < REMAINDER_SECONDS {
            break;
        }
    }
    transcript.language = v.language_code(language);
    transcript.language_probability = language_probability;
    Ok(transcript)
}

/// Start of transcript, language, task: what every text begins with.
fn start_tokens(v: &Vocabulary, language: Option<usize>, task: Task) -> Vec<i32> {
    if v.languages.is_empty() {
        return vec![v.start_of_transcript];
    }
    let task = match task {
        Task::Transcribe => v.transcribe,
        Task::Translate => v.translate,
    };
    let language = v.languages.start + language.unwrap_or(0) as i32;
    vec![v.start_of_transcript, language, task]
}

/// Runs the prompt and the beginning; finds the language where it is not known. Leaves the logits of the first token and
/// returns the probability that nothing is said.
async fn start(
    engine: &mut impl Forward,
    v: &Vocabulary,
    prompt: &[i32],
    options: &DecodeOptions,
    (language, probability): (&mut Option<usize>, &mut Option<f32>),
    logits: &mut Vec<f32>,
) -> Result<f32, StepError> {
    let row = |tokens, every| Row {
        hypothesis: 0,
        tokens,
        every,
    };
    let mut before = Vec::new();
    if !prompt.is_empty() {
        before.push(v.previous);
        before.extend_from_slice(prompt);
    }
    let detect = language.is_none() && !v.languages.is_empty();
    if !detect && before.is_empty() {
        // One step for all.
        let tokens = start_tokens(v, *language, options.task);
        engine.step(&[row(&tokens, true)], logits).await?;
        let no_speech_prob = decode::probability(&logits[..v.size], v.no_speech);
        let last = logits.len() - v.size;
        logits.drain(..last);
        return Ok(no_speech_prob);
    }
    before.push(v.start_of_transcript);
    engine.step(&[row(&before, false)], logits).await?;
    let no_speech_prob = decode::probability(logits, v.no_speech);
    if detect {
        let detected = decode::language(logits, v, &candidates(options, v));
        *language = detected.map(|(index, _)| index);
        *probability = detected.map(|(_, probability)| probability);
    }
    let rest = start_tokens(v, *language, options.task);
    if rest.len() > 1 {
        engine.step(&[row(&rest[1..], false)], logits).await?;
    }
    Ok(no_speech_prob)
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

/// Where a pass stands in its window.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Seconds before it.
    offset: f32,
    /// Seconds from there to the window's end.
    left: f32,
    no_speech_prob: f32,
}

/// Cuts a hypothesis into segments; also gives how many seconds of audio it covers.
fn cut(v: &Vocabulary, hypothesis: &Hypothesis, place: Place) -> (Vec<WindowSegment>, f32) {
    let Place { offset, left, .. } = place;
    let mut segments = Vec::new();
    let mut current: Vec<Choice> = Vec::new();
    let mut start = 0.0;
    let mut last_end = None;
    let mut push = |tokens: &mut Vec<Choice>, start: f32, end: f32| {
        if tokens.iter().any(|t| t.id < v.end_of_text) {
            segments.push(WindowSegment {
                start: offset + start,
                end: offset + end.min(left),
                tokens: tokens.iter().map(|t| token(v, *t)).collect(),
                no_speech_prob: place.no_speech_prob,
            });
        }
        tokens.clear();
    };
    for token in &hypothesis.tokens {
        let has_text = current.iter().any(|t| t.id < v.end_of_text);
        current.push(*token);
        if v.is_timestamp(token.id) {
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
    let is_time = |t: Option<&Choice>| t.is_some_and(|t| v.is_timestamp(t.id));
    let more_follows = is_time(tail.next()) && is_time(tail.next());
    let consumed = match last_end {
        Some(end) if more_follows && !ended_in_text && end > 0.0 => end,
        _ => left,
    };
    (segments, consumed)
}

fn token(v: &Vocabulary, choice: Choice) -> WindowToken {
    WindowToken {
        id: choice.id,
        bytes: v.bytes(choice.id).map(<[u8]>::to_vec).unwrap_or_default(),
        logprob: choice.logprob,
        onset: None,
    }
}

/// Finds the onset of every text token of a pass (openai-whisper `timing.py`, `find_alignment`).
async fn align(
    engine: &mut impl Forward,
    v: &Vocabulary,
    starts: &[i32],
    segments: &mut [WindowSegment],
    place: Place,
) -> Result<(), StepError> {
    let mut text: Vec<&mut WindowToken> = segments
        .iter_mut()
        .flat_map(|segment| &mut segment.tokens)
        .filter(|token| token.id < v.end_of_text)
        .collect();
    if text.is_empty() {
        return Ok(());
    }
    let mut tokens = starts.to_vec();
    tokens.push(v.no_timestamps);
    let first = tokens.len();
    tokens.extend(text.iter().map(|token| token.id));
    tokens.push(v.end_of_text);
    let onsets = engine.onsets(&tokens, first, place.left).await?;
    for (token, onset) in text.iter_mut().zip(onsets) {
        token.onset = Some(place.offset + onset);
    }
    Ok(())
}

/// Names and terms that the model is told of.
pub(super) fn phrases(options: &DecodeOptions) -> &[String] {
    options
        .vocabulary
        .as_ref()
        .map_or(&[], |vocabulary| &vocabulary.phrases)
}

/// Languages that may win, as indices into the table.
pub(super) fn candidates(options: &DecodeOptions, v: &Vocabulary) -> Vec<usize> {
    options
        .candidate_languages
        .iter()
        .filter_map(|code| v.language_index(code))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_live_waits_for_one_fallback_and_who_sent_a_file_for_all() {
        let file = DecodeOptions::default();
        let live = DecodeOptions {
            live: true,
            ..DecodeOptions::default()
        };
        let tenths = |options: &DecodeOptions| -> Vec<i32> {
            let fallbacks = fallbacks(options);
            fallbacks.iter().map(|t| (t * 10.0).round() as i32).collect()
        };
        assert_eq!(tenths(&file), [2, 4, 6, 8, 10]);
        assert_eq!(tenths(&live), [4]);
        let warm = DecodeOptions {
            temperature: 0.6,
            ..file
        };
        assert_eq!(tenths(&warm), [8, 10]);
    }

    #[test]
    fn encoder_lengths_grow_to_the_models_own() {
        assert_eq!(lengths(3.0, &[192, 448], 1500, true), [352, 608, 1500]);
        assert_eq!(lengths(3.0, &[192, 448], 1500, false), [1500]);
        assert_eq!(lengths(29.0, &[192, 448], 1500, true), [1500]);
        assert_eq!(lengths(0.0, &[0, 0], 1500, true), [32, 1500]);
    }
}
