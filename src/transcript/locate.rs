//! Where the words of a segment stand in its text.

use std::ops::Range;

use super::Word;

/// The byte range of each word in `text`, in order and apart. A word that cannot be found gets the empty range at the
/// place where the search had come to: nothing is lost, it only has no text of its own.
pub fn locate(text: &str, words: &[Word]) -> Vec<Range<usize>> {
    let mut from = 0;
    words
        .iter()
        .map(|word| {
            let found = (!word.text.is_empty())
                .then(|| text[from..].find(&word.text))
                .flatten();
            match found {
                Some(at) => {
                    let start = from + at;
                    from = start + word.text.len();
                    start..from
                }
                None => from..from,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word {
            text: text.to_owned(),
            start: 0.0,
            end: 0.0,
        }
    }

    #[test]
    fn words_are_found_in_order_even_when_they_repeat() {
        let text = " No, no. Don't!";
        let words = [word("No"), word("no"), word("Don't")];
        let found: Vec<&str> = locate(text, &words)
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(found, ["No", "no", "Don't"]);
    }

    #[test]
    fn a_word_that_is_not_there_takes_no_text_from_the_others() {
        let words = [word("one"), word("zwei"), word("three")];
        assert_eq!(locate("one two three", &words), [0..3, 3..3, 8..13]);
    }
}
