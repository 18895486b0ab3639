//! Branches beside the hypotheses of a beam.
//!
//! Every hypothesis knows where it stands in the trie. A phrase that is written whole, within its budget, earns its
//! hypothesis as many nats as the budget has; until then the hypothesis keeps a place beside the beam's own, so that it
//! drives out nothing that the model thinks likelier.

use super::{MOST_BRANCHES, TokenTrie};
use crate::engine::decode::rules::Allowed;
use crate::engine::decode::{Choice, Vocabulary};

/// Most hypotheses on a branch that stand beside the beam's own.
pub(in crate::engine::decode) const BRANCH_PLACES: usize = MOST_BRANCHES;

/// Where a hypothesis stands.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::engine::decode) struct Standing {
    branch: Option<Followed>,
    /// Nats that whole phrases have earned.
    pub(in crate::engine::decode) earned: f32,
}

/// A branch that is followed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Followed {
    node: usize,
    tokens: usize,
    /// Nats it has cost.
    spent: f32,
    /// Nats that a whole phrase at its beginning earns.
    whole: f32,
}

/// A token that may follow a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine::decode) struct Way {
    pub(in crate::engine::decode) choice: Choice,
    /// Where the hypothesis stands with it.
    pub(in crate::engine::decode) standing: Standing,
}

impl From<Choice> for Way {
    fn from(choice: Choice) -> Self {
        Self {
            choice,
            standing: Standing::default(),
        }
    }
}

/// Of the ways that found no place in the beam, with their scores and hypotheses, those on the best branches.
pub(in crate::engine::decode) fn beside(
    trie: &TokenTrie,
    ways: impl Iterator<Item = (f32, usize, Way)>,
) -> Vec<(usize, Way)> {
    let mut on_branches: Vec<(f32, usize, Way)> = ways
        .filter_map(|(score, number, way)| {
            let followed = way.standing.branch?;
            Some((score + trie.budget(followed.tokens), number, way))
        })
        .collect();
    on_branches.sort_by(|a, b| b.0.total_cmp(&a.0));
    on_branches.truncate(BRANCH_PLACES);
    on_branches
        .into_iter()
        .map(|(_, number, way)| (number, way))
        .collect()
}

/// Adds to `likeliest`, the likeliest tokens after `text`, those that lie on a branch.
pub(in crate::engine::decode) fn ways(
    trie: &TokenTrie,
    standing: Standing,
    step: &Allowed<'_>,
    text: &[Choice],
    likeliest: Vec<Choice>,
    v: &Vocabulary,
) -> Vec<Way> {
    let beginnings = trie.beginnings(step, text, v);
    let on = standing.branch.map_or_else(Vec::new, |followed| {
        let left = trie.budget(followed.tokens + 1) - followed.spent;
        trie.following(followed.node, step, left)
    });
    let mut choices = likeliest;
    for branch in on.iter().chain(&beginnings) {
        if choices.iter().all(|choice| choice.id != branch.token) {
            choices.push(step.text(branch.token));
        }
    }
    let after = |token: i32| {
        let mut next = standing;
        if let Some(mut followed) = next.branch.take() {
            if trie.ends(followed.node) && v.ends_word_before(token) {
                followed.whole = trie.budget(followed.tokens);
            }
            if let Some(branch) = on.iter().find(|branch| branch.token == token) {
                next.branch = Some(Followed {
                    node: branch.node,
                    tokens: followed.tokens + 1,
                    spent: followed.spent + branch.cost,
                    whole: followed.whole,
                });
                return next;
            }
            next.earned += followed.whole;
        }
        let begun = beginnings.iter().find(|branch| branch.token == token);
        next.branch = begun.map(|branch| Followed {
            node: branch.node,
            tokens: 1,
            spent: branch.cost,
            whole: 0.0,
        });
        next
    };
    choices
        .into_iter()
        .map(|choice| Way {
            choice,
            standing: after(choice.id),
        })
        .collect()
}
