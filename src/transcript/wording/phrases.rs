//! Whole phrases in a text, whatever their case.

use std::collections::HashMap;
use std::ops::Range;

use super::is_unspaced;

/// Finds phrases of a list: the longest at each place, only as whole words where the script has spaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Phrases {
    /// Folded phrases by their first character, longest first, with their place in the list.
    by_first: HashMap<char, Vec<(String, usize)>>,
}

impl Phrases {
    pub(super) fn new<'p>(phrases: impl IntoIterator<Item = &'p str>) -> Self {
        let mut by_first: HashMap<char, Vec<(String, usize)>> = HashMap::new();
        for (index, phrase) in phrases.into_iter().enumerate() {
            let folded = fold(phrase.trim()).0;
            if let Some(first) = folded.chars().next() {
                by_first.entry(first).or_default().push((folded, index));
            }
        }
        for list in by_first.values_mut() {
            list.sort_by_key(|(phrase, _)| std::cmp::Reverse(phrase.len()));
        }
        Self { by_first }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// Byte ranges of `text`, in order and apart, with the phrase's place in the list.
    pub(super) fn find(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let (folded, places) = fold(text);
        let mut found = Vec::new();
        let mut before: Option<char> = None;
        let mut skip_to = 0;
        for (at, first) in folded.char_indices() {
            let previous = before.replace(first);
            if at < skip_to || !boundary(previous, Some(first)) {
                continue;
            }
            let Some(list) = self.by_first.get(&first) else {
                continue;
            };
            let hit = list.iter().find(|(phrase, _)| {
                folded[at..].starts_with(phrase.as_str())
                    && boundary(
                        phrase.chars().next_back(),
                        folded[at + phrase.len()..].chars().next(),
                    )
            });
            if let Some((phrase, index)) = hit {
                skip_to = at + phrase.len();
                found.push((places[at]..places[skip_to], *index));
            }
        }
        found
    }
}

/// Lower case, and for each of its bytes the byte of `text` that it comes from.
fn fold(text: &str) -> (String, Vec<usize>) {
    let mut folded = String::with_capacity(text.len());
    let mut places = Vec::with_capacity(text.len() + 1);
    for (at, character) in text.char_indices() {
        // A typographic apostrophe is the same letter.
        let character = if character == '’' { '\'' } else { character };
        for lower in character.to_lowercase() {
            folded.push(lower);
            places.resize(folded.len(), at);
        }
    }
    places.push(text.len());
    (folded, places)
}

/// True where a word may begin or end between two characters.
fn boundary(before: Option<char>, after: Option<char>) -> bool {
    match (before, after) {
        (Some(a), Some(b)) => {
            !(a.is_alphanumeric() && b.is_alphanumeric()) || is_unspaced(a) || is_unspaced(b)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'t>(list: &[&str], text: &'t str) -> Vec<&'t str> {
        Phrases::new(list.iter().copied())
            .find(text)
            .into_iter()
            .map(|(range, _)| &text[range])
            .collect()
    }

    #[test]
    fn only_whole_words_whatever_their_case() {
        assert_eq!(found(&["ass"], "A class of ASS, an ass."), ["ASS", "ass"]);
        assert_eq!(found(&["über"], "Über uns, darüber"), ["Über"]);
        assert_eq!(found(&["don't"], "I don’t."), ["don’t"]);
    }

    #[test]
    fn the_longest_phrase_wins_and_a_longer_one_that_ends_within_a_word_does_not() {
        assert_eq!(
            found(&["new", "new york"], "New York is new"),
            ["New York", "new"]
        );
        assert_eq!(found(&["new", "new yo"], "New York"), ["New"]);
    }

    #[test]
    fn scripts_without_spaces_have_no_word_ends() {
        assert_eq!(found(&["東京"], "大東京都。"), ["東京"]);
    }

    #[test]
    fn letters_that_change_their_length_keep_their_place() {
        assert_eq!(found(&["straße", "x"], "İİ Straße x"), ["Straße", "x"]);
    }
}
