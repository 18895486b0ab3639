//! The tokens of a ggml file, from any of the vocabulary files that come with foreign checkpoints.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::models::ModelError;
use crate::models::ggml::GgmlHeader;

/// A ggml file lists the text tokens only; whisper.cpp makes up the special ones after them. Both vocabularies have
/// 50,257: multilingual ends with an empty token, English with `<|endoftext|>` (openai-whisper `assets/*.tiktoken`).
const TEXT_TOKENS: u32 = 50_257;

/// What is looked for, in this order. The first three map token to number, the last two are in the numbers' order.
const FILES: [&str; 4] = [
    "tokenizer.json",
    "vocab.json",
    "vocabulary.json",
    "vocabulary.txt",
];

#[derive(Deserialize)]
struct Tokenizer {
    model: TokenizerModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: HashMap<String, u32>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListOrMap {
    List(Vec<String>),
    Map(HashMap<String, u32>),
}

/// Reads the tokens from the first vocabulary file in the folder `place`, or from the file `place`.
///
/// # Errors
///
/// `UnsupportedFolder` when there is none or it is no Whisper vocabulary; `Malformed` when it does not parse.
pub(crate) fn read(place: &Path, header: &GgmlHeader) -> Result<Vec<Vec<u8>>, ModelError> {
    let path = if place.is_file() {
        place.to_owned()
    } else {
        FILES
            .map(|name| place.join(name))
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| {
                ModelError::unsupported(
                    place,
                    format!("it has no vocabulary; one of {} is needed", FILES.join(", ")),
                )
            })?
    };
    let text = fs::read_to_string(&path).map_err(|e| ModelError::io("read", &path, e))?;
    let broken = |e: serde_json::Error| ModelError::malformed(&path, e.to_string());
    let by_number: HashMap<u32, String> = if path.ends_with("tokenizer.json") {
        let tokenizer: Tokenizer = serde_json::from_str(&text).map_err(broken)?;
        let added = tokenizer
            .added_tokens
            .into_iter()
            .map(|token| (token.id, token.content));
        tokenizer
            .model
            .vocab
            .into_iter()
            .map(|(token, number)| (number, token))
            .chain(added)
            .collect()
    } else if path.extension().is_some_and(|extension| extension == "json") {
        match serde_json::from_str(&text).map_err(broken)? {
            ListOrMap::List(tokens) => (0..).zip(tokens).collect(),
            ListOrMap::Map(numbers) => numbers
                .into_iter()
                .map(|(token, number)| (number, token))
                .collect(),
        }
    } else {
        // Tokens hold no line feed: it is spelled `Ċ`.
        (0..)
            .zip(
                text.split('\n')
                    .map(|line| line.trim_end_matches('\r').to_owned()),
            )
            .collect()
    };
    let bytes = byte_spelling();
    let empty = String::new();
    (0..TEXT_TOKENS)
        .map(|number| {
            let last = number == TEXT_TOKENS - 1;
            let token = match by_number.get(&number) {
                Some(token) => token,
                // Some exports leave out the multilingual vocabulary's empty last token.
                None if last && header.multilingual() => &empty,
                None => {
                    return Err(ModelError::unsupported(
                        &path,
                        format!("it has no token {number}"),
                    ));
                }
            };
            if last && !header.multilingual() {
                return Ok(token.clone().into_bytes());
            }
            if last && is_special(token) {
                return Ok(Vec::new());
            }
            token
                .chars()
                .map(|letter| bytes.get(&letter).copied())
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(|| {
                    ModelError::unsupported(
                        &path,
                        format!("token {number} (`{token}`) is not in GPT-2's byte spelling"),
                    )
                })
        })
        .collect()
}

fn is_special(token: &str) -> bool {
    token.starts_with("<|") && token.ends_with("|>")
}

/// GPT-2 spells each byte as one printable letter (openai/gpt-2 `encoder.py`, `bytes_to_unicode`): the printable ones
/// of Latin-1 as they are, the others as U+0100 and up, in order.
fn byte_spelling() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut substitute = (0x100_u32..).filter_map(char::from_u32);
    (0..=u8::MAX)
        .map(|byte| {
            let letter = if printable(byte) {
                char::from(byte)
            } else {
                substitute.next().unwrap_or_default()
            };
            (letter, byte)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_gpt2_does() {
        let spelling = byte_spelling();
        assert_eq!(spelling.len(), 256);
        assert_eq!(spelling[&'Ġ'], b' ');
        assert_eq!(spelling[&'Ċ'], b'\n');
        assert_eq!(spelling[&'a'], b'a');
        assert_eq!(spelling[&'é'], 0xE9);
    }
}
