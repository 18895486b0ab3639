//! Names and terms that are likely: a token trie, and the rule by which greedy decoding follows one of its branches.
//!
//! A phrase is written when, from its first token to its last, it costs no more than a budget against what the model
//! would write by itself, and a word may end where it ends. A branch that runs over the budget is taken back, and the
//! model's own choice stands. So there are no half names, and what the model does not nearly hear it never writes. The
//! log probabilities stay the model's own.

use std::collections::BTreeMap;

use super::rules::Allowed;
use super::{Choice, Vocabulary};
use crate::engine::message::VocabularyOptions;

/// Nats a phrase may cost at weight 1, for its first token…
const FIRST_TOKEN_BUDGET: f32 = 3.0;
/// …and for each token after it.
const TOKEN_BUDGET: f32 = 1.5;
/// Most branches tried at one place.
const MOST_BRANCHES: usize = 3;
/// Most branches begun in one window: each costs a decoder step or more.
const MOST_ATTEMPTS: usize = 48;
/// Most tokens in the trie; what is beyond is left out.
const MOST_NODES: usize = 200_000;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Move {
    /// Append this token.
    Append(Choice),
    /// Take tokens back until `keep` are left, then append.
    Rewind {
        /// Tokens that stay.
        keep: usize,
        /// What comes after them.
        then: Choice,
    },
}

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<i32, usize>,
    ends: bool,
    /// Tokens of the longest phrase below.
    depth_below: usize,
}

/// The phrases of one request and how strongly they are preferred.
#[derive(Debug)]
pub(in crate::engine) struct TokenTrie {
    nodes: Vec<Node>,
    weight: f32,
}

impl TokenTrie {
    /// `None` when there is nothing to prefer.
    pub(in crate::engine) fn new(v: &Vocabulary, options: &VocabularyOptions) -> Option<Self> {
        let mut trie = Self {
            nodes: vec![Node::default()],
            weight: options.weight.clamp(0.0, 2.0),
        };
        if trie.weight == 0.0 {
            return None;
        }
        for phrase in options.phrases.iter().map(|phrase| phrase.trim()) {
            if phrase.is_empty() {
                continue;
            }
            for text in [format!(" {phrase}"), phrase.to_owned()] {
                trie.insert(&v.encode(&text));
            }
        }
        (trie.nodes.len() > 1).then_some(trie)
    }

    fn insert(&mut self, tokens: &[i32]) {
        if tokens.is_empty() || self.nodes.len() + tokens.len() > MOST_NODES {
            return;
        }
        let mut at = 0;
        for (index, token) in tokens.iter().enumerate() {
            let fresh = self.nodes.len();
            self.nodes[at].depth_below = self.nodes[at].depth_below.max(tokens.len() - index);
            let next = *self.nodes[at].children.entry(*token).or_insert(fresh);
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        self.nodes[at].ends = true;
    }
}

/// A branch being followed.
#[derive(Debug)]
struct Attempt {
    /// Tokens before it.
    from: usize,
    node: usize,
    /// Tokens of the branch so far.
    length: usize,
    spent: f32,
    /// Other branches at the same place, best last.
    others: Vec<(Choice, usize, f32)>,
    /// What the model would have written.
    own: Choice,
}

/// One window's decoding with a vocabulary.
#[derive(Debug)]
pub(in crate::engine) struct VocabularyBias<'t> {
    trie: &'t TokenTrie,
    attempt: Option<Attempt>,
    attempts: usize,
    /// No branch begins before so many tokens.
    settled: usize,
}

impl<'t> VocabularyBias<'t> {
    pub(in crate::engine) fn new(trie: &'t TokenTrie) -> Self {
        Self {
            trie,
            attempt: None,
            attempts: 0,
            settled: 0,
        }
    }

    /// What to do after `length` tokens.
    pub(super) fn next(&mut self, step: &Allowed<'_>, length: usize, v: &Vocabulary) -> Move {
        let own = step.best();
        if let Some(mut attempt) = self.attempt.take() {
            let node = &self.trie.nodes[attempt.node];
            let next = node
                .children
                .iter()
                .map(|(token, child)| (step.cost(*token), *token, *child))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let word_ends = v.ends_word_before(own.id);
            if let Some((cost, token, child)) = next
                && attempt.spent + cost <= self.budget(attempt.length + 1)
                // Where the phrase is whole and the model goes on to another word, only its own choice makes it longer.
                && (!(node.ends && word_ends) || token == own.id)
            {
                attempt.node = child;
                attempt.length += 1;
                attempt.spent += cost;
                self.attempt = Some(attempt);
                return Move::Append(step.text(token));
            }
            if node.ends && word_ends {
                self.settled = length;
            } else {
                return self.fail(attempt, own);
            }
        }
        self.begin(step, length, own, v)
    }

    fn budget(&self, tokens: usize) -> f32 {
        self.trie.weight * (FIRST_TOKEN_BUDGET + TOKEN_BUDGET * (tokens - 1) as f32)
    }

    /// Starts a branch, where one is near enough.
    fn begin(&mut self, step: &Allowed<'_>, length: usize, own: Choice, v: &Vocabulary) -> Move {
        // Inside a segment, after its first timestamp, before its last: where the model writes text.
        if own.id >= v.end_of_text || length < self.settled || self.attempts >= MOST_ATTEMPTS {
            return Move::Append(own);
        }
        let limit = self.budget(1);
        let mut branches: Vec<(Choice, usize, f32)> = self.trie.nodes[0]
            .children
            .iter()
            .map(|(token, child)| (*token, *child, step.cost(*token)))
            .filter(|(_, _, cost)| *cost <= limit)
            .map(|(token, child, cost)| (step.text(token), child, cost))
            .collect();
        branches.sort_by(|a, b| b.2.total_cmp(&a.2));
        if branches.len() > MOST_BRANCHES {
            branches.drain(..branches.len() - MOST_BRANCHES);
        }
        let Some((choice, node, spent)) = branches.pop() else {
            return Move::Append(own);
        };
        self.attempts += 1;
        self.attempt = Some(Attempt {
            from: length,
            node,
            length: 1,
            spent,
            others: branches,
            own,
        });
        Move::Append(choice)
    }

    /// Takes a branch back: the next one, or what the model would have written. `own` is its choice at this place.
    fn fail(&mut self, mut attempt: Attempt, own: Choice) -> Move {
        if attempt.spent == 0.0 && attempt.others.is_empty() {
            // The model wrote all of it by itself: nothing to take back.
            self.settled = attempt.from + attempt.length;
            return Move::Append(own);
        }
        let keep = attempt.from;
        if self.attempts < MOST_ATTEMPTS
            && let Some((choice, node, spent)) = attempt.others.pop()
        {
            self.attempts += 1;
            self.attempt = Some(Attempt {
                node,
                spent,
                length: 1,
                ..attempt
            });
            return Move::Rewind { keep, then: choice };
        }
        self.settled = keep + 1;
        Move::Rewind {
            keep,
            then: attempt.own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Row, StepError, Steps, Strategy, now, search};
    use super::*;

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
        written: Vec<i32>,
    }

    impl Model {
        fn logits(&self) -> Vec<f32> {
            let last = self.written.last().copied().unwrap_or(-1);
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
            self.written.extend_from_slice(rows[0].tokens);
            *logits = self.logits();
            Ok(())
        }

        fn rearrange(&mut self, _parents: &[usize]) {}

        fn forget(&mut self, tokens: usize) {
            self.written.truncate(self.written.len() - tokens);
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
            written: Vec::new(),
        }
    }

    fn written(mut model: Model, trie: &TokenTrie) -> String {
        let mut logits = model.logits();
        let bias = Some(VocabularyBias::new(trie));
        let limits = Limits {
            last_timestamp: 120,
            max_tokens: 200,
        };
        let v = vocabulary();
        let found = search(&mut model, &v, &mut logits, limits, Strategy::Greedy, &[], bias);
        let hypothesis = now(found).unwrap();
        assert!(hypothesis.complete && hypothesis.avg_logprob <= 0.0);
        let ids: Vec<i32> = hypothesis.tokens.iter().map(|token| token.id).collect();
        assert_eq!(
            ids, model.written,
            "what was taken back is gone from the model too"
        );
        ids.iter()
            .filter_map(|id| TEXTS.get(*id as usize))
            .copied()
            .collect()
    }

    #[test]
    fn a_name_that_is_nearly_heard_is_written() {
        assert_eq!(
            written(hears(2.0), &trie(&[&[2, 3, 4]], 1.0)),
            " we met Krzysztof."
        );
    }

    #[test]
    fn a_name_that_is_hardly_heard_is_not() {
        assert_eq!(
            written(hears(6.0), &trie(&[&[2, 3, 4]], 1.0)),
            " we met Christof."
        );
        assert_eq!(
            written(hears(4.0), &trie(&[&[2, 3, 4]], 1.0)),
            " we met Christof."
        );
        assert_eq!(
            written(hears(4.0), &trie(&[&[2, 3, 4]], 2.0)),
            " we met Krzysztof."
        );
    }

    #[test]
    fn half_a_name_is_taken_back() {
        let mut model = hears(2.0);
        // After " Kr" the model hears something else altogether.
        model.wishes[4].1 = vec![(7, 9.0), (3, -9.0)];
        assert_eq!(written(model, &trie(&[&[2, 3, 4]], 1.0)), " we met Christof.");
    }

    #[test]
    fn a_phrase_ends_only_where_a_word_may() {
        // " Chris" is in the list, but the model goes on to "Christof" with all its heart.
        assert_eq!(written(hears(6.0), &trie(&[&[5]], 1.0)), " we met Christof.");
        // "Chriss" is near enough, but behind it the model would go on with the same word.
        let mut model = hears(6.0);
        model.wishes.push((9, vec![(6, 9.0)]));
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
}
