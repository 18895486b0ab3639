//! Sounds of hesitation, by language, and how they leave a sentence.

use super::edits::Edit;

/// Words that mean nothing in their language but "I am thinking". Words that are also something else are not here.
const FILLERS: [(&str, &[&str]); 12] = [
    (
        "en",
        &[
            "um", "umm", "uhm", "uh", "uhh", "erm", "er", "hm", "hmm", "mm", "mmm",
        ],
    ),
    ("de", &["äh", "ähm", "ähh", "öh", "öhm", "hm", "hmm", "mm", "ehm"]),
    ("fr", &["euh", "heu", "euhm", "hum", "hmm", "mm"]),
    ("es", &["eh", "em", "ehm", "mmm", "hmm"]),
    ("it", &["ehm", "eh", "uhm", "mmm", "hmm"]),
    ("pt", &["hum", "hã", "ahn", "ehm", "hmm"]),
    ("nl", &["eh", "ehm", "uh", "uhm", "hm", "hmm"]),
    ("sv", &["eh", "öh", "öhm", "hm", "hmm"]),
    ("da", &["øh", "øhm", "hm", "hmm"]),
    ("no", &["eh", "øh", "øhm", "hm", "hmm"]),
    ("pl", &["yyy", "eee", "hmm", "ehm"]),
    ("ru", &["э", "ээ", "эээ", "эм", "мм", "ммм", "хм"]),
];

/// The same where words have no spaces: only at the start of a phrase. The second list holds those that are words too;
/// they go only where a comma sets them off.
const UNSPACED_FILLERS: [(&str, &[&str], &[&str]); 4] = [
    (
        "ja",
        &[
            "えーっと",
            "ええっと",
            "えーと",
            "えっと",
            "ええと",
            "んーと",
            "うーんと",
            "うーん",
            "あのー",
            "あのう",
            "そのー",
            "えー",
        ],
        &["あの", "その", "まあ", "まぁ", "ええ"],
    ),
    ("zh", &["呃", "嗯"], &["那个", "這個", "这个", "額", "额"]),
    ("yue", &["呃", "嗯"], &["嗰個"]),
    ("ko", &["음"], &["어", "그", "저"]),
];

/// Marks that end a sentence.
const SENTENCE_ENDS: [char; 7] = ['.', '!', '?', '…', '。', '！', '？'];
/// Marks that set a word off.
const COMMAS: [char; 4] = [',', '、', '，', '…'];

/// The changes that take the fillers of `language` out of `text`.
pub(super) fn without(text: &str, language: &str) -> Vec<Edit> {
    if let Some((_, sure, doubtful)) = UNSPACED_FILLERS.iter().find(|(code, ..)| *code == language) {
        return unspaced(text, sure, doubtful);
    }
    let Some((_, list)) = FILLERS.iter().find(|(code, _)| *code == language) else {
        return Vec::new();
    };
    let mut edits: Vec<Edit> = Vec::new();
    for (from, to) in words(text) {
        let word = text[from..to].to_lowercase();
        if !list.contains(&word.as_str()) {
            continue;
        }
        let floor = edits.last().map_or(0, |edit| edit.range.end);
        let edit = leave(text, from, to, floor);
        match edits.last_mut() {
            // Two in a row leave together.
            Some(last) if edit.range.start <= last.range.end => {
                last.range.end = last.range.end.max(edit.range.end);
                last.with = if last.with.is_empty() {
                    edit.with
                } else {
                    std::mem::take(&mut last.with)
                };
                recapitalise(text, last);
            }
            _ => edits.push(edit),
        }
    }
    edits
}

/// Byte ranges of letters in a row, apostrophes and hyphens inside included.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut start = None;
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let inner = matches!(character, '\'' | '’' | '-') && start.is_some();
        if character.is_alphanumeric() {
            start.get_or_insert(at);
            end = at + character.len_utf8();
        } else if !inner && let Some(from) = start.take() {
            out.push((from, end));
        }
    }
    if let Some(from) = start {
        out.push((from, end));
    }
    out
}

/// How the word at `from..to` leaves its sentence: with the commas that set it off, and with its whole sentence when
/// it is all of it. A capital goes on to the next word.
fn leave(text: &str, from: usize, to: usize, floor: usize) -> Edit {
    let head = text[floor..from].trim_end();
    let before = head.chars().next_back();
    let opens = before.is_none_or(|c| SENTENCE_ENDS.contains(&c))
        && text[..from]
            .trim_end()
            .chars()
            .next_back()
            .is_none_or(|c| SENTENCE_ENDS.contains(&c));
    let rest = &text[to..];
    let after = rest.chars().next();
    let mut end = to;
    let mut start = from;
    if opens && after.is_some_and(|c| SENTENCE_ENDS.contains(&c)) {
        // "Um." and "Um..." are sentences of their own.
        end += rest.len() - rest.trim_start_matches(SENTENCE_ENDS).len();
    } else if let Some(dots) = rest.strip_prefix("...") {
        end = text.len() - dots.len();
    } else if let Some(comma) = after.filter(|c| COMMAS.contains(c)) {
        end += comma.len_utf8();
        if before.is_some_and(|c| COMMAS.contains(&c)) {
            start = floor + head.len() - before.map_or(0, char::len_utf8);
        }
    } else if before.is_some_and(|c| COMMAS.contains(&c))
        && after.is_none_or(|c| !c.is_alphanumeric() && c != ' ')
    {
        start = floor + head.len() - before.map_or(0, char::len_utf8);
    }
    // One of the two spaces goes; which one depends on what stays.
    let with;
    let spaces = text[end..].len() - text[end..].trim_start().len();
    if start == from && (opens || text[..start].ends_with(char::is_whitespace)) {
        end += spaces;
        with = String::new();
    } else {
        if start == from {
            start = text[..from].trim_end().len().max(floor);
        }
        with = String::new();
    }
    let mut edit = Edit {
        range: start..end,
        with,
        words: String::new(),
    };
    if opens {
        recapitalise(text, &mut edit);
    }
    edit
}

/// Where a capitalised word left, the next one gets the capital.
fn recapitalise(text: &str, edit: &mut Edit) {
    let capital = text[edit.range.clone()]
        .chars()
        .find(|c| c.is_alphabetic())
        .is_some_and(char::is_uppercase);
    let Some(next) = text[edit.range.end..]
        .chars()
        .next()
        .filter(|c| capital && c.is_lowercase())
    else {
        return;
    };
    // The letter itself stays outside the range: only its case changes, and words are compared without it.
    edit.with = edit.with.trim_end().to_owned();
    edit.range.end += next.len_utf8();
    edit.with.extend(next.to_uppercase());
}

fn unspaced(text: &str, sure: &[&str], doubtful: &[&str]) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    let mut opens = true;
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        if opens {
            let hit = sure
                .iter()
                .chain(doubtful)
                .filter(|filler| rest.starts_with(**filler))
                .max_by_key(|filler| filler.len());
            if let Some(filler) = hit {
                let tail = &rest[filler.len()..];
                let drawn = tail.trim_start_matches(['ー', '〜', '～']);
                let comma = drawn.chars().next().filter(|c| COMMAS.contains(c));
                let alone = drawn
                    .chars()
                    .next()
                    .is_none_or(|c| SENTENCE_ENDS.contains(&c) || c.is_whitespace());
                if comma.is_some() || alone || sure.contains(filler) {
                    let mut end = text.len() - drawn.len() + comma.map_or(0, char::len_utf8);
                    end += text[end..].len() - text[end..].trim_start().len();
                    edits.push(Edit {
                        range: at..end,
                        with: String::new(),
                        words: String::new(),
                    });
                    at = end;
                    continue;
                }
            }
        }
        opens =
            character.is_whitespace() || COMMAS.contains(&character) || SENTENCE_ENDS.contains(&character);
        at += character.len_utf8();
    }
    edits
}
