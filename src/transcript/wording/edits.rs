//! Changes of a segment's text that keep its words and their times in step.

use std::ops::Range;

use crate::transcript::{Segment, Word, locate};

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edit {
    /// Bytes of the text that go.
    pub range: Range<usize>,
    /// What comes in their place.
    pub with: String,
    /// What the words under the range become; empty removes them.
    pub words: String,
}

/// Applies `edits`, which are in order and apart.
pub(super) fn apply(segment: &mut Segment, edits: &[Edit]) {
    if edits.is_empty() {
        return;
    }
    if !segment.words.is_empty() {
        segment.words = changed_words(segment, edits);
    }
    let mut text = String::with_capacity(segment.text.len());
    let mut from = 0;
    for edit in edits {
        text.push_str(&segment.text[from..edit.range.start]);
        text.push_str(&edit.with);
        from = edit.range.end;
    }
    text.push_str(&segment.text[from..]);
    segment.text = text;
}

fn changed_words(segment: &Segment, edits: &[Edit]) -> Vec<Word> {
    let ranges = locate(&segment.text, &segment.words);
    let mut out: Vec<Word> = Vec::with_capacity(segment.words.len());
    let mut words = segment.words.iter().zip(ranges).peekable();
    for edit in edits {
        while let Some((word, _)) = words.next_if(|(_, range)| range.end <= edit.range.start) {
            out.push(word.clone());
        }
        let mut covered: Option<(f32, f32)> = None;
        let mut tail = None;
        while let Some((word, range)) = words.next_if(|(_, range)| range.start < edit.range.end) {
            if range.end > edit.range.end && edit.words.is_empty() {
                // Only its first letters change: the capital of a word that left before it.
                let text = format!("{}{}", edit.with.trim(), &segment.text[edit.range.end..range.end]);
                tail = Some(Word { text, ..word.clone() });
            } else {
                covered = Some((covered.map_or(word.start, |c| c.0), word.end));
            }
        }
        if let Some((start, end)) = covered {
            out.extend(share(&edit.words, start, end));
        }
        out.extend(tail);
    }
    out.extend(words.map(|(word, _)| word.clone()));
    out
}

/// The words of `text` in the time from `start` to `end`, by their length.
fn share(text: &str, start: f32, end: f32) -> Vec<Word> {
    let total = text
        .split_whitespace()
        .map(|w| w.chars().count())
        .sum::<usize>()
        .max(1);
    let mut seen = 0;
    let at = |seen: usize| start + (end - start) * seen as f32 / total as f32;
    text.split_whitespace()
        .map(|word| {
            let from = at(seen);
            seen += word.chars().count();
            Word {
                text: word.to_owned(),
                start: from,
                end: at(seen),
            }
        })
        .collect()
}
