//! Names and terms that are likely: a token trie, and how decoding follows its branches.
//!
//! A phrase is written when, from its first token to its last, it costs no more than a budget against what the model
//! would write by itself, and a word may end where it ends. So there are no half names, and what the model does not
//! nearly hear it never writes. [`rewinding`] follows a branch in greedy decoding and takes it back when it runs over the
//! budget; [`beam`] lets branches stand beside the hypotheses of a beam. The log probabilities stay the model's own.

pub(super) mod beam;
mod rewinding;

#[cfg(test)]
mod tests;

pub(super) use rewinding::{Move, Rewinding};

use std::collections::BTreeMap;

use super::rules::Allowed;
use super::{Choice, Vocabulary};
use crate::engine::message::VocabularyOptions;

/// Nats a phrase may cost at weight 1, for its first token…
const FIRST_TOKEN_BUDGET: f32 = 3.0;
/// …and for each token after it.
const TOKEN_BUDGET: f32 = 1.5;
/// Most branches begun at one place.
const MOST_BRANCHES: usize = 3;
/// Most tokens in the trie; what is beyond is left out.
const MOST_NODES: usize = 200_000;
/// The node that every phrase begins at.
const ROOT: usize = 0;

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<i32, usize>,
    ends: bool,
}

/// The phrases of one request and how strongly they are preferred.
#[derive(Debug)]
pub(in crate::engine) struct TokenTrie {
    nodes: Vec<Node>,
    weight: f32,
}

/// A step along a branch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Branch {
    token: i32,
    node: usize,
    /// Nats against what the model would write here.
    cost: f32,
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
        let mut at = ROOT;
        for token in tokens {
            let fresh = self.nodes.len();
            let next = *self.nodes[at].children.entry(*token).or_insert(fresh);
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        self.nodes[at].ends = true;
    }

    /// Nats that a branch of so many tokens may cost.
    fn budget(&self, tokens: usize) -> f32 {
        self.weight * (FIRST_TOKEN_BUDGET + TOKEN_BUDGET * (tokens - 1) as f32)
    }

    /// The branches that may begin after `text`, best first.
    fn beginnings(&self, step: &Allowed<'_>, text: &[Choice], v: &Vocabulary) -> Vec<Branch> {
        let limit = self.budget(1);
        let inside_word = text.last().is_some_and(|last| v.ends_in_letter(last.id));
        self.branches(ROOT, step, limit, |token| {
            !inside_word || v.ends_word_before(token)
        })
    }

    /// The ways on from a node that cost at most `limit`, best first.
    fn following(&self, node: usize, step: &Allowed<'_>, limit: f32) -> Vec<Branch> {
        self.branches(node, step, limit, |_| true)
    }

    fn branches(
        &self,
        node: usize,
        step: &Allowed<'_>,
        limit: f32,
        mut may: impl FnMut(i32) -> bool,
    ) -> Vec<Branch> {
        let mut branches: Vec<Branch> = self.nodes[node]
            .children
            .iter()
            .map(|(token, node)| Branch {
                token: *token,
                node: *node,
                cost: step.cost(*token),
            })
            .filter(|branch| branch.cost <= limit && may(branch.token))
            .collect();
        branches.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        branches.truncate(MOST_BRANCHES);
        branches
    }

    /// Whether a phrase ends at a node.
    fn ends(&self, node: usize) -> bool {
        self.nodes[node].ends
    }
}
