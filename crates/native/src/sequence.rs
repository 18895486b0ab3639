//! The self-attention's keys and values of one hypothesis, in pages that forks share.

use std::sync::Arc;

use crate::Weights;
use crate::buffer::Buffer;
use crate::context::Context;
use crate::kernels::PAGE;
use crate::model::Pool;

/// Keys and values of [`PAGE`] positions: `[layer][key, value][position][width]`.
struct Page {
    memory: Buffer,
    pool: Arc<Pool>,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pool.keep_page(std::mem::take(&mut self.memory));
    }
}

/// The tokens so far of one hypothesis, as the decoder's self-attention keeps them.
///
/// A fork shares the pages of what both have in common; the page that grows is copied when it is first written to.
pub struct Sequence {
    pages: Vec<Arc<Page>>,
    len: usize,
    layers: usize,
    width: usize,
    pool: Arc<Pool>,
}

impl Sequence {
    /// An empty one for `weights`.
    pub fn new(weights: &Weights) -> Self {
        let shape = weights.shape();
        Self {
            pages: Vec::with_capacity(shape.text_ctx.div_ceil(PAGE)),
            len: 0,
            layers: shape.text_layers,
            width: shape.text_state,
            pool: Arc::clone(weights.pool()),
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.pages.truncate(len.div_ceil(PAGE));
        }
    }

    /// Becomes a copy of `other`. What both have in common is shared, not copied.
    pub fn fork_from(&mut self, other: &Self) {
        self.pages.clone_from(&other.pages);
        self.len = other.len;
        (self.layers, self.width) = (other.layers, other.width);
        self.pool = Arc::clone(&other.pool);
    }

    pub(crate) fn fits(&self, context: &Context<'_>) -> bool {
        (self.layers, self.width) == (context.shape.text_layers, context.shape.text_state)
    }

    /// Makes room for `more` positions in pages that nobody shares, and appends the pages' starts to `starts`.
    pub(crate) fn open(&mut self, more: usize, starts: &mut Vec<*mut f32>) {
        for index in self.len / PAGE..(self.len + more).div_ceil(PAGE) {
            if index == self.pages.len() {
                self.pages.push(Arc::new(self.page()));
            } else if Arc::get_mut(&mut self.pages[index]).is_none() {
                let used = self.len.saturating_sub(index * PAGE).min(PAGE);
                let page = self.page();
                copy_positions(
                    &self.pages[index].memory,
                    &page.memory,
                    used,
                    2 * self.layers,
                    self.width,
                );
                self.pages[index] = Arc::new(page);
            }
        }
        starts.extend(self.pages.iter().map(|page| page.memory.shared().0.cast::<f32>()));
    }

    /// Counts the positions that were written.
    pub(crate) fn grow(&mut self, more: usize) {
        self.len += more;
    }

    fn page(&self) -> Page {
        let bytes = self.layers * 2 * PAGE * self.width * 4;
        Page {
            memory: self.pool.page(bytes),
            pool: Arc::clone(&self.pool),
        }
    }
}

/// Copies the first `used` positions of each part of a page.
fn copy_positions(from: &Buffer, to: &Buffer, used: usize, parts: usize, width: usize) {
    let (from, to) = (from.shared().0.cast::<f32>(), to.shared().0.cast::<f32>());
    for part in 0..parts {
        let at = part * PAGE * width;
        // SAFETY: both pages hold `parts` times `PAGE` positions; `to` is new and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), used * width) };
    }
}
