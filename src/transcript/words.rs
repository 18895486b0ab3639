//! Tokens with onsets → words with times.

use super::{WindowToken, Word};

/// Written without spaces between words; every character counts as one (openai-whisper `tokenizer.py`).
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// Whether the language of this code is written without spaces between words.
pub fn is_unspaced(language: &str) -> bool {
    UNSPACED.contains(&language)
}

/// Longest word in seconds where nothing follows it closely: a pause is not part of a word.
const LONGEST_WORD_SECONDS: f32 = 1.2;

/// The words of one segment, in order, never overlapping, inside `span` (seconds on the recording's clock).
///
/// `offset` is the window's start. Tokens without onset share the span by their length.
pub(super) fn words(
    tokens: &[WindowToken],
    offset: f32,
    span: (f32, f32),
    language: Option<&str>,
) -> Vec<Word> {
    let unspaced = language.is_some_and(is_unspaced);
    let pieces = pieces(tokens, unspaced);
    let chars: usize = pieces
        .iter()
        .map(|p| p.text.chars().count())
        .sum::<usize>()
        .max(1);
    let mut seen = 0;
    let mut starts = Vec::with_capacity(pieces.len());
    let mut clock = span.0;
    for piece in &pieces {
        let share = span.0 + (span.1 - span.0) * seen as f32 / chars as f32;
        let start = piece.onset.map_or(share, |onset| offset + onset);
        clock = start.clamp(clock, span.1.max(clock));
        starts.push(clock);
        seen += piece.text.chars().count();
    }
    let mut out: Vec<Word> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let text = piece
            .text
            .trim_matches(|c: char| c.is_whitespace() || is_punctuation(c));
        if text.is_empty() {
            continue;
        }
        let start = starts[index];
        let next = starts.get(index + 1).copied().unwrap_or(span.1).max(start);
        let end = next.min(start + LONGEST_WORD_SECONDS).max(start);
        out.push(Word {
            text: text.to_owned(),
            start,
            end,
        });
    }
    out
}

struct Piece {
    text: String,
    onset: Option<f32>,
}

fn pieces(tokens: &[WindowToken], unspaced: bool) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut onset = None;
    for token in tokens.iter().filter(|t| !t.bytes.is_empty()) {
        if bytes.is_empty() {
            onset = token.onset;
        }
        bytes.extend_from_slice(&token.bytes);
        // A character may be spread over several tokens.
        let Ok(text) = std::str::from_utf8(&bytes) else {
            continue;
        };
        let starts_word = unspaced || text.starts_with(char::is_whitespace) || out.is_empty();
        let only_punctuation = text.trim().chars().all(is_punctuation);
        match out.last_mut() {
            Some(word) if !starts_word || only_punctuation => word.text.push_str(text),
            _ => out.push(Piece {
                text: text.to_owned(),
                onset,
            }),
        }
        bytes.clear();
    }
    out
}

/// What the service strips from words. Quotes and hyphens inside words stay.
pub fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '$' | '%' | '&' | '@' | '#' | '+' | '=')
        || matches!(
            c,
            '。' | '、'
                | '，'
                | '．'
                | '！'
                | '？'
                | '：'
                | '；'
                | '「'
                | '」'
                | '『'
                | '』'
                | '（'
                | '）'
                | '・'
                | '…'
                | '“'
                | '”'
                | '‘'
                | '’'
                | '¿'
                | '¡'
                | '«'
                | '»'
                | '—'
                | '–'
                | '‐'
                | '„'
                | '〜'
                | '～'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &[u8], onset: Option<f32>) -> WindowToken {
        WindowToken {
            id: 1,
            bytes: text.to_vec(),
            logprob: -0.1,
            onset,
        }
    }

    #[test]
    fn words_have_neither_spaces_nor_punctuation() {
        let tokens = [
            token(b" Hello", Some(0.1)),
            token(b",", Some(0.5)),
            token(b" don", Some(0.6)),
            token(b"'t", Some(0.7)),
            token(b".", Some(0.9)),
        ];
        let words = words(&tokens, 10.0, (10.0, 11.0), Some("en"));
        assert_eq!(
            words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(),
            ["Hello", "don't"]
        );
        assert!(
            (words[0].start - 10.1).abs() < 1e-5 && (words[0].end - 10.6).abs() < 1e-5,
            "{words:?}"
        );
    }

    #[test]
    fn times_go_forward_whatever_the_alignment_says() {
        let tokens = [
            token(b" a", Some(0.9)),
            token(b" b", Some(0.2)),
            token(b" c", Some(5.0)),
        ];
        let words = words(&tokens, 0.0, (0.0, 1.0), Some("en"));
        assert!(words.windows(2).all(|w| w[0].end <= w[1].start), "{words:?}");
        assert!(
            words.iter().all(|w| w.start <= w.end && w.end <= 1.0),
            "{words:?}"
        );
    }

    #[test]
    fn japanese_characters_spread_over_tokens_come_out_whole() {
        let bytes = "日本。".as_bytes();
        let tokens = [
            token(&bytes[..2], None),
            token(&bytes[2..6], None),
            token(&bytes[6..], None),
        ];
        let words = words(&tokens, 0.0, (0.0, 1.0), Some("ja"));
        assert_eq!(
            words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>(),
            ["日本"]
        );
    }
}
