//! Which words of a growing transcript will stay: those on which two passes in a row agree (LocalAgreement-2).
//!
//! What was agreed on is given to the engine as the beginning of its next result, so that later passes only add to it; a
//! result of an engine that could not do so is laid along it.

use crate::transcript::is_punctuation;

/// A text token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Id in the model's vocabulary.
    pub id: i32,
    /// Its bytes: a piece of UTF-8, not always whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The words of one stretch of audio.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    committed: Vec<Token>,
    latest: Vec<Token>,
}

impl Agreement {
    /// Token ids that the next pass begins with.
    pub fn prefix(&self) -> Vec<i32> {
        self.committed.iter().map(|token| token.id).collect()
    }

    /// True until a word was committed.
    pub fn is_open(&self) -> bool {
        self.committed.is_empty()
    }

    /// Words of the latest result that may still change.
    pub fn provisional(&self) -> &[Token] {
        self.latest.get(self.committed.len()..).unwrap_or_default()
    }

    /// Takes a pass's result; gives the words that are now committed. `unspaced` languages are written without spaces.
    pub fn update(&mut self, result: Vec<Token>, unspaced: bool) -> &[Token] {
        let result = self.continued(result, unspaced);
        let agreed = self
            .latest
            .iter()
            .zip(&result)
            .take_while(|(old, new)| old.id == new.id)
            .count();
        let from = self.committed.len();
        let to = (from..=agreed)
            .rev()
            .find(|&at| at == from || is_boundary(&result, &self.latest, at, unspaced))
            .unwrap_or(from);
        self.latest = result;
        self.committed.extend_from_slice(&self.latest[from..to]);
        &self.committed[from..]
    }

    /// Takes the last result: all of it is committed. Gives what was not.
    pub fn finish(&mut self, result: Vec<Token>, unspaced: bool) -> &[Token] {
        let from = self.committed.len();
        self.committed = self.continued(result, unspaced);
        self.latest.clear();
        &self.committed[from..]
    }

    /// The same with the latest result.
    pub fn finish_as_it_is(&mut self, unspaced: bool) -> &[Token] {
        let latest = std::mem::take(&mut self.latest);
        self.finish(latest, unspaced)
    }

    /// `result` as a continuation of what is committed.
    fn continued(&self, result: Vec<Token>, unspaced: bool) -> Vec<Token> {
        let same = self.committed.iter().zip(&result).all(|(a, b)| a.id == b.id);
        if same && result.len() >= self.committed.len() {
            return result;
        }
        let mut from = aligned(&self.committed, &result);
        // Not from the middle of a word on.
        while from < result.len() && !unspaced && !begins_word(&result[from]) && !is_mark(&result[from]) {
            from += 1;
        }
        let mut continued = self.committed.clone();
        continued.extend_from_slice(&result[from..]);
        continued
    }
}

/// May the committed words end before token `at`? Not inside a character or a word, and not with a mark that the end of
/// the audio made up.
fn is_boundary(result: &[Token], before: &[Token], at: usize, unspaced: bool) -> bool {
    let bytes: Vec<u8> = result[..at]
        .iter()
        .flat_map(|token| token.bytes.iter().copied())
        .collect();
    if std::str::from_utf8(&bytes).is_err() {
        return false;
    }
    if at == result.len() && at > 0 && is_mark(&result[at - 1]) {
        return false;
    }
    let ends_word = |tokens: &[Token]| {
        unspaced
            || tokens
                .get(at)
                .is_none_or(|next| begins_word(next) || is_mark(next))
    };
    ends_word(result) && ends_word(before)
}

fn begins_word(token: &Token) -> bool {
    token.bytes.first().is_some_and(u8::is_ascii_whitespace)
}

/// Punctuation alone. Apostrophes and hyphens stand inside words.
fn is_mark(token: &Token) -> bool {
    std::str::from_utf8(&token.bytes).is_ok_and(|text| {
        let text = text.trim();
        !text.is_empty()
            && text
                .chars()
                .all(|c| is_punctuation(c) && !matches!(c, '\'' | '’' | '-'))
    })
}

/// Where the rest of `result` begins if its front says what `committed` says: the front with the least edit distance,
/// among equals the one nearest in length.
fn aligned(committed: &[Token], result: &[Token]) -> usize {
    let mut row: Vec<usize> = (0..=result.len()).collect();
    for (i, old) in committed.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, new) in result.iter().enumerate() {
            let replaced = diagonal + usize::from(old.id != new.id);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    (0..=result.len())
        .min_by_key(|&end| (row[end], end.abs_diff(committed.len())))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut pieces: Vec<String> = Vec::new();
        for c in text.chars() {
            match pieces.last_mut() {
                Some(piece) if c != ' ' && c != '|' && c != '.' => piece.push(c),
                _ => pieces.push(c.to_string()),
            }
        }
        pieces
            .into_iter()
            .map(|piece| piece.replace('|', ""))
            .filter(|piece| !piece.is_empty())
            .map(|piece| Token {
                id: piece
                    .bytes()
                    .fold(7, |id, byte| id * 31 % 10_007 + i32::from(byte)),
                bytes: piece.into_bytes(),
                logprob: -0.1,
            })
            .collect()
    }

    fn text(tokens: &[Token]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.bytes.clone()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn two_passes_must_agree_and_the_rest_is_provisional() {
        let mut agreement = Agreement::default();
        assert!(agreement.update(tokens(" And so my fell"), false).is_empty());
        assert_eq!(
            text(agreement.update(tokens(" And so my fellow Am"), false)),
            " And so my"
        );
        assert_eq!(text(agreement.provisional()), " fellow Am");
        assert_eq!(
            text(agreement.finish(tokens(" And so my fellow Americans."), false)),
            " fellow Americans."
        );
    }

    #[test]
    fn half_a_word_and_a_made_up_full_stop_are_not_committed() {
        let mut agreement = Agreement::default();
        agreement.update(tokens(" the trans"), false);
        assert_eq!(
            text(agreement.update(tokens(" the trans|cription"), false)),
            " the"
        );
        let mut agreement = Agreement::default();
        agreement.update(tokens(" Hello."), false);
        assert_eq!(text(agreement.update(tokens(" Hello."), false)), " Hello");
        assert_eq!(text(agreement.update(tokens(" Hello there."), false)), "");
        assert_eq!(text(agreement.finish(tokens(" Hello there."), false)), " there.");
    }

    #[test]
    fn characters_spread_over_tokens_are_committed_whole() {
        let kanji = "日本".as_bytes();
        let token = |id, bytes: &[u8]| Token {
            id,
            bytes: bytes.to_vec(),
            logprob: 0.0,
        };
        let mut agreement = Agreement::default();
        let split = vec![
            token(1, &kanji[..2]),
            token(2, &kanji[2..4]),
            token(3, &kanji[4..]),
        ];
        agreement.update(split[..2].to_vec(), true);
        assert_eq!(agreement.update(split.clone(), true), []);
        assert_eq!(text(agreement.update(split, true)), "日本");
    }

    #[test]
    fn a_result_that_does_not_continue_is_laid_along_what_was_said() {
        let mut agreement = Agreement::default();
        agreement.update(tokens(" ask not what"), false);
        agreement.update(tokens(" ask not what your"), false);
        let rest = agreement.finish(tokens(" Ask not what your country can do."), false);
        assert_eq!(text(rest), " your country can do.");
        let mut agreement = Agreement::default();
        agreement.update(tokens(" a b c d"), false);
        agreement.update(tokens(" a b c d e"), false);
        assert_eq!(text(agreement.finish(tokens(" a b"), false)), "");
    }

    proptest! {
        #[test]
        fn nothing_committed_is_ever_taken_back(passes in proptest::collection::vec("[ab|. ]{0,14}", 1..9), last in "[ab|. ]{0,14}") {
            let mut agreement = Agreement::default();
            let mut sent = String::new();
            for pass in passes {
                sent.push_str(&text(agreement.update(tokens(&pass), false)));
                let prefix: String = text(&agreement.committed);
                prop_assert_eq!(&sent, &prefix);
            }
            sent.push_str(&text(agreement.finish(tokens(&last), false)));
            prop_assert_eq!(sent, text(&agreement.committed));
        }
    }
}
