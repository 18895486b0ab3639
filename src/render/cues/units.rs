//! Text with word times → pieces that no line break may divide, each with its width, its times and the price of a
//! break behind it.

use unicode_linebreak::linebreaks;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::rules::Limits;
use crate::transcript::{Segment, locate};

/// A piece of text that stays on one line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unit {
    /// Without the space behind it.
    pub text: String,
    /// A space follows, when the line goes on.
    pub space: bool,
    /// Columns.
    pub width: usize,
    /// What a reader takes in, in characters of the language.
    pub characters: f64,
    /// 1, or 0 for the later part of a word that a hyphen divides.
    pub words: usize,
    /// Seconds from the start of the recording.
    pub start: f64,
    /// Seconds, at least `start`.
    pub end: f64,
    /// Price of a break behind it: 0 at the end of a sentence, tens within a word.
    pub break_cost: f64,
    /// The segment ends here.
    pub segment_end: bool,
}

/// Price of a break at the end of a sentence.
pub(super) const SENTENCE: f64 = 0.0;
/// …behind a comma, colon, semicolon, dash.
const CLAUSE: f64 = 1.5;
/// …before a conjunction or preposition.
const BEFORE_LINK: f64 = 3.5;
/// …between two words that have nothing to say about it.
const BETWEEN_WORDS: f64 = 7.0;
/// …behind a word that belongs to the next: an article, a preposition, a conjunction.
const BEHIND_LINK: f64 = 14.0;
/// …within a word, where a hyphen or slash allows it.
const WITHIN_WORD: f64 = 18.0;
/// …within a word that is wider than a line.
const FORCED: f64 = 40.0;

/// Short words that lean on the next one: articles, prepositions, conjunctions of the languages most subtitled.
const LINKS: &[&str] = &[
    // English
    "a", "an", "the", "and", "or", "but", "nor", "so", "of", "in", "on", "at", "to", "for", "from", "with",
    "by", "as", "if", "that", "than", "because", "while", "when", "where", "which", "who", "into", "about",
    "after", "before", "over", "under", "between", "through", "without", // German
    "der", "die", "das", "den", "dem", "des", "ein", "eine", "einen", "einem", "einer", "und", "oder",
    "aber", "denn", "dass", "weil", "wenn", "als", "ob", "mit", "von", "vom", "zu", "zum", "zur", "im", "am",
    "auf", "aus", "bei", "für", "nach", "über", "unter", "um", "ohne", "gegen", // French
    "le", "la", "les", "un", "une", "des", "du", "de", "et", "ou", "mais", "que", "qui", "dans", "sur",
    "avec", "pour", "par", "sans", "chez", // Spanish, Italian, Portuguese
    "el", "los", "las", "y", "o", "pero", "con", "por", "para", "sin", "il", "lo", "gli", "che", "per", "di",
    "da", "e", "os", "em", "com", "sem", "um", "uma", "não",
];

/// Particles that end a Japanese phrase.
const PARTICLES: [char; 9] = ['は', 'が', 'を', 'に', 'で', 'と', 'も', 'へ', 'の'];

/// The pieces of some segments, in order, no wider than a line.
pub(super) fn units(segments: &[&Segment], limits: &Limits) -> Vec<Unit> {
    let mut out: Vec<Unit> = Vec::new();
    for segment in segments {
        segment_units(segment, limits, &mut out);
    }
    let mut clock = 0.0;
    for unit in &mut out {
        unit.start = unit.start.max(clock);
        unit.end = unit.end.max(unit.start);
        clock = unit.start;
    }
    out
}

fn segment_units(segment: &Segment, limits: &Limits, out: &mut Vec<Unit>) {
    // Line ends would end a cue early; the replacement has the bytes of the original, so words are found.
    let clean: String = segment
        .text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let clock = Clock::new(segment, &clean);
    let first = out.len();
    let mut from = 0;
    for (to, _) in linebreaks(&clean) {
        let piece = &clean[from..to];
        let lead = piece.len() - piece.trim_start().len();
        let text = piece.trim();
        if !text.is_empty() {
            let start = from + lead;
            split_to_width(
                &clean,
                start,
                text,
                piece.ends_with(char::is_whitespace),
                limits,
                &clock,
                out,
            );
        } else if let Some(last) = out[first..].last_mut() {
            last.space = true;
        }
        from = to;
    }
    let mut previous_joined = false;
    for index in first..out.len() {
        let next = out.get(index + 1).map(|unit| unit.text.clone());
        let unit = &mut out[index];
        if unit.break_cost < FORCED {
            unit.break_cost = price(unit, next.as_deref());
        }
        unit.words = usize::from(!previous_joined);
        previous_joined = !unit.space && !limits.wide && !unit.text.chars().any(is_wide);
    }
    if let Some(last) = out[first..].last_mut() {
        last.segment_end = true;
        last.space = true;
        last.break_cost = last.break_cost.min(CLAUSE);
    }
}

/// Adds `text`, in pieces when it is wider than a line.
fn split_to_width(
    whole: &str,
    start: usize,
    text: &str,
    space: bool,
    limits: &Limits,
    clock: &Clock<'_>,
    out: &mut Vec<Unit>,
) {
    let mut at = start;
    let mut rest = text;
    while !rest.is_empty() {
        let mut width = 0;
        let mut length = rest.len();
        let mut before = None;
        let mut flags = 0;
        for (index, character) in rest.char_indices() {
            let columns = character.width().unwrap_or(0);
            let whole = columns > 0 && !belongs_to(before, character, flags);
            if whole && width + columns > limits.width && index > 0 {
                length = index;
                break;
            }
            width += columns;
            flags = if is_flag_half(character) { flags + 1 } else { 0 };
            before = Some(character);
        }
        let last = length == rest.len();
        let piece = rest[..length].trim_end();
        let after = rest[length..].trim_start();
        // Marks that must not begin a line hold words together that a space divides; no line begins with that space.
        let space = if last {
            space
        } else {
            piece.len() + after.len() < rest.len()
        };
        let (begin, end) = clock.span(at, at + piece.len());
        debug_assert_eq!(&whole[at..at + piece.len()], piece);
        out.push(Unit {
            width: piece.width(),
            characters: characters(piece, limits.wide) + if space { space_character(limits) } else { 0.0 },
            text: piece.to_owned(),
            space,
            words: 1,
            start: begin,
            end,
            break_cost: if last { 0.0 } else { FORCED },
            segment_end: false,
        });
        at += rest.len() - after.len();
        rest = after;
    }
}

/// Whether `character` is seen as one with the character before it, which `flags` halves of flags end in: joined emoji,
/// their skin colours, flags. Marks have no width and stay anyway.
fn belongs_to(before: Option<char>, character: char, flags: usize) -> bool {
    before == Some('\u{200d}')
        || matches!(character, '\u{1f3fb}'..='\u{1f3ff}')
        || (is_flag_half(character) && flags % 2 == 1)
}

/// Regional indicators: two make a flag.
fn is_flag_half(character: char) -> bool {
    matches!(character, '\u{1f1e6}'..='\u{1f1ff}')
}

/// Characters as reading speeds count them: half-width letters are half a character beside full-width ones.
fn characters(text: &str, wide: bool) -> f64 {
    if wide {
        text.width() as f64 / 2.0
    } else {
        text.chars().filter(|c| c.width().unwrap_or(0) > 0).count() as f64
    }
}

fn space_character(limits: &Limits) -> f64 {
    if limits.wide { 0.5 } else { 1.0 }
}

fn is_wide(c: char) -> bool {
    c.width() == Some(2)
}

/// The script of a character, as far as Japanese phrases care.
#[derive(PartialEq, Clone, Copy)]
enum Script {
    Hiragana,
    Katakana,
    Han,
    Other,
}

fn script(c: char) -> Script {
    match c {
        '\u{3041}'..='\u{309f}' => Script::Hiragana,
        '\u{30a0}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' => Script::Katakana,
        '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}' | '々' => Script::Han,
        _ => Script::Other,
    }
}

/// What a break behind `unit` costs.
fn price(unit: &Unit, next: Option<&str>) -> f64 {
    let bare = unit
        .text
        .trim_end_matches(['"', '\'', '”', '’', '»', '」', '』', '）', ')', '】']);
    let Some(last) = bare.chars().next_back() else {
        return CLAUSE;
    };
    match last {
        '.' | '!' | '?' | '…' | '。' | '！' | '？' => return SENTENCE,
        ',' | ';' | ':' | '、' | '，' | '；' | '：' | '—' | '–' => return CLAUSE,
        _ => {}
    }
    let Some(next) = next else { return CLAUSE };
    let first = next.chars().next().unwrap_or(' ');
    if is_wide(last) && is_wide(first) && !unit.space {
        return match (script(last), script(first)) {
            (Script::Hiragana, Script::Hiragana) if PARTICLES.contains(&last) => 8.0,
            (Script::Hiragana, Script::Hiragana) => 12.0,
            (Script::Hiragana, _) if PARTICLES.contains(&last) => 3.0,
            (Script::Hiragana, _) => 5.0,
            // Chinese has no marks between words: every place is as good as the next.
            (Script::Han, Script::Han) => 10.0,
            (Script::Katakana, Script::Katakana) => WITHIN_WORD,
            _ => BETWEEN_WORDS,
        };
    }
    if !unit.space {
        // Between a letter and a character of another script, or where a hyphen stands.
        return if is_wide(last) || is_wide(first) {
            BETWEEN_WORDS
        } else {
            WITHIN_WORD
        };
    }
    if is_link(bare) {
        BEHIND_LINK
    } else if is_link(next.trim_start_matches(['"', '\'', '“', '‘', '«', '(', '¿', '¡'])) {
        BEFORE_LINK
    } else {
        BETWEEN_WORDS
    }
}

fn is_link(word: &str) -> bool {
    word.len() <= 10 && LINKS.contains(&word.to_lowercase().as_str())
}

/// Byte places of a segment's text → seconds.
struct Clock<'s> {
    segment: &'s Segment,
    /// Byte range and seconds of each word.
    words: Vec<(std::ops::Range<usize>, f64, f64)>,
    bytes: usize,
}

impl<'s> Clock<'s> {
    fn new(segment: &'s Segment, text: &str) -> Self {
        let words = if text.len() == segment.text.len() {
            locate(text, &segment.words)
        } else {
            Vec::new()
        };
        let words = words
            .into_iter()
            .zip(&segment.words)
            .filter(|(range, _)| !range.is_empty())
            .map(|(range, word)| (range, f64::from(word.start), f64::from(word.end)))
            .collect();
        Self {
            segment,
            words,
            bytes: text.len().max(1),
        }
    }

    /// When the text of a byte range is said.
    fn span(&self, from: usize, to: usize) -> (f64, f64) {
        let within = |at: usize, (range, start, end): &(std::ops::Range<usize>, f64, f64)| {
            let share = (at - range.start) as f64 / range.len() as f64;
            start + (end - start) * share
        };
        let mut said = self
            .words
            .iter()
            .filter(|(range, ..)| range.end > from && range.start < to);
        let Some(first) = said.next() else {
            return self.share(from, to);
        };
        let last = said.next_back().unwrap_or(first);
        let start = if first.0.start < from {
            within(from, first)
        } else {
            first.1
        };
        let end = if last.0.end > to { within(to, last) } else { last.2 };
        (start, end.max(start))
    }

    /// Without words: between the words round it, or by its share of the segment's text.
    fn share(&self, from: usize, to: usize) -> (f64, f64) {
        let before = self.words.iter().rev().find(|(range, ..)| range.end <= from);
        if let Some((_, _, end)) = before {
            return (*end, *end);
        }
        if let Some((_, start, _)) = self.words.first() {
            return (*start, *start);
        }
        let (start, end) = (f64::from(self.segment.start), f64::from(self.segment.end));
        let at = |byte: usize| start + (end - start).max(0.0) * byte as f64 / self.bytes as f64;
        (at(from), at(to))
    }
}
