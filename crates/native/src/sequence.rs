//! The self-attention's keys and values of one hypothesis.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::context::Context;
use crate::model::Pool;
use crate::shape::HEAD;
use crate::{Precision, Weights};

/// Keys and values of one token: `[layer][head][key, value][channel]`.
struct Token {
    memory: Buffer,
    pool: Arc<Pool>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.pool.keep_token(std::mem::take(&mut self.memory));
    }
}

/// The tokens so far of one hypothesis, as the decoder's self-attention keeps them.
///
/// Each token's keys and values are memory of their own, so a fork copies nothing but the list of them.
pub struct Sequence {
    tokens: Vec<Arc<Token>>,
    layers: usize,
    width: usize,
    format: Precision,
    pool: Arc<Pool>,
}

impl Sequence {
    /// An empty one for `weights`.
    pub fn new(weights: &Weights) -> Self {
        let shape = weights.shape();
        Self {
            tokens: Vec::with_capacity(shape.text_ctx),
            layers: shape.text_layers,
            width: shape.text_state,
            format: weights.precision().attention(),
            pool: Arc::clone(weights.pool()),
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
    }

    /// Becomes a copy of `other`. What both have in common is shared, not copied.
    pub fn fork_from(&mut self, other: &Self) {
        let common = self
            .tokens
            .iter()
            .zip(&other.tokens)
            .take_while(|(mine, other)| Arc::ptr_eq(mine, other))
            .count();
        self.tokens.truncate(common);
        self.tokens.extend_from_slice(&other.tokens[common..]);
        (self.layers, self.width, self.format) = (other.layers, other.width, other.format);
        self.pool = Arc::clone(&other.pool);
    }

    pub(crate) fn fits(&self, context: &Context<'_>) -> bool {
        let shape = context.shape;
        (self.layers, self.width, self.format) == (shape.text_layers, shape.text_state, context.attention())
    }

    /// Appends `more` tokens, still to be written, and then the starts of all to `starts`.
    pub(crate) fn grow(&mut self, more: usize, starts: &mut Vec<*mut u8>) {
        let bytes = self.layers * self.width * 2 * self.format.number();
        for _ in 0..more {
            let token = Token {
                memory: self.pool.token(bytes),
                pool: Arc::clone(&self.pool),
            };
            self.tokens.push(Arc::new(token));
        }
        starts.extend(self.tokens.iter().map(|token| token.memory.shared().0));
    }
}

/// Bytes from the start of a token's keys and values to those of a head.
pub(crate) fn head_at(layer: usize, head: usize, width: usize, format: Precision) -> usize {
    (layer * width + head * HEAD) * 2 * format.number()
}
