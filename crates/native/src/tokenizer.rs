//! Text to tokens and back: byte-pair encoding over the token list of a model file.
//!
//! The same tokens as tiktoken gives with openai-whisper's vocabularies (`tokenizer.py`): text is cut by GPT-2's pattern, and in
//! each piece the pair whose union has the lowest number is merged until none is left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Text of special tokens is ordinary text in a prompt; none of them is ever made from it.
const SPECIAL: &[u8] = b"<|endoftext|>";
/// Endings that are a piece of their own, in the pattern's order.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// Encodes and decodes with one model's vocabulary.
pub struct Tokenizer {
    tokens: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, u32>,
}

/// Kinds of characters that GPT-2's pattern tells apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

impl Kind {
    fn of(character: char) -> Self {
        if character.is_whitespace() {
            return Self::Space;
        }
        match character.general_category_group() {
            GeneralCategoryGroup::Letter => Self::Letter,
            GeneralCategoryGroup::Number => Self::Number,
            _ => Self::Other,
        }
    }
}

impl Tokenizer {
    /// `tokens` are the texts of a model file, in the order of their numbers.
    pub fn new(tokens: Vec<Vec<u8>>) -> Self {
        let mut numbers = HashMap::with_capacity(tokens.len());
        for (number, token) in (0_u32..).zip(&tokens) {
            if !token.is_empty() && token != SPECIAL {
                numbers.entry(token.clone()).or_insert(number);
            }
        }
        Self { tokens, numbers }
    }

    /// The bytes of a text token; `None` for special tokens, which have none.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        let bytes = self.tokens.get(token as usize)?;
        (!bytes.is_empty() && bytes != SPECIAL).then_some(bytes)
    }

    /// The tokens of `text`. Bytes that the vocabulary lacks are left out; Whisper's have every one.
    /// Time and memory grow as n log n with the text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_length(rest));
            match self.numbers.get(piece.as_bytes()) {
                Some(number) => tokens.push(*number),
                None => self.merge(piece.as_bytes(), &mut tokens),
            }
            rest = after;
        }
        tokens
    }

    /// Byte-pair encoding of one piece.
    fn merge(&self, piece: &[u8], tokens: &mut Vec<u32>) {
        // Parts are named by where they begin; `end[i]` is where part i ends, 0 for parts that were merged away.
        let mut end: Vec<usize> = (1..=piece.len()).collect();
        let mut before: Vec<usize> = (0..piece.len()).map(|i| i.wrapping_sub(1)).collect();
        let pair = |end: &[usize], left: usize| {
            let middle = end[left];
            let right = *end.get(middle)?;
            let number = *self.numbers.get(&piece[left..right])?;
            // The lowest number first, of equals the first; `right` tells whether the pair is still the same.
            Some(Reverse((number, left, right)))
        };
        let mut pairs: BinaryHeap<_> = (0..piece.len()).filter_map(|left| pair(&end, left)).collect();
        while let Some(Reverse((_, left, right))) = pairs.pop() {
            let middle = end[left];
            let stale = middle == 0 || middle >= right || end[middle] != right;
            if stale {
                continue;
            }
            end[left] = right;
            end[middle] = 0;
            if let Some(next) = before.get_mut(right) {
                *next = left;
            }
            pairs.extend(pair(&end, left));
            if let Some(previous) = Some(before[left]).filter(|i| *i < left) {
                pairs.extend(pair(&end, previous));
            }
        }
        let mut start = 0;
        while start < piece.len() {
            tokens.extend(self.numbers.get(&piece[start..end[start]]));
            start = end[start];
        }
    }
}

/// Bytes of the first piece of `text`, which is not empty, by GPT-2's pattern:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn piece_length(text: &str) -> usize {
    if let Some(ending) = CONTRACTIONS.iter().find(|ending| text.starts_with(**ending)) {
        return ending.len();
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let lead = text.len() - body.len();
    let run = |kind: Kind, from: &str| {
        from.char_indices()
            .find(|(_, character)| Kind::of(*character) != kind)
            .map_or(from.len(), |(at, _)| at)
    };
    match body.chars().next().map(Kind::of) {
        Some(kind) if kind != Kind::Space => return lead + run(kind, body),
        _ => {}
    }
    let spaces = run(Kind::Space, text);
    if spaces == text.len() {
        return spaces;
    }
    // The last of several spaces belongs to the word after them.
    match text[..spaces].char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => spaces,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let mut rest = text;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_length(rest));
            out.push(piece);
            rest = after;
        }
        out
    }

    #[test]
    fn text_is_cut_as_gpt2_cuts_it() {
        assert_eq!(pieces("Hello world"), ["Hello", " world"]);
        assert_eq!(
            pieces(" it's 12 o'clock!?"),
            [" it", "'s", " 12", " o", "'", "clock", "!?"]
        );
        assert_eq!(pieces("a   b\n\n c  "), ["a", "  ", " b", "\n\n", " c", "  "]);
        assert_eq!(pieces("we'll\tgo"), ["we", "'ll", "\t", "go"]);
        assert_eq!(pieces("日本語、テスト２３"), ["日本語", "、", "テスト", "２３"]);
        // A vowel sign is a mark, not a letter.
        assert_eq!(pieces("हिन्दी"), ["ह", "ि", "न", "्", "द", "ी"]);
        assert_eq!(pieces(" \u{3000}x"), [" ", "\u{3000}", "x"]);
    }

    /// Bytes 0 to 255, then merges in the order of their numbers.
    fn toy(merges: &[&str]) -> Tokenizer {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.extend(merges.iter().map(|merge| merge.as_bytes().to_vec()));
        Tokenizer::new(tokens)
    }

    fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<u8> {
        tokens
            .iter()
            .filter_map(|t| tokenizer.bytes(*t))
            .flatten()
            .copied()
            .collect()
    }

    #[test]
    fn the_lowest_pair_is_merged_first() {
        let tokenizer = toy(&["bc", "ab", "abc", "cd"]);
        // "bc" (256) before "ab" (257): a + bc, and those make "abc".
        assert_eq!(tokenizer.encode("abcd"), [258, 100]);
        assert_eq!(tokenizer.encode("abab"), [257, 257]);
        // Without "abc" nothing is left to merge.
        assert_eq!(toy(&["bc", "ab", "cd"]).encode("abcd"), [97, 256, 100]);
    }

    #[test]
    fn every_merge_is_the_one_that_a_plain_search_finds() {
        let merges = [
            "aa", "ab", "ba", "aab", "abb", "bb", "aaaa", "bab", "abab", "babb",
        ];
        let tokenizer = toy(&merges);
        let plain = |piece: &[u8]| {
            let mut parts: Vec<Vec<u8>> = piece.iter().map(|b| vec![*b]).collect();
            while let Some((_, at)) = (1..parts.len())
                .filter_map(|i| {
                    Some((
                        *tokenizer.numbers.get(&[&parts[i - 1][..], &parts[i]].concat())?,
                        i,
                    ))
                })
                .min()
            {
                let right = parts.remove(at);
                parts[at - 1].extend(right);
            }
            parts
                .iter()
                .map(|part| tokenizer.numbers[part])
                .collect::<Vec<_>>()
        };
        for seed in 0..2_000_u64 {
            let mut state = seed;
            let length = 1 + seed as usize % 40;
            let word: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if state >> 63 == 0 { 'a' } else { 'b' }
                })
                .collect();
            assert_eq!(tokenizer.encode(&word), plain(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_itself_and_a_long_word_is_no_burden() {
        let tokenizer = toy(&["aa", "aaaa", " a", "é"]);
        let long = "a".repeat(1 << 18);
        for sample in ["", " ", "naïve café\r\n", "\u{1f600}é", &long] {
            let tokens = tokenizer.encode(sample);
            assert_eq!(text(&tokenizer, &tokens), sample.as_bytes());
        }
        assert_eq!(tokenizer.encode(&long).len(), 1 << 16);
    }

    #[test]
    fn special_tokens_have_no_text_and_are_not_made_from_text() {
        let tokenizer = toy(&["<|endoftext|>", ""]);
        assert_eq!(tokenizer.bytes(256), None);
        assert_eq!(tokenizer.bytes(257), None);
        assert_eq!(tokenizer.bytes(1_000_000), None);
        assert_eq!(tokenizer.encode("<|endoftext|>").len(), 13);
    }
}
