//! Text that repeats itself.

use crate::domain::repetition::{MAX_PHRASE_TOKENS, loop_at_end};

/// True when the text ends in a loop.
pub(in crate::engine) fn repeats_at_end(text: &[i32]) -> bool {
    loop_at_end(text).is_some()
}

/// A phrase said twice or thrice in a row. A shortened encoder context makes small models repeat a whole window's text, but
/// people repeat themselves, too: the window is checked again, not dropped.
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
}
