use super::*;
use crate::engine::decode::{Limits, Row, StepError, Steps, Strategy, now, search};

/// Words of one token each, but for a name of three: 0 " we", 1 " met", 2 " Kr", 3 "zy", 4 "sztof", 5 " Chris", 6 "tof",
/// 7 " Kris", 8 ".", 9 "s"; 10 ends the text, timestamps from 20 on.
const TEXTS: [&str; 10] = [
    " we", " met", " Kr", "zy", "sztof", " Chris", "tof", " Kris", ".", "s",
];

fn vocabulary() -> Vocabulary {
    Vocabulary::toy_with(&TEXTS)
}

fn trie(phrases: &[&[i32]], weight: f32) -> TokenTrie {
    let mut trie = TokenTrie {
        nodes: vec![Node::default()],
        weight,
    };
    for phrase in phrases {
        trie.insert(phrase);
    }
    trie
}

/// A model whose wishes depend on what was written last: rows of (last token, wished tokens with their logits).
struct Model {
    wishes: Vec<(i32, Vec<(i32, f32)>)>,
    /// Each hypothesis.
    written: Vec<Vec<i32>>,
}

impl Model {
    fn logits(&self, text: &[i32]) -> Vec<f32> {
        let last = text.last().copied().unwrap_or(-1);
        let mut logits = vec![-30.0; 121];
        for (token, logit) in self
            .wishes
            .iter()
            .filter(|(after, _)| *after == last)
            .flat_map(|(_, w)| w)
        {
            logits[*token as usize] = *logit;
        }
        logits
    }
}

impl Steps for Model {
    async fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        logits.clear();
        for row in rows {
            self.written[row.hypothesis].extend_from_slice(row.tokens);
            logits.extend(self.logits(&self.written[row.hypothesis]));
        }
        Ok(())
    }

    fn rearrange(&mut self, parents: &[usize]) {
        self.written = parents
            .iter()
            .map(|parent| self.written[*parent].clone())
            .collect();
    }

    fn forget(&mut self, tokens: usize) {
        let left = self.written[0].len() - tokens;
        self.written[0].truncate(left);
    }
}

/// Hears "we met Chris-tof.", and "Krzysztof" so many nats less.
fn hears(gap: f32) -> Model {
    Model {
        wishes: vec![
            (-1, vec![(20, 9.0)]),
            (20, vec![(0, 9.0)]),
            (0, vec![(1, 9.0)]),
            (1, vec![(5, 9.0), (2, 9.0 - gap)]),
            (2, vec![(3, 9.0), (7, 5.0)]),
            (3, vec![(4, 9.0)]),
            (4, vec![(8, 9.0)]),
            (5, vec![(6, 9.0), (9, 8.0)]),
            (6, vec![(8, 9.0)]),
            (8, vec![(60, 9.0)]),
            (60, vec![(10, 9.0)]),
        ],
        written: vec![Vec::new()],
    }
}

const BOTH: [Strategy; 2] = [Strategy::Greedy, Strategy::Beam { width: 3 }];

fn decoded(mut model: Model, trie: Option<&TokenTrie>, strategy: Strategy) -> String {
    let mut logits = model.logits(&[]);
    let limits = Limits {
        last_timestamp: 120,
        max_tokens: 200,
    };
    let v = vocabulary();
    let found = search(&mut model, &v, &mut logits, limits, strategy, &[], trie);
    let hypothesis = now(found).unwrap();
    assert!(hypothesis.complete && hypothesis.avg_logprob <= 0.0);
    let ids: Vec<i32> = hypothesis.tokens.iter().map(|token| token.id).collect();
    if strategy == Strategy::Greedy {
        assert_eq!(
            ids, model.written[0],
            "what was taken back is gone from the model too"
        );
    }
    ids.iter()
        .filter_map(|id| TEXTS.get(*id as usize))
        .copied()
        .collect()
}

/// What is written, which greedy decoding and a beam agree on.
fn written(model: impl Fn() -> Model, trie: &TokenTrie) -> String {
    let [greedy, beam] = BOTH.map(|strategy| decoded(model(), Some(trie), strategy));
    assert_eq!(greedy, beam);
    greedy
}

#[test]
fn a_name_that_is_nearly_heard_is_written() {
    assert_eq!(
        written(|| hears(2.0), &trie(&[&[2, 3, 4]], 1.0)),
        " we met Krzysztof."
    );
}

#[test]
fn a_name_that_is_hardly_heard_is_not() {
    assert_eq!(
        written(|| hears(6.0), &trie(&[&[2, 3, 4]], 1.0)),
        " we met Christof."
    );
    assert_eq!(
        written(|| hears(4.0), &trie(&[&[2, 3, 4]], 1.0)),
        " we met Christof."
    );
    assert_eq!(
        written(|| hears(4.0), &trie(&[&[2, 3, 4]], 2.0)),
        " we met Krzysztof."
    );
}

#[test]
fn half_a_name_is_taken_back() {
    let model = || {
        let mut model = hears(2.0);
        // After " Kr" the model hears something else altogether.
        model.wishes[4].1 = vec![(7, 9.0), (3, -9.0)];
        model
    };
    assert_eq!(written(model, &trie(&[&[2, 3, 4]], 1.0)), " we met Christof.");
}

#[test]
fn a_phrase_ends_only_where_a_word_may() {
    // " Chris" is in the list, but the model goes on to "Christof" with all its heart.
    assert_eq!(written(|| hears(6.0), &trie(&[&[5]], 1.0)), " we met Christof.");
    // "Chriss" is near enough, but behind it the model would go on with the same word.
    let model = || {
        let mut model = hears(6.0);
        model.wishes.push((9, vec![(6, 9.0)]));
        model
    };
    assert_eq!(written(model, &trie(&[&[5, 9]], 1.0)), " we met Christof.");
}

#[test]
fn weight_nought_prefers_nothing() {
    let options = VocabularyOptions {
        phrases: vec!["we".to_owned()],
        weight: 0.0,
    };
    assert!(TokenTrie::new(&vocabulary(), &options).is_none());
}

#[test]
fn a_phrase_within_a_longer_one_stays_when_the_longer_one_fails() {
    // " Chris" and " Chris" "tof" "s" are listed; the model hears " Kris" nearly as "Chris", then a full stop.
    let model = || Model {
        wishes: vec![
            (-1, vec![(20, 9.0)]),
            (20, vec![(7, 9.0), (5, 7.0)]),
            (7, vec![(8, 9.0)]),
            (5, vec![(8, 9.0), (6, 8.0)]),
            (6, vec![(8, 9.0), (9, -20.0)]),
            (8, vec![(60, 9.0)]),
            (60, vec![(10, 9.0)]),
        ],
        written: vec![Vec::new()],
    };
    assert_eq!(written(model, &trie(&[&[5], &[5, 6, 9]], 1.0)), " Chris.");
}

#[test]
fn no_phrase_begins_inside_a_word() {
    // "s" alone is listed; the model hears " Chris" "tof", and "s" nearly as much as "tof".
    assert_eq!(written(|| hears(6.0), &trie(&[&[9]], 2.0)), " we met Christof.");
}

#[test]
fn a_list_that_is_not_heard_changes_nothing() {
    let far = trie(&[&[2, 3, 4], &[7]], 1.0);
    for strategy in BOTH {
        let without = decoded(hears(9.0), None, strategy);
        assert_eq!(decoded(hears(9.0), Some(&far), strategy), without);
    }
}
