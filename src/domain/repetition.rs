//! Text that ends in a loop: the model's best-known failure.

/// Longest phrase, in tokens, whose repetition is looked for.
pub const MAX_PHRASE_TOKENS: usize = 24;

/// Where the repetition begins when the text ends in the same phrase so often that no speaker would say it: one token
/// twelve times, a pair eight times, a phrase of three to eight six times, a longer one four times. What comes before the
/// returned index holds the phrase once.
pub fn loop_at_end<T: PartialEq>(text: &[T]) -> Option<usize> {
    (1..=MAX_PHRASE_TOKENS).find_map(|length| {
        let times = match length {
            1 => 12,
            2 => 8,
            3..=8 => 6,
            _ => 4,
        };
        let mut from = text.len();
        while from > length && text[from - 1] == text[from - 1 - length] {
            from -= 1;
        }
        (text.len() - from >= length * (times - 1)).then_some(from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_found_where_its_second_round_begins() {
        let mut text = vec![9, 8];
        text.extend([1, 2, 3].repeat(6));
        assert_eq!(loop_at_end(&text), Some(5));
        assert_eq!(loop_at_end(&[7; 12]), Some(1));
        assert_eq!(loop_at_end(&[4, 5].repeat(8)), Some(2));
    }

    #[test]
    fn ordinary_repetition_is_no_loop() {
        assert_eq!(loop_at_end::<i32>(&[]), None);
        assert_eq!(loop_at_end(&[5; 11]), None);
        assert_eq!(loop_at_end(&[1, 2, 3].repeat(3)), None);
        assert_eq!(loop_at_end(&[1, 2, 3, 1, 2, 3, 1, 2, 3, 4]), None);
    }
}
