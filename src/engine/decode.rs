//! Greedy decoding over whisper.cpp's encoder and decoder steps.
//!
//! whisper.cpp's own `whisper_full` encodes 30 s a second time to find the language, pays for its decoder set-up
//! on every window, and can neither stop a repetition early nor tell why a result is doubtful. The rules
//! here are openai-whisper 20250625's (`decoding.py`, `transcribe.py`); everything works on plain slices.

use std::ops::Range;

/// Seconds for each step of a timestamp token (openai-whisper `time_precision`).
pub(super) const TIMESTAMP_STEP_SECONDS: f32 = 0.02;
/// The first timestamp may be at most this far in (openai-whisper `max_initial_timestamp`).
const MAX_INITIAL_TIMESTAMP_SECONDS: f32 = 1.0;
/// Logits this far below the greatest add nothing to a sum of exponentials in f32.
const NEGLIGIBLE_LOGIT: f32 = 18.0;

/// Symbols that describe sound instead of speech (openai-whisper `tokenizer.py`, `non_speech_tokens`).
const NON_SPEECH: [&str; 46] = [
    "\"",
    "#",
    "(",
    ")",
    "*",
    "+",
    "/",
    ":",
    ";",
    "<",
    "=",
    ">",
    "@",
    "[",
    "\\",
    "]",
    "^",
    "_",
    "`",
    "{",
    "|",
    "}",
    "~",
    "「",
    "」",
    "『",
    "』",
    "<<",
    ">>",
    "<<<",
    ">>>",
    "--",
    "---",
    "-(",
    "-[",
    "('",
    "(\"",
    "((",
    "))",
    "(((",
    ")))",
    "[[",
    "]]",
    "{{",
    "}}",
    "♪♪♪",
];
/// Musical signs; every token that begins with their common bytes is suppressed, as there.
const MUSIC: [&str; 8] = ["♩", "♪", "♫", "♬", "♭", "♮", "♯", "♪♪"];

/// The special tokens of one model.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    pub(super) end_of_text: i32,
    pub(super) start_of_transcript: i32,
    pub(super) translate: i32,
    pub(super) transcribe: i32,
    pub(super) previous: i32,
    pub(super) no_speech: i32,
    pub(super) first_timestamp: i32,
    /// Tokens in all.
    pub(super) size: usize,
    /// Language tokens in the order of [`crate::languages::LANGUAGES`]; empty for English-only models.
    pub(super) languages: Range<i32>,
    /// Never written, whatever the model thinks.
    suppressed: Vec<i32>,
    /// A lone space.
    blank: Option<i32>,
    /// Longest text in tokens: half the text context (openai-whisper `sample_len`).
    pub(super) max_tokens: usize,
}

impl Vocabulary {
    /// Fills the lists of suppressed tokens from the tokens' texts.
    #[allow(
        clippy::too_many_arguments,
        reason = "the special tokens of a vocabulary are that many"
    )]
    pub(super) fn new<'t>(
        special: Special,
        languages: Range<i32>,
        size: usize,
        text_context: usize,
        texts: impl Iterator<Item = (i32, &'t [u8])>,
    ) -> Self {
        let mut suppressed = vec![
            special.start_of_transcript,
            special.translate,
            special.transcribe,
            special.previous,
            special.no_speech,
            special.no_timestamps,
            special.diarize,
        ];
        suppressed.extend(languages.clone());
        let mut blank = None;
        for (id, text) in texts {
            if text == b" " {
                blank = Some(id);
            }
            let bare = text.strip_prefix(b" ").unwrap_or(text);
            let is_symbol = NON_SPEECH.iter().chain(&MUSIC).any(|s| s.as_bytes() == bare);
            // Hyphen and quote are fine inside words, not at their start.
            if is_symbol || text == b" -" || text == b" '" {
                suppressed.push(id);
            }
        }
        suppressed.sort_unstable();
        suppressed.dedup();
        suppressed.retain(|&id| id >= 0 && (id as usize) < size);
        Self {
            end_of_text: special.end_of_text,
            start_of_transcript: special.start_of_transcript,
            translate: special.translate,
            transcribe: special.transcribe,
            previous: special.previous,
            no_speech: special.no_speech,
            first_timestamp: special.first_timestamp,
            size,
            languages,
            suppressed,
            blank,
            max_tokens: text_context / 2 - 4,
        }
    }

    fn is_timestamp(&self, id: i32) -> bool {
        id >= self.first_timestamp
    }

    /// Seconds a timestamp token stands for.
    pub(super) fn seconds(&self, id: i32) -> f32 {
        (id - self.first_timestamp) as f32 * TIMESTAMP_STEP_SECONDS
    }
}

/// Ids that every Whisper vocabulary has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Special {
    pub(super) end_of_text: i32,
    pub(super) start_of_transcript: i32,
    pub(super) translate: i32,
    pub(super) transcribe: i32,
    pub(super) previous: i32,
    pub(super) no_speech: i32,
    pub(super) no_timestamps: i32,
    pub(super) diarize: i32,
    pub(super) first_timestamp: i32,
}

/// One chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) id: i32,
    pub(super) logprob: f32,
}

/// A decoded window.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Hypothesis {
    /// Text and timestamp tokens, without end of text.
    pub(super) tokens: Vec<Choice>,
    /// Sum over `tokens` and end of text, divided by their number.
    pub(super) avg_logprob: f32,
    /// False when it ran into the token limit or a loop.
    pub(super) complete: bool,
}

/// Runs decoder steps: takes the next token, leaves the logits after it.
pub(super) trait Steps {
    /// Appends `token` at the next position and writes the logits that follow into `logits`.
    fn step(&mut self, token: i32, logits: &mut Vec<f32>) -> Result<(), StepError>;
}

/// Why a step was not run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StepError {
    Cancelled,
    Engine(String),
}

/// Decodes greedily from `logits`, those after the last prompt token and after `forced`, which the hypothesis begins
/// with.
///
/// `last_timestamp` is the greatest timestamp token allowed: the end of the window.
pub(super) fn greedy(
    steps: &mut impl Steps,
    vocabulary: &Vocabulary,
    logits: &mut Vec<f32>,
    last_timestamp: i32,
    max_tokens: usize,
    forced: &[i32],
) -> Result<Hypothesis, StepError> {
    let mut hypothesis = Hypothesis {
        tokens: forced.iter().map(|&id| Choice { id, logprob: 0.0 }).collect(),
        ..Hypothesis::default()
    };
    let mut sum = 0.0;
    loop {
        apply_rules(logits, &hypothesis.tokens, vocabulary, last_timestamp);
        let choice = choose(logits, vocabulary);
        sum += choice.logprob;
        if choice.id == vocabulary.end_of_text {
            hypothesis.complete = true;
            break;
        }
        hypothesis.tokens.push(choice);
        if hypothesis.tokens.len() >= max_tokens || ends_in_a_loop(&hypothesis.tokens, vocabulary) {
            break;
        }
        steps.step(choice.id, logits)?;
    }
    hypothesis.avg_logprob = sum / (hypothesis.tokens.len() - forced.len() + 1) as f32;
    Ok(hypothesis)
}

/// Masks what may not follow.
fn apply_rules(logits: &mut [f32], tokens: &[Choice], v: &Vocabulary, last_timestamp: i32) {
    for &id in &v.suppressed {
        logits[id as usize] = f32::NEG_INFINITY;
    }
    let first = v.first_timestamp as usize;
    if tokens.is_empty() {
        logits[v.end_of_text as usize] = f32::NEG_INFINITY;
        if let Some(blank) = v.blank {
            logits[blank as usize] = f32::NEG_INFINITY;
        }
        let latest = first + (MAX_INITIAL_TIMESTAMP_SECONDS / TIMESTAMP_STEP_SECONDS) as usize;
        mask(logits, latest + 1..v.size);
    }
    // Timestamps come in pairs, except right before the end.
    let last_is = tokens.last().is_some_and(|t| v.is_timestamp(t.id));
    let before_is = tokens.len() < 2 || v.is_timestamp(tokens[tokens.len() - 2].id);
    if last_is {
        if before_is {
            mask(logits, first..v.size);
        } else {
            mask(logits, 0..v.end_of_text as usize);
        }
    }
    // Time does not go back; a segment is never empty.
    if let Some(latest) = tokens.iter().rev().find(|t| v.is_timestamp(t.id)) {
        let from = if last_is && !before_is {
            latest.id
        } else {
            latest.id + 1
        };
        mask(logits, first..from as usize);
    }
    mask(logits, (last_timestamp as usize + 1).max(first)..v.size);
}

fn mask(logits: &mut [f32], range: Range<usize>) {
    let end = range.end.min(logits.len());
    if range.start < end {
        logits[range.start..end].fill(f32::NEG_INFINITY);
    }
}

/// The likeliest token. Where all timestamps together outweigh every single text token, a timestamp.
fn choose(logits: &[f32], v: &Vocabulary) -> Choice {
    let (text, times) = logits.split_at(v.first_timestamp as usize);
    let best_text = greatest(text);
    let best_time = greatest(times);
    let time_sum = log_sum_exp(times, best_time.1);
    let take_time = time_sum > best_text.1;
    let (id, logit) = if take_time || best_time.1 > best_text.1 {
        (best_time.0 + text.len(), best_time.1)
    } else {
        best_text
    };
    let whole = log_add(log_sum_exp(text, best_text.1), time_sum);
    // Normalised over what was allowed; with text masked, over the timestamps alone (openai-whisper order).
    let normaliser = if take_time { time_sum } else { whole };
    let logprob = logit - normaliser;
    Choice {
        id: id as i32,
        logprob: if logprob.is_finite() {
            logprob.min(0.0)
        } else {
            -100.0
        },
    }
}

fn greatest(values: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &value) in values.iter().enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best
}

fn log_sum_exp(values: &[f32], max: f32) -> f32 {
    if max == f32::NEG_INFINITY {
        return max;
    }
    let floor = max - NEGLIGIBLE_LOGIT;
    let sum: f32 = values
        .iter()
        .filter(|&&v| v > floor)
        .map(|v| (v - max).exp())
        .sum();
    max + sum.ln()
}

fn log_add(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// Probability of one token against all others, before any rule.
pub(super) fn probability(logits: &[f32], id: i32) -> f32 {
    let max = greatest(logits).1;
    (logits[id as usize] - log_sum_exp(logits, max))
        .exp()
        .clamp(0.0, 1.0)
}

/// The likeliest language among `candidates` (all when empty), as an index into the table, with its probability
/// among those considered.
pub(super) fn language(logits: &[f32], v: &Vocabulary, candidates: &[usize]) -> Option<(usize, f32)> {
    let considered: Vec<(usize, f32)> = v
        .languages
        .clone()
        .enumerate()
        .filter(|(i, _)| candidates.is_empty() || candidates.contains(i))
        .map(|(i, id)| (i, logits[id as usize]))
        .collect();
    let best = considered.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let sum: f32 = considered.iter().map(|(_, l)| (l - best.1).exp()).sum();
    Some((best.0, 1.0 / sum))
}

/// Longest phrase, in tokens, whose repetition is looked for.
const MAX_PHRASE_TOKENS: usize = 24;

/// True when the text ends in the same phrase so often that no speaker would say it.
fn ends_in_a_loop(tokens: &[Choice], v: &Vocabulary) -> bool {
    if tokens.len() < 12 || tokens.last().is_some_and(|t| v.is_timestamp(t.id)) {
        return false;
    }
    let text: Vec<i32> = tokens
        .iter()
        .map(|t| t.id)
        .filter(|&id| !v.is_timestamp(id))
        .collect();
    repeats_at_end(&text)
}

/// The rule behind it: one token twelve times, a pair eight times, a phrase of three to eight six times,
/// a longer one four times.
pub(super) fn repeats_at_end(text: &[i32]) -> bool {
    (1..=MAX_PHRASE_TOKENS).any(|length| {
        let times = match length {
            1 => 12,
            2 => 8,
            3..=8 => 6,
            _ => 4,
        };
        text.len() >= length * times && {
            let tail = &text[text.len() - length * times..];
            tail.chunks(length).all(|chunk| chunk == &tail[..length])
        }
    })
}

/// A phrase said twice or thrice in a row. People do that too, so it is a doubt, not a verdict: a shortened
/// encoder context makes small models repeat a whole window's text.
pub(super) fn repeats_somewhere(text: &[i32]) -> bool {
    (2..=MAX_PHRASE_TOKENS).any(|length| {
        let times = if length >= 5 { 2 } else { 3 };
        let mut run = 0;
        (length..text.len()).any(|i| {
            run = if text[i] == text[i - length] { run + 1 } else { 0 };
            run >= length * (times - 1)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toy vocabulary: 0..10 text, 10 end, 11.. special, 20.. timestamps to 2 s.
    fn toy() -> Vocabulary {
        let special = Special {
            end_of_text: 10,
            start_of_transcript: 11,
            translate: 12,
            transcribe: 13,
            previous: 14,
            no_speech: 15,
            no_timestamps: 16,
            diarize: 17,
            first_timestamp: 20,
        };
        let texts: Vec<(i32, &[u8])> =
            vec![(0, b" "), (1, b" a"), (2, b" b"), (3, b" ("), (4, "♪".as_bytes())];
        Vocabulary::new(special, 18..20, 121, 448, texts.into_iter())
    }

    struct Script(Vec<i32>, usize);

    impl Steps for Script {
        fn step(&mut self, _token: i32, logits: &mut Vec<f32>) -> Result<(), StepError> {
            self.1 += 1;
            *logits = wanting(self.0.get(self.1).copied().unwrap_or(10));
            Ok(())
        }
    }

    fn wanting(id: i32) -> Vec<f32> {
        let mut logits = vec![0.0; 121];
        logits[id as usize] = 20.0;
        logits
    }

    fn run(script: &[i32]) -> Hypothesis {
        let mut logits = wanting(script[0]);
        greedy(
            &mut Script(script.to_vec(), 0),
            &toy(),
            &mut logits,
            120,
            220,
            &[],
        )
        .unwrap()
    }

    #[test]
    fn what_is_forced_stays_and_only_the_rest_is_scored() {
        let mut logits = wanting(2);
        let script = &mut Script(vec![2, 60, 10], 0);
        let h = greedy(script, &toy(), &mut logits, 120, 220, &[20, 1, 1]).unwrap();
        assert_eq!(
            h.tokens.iter().map(|t| t.id).collect::<Vec<_>>(),
            [20, 1, 1, 2, 60]
        );
        assert!(h.complete && h.avg_logprob > -0.01, "{h:?}");
    }

    #[test]
    fn a_forced_text_as_long_as_the_limit_ends_at_once() {
        let mut logits = wanting(2);
        let script = &mut Script(vec![2; 40], 0);
        let forced = [20, 1, 2, 1, 1, 2, 2, 1];
        let h = greedy(script, &toy(), &mut logits, 120, 8, &forced).unwrap();
        assert!(!h.complete);
        assert_eq!(h.tokens.len(), 9);
    }

    #[test]
    fn text_between_timestamps_comes_back_with_its_end() {
        let h = run(&[20, 1, 2, 60, 10]);
        assert_eq!(h.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), [20, 1, 2, 60]);
        assert!(h.complete);
        assert!(h.avg_logprob > -0.01);
    }

    #[test]
    fn symbols_for_music_and_brackets_are_never_written() {
        let h = run(&[20, 3, 4, 60, 10]);
        assert!(h.tokens.iter().all(|t| t.id != 3 && t.id != 4), "{h:?}");
    }

    #[test]
    fn time_never_goes_back() {
        let h = run(&[20, 1, 60, 60, 2, 40, 10]);
        let times: Vec<i32> = h.tokens.iter().map(|t| t.id).filter(|id| *id >= 20).collect();
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn a_loop_is_cut_short_and_called_incomplete() {
        let mut script = vec![20];
        script.extend(std::iter::repeat_n(1, 300));
        let h = run(&script);
        assert!(!h.complete);
        assert!(h.tokens.len() < 20, "{}", h.tokens.len());
    }

    #[test]
    fn many_weak_timestamps_outweigh_one_text_token() {
        let v = toy();
        let mut logits = vec![f32::NEG_INFINITY; 121];
        logits[1] = 2.0;
        logits[30..60].fill(0.0); // together ln 30 = 3.4
        assert!(choose(&logits, &v).id >= 20);
    }

    #[test]
    fn only_candidate_languages_win() {
        let v = toy();
        let mut logits = vec![0.0; 121];
        logits[18] = 5.0;
        assert_eq!(language(&logits, &v, &[]).unwrap().0, 0);
        assert_eq!(language(&logits, &v, &[1]).unwrap(), (1, 1.0));
    }

    #[test]
    fn a_sentence_said_twice_is_a_doubt() {
        assert!(repeats_somewhere(&[9, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 8]));
        assert!(repeats_somewhere(&[1, 2, 1, 2, 1, 2]));
        assert!(!repeats_somewhere(&[1, 2, 3, 1, 2, 4, 1, 2, 5]));
        assert!(!repeats_somewhere(&[]));
    }

    #[test]
    fn ordinary_repetition_is_not_a_loop() {
        assert!(!repeats_at_end(&[5, 5, 5, 5, 5, 5]));
        assert!(!repeats_at_end(&[1, 2, 3, 1, 2, 3, 1, 2, 3]));
        assert!(repeats_at_end(&[
            9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3
        ]));
    }
}
