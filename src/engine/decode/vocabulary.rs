//! The tokens of one model.

use std::ops::Range;

use whisper_native::tokenizer::Tokenizer;

use crate::languages::LANGUAGES;

/// Seconds for each step of a timestamp token (openai-whisper `time_precision`).
const TIMESTAMP_STEP_SECONDS: f32 = 0.02;

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

/// Tokens of a vocabulary with English alone (openai-whisper `tokenizer.py`, `gpt2`).
const ENGLISH_SIZE: usize = 51_864;
/// Its end of text; the multilingual one has a text token more.
const ENGLISH_END_OF_TEXT: i32 = 50_256;
/// All but Cantonese, which large-v3 added.
const FEWEST_LANGUAGES: usize = LANGUAGES.len() - 1;
/// Timestamps of 0 to 30 s.
const TIMESTAMPS: usize = 1501;
/// Special tokens besides languages and timestamps, before and after the languages.
const SPECIAL_BEFORE: usize = 2;
const SPECIAL_AFTER: usize = 6;

/// The tokens of one model.
#[derive(Clone)]
pub(in crate::engine) struct Vocabulary {
    pub(in crate::engine) end_of_text: i32,
    pub(in crate::engine) start_of_transcript: i32,
    pub(in crate::engine) translate: i32,
    pub(in crate::engine) transcribe: i32,
    pub(in crate::engine) previous: i32,
    pub(in crate::engine) no_speech: i32,
    pub(in crate::engine) no_timestamps: i32,
    pub(in crate::engine) first_timestamp: i32,
    /// Tokens in all.
    pub(in crate::engine) size: usize,
    /// Language tokens in the order of [`LANGUAGES`]; empty for English-only models.
    pub(in crate::engine) languages: Range<i32>,
    /// Never written, whatever the model thinks.
    pub(super) suppressed: Vec<i32>,
    /// A lone space.
    pub(super) blank: Option<i32>,
    /// Longest text in tokens: half the text context (openai-whisper `sample_len`).
    pub(in crate::engine) max_tokens: usize,
    /// Longest prompt: half the text context less one (`DecodingTask`, `_get_initial_tokens`).
    max_prompt: usize,
    tokenizer: std::sync::Arc<Tokenizer>,
}

impl Vocabulary {
    /// Of a model with `size` tokens in all and room for `text_context` of them; `texts` are those that have a text.
    ///
    /// # Errors
    ///
    /// One sentence when the numbers fit no Whisper vocabulary.
    pub(in crate::engine) fn new(
        size: usize,
        text_context: usize,
        texts: Vec<Vec<u8>>,
    ) -> Result<Self, String> {
        let multilingual = size > ENGLISH_SIZE;
        let end_of_text = ENGLISH_END_OF_TEXT + i32::from(multilingual);
        let others = end_of_text as usize + SPECIAL_BEFORE + SPECIAL_AFTER + TIMESTAMPS;
        let count = size
            .checked_sub(others)
            .filter(|count| (FEWEST_LANGUAGES..=LANGUAGES.len()).contains(count))
            .ok_or_else(|| format!("a vocabulary of {size} tokens is not Whisper's"))?;
        if text_context < 16 {
            return Err(format!(
                "a text context of {text_context} tokens is not Whisper's"
            ));
        }
        let languages = end_of_text + 2..end_of_text + 2 + count as i32;
        // <|translate|> <|transcribe|> <|startoflm|> <|startofprev|> <|nospeech|> <|notimestamps|>
        let translate = languages.end;
        let ids = Ids {
            end_of_text,
            start_of_transcript: end_of_text + 1,
            translate,
            transcribe: translate + 1,
            start_of_lm: translate + 2,
            previous: translate + 3,
            no_speech: translate + 4,
            no_timestamps: translate + 5,
            first_timestamp: translate + 6,
        };
        let languages = if multilingual { languages } else { 0..0 };
        Ok(Self::with_ids(&ids, languages, size, text_context, texts))
    }

    fn with_ids(
        ids: &Ids,
        languages: Range<i32>,
        size: usize,
        text_context: usize,
        texts: Vec<Vec<u8>>,
    ) -> Self {
        let mut suppressed = vec![
            ids.start_of_transcript,
            ids.translate,
            ids.transcribe,
            ids.previous,
            ids.no_speech,
            ids.no_timestamps,
            ids.start_of_lm,
        ];
        suppressed.extend(languages.clone());
        let mut blank = None;
        for (id, text) in (0..ids.end_of_text).zip(&texts) {
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
            end_of_text: ids.end_of_text,
            start_of_transcript: ids.start_of_transcript,
            translate: ids.translate,
            transcribe: ids.transcribe,
            previous: ids.previous,
            no_speech: ids.no_speech,
            no_timestamps: ids.no_timestamps,
            first_timestamp: ids.first_timestamp,
            size,
            languages,
            suppressed,
            blank,
            max_tokens: text_context / 2 - 4,
            max_prompt: text_context / 2 - 1,
            tokenizer: std::sync::Arc::new(Tokenizer::new(texts)),
        }
    }

    pub(in crate::engine) fn is_timestamp(&self, id: i32) -> bool {
        id >= self.first_timestamp
    }

    /// Seconds a timestamp token stands for.
    pub(in crate::engine) fn seconds(&self, id: i32) -> f32 {
        (id - self.first_timestamp) as f32 * TIMESTAMP_STEP_SECONDS
    }

    /// The last timestamp in so many seconds.
    pub(in crate::engine) fn timestamp_at(&self, seconds: f32) -> i32 {
        let steps = (seconds.clamp(0.0, 30.0) / TIMESTAMP_STEP_SECONDS).ceil() as i32;
        (self.first_timestamp + steps).min(self.size as i32 - 1)
    }

    /// A text token's bytes: a piece of UTF-8, not always whole characters.
    pub(in crate::engine) fn bytes(&self, id: i32) -> Option<&[u8]> {
        let id = u32::try_from(id).ok().filter(|_| id < self.end_of_text)?;
        self.tokenizer.bytes(id)
    }

    /// True where `id` cannot go on with the word before it: it begins with a space or mark, or with a character of a
    /// script without spaces, or is no text. Letters of other scripts (Latin with accents, Greek, Cyrillic, Hebrew,
    /// Arabic) are two bytes in UTF-8.
    pub(super) fn ends_word_before(&self, id: i32) -> bool {
        let first = self.bytes(id).and_then(<[u8]>::first);
        first.is_none_or(|first| {
            !(first.is_ascii_alphanumeric() || *first == b'\'' || (0x80..0xe0).contains(first))
        })
    }

    /// True where a word may go on behind `id`: it ends in a letter or digit of a script with spaces.
    pub(super) fn ends_in_letter(&self, id: i32) -> bool {
        // The first byte of its last character.
        let bytes = self.bytes(id).unwrap_or_default();
        let lead = bytes.iter().rev().find(|byte| !(0x80..0xc0).contains(*byte));
        lead.is_some_and(|lead| lead.is_ascii_alphanumeric() || (0xc0..0xe0).contains(lead))
    }

    /// The tokens of a text.
    pub(in crate::engine) fn encode(&self, text: &str) -> Vec<i32> {
        self.tokenizer
            .encode(text)
            .into_iter()
            .map(|id| id as i32)
            .collect()
    }

    /// The tokens of a prompt: a space before it, and of a long one the end (openai-whisper `transcribe.py`). Behind it, at
    /// the end, where the model's memory of a prompt is surest, as many of `phrases` as there is room for.
    pub(in crate::engine) fn prompt(&self, prompt: Option<&str>, phrases: &[String]) -> Vec<i32> {
        let prompt = prompt.map(str::trim).filter(|p| !p.is_empty());
        let mut tokens = prompt.map_or_else(Vec::new, |prompt| self.encode(&format!(" {prompt}")));
        tokens.drain(..tokens.len().saturating_sub(self.max_prompt));
        let mut comma = "";
        for phrase in phrases
            .iter()
            .map(|phrase| phrase.trim())
            .filter(|p| !p.is_empty())
        {
            let more = self.encode(&format!("{comma} {phrase}"));
            if tokens.len() + more.len() > self.max_prompt {
                break;
            }
            tokens.extend(more);
            comma = ",";
        }
        tokens
    }

    /// A language's place in the table; `None` where this model has no token for it, as models of 99 languages have none
    /// for Cantonese. The token behind the last language is another one's.
    pub(in crate::engine) fn language_index(&self, code: &str) -> Option<usize> {
        let index = LANGUAGES.iter().position(|(known, _)| *known == code)?;
        (index < self.languages.len()).then_some(index)
    }

    /// Code of a language by its place in the table; English for models that know nothing else.
    pub(in crate::engine) fn language_code(&self, index: Option<usize>) -> Option<String> {
        if self.languages.is_empty() {
            return Some("en".to_owned());
        }
        index
            .and_then(|i| LANGUAGES.get(i))
            .map(|(code, _)| (*code).to_owned())
    }
}

/// The numbers of the special tokens.
struct Ids {
    end_of_text: i32,
    start_of_transcript: i32,
    translate: i32,
    transcribe: i32,
    start_of_lm: i32,
    previous: i32,
    no_speech: i32,
    no_timestamps: i32,
    first_timestamp: i32,
}

#[cfg(test)]
impl Vocabulary {
    /// A toy: 0..10 text, 10 end, 11.. special, 20.. timestamps to 2 s.
    pub(super) fn toy() -> Self {
        Self::toy_with(&[" ", " a", " b", " (", "♪"])
    }

    /// The same with other texts.
    pub(super) fn toy_with(texts: &[&str]) -> Self {
        let ids = Ids {
            end_of_text: 10,
            start_of_transcript: 11,
            translate: 12,
            transcribe: 13,
            previous: 14,
            no_speech: 15,
            no_timestamps: 16,
            start_of_lm: 17,
            first_timestamp: 20,
        };
        let texts = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        Self::with_ids(&ids, 18..20, 121, 448, texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_without_a_token_is_no_language_of_the_model() {
        let index = |size, code| {
            Vocabulary::new(size, 448, Vec::new())
                .unwrap()
                .language_index(code)
        };
        assert_eq!(index(51_865, "en"), Some(0));
        assert_eq!(index(51_865, "su"), Some(98));
        // Its place would be that of `<|translate|>`.
        assert_eq!(index(51_865, "yue"), None);
        assert_eq!(index(51_866, "yue"), Some(99));
        assert_eq!(index(51_864, "en"), None);
        assert_eq!(index(51_866, "xx"), None);
    }

    #[test]
    fn the_special_tokens_of_the_three_vocabularies() {
        // openai-whisper: `get_tokenizer(...).special_tokens`.
        for (size, languages, expected) in [
            (
                51_864,
                0..0,
                [50_256, 50_257, 50_357, 50_358, 50_360, 50_361, 50_362, 50_363],
            ),
            (
                51_865,
                50_259..50_358,
                [50_257, 50_258, 50_358, 50_359, 50_361, 50_362, 50_363, 50_364],
            ),
            (
                51_866,
                50_259..50_359,
                [50_257, 50_258, 50_359, 50_360, 50_362, 50_363, 50_364, 50_365],
            ),
        ] {
            let v = Vocabulary::new(size, 448, Vec::new()).unwrap();
            assert_eq!(v.languages, languages);
            let ids = [
                v.end_of_text,
                v.start_of_transcript,
                v.translate,
                v.transcribe,
                v.previous,
                v.no_speech,
                v.no_timestamps,
                v.first_timestamp,
            ];
            assert_eq!(ids, expected, "{size}");
            assert_eq!(v.first_timestamp as usize + TIMESTAMPS, size);
            assert_eq!(v.max_tokens, 220);
        }
        for size in [0, 1_000, 50_000, 51_863, 51_867, 60_000] {
            assert!(Vocabulary::new(size, 448, Vec::new()).is_err(), "{size}");
        }
    }

    #[test]
    fn a_long_prompt_keeps_its_end() {
        let texts = (0..=255).map(|byte| vec![byte]).collect();
        let v = Vocabulary::new(51_865, 448, texts).unwrap();
        assert_eq!(v.prompt(Some(" x "), &[]), [i32::from(b' '), i32::from(b'x')]);
        assert!(v.prompt(Some("  "), &[]).is_empty() && v.prompt(None, &[" ".to_owned()]).is_empty());
        let long = format!("{}z", "y".repeat(10_000));
        let tokens = v.prompt(Some(&long), &["no room".to_owned()]);
        assert_eq!((tokens.len(), tokens.last()), (223, Some(&i32::from(b'z'))));
    }

    #[test]
    fn phrases_take_the_room_that_a_prompt_leaves() {
        let texts = (0..=255).map(|byte| vec![byte]).collect();
        let v = Vocabulary::new(51_865, 448, texts).unwrap();
        let text = |prompt, phrases: &[String]| -> String {
            let tokens = v.prompt(prompt, phrases);
            tokens.into_iter().map(|token| char::from(token as u8)).collect()
        };
        let names = |count| -> Vec<String> { (100..100 + count).map(|n| format!("Name {n}")).collect() };
        assert_eq!(text(Some("Said."), &names(2)), " Said. Name 100, Name 101");
        assert_eq!(text(None, &names(2)), " Name 100, Name 101");
        let told = text(Some("Said before."), &names(1_000));
        assert!(
            told.starts_with(" Said before. Name 100, Name 101, ") && told.len() <= 223,
            "{told}"
        );
        assert!(told.ends_with("Name 120"), "whole names only: {told}");
    }
}
