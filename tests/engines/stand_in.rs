//! A model file that passes every check and holds nothing: for engines that read none.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Width of its layers.
const STATE: u32 = 64;
/// Multilingual vocabulary.
const VOCABULARY: u32 = 51_865;

/// The file; written once for each test program.
pub fn model() -> PathBuf {
    static FILE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FILE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("stand-in-{}.bin", std::process::id()));
        write(&path);
        path
    })
    .clone()
}

/// Writes such a file; all its numbers are zero, and the disk holds none of them.
pub fn write(path: &Path) {
    write_wide(path, STATE);
}

/// The same with layers of another width: 2,048 make a file of half a gigabyte.
pub fn write_wide(path: &Path, width: u32) {
    let mut file = std::fs::File::create(path).unwrap();
    let words = |file: &mut std::fs::File, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    };
    // Magic, vocabulary, encoder (positions, width, heads, layers), decoder (the same), mel bands, f16.
    words(
        &mut file,
        &[
            0x6767_6d6c,
            VOCABULARY,
            1500,
            width,
            1,
            1,
            448,
            width,
            1,
            1,
            80,
            1,
        ],
    );
    words(&mut file, &[80, 201]);
    file.seek(SeekFrom::Current(80 * 201 * 4)).unwrap();
    words(&mut file, &[1, 1]);
    file.write_all(b"a").unwrap();
    let mut tensor = |name: &str, shape: &[u32], half: bool| {
        words(
            &mut file,
            &[shape.len() as u32, name.len() as u32, u32::from(half)],
        );
        words(&mut file, &shape.iter().rev().copied().collect::<Vec<_>>());
        file.write_all(name.as_bytes()).unwrap();
        let bytes = shape.iter().product::<u32>() * if half { 2 } else { 4 };
        file.seek(SeekFrom::Current(i64::from(bytes))).unwrap();
    };
    tensor("decoder.positional_embedding", &[448, width], false);
    tensor("encoder.positional_embedding", &[1500, width], false);
    tensor("decoder.token_embedding.weight", &[VOCABULARY, width], true);
    for (name, inputs) in [("encoder.conv1", 80), ("encoder.conv2", width)] {
        tensor(&format!("{name}.weight"), &[width, inputs, 3], true);
        tensor(&format!("{name}.bias"), &[width, 1], false);
    }
    let mut norm = Vec::from(["decoder.ln".to_owned(), "encoder.ln_post".to_owned()]);
    for (block, attentions) in [
        ("decoder.blocks.0.", &["attn", "cross_attn"][..]),
        ("encoder.blocks.0.", &["attn"][..]),
    ] {
        norm.push(format!("{block}mlp_ln"));
        for (name, outputs, inputs) in [("mlp.0", 4 * width, width), ("mlp.2", width, 4 * width)] {
            tensor(&format!("{block}{name}.weight"), &[outputs, inputs], true);
            tensor(&format!("{block}{name}.bias"), &[outputs], false);
        }
        for attention in attentions {
            norm.push(format!("{block}{attention}_ln"));
            for name in ["query", "key", "value", "out"] {
                tensor(
                    &format!("{block}{attention}.{name}.weight"),
                    &[width, width],
                    true,
                );
                if name != "key" {
                    tensor(&format!("{block}{attention}.{name}.bias"), &[width], false);
                }
            }
        }
    }
    for name in norm {
        tensor(&format!("{name}.weight"), &[width], false);
        tensor(&format!("{name}.bias"), &[width], false);
    }
    let end = file.stream_position().unwrap();
    file.set_len(end).unwrap();
}
