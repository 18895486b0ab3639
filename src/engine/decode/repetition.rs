//! Text that repeats itself.

/// Longest phrase, in tokens, whose repetition is looked for.
const MAX_PHRASE_TOKENS: usize = 24;

/// True when the text ends in the same phrase so often that no speaker would say it: one token twelve times, a pair eight
/// times, a phrase of three to eight six times, a longer one four times.
pub(in crate::engine) fn repeats_at_end(text: &[i32]) -> bool {
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
pub(in crate::engine) fn repeats_somewhere(text: &[i32]) -> bool {
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
