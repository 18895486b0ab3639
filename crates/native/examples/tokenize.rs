//! Tokens of texts, for comparisons with tiktoken (`bench/equality.py`): `tokenize VOCABULARY TEXTS`.
//!
//! Both files are lists of bytes: a little-endian 32-bit length before each. The vocabulary's are in the order of their numbers.
//! Prints a line of numbers for each text.

use whisper_native::tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vocabulary, texts] = arguments.as_slice() else {
        return Err("tokenize VOCABULARY TEXTS".into());
    };
    let tokenizer = Tokenizer::new(list(vocabulary)?);
    for text in list(texts)? {
        let numbers: Vec<String> = tokenizer
            .encode(&String::from_utf8(text)?)
            .iter()
            .map(u32::to_string)
            .collect();
        println!("{}", numbers.join(" "));
    }
    Ok(())
}

fn list(path: &str) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let mut rest = &bytes[..];
    let mut entries = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (entry, after) = after.split_at_checked(length).ok_or("a list that is cut off")?;
        entries.push(entry.to_vec());
        rest = after;
    }
    Ok(entries)
}
