//! What becomes of a text after decoding: hesitations out, an exact table of replacements, and the user's own list of
//! words that are not to be shown. All of it is off until asked for; segments keep their times, words theirs.

mod edits;
mod fillers;
mod phrases;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::Segment;
use edits::{Edit, apply};
use phrases::Phrases;

/// How closely the text follows the speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TranscribeStyle {
    /// As the model writes it.
    #[default]
    Verbatim,
    /// Without sounds of hesitation.
    Clean,
}

/// What to do with the words of the user's list; the names are those of Azure's `profanityFilterMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfanityMode {
    /// Nothing.
    #[default]
    None,
    /// An asterisk for each character.
    Masked,
    /// Out of the text.
    Removed,
    /// Between `<profanity>` and `</profanity>`.
    Tags,
}

/// Everything a request and the configuration say about wording.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordingRules {
    /// Hesitations.
    pub style: TranscribeStyle,
    /// Phrase → what is written in its place. The first of two equal phrases counts.
    pub replacements: Vec<(String, String)>,
    /// What to do with `profanity_words`.
    pub profanity: ProfanityMode,
    /// The user's own list.
    pub profanity_words: Vec<String>,
}

/// Most phrases in a list, and bytes of one.
pub const MOST_PHRASES: usize = 2_000;
/// Longest phrase in bytes.
pub const LONGEST_PHRASE_BYTES: usize = 500;

/// [`WordingRules`] made ready.
#[derive(Debug, Clone, Default)]
pub struct Wording {
    style: TranscribeStyle,
    replacements: Phrases,
    replaced_by: Vec<String>,
    profanity: ProfanityMode,
    profane: Phrases,
}

impl Wording {
    /// Prepares the lists.
    pub fn new(rules: &WordingRules) -> Self {
        Self {
            style: rules.style,
            replacements: Phrases::new(rules.replacements.iter().map(|(from, _)| from.as_str())),
            replaced_by: rules.replacements.iter().map(|(_, to)| to.clone()).collect(),
            profanity: rules.profanity,
            profane: Phrases::new(rules.profanity_words.iter().map(String::as_str)),
        }
    }

    /// True when no text is ever changed.
    pub fn is_empty(&self) -> bool {
        self.style == TranscribeStyle::Verbatim
            && self.replacements.is_empty()
            && (self.profanity == ProfanityMode::None || self.profane.is_empty())
    }

    /// Changes the segment's text and words; false when nothing is left of it. `written` is the text's language: the
    /// segment's own, or English for a translation.
    pub fn apply(&self, segment: &mut Segment, written: Option<&str>) -> bool {
        if self.style == TranscribeStyle::Clean {
            let edits = fillers::without(&segment.text, written.unwrap_or("en"));
            apply(segment, &edits);
        }
        let edits: Vec<Edit> = self
            .replacements
            .find(&segment.text)
            .into_iter()
            .map(|(range, index)| {
                let with = self.replaced_by.get(index).cloned().unwrap_or_default();
                gone_with_its_space(&segment.text, range, with)
            })
            .collect();
        apply(segment, &edits);
        if self.profanity != ProfanityMode::None {
            let edits: Vec<Edit> = self
                .profane
                .find(&segment.text)
                .into_iter()
                .map(|(range, _)| self.hidden(&segment.text, range))
                .collect();
            apply(segment, &edits);
        }
        segment.text.chars().any(char::is_alphanumeric) || segment.text.contains('*')
    }

    fn hidden(&self, text: &str, range: std::ops::Range<usize>) -> Edit {
        let word = &text[range.clone()];
        match self.profanity {
            ProfanityMode::Tags => Edit {
                words: word.to_owned(),
                with: format!("<profanity>{word}</profanity>"),
                range,
            },
            ProfanityMode::Removed => gone_with_its_space(text, range, String::new()),
            ProfanityMode::Masked | ProfanityMode::None => {
                let stars: String = word
                    .chars()
                    .map(|c| if c.is_whitespace() { c } else { '*' })
                    .collect();
                Edit {
                    words: stars.clone(),
                    with: stars,
                    range,
                }
            }
        }
    }
}

/// A change that takes one neighbouring space along when nothing comes in the phrase's place.
fn gone_with_its_space(text: &str, mut range: std::ops::Range<usize>, with: String) -> Edit {
    if with.is_empty() {
        if text[..range.start].ends_with(' ') {
            range.start -= 1;
        } else if text[range.end..].starts_with(' ') {
            range.end += 1;
        }
    }
    Edit {
        range,
        words: with.clone(),
        with,
    }
}

/// Scripts written without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}
