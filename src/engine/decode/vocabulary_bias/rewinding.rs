//! One hypothesis that follows branches: greedy decoding, which can take tokens back.

use super::{Branch, TokenTrie};
use crate::engine::decode::rules::Allowed;
use crate::engine::decode::{Choice, Vocabulary};

/// Most branches begun in one window: each costs a decoder step or more.
const MOST_ATTEMPTS: usize = 48;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine::decode) enum Move {
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

/// A branch being followed.
#[derive(Debug)]
struct Attempt {
    /// Tokens before what is taken back when it fails.
    from: usize,
    node: usize,
    /// Tokens of the branch so far.
    tokens: usize,
    /// Nats it has cost.
    spent: f32,
    /// Other branches at the same place, best last.
    others: Vec<(Choice, Branch)>,
    /// What the model would have written.
    own: Choice,
}

/// One window's decoding with a vocabulary.
#[derive(Debug)]
pub(in crate::engine::decode) struct Rewinding<'t> {
    trie: &'t TokenTrie,
    attempt: Option<Attempt>,
    attempts: usize,
    /// No branch begins before so many tokens.
    settled: usize,
}

impl<'t> Rewinding<'t> {
    pub(in crate::engine::decode) fn new(trie: &'t TokenTrie) -> Self {
        Self {
            trie,
            attempt: None,
            attempts: 0,
            settled: 0,
        }
    }

    /// What to do after `text`.
    pub(in crate::engine::decode) fn next(
        &mut self,
        step: &Allowed<'_>,
        text: &[Choice],
        v: &Vocabulary,
    ) -> Move {
        let own = step.best();
        if let Some(mut attempt) = self.attempt.take() {
            let left = self.trie.budget(attempt.tokens + 1) - attempt.spent;
            let next = self.trie.following(attempt.node, step, left).into_iter().next();
            let whole = self.trie.ends(attempt.node) && v.ends_word_before(own.id);
            // Where the phrase is whole and the model goes on to another word, only its own choice makes it longer.
            if let Some(branch) = next.filter(|branch| !whole || branch.token == own.id) {
                if whole {
                    // What is written so far stays, whatever becomes of the longer phrase.
                    attempt.from = text.len();
                    attempt.others.clear();
                    attempt.own = own;
                }
                attempt.node = branch.node;
                attempt.tokens += 1;
                attempt.spent += branch.cost;
                self.attempt = Some(attempt);
                return Move::Append(step.text(branch.token));
            }
            if !whole {
                return self.fail(attempt, own);
            }
            self.settled = text.len();
        }
        self.begin(step, text, own, v)
    }

    /// Starts a branch, where one is near enough.
    fn begin(&mut self, step: &Allowed<'_>, text: &[Choice], own: Choice, v: &Vocabulary) -> Move {
        // Inside a segment, after its first timestamp, before its last: where the model writes text.
        if own.id >= v.end_of_text || text.len() < self.settled || self.attempts >= MOST_ATTEMPTS {
            return Move::Append(own);
        }
        let branches = self.trie.beginnings(step, text, v);
        let mut branches: Vec<(Choice, Branch)> = branches
            .into_iter()
            .rev()
            .map(|branch| (step.text(branch.token), branch))
            .collect();
        let Some(first) = branches.pop() else {
            return Move::Append(own);
        };
        Move::Append(self.follow(first, text.len(), branches, own))
    }

    fn follow(
        &mut self,
        (choice, branch): (Choice, Branch),
        from: usize,
        others: Vec<(Choice, Branch)>,
        own: Choice,
    ) -> Choice {
        self.attempts += 1;
        self.attempt = Some(Attempt {
            from,
            node: branch.node,
            tokens: 1,
            spent: branch.cost,
            others,
            own,
        });
        choice
    }

    /// Takes a branch back: the next one, or what the model would have written. `own` is its choice at this place.
    fn fail(&mut self, mut attempt: Attempt, own: Choice) -> Move {
        if attempt.spent == 0.0 && attempt.others.is_empty() {
            // The model wrote all of it by itself: nothing to take back.
            self.settled = attempt.from + attempt.tokens;
            return Move::Append(own);
        }
        let keep = attempt.from;
        if self.attempts < MOST_ATTEMPTS
            && let Some(other) = attempt.others.pop()
        {
            let then = self.follow(other, keep, attempt.others, attempt.own);
            return Move::Rewind { keep, then };
        }
        self.settled = keep + 1;
        Move::Rewind {
            keep,
            then: attempt.own,
        }
    }
}
