//! Whether a window's result can be believed, and which of two is to be kept.

use super::decode;
use crate::transcript::{WindowTranscript, compression_ratio};

/// Mean log probability below which a result is doubtful (openai-whisper `logprob_threshold`).
pub(super) const MIN_AVG_LOGPROB: f32 = -1.0;
/// Probability above which a doubtful result is silence (openai-whisper `no_speech_threshold`).
pub(super) const NO_SPEECH_THRESHOLD: f32 = 0.6;
/// Text that compresses better than this repeats itself (openai-whisper `compression_ratio_threshold`).
const MAX_COMPRESSION_RATIO: f32 = 2.4;
/// Nobody says more; a third above the fastest speech measured.
const MOST_TOKENS_PER_SECOND: f32 = 16.0;

/// What the guard looks at.
struct Signs {
    ids: Vec<i32>,
    avg_logprob: f32,
    no_speech_prob: f32,
    compression_ratio: f32,
}

impl Signs {
    fn of(transcript: &WindowTranscript) -> Self {
        let mut text = Vec::new();
        let mut ids = Vec::new();
        let (mut sum, mut count) = (0.0, 0);
        for token in transcript.segments.iter().flat_map(|s| &s.tokens) {
            text.extend_from_slice(&token.bytes);
            sum += token.logprob;
            count += 1;
            if !token.bytes.is_empty() {
                ids.push(token.id);
            }
        }
        Self {
            ids,
            avg_logprob: if count == 0 { 0.0 } else { sum / count as f32 },
            no_speech_prob: transcript
                .segments
                .iter()
                .map(|s| s.no_speech_prob)
                .fold(0.0, f32::max),
            compression_ratio: compression_ratio(&text),
        }
    }

    fn loops(&self) -> bool {
        decode::repeats_at_end(&self.ids) || self.compression_ratio > MAX_COMPRESSION_RATIO
    }
}

/// Worth a second look with the full context: openai-whisper's two doubts, more text than anybody says, or a
/// phrase repeated.
pub(super) fn doubtful(transcript: &WindowTranscript, seconds: f32) -> bool {
    let signs = Signs::of(transcript);
    unusable(transcript, seconds) || decode::repeats_somewhere(&signs.ids)
}

/// Not to be delivered while another temperature may do better.
pub(super) fn unusable(transcript: &WindowTranscript, seconds: f32) -> bool {
    let signs = Signs::of(transcript);
    let unlikely = signs.avg_logprob < MIN_AVG_LOGPROB && signs.no_speech_prob < NO_SPEECH_THRESHOLD;
    let crowded = signs.ids.len() as f32 > MOST_TOKENS_PER_SECOND * seconds.max(1.0);
    unlikely || crowded || signs.loops()
}

/// The full context's result, unless it alone loops: it is what the model was trained on.
pub(super) fn preferred(full: WindowTranscript, short: WindowTranscript) -> WindowTranscript {
    if Signs::of(&full).loops() && !Signs::of(&short).loops() {
        short
    } else {
        full
    }
}

/// The likelier of two; one that does not loop beats one that does.
pub(super) fn better(a: WindowTranscript, b: WindowTranscript) -> WindowTranscript {
    let rank = |t: &WindowTranscript| {
        let signs = Signs::of(t);
        (!signs.loops(), signs.avg_logprob)
    };
    let (ra, rb) = (rank(&a), rank(&b));
    if rb.0 && !ra.0 || (ra.0 == rb.0 && rb.1 > ra.1) {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{WindowSegment, WindowToken};

    /// Tokens `ids` with the bytes of `texts`, all with one log probability.
    fn heard(pieces: &[(i32, &str)], logprob: f32, no_speech_prob: f32) -> WindowTranscript {
        let tokens = pieces
            .iter()
            .map(|(id, text)| WindowToken {
                id: *id,
                bytes: text.as_bytes().to_vec(),
                logprob,
                onset: None,
            })
            .collect();
        let segments = vec![WindowSegment {
            start: 0.0,
            end: 5.0,
            tokens,
            no_speech_prob,
        }];
        WindowTranscript {
            segments,
            ..WindowTranscript::default()
        }
    }

    const PLAIN: [(i32, &str); 4] = [(1, " all"), (2, " is"), (3, " well"), (4, ".")];

    #[test]
    fn confident_plain_text_is_believed() {
        assert!(!doubtful(&heard(&PLAIN, -0.3, 0.01), 3.0));
        assert!(!doubtful(&WindowTranscript::default(), 3.0));
    }

    #[test]
    fn unlikely_text_is_not_unless_there_was_no_speech() {
        assert!(unusable(&heard(&PLAIN, -1.5, 0.01), 3.0));
        assert!(!unusable(&heard(&PLAIN, -1.5, 0.9), 3.0));
    }

    #[test]
    fn more_words_than_anybody_says_are_not_believed() {
        let many: Vec<(i32, &str)> = (0..40).map(|i| (i, "x")).collect();
        assert!(unusable(&heard(&many, -0.1, 0.0), 1.0));
    }

    #[test]
    fn a_sentence_said_twice_deserves_a_second_look_and_the_full_context_wins() {
        let six = [(1, " a"), (2, " b"), (3, " c"), (4, " d"), (5, " e"), (6, " f")];
        let twice: Vec<(i32, &str)> = six.iter().chain(&six).copied().collect();
        let short = heard(&twice, -0.1, 0.0);
        assert!(doubtful(&short, 8.0));
        let full = heard(&PLAIN, -0.4, 0.0);
        assert_eq!(preferred(full.clone(), short), full);
    }

    #[test]
    fn a_loop_loses_to_anything_that_does_not() {
        let looping: Vec<(i32, &str)> = (0..60)
            .map(|i| if i % 2 == 0 { (1, " so") } else { (2, " on") })
            .collect();
        let looping = heard(&looping, -0.01, 0.0);
        let plain = heard(&PLAIN, -0.9, 0.0);
        assert_eq!(better(looping.clone(), plain.clone()), plain);
        assert_eq!(preferred(looping, plain.clone()), plain);
    }
}
