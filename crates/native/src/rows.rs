//! What a step is asked for: rows, their check, and the tables that the decoder works from.

use thiserror::Error;

use crate::Sequence;
use crate::buffer::Shared;
use crate::context::Context;
use crate::encoder::Encoded;

/// Which logits a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Logits {
    /// Those after its last token.
    #[default]
    Last,
    /// None, as for a prompt that more tokens follow.
    None,
    /// Those after each of its tokens.
    All,
}

impl Logits {
    fn count(self, tokens: usize) -> usize {
        match self {
            Self::Last => 1,
            Self::None => 0,
            Self::All => tokens,
        }
    }
}

/// One hypothesis in a step.
pub struct Row<'a> {
    /// The window it transcribes.
    pub encoded: &'a Encoded,
    /// Its tokens so far; the new ones follow at position `sequence.len()`.
    pub sequence: &'a mut Sequence,
    /// The tokens to append: one in decoding, all of them for a prompt. Never empty.
    pub tokens: &'a [u32],
    /// Which logits are wanted.
    pub logits: Logits,
}

/// Why a step was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// A sequence would grow past the model's text context.
    #[error("a sequence of {len} tokens; at most {most} are possible")]
    TooLong {
        /// The length it would have.
        len: usize,
        /// The model's text context.
        most: usize,
    },
    /// A row has no tokens.
    #[error("a row without tokens")]
    Empty,
    /// A token is outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        n_vocab: usize,
    },
    /// The space for logits is too small.
    #[error("room for {room} logits, {needed} are needed")]
    Room {
        /// Values that fit.
        room: usize,
        /// Values that were asked for.
        needed: usize,
    },
    /// A window or sequence belongs to a model of another shape.
    #[error("a window or sequence of another model")]
    Foreign,
    /// No such attention head.
    #[error("no head {head} in layer {layer}")]
    Head {
        /// The layer asked for.
        layer: usize,
        /// The head asked for.
        head: usize,
    },
}

/// One token of one row.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) position: usize,
    /// Index of its sequence's first token in the table of what is kept.
    pub(crate) kept: usize,
}

/// Tokens that follow each other and attend to the same window.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) encoded: *const Encoded,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// Tables of a step, kept from step to step so that none allocates.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) tokens: Vec<Token>,
    pub(crate) groups: Vec<Group>,
    /// Keys and values of every token that is attended to, sequence by sequence.
    pub(crate) kept: Vec<*mut u8>,
    pub(crate) wanted: Vec<usize>,
    pub(crate) own: Vec<Shared<u8>>,
}

// SAFETY: the pointers are set and followed within one call, which holds what they point to.
unsafe impl Send for Tables {}
// SAFETY: as above; threads of the call only read the tables.
unsafe impl Sync for Tables {}

/// Checks a step; gives the number of tokens and of rows of logits.
pub(crate) fn check(
    context: &Context<'_>,
    rows: &[Row<'_>],
    room: usize,
) -> Result<(usize, usize), StepError> {
    let shape = context.shape;
    let (mut count, mut wanted) = (0, 0);
    for row in rows {
        if row.tokens.is_empty() {
            return Err(StepError::Empty);
        }
        if !row.encoded.fits(context) || !row.sequence.fits(context) {
            return Err(StepError::Foreign);
        }
        let len = row.sequence.len() + row.tokens.len();
        if len > shape.text_ctx {
            return Err(StepError::TooLong {
                len,
                most: shape.text_ctx,
            });
        }
        if let Some(token) = row.tokens.iter().find(|token| **token as usize >= shape.n_vocab) {
            return Err(StepError::Token {
                token: *token,
                n_vocab: shape.n_vocab,
            });
        }
        count += row.tokens.len();
        wanted += row.logits.count(row.tokens.len());
    }
    let needed = wanted * shape.n_vocab;
    if room < needed {
        return Err(StepError::Room { room, needed });
    }
    Ok((count, wanted))
}

impl Tables {
    pub(crate) fn fill(&mut self, rows: &mut [Row<'_>]) {
        self.tokens.clear();
        self.groups.clear();
        self.kept.clear();
        self.wanted.clear();
        for row in rows {
            let kept = self.kept.len();
            let before = row.sequence.len();
            row.sequence.grow(row.tokens.len(), &mut self.kept);
            let first = self.tokens.len();
            for (index, token) in row.tokens.iter().enumerate() {
                self.tokens.push(Token {
                    id: *token,
                    position: before + index,
                    kept,
                });
            }
            let end = self.tokens.len();
            self.wanted.extend(end - row.logits.count(row.tokens.len())..end);
            match self.groups.last_mut() {
                Some(group) if std::ptr::eq(group.encoded, row.encoded) => group.count += end - first,
                _ => self.groups.push(Group {
                    encoded: row.encoded,
                    first,
                    count: end - first,
                }),
            }
        }
    }
}
