//! The decoder: tokens of some hypotheses through all layers, each at its own position.
//!
//! A graph serves neighbouring lanes and neighbouring slots: either one hypothesis of each of some slots with one token, or one
//! slot with all its hypotheses and any number of tokens. Columns are counted by slot, hypothesis, token. Lanes in between that
//! have nothing to do are computed with the others: they see their own first key, write to the spare lane, and are not read.

use whisper_native::Shape;

use crate::Error;
use crate::cache::{Cache, HALF};
use crate::device::Backend;
use crate::encoder::{HEAD, HIDDEN, SCALE, linear, mlp, norm};
use crate::graph::{Arena, Builder};
use crate::memory::Tensor;
use crate::weights::{Attention, Weights};

/// Which lanes and slots a graph serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) first_slot: usize,
    pub(crate) slots: usize,
    pub(crate) first_lane: usize,
    /// Hypotheses of each slot.
    pub(crate) hypotheses: usize,
    /// Tokens of each hypothesis.
    pub(crate) tokens: usize,
}

impl Span {
    fn lanes(&self) -> usize {
        self.slots * self.hypotheses
    }

    fn columns(&self) -> usize {
        self.lanes() * self.tokens
    }
}

/// What one lane of a [`Span`] has to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    /// [`Span::tokens`] of them.
    pub(crate) tokens: &'a [u32],
    /// Where the first of them stands.
    pub(crate) position: usize,
}

/// What is read back.
pub(crate) enum Wanted<'a> {
    /// Logits of these columns.
    Logits(&'a [i32]),
    /// Cross-attention weights of these (layer, head) pairs.
    Heads(&'a [(usize, usize)]),
}

/// Most nodes of a graph.
pub(crate) fn nodes(shape: &Shape) -> usize {
    256 + shape.text_layers * (80 + 8 * shape.text_heads)
}

/// Runs a graph. `work` has an entry a lane of `span`; `heard` the positions of each slot of it. Logits are given as
/// `columns x n_vocab`, attention as `heads x tokens x heard`.
#[allow(
    clippy::too_many_arguments,
    reason = "the parts of an engine, which owns them apart"
)]
pub(crate) fn run(
    arena: &mut Arena,
    backend: &Backend,
    weights: &Weights,
    cache: &Cache,
    span: Span,
    work: &[Option<Work<'_>>],
    heard: &[usize],
    wanted: &Wanted<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    let layout = &cache.layout;
    let used = work.iter().flatten().map(|work| work.position + span.tokens);
    let self_keys = layout.keys(used.max().unwrap_or(1), layout.tokens);
    let cross_keys = layout.keys(heard.iter().copied().max().unwrap_or(1), layout.positions);
    let columns = span.columns();

    let b = arena.begin(backend);
    let tokens = b.input::<i32>([columns, 1, 1, 1]);
    let positions = b.input::<i32>([columns, 1, 1, 1]);
    let rows = b.input::<i64>([columns, 1, 1, 1]);
    let self_mask = b.input::<u16>([self_keys, span.tokens, 1, span.lanes()]);
    let queries = span.hypotheses * span.tokens;
    let cross_mask = b.input::<u16>([cross_keys, queries, 1, span.slots]);
    let columns_out = match wanted {
        Wanted::Logits(wanted) if wanted.len() < columns => {
            Some((b.input::<i32>([wanted.len(), 1, 1, 1]), *wanted))
        }
        _ => None,
    };
    let graph = Graph {
        b: &b,
        weights,
        cache,
        span,
        self_keys,
        cross_keys,
        rows,
        self_mask,
        cross_mask,
    };

    let mut x = graph.residual(
        b.get_rows(weights.tensor(weights.tokens), tokens),
        b.get_rows(weights.tensor(weights.decoder_positions), positions),
    );
    let mut logits = None;
    let mut captured: Vec<((usize, usize), Tensor<'_>)> = Vec::new();
    let last = match wanted {
        Wanted::Logits(_) => weights.decoder.len(),
        Wanted::Heads(heads) => heads.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0),
    };
    for (number, layer) in weights.decoder.iter().enumerate().take(last) {
        let own = graph.to_itself(number, x, &layer.attention);
        x = graph.residual(own, x);
        let query = {
            let normal = norm(&b, weights, x, layer.cross.norm);
            linear(&b, weights, normal, layer.cross.query)
        };
        if let Wanted::Heads(heads) = wanted {
            for head in heads.iter().filter(|(layer, _)| *layer == number) {
                captured.push((*head, graph.capture(number, query, head.1)));
            }
            if number + 1 == last {
                break;
            }
        }
        let window = graph.to_window(number, query, &layer.cross);
        x = graph.residual(window, x);
        x = graph.residual(mlp(&b, weights, x, &layer.mlp), x);
    }
    if let Wanted::Logits(_) = wanted {
        if let Some((columns, _)) = columns_out {
            x = b.get_rows(x, columns);
        }
        let x = norm(&b, weights, x, weights.decoder_norm);
        let all = b.mul_mat(weights.tensor(weights.tokens), x);
        b.output(all);
        logits = Some(all);
    }

    let mut ready = b.allocate()?;
    let lanes = Lanes { cache, span, work };
    ready.set(tokens, &lanes.tokens());
    ready.set(positions, &lanes.positions());
    ready.set(rows, &lanes.rows());
    ready.set(self_mask, &lanes.self_mask(self_keys));
    let mut hidden = vec![HIDDEN; cross_keys * queries * span.slots];
    for (row, hidden) in hidden.chunks_mut(cross_keys).enumerate() {
        hidden[..heard[row / queries].max(1)].fill(0);
    }
    ready.set(cross_mask, &hidden);
    if let Some((input, wanted)) = columns_out {
        ready.set(input, wanted);
    }
    ready.run()?;
    match wanted {
        Wanted::Logits(_) => {
            if let Some(logits) = logits {
                ready.get(logits, 0, out);
            }
        }
        Wanted::Heads(heads) => {
            let positions = heard[0];
            for (head, out) in heads.iter().zip(out.chunks_mut(span.tokens * positions)) {
                let Some((_, weights)) = captured.iter().find(|(other, _)| other == head) else {
                    continue;
                };
                for (token, out) in out.chunks_mut(positions).enumerate() {
                    ready.get(*weights, token * cross_keys, out);
                }
            }
        }
    }
    Ok(())
}

/// A graph that is being built, with what all its layers need.
struct Graph<'b, 'g> {
    b: &'b Builder<'g>,
    weights: &'g Weights,
    cache: &'g Cache,
    span: Span,
    self_keys: usize,
    cross_keys: usize,
    rows: Tensor<'g>,
    self_mask: Tensor<'g>,
    cross_mask: Tensor<'g>,
}

impl<'g> Graph<'_, 'g> {
    /// A sum of two that are of one size. ggml 0.9.5 gives CUDA graphs up when the second operand of a sum has several rows
    /// (`ggml-cuda.cu`, `check_node_graph_compatibility`), so the columns are counted in the third dimension.
    fn residual(&self, x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
        let [width, columns, ..] = x.sizes();
        let [x, y] = [x, y].map(|x| self.b.reshape(x, [width, 1, columns, 1]));
        self.b.reshape(self.b.add(x, y), [width, columns, 1, 1])
    }

    /// Self-attention: keys and values of the new tokens are stored, then every lane attends to its own.
    fn to_itself(&self, layer: usize, x: Tensor<'g>, a: &Attention) -> Tensor<'g> {
        let (b, w, cache, span) = (self.b, self.weights, self.cache, self.span);
        let layout = &cache.layout;
        let (width, room) = (layout.width, layout.tokens);
        let heads = width / HEAD;
        let normal = norm(b, w, x, a.norm);
        let query = linear(b, w, normal, a.query);
        for (part, into) in [
            (a.key, cache.self_keys(layer)),
            (a.value, cache.self_values(layer)),
        ] {
            let new = linear(b, w, normal, part);
            let lanes = into.sizes()[2];
            let into = b.reshape(into, [width, room * lanes, 1, 1]);
            b.compute(b.set_rows(into, new, self.rows));
        }
        let lane = room * width * HALF;
        let part = |from: Tensor<'g>| {
            b.view(
                from,
                [HEAD, self.self_keys, heads, span.lanes()],
                [width * HALF, HEAD * HALF, lane],
                span.first_lane * lane,
            )
        };
        let query = b.reshape(query, [HEAD, heads, span.tokens, span.lanes()]);
        let query = b.permute(query, [0, 2, 1, 3]);
        let (key, value) = (part(cache.self_keys(layer)), part(cache.self_values(layer)));
        let heard = if layout.flash {
            b.flash_attention(query, key, value, Some(self.self_mask), SCALE)
        } else {
            let weights = b.soft_max(b.mul_mat(key, query), Some(self.self_mask), SCALE);
            let value = b.contiguous(b.permute(value, [1, 0, 2, 3]));
            b.contiguous(b.permute(b.mul_mat(value, weights), [0, 2, 1, 3]))
        };
        let heard = b.reshape(heard, [width, span.columns(), 1, 1]);
        linear(b, w, heard, a.out)
    }

    /// Keys of the windows, by head.
    fn window_keys(&self, layer: usize) -> Tensor<'g> {
        let layout = &self.cache.layout;
        let slot = layout.positions * layout.width * HALF;
        self.b.view(
            self.cache.cross_keys(layer),
            [HEAD, self.cross_keys, layout.width / HEAD, self.span.slots],
            [layout.width * HALF, HEAD * HALF, slot],
            self.span.first_slot * slot,
        )
    }

    /// Attention of each slot's columns to its window.
    fn to_window(&self, layer: usize, query: Tensor<'g>, a: &Attention) -> Tensor<'g> {
        let (b, span) = (self.b, self.span);
        let layout = &self.cache.layout;
        let (width, room) = (layout.width, layout.positions);
        let (heads, slot) = (width / HEAD, room * width * HALF);
        let queries = span.hypotheses * span.tokens;
        let query = b.permute(b.reshape(query, [HEAD, heads, queries, span.slots]), [0, 2, 1, 3]);
        let key = self.window_keys(layer);
        let from = self.cache.cross_values(layer);
        let first = span.first_slot * slot;
        let heard = if layout.flash {
            let value = b.view(
                from,
                [HEAD, self.cross_keys, heads, span.slots],
                [width * HALF, HEAD * HALF, slot],
                first,
            );
            b.flash_attention(query, key, value, Some(self.cross_mask), SCALE)
        } else {
            let weights = b.soft_max(b.mul_mat(key, query), Some(self.cross_mask), SCALE);
            let value = b.view(
                from,
                [self.cross_keys, HEAD, heads, span.slots],
                [room * HALF, HEAD * room * HALF, slot],
                first,
            );
            b.contiguous(b.permute(b.mul_mat(value, weights), [0, 2, 1, 3]))
        };
        let heard = b.reshape(heard, [width, span.columns(), 1, 1]);
        linear(b, self.weights, heard, a.out)
    }

    /// Where one head looks, for a span of one slot: `[keys, tokens]`.
    fn capture(&self, layer: usize, query: Tensor<'g>, head: usize) -> Tensor<'g> {
        let (b, span) = (self.b, self.span);
        let width = self.cache.layout.width;
        let row = query.stride(1);
        let query = b.view(
            query,
            [HEAD, span.tokens, 1, 1],
            [row, row * span.tokens, row * span.tokens],
            head * HEAD * size_of::<f32>(),
        );
        let slot = self.cache.layout.positions * width * HALF;
        let key = b.view(
            self.cache.cross_keys(layer),
            [HEAD, self.cross_keys, 1, 1],
            [width * HALF, slot, slot],
            span.first_slot * slot + head * HEAD * HALF,
        );
        let weights = b.mul_mat(b.contiguous(key), b.contiguous(query));
        let weights = b.soft_max(weights, Some(self.cross_mask), SCALE);
        b.output(weights);
        weights
    }
}

/// The numbers that a graph is given.
struct Lanes<'a> {
    cache: &'a Cache,
    span: Span,
    work: &'a [Option<Work<'a>>],
}

impl Lanes<'_> {
    fn tokens(&self) -> Vec<i32> {
        let idle = vec![0_u32; self.span.tokens];
        let of_lane = |work: &Option<Work<'_>>| work.map_or(&idle[..], |work| work.tokens).to_vec();
        self.work
            .iter()
            .flat_map(of_lane)
            .map(|token| token as i32)
            .collect()
    }

    /// Positions of the columns; 0 for those without work.
    fn positions(&self) -> Vec<i32> {
        let tokens = self.span.tokens;
        let of_lane = |work: &Option<Work<'_>>| {
            let first = work.map(|work| work.position);
            (0..tokens).map(move |token| first.map_or(0, |first| (first + token) as i32))
        };
        self.work.iter().flat_map(of_lane).collect()
    }

    /// Where each column's keys and values go; those without work go to different places of the spare lane.
    fn rows(&self) -> Vec<i64> {
        let (room, tokens) = (self.cache.layout.tokens, self.span.tokens);
        let spare = self.cache.layout.spare_lane() * room;
        let of_lane = |(lane, work): (usize, &Option<Work<'_>>)| {
            let first = work.map(|work| (self.span.first_lane + lane) * room + work.position);
            (0..tokens).map(move |token| {
                let row = first.map_or(spare + (lane * tokens + token) % room, |first| first + token);
                row as i64
            })
        };
        self.work.iter().enumerate().flat_map(of_lane).collect()
    }

    /// A column sees the tokens before it in its lane, and itself; one without work the lane's first.
    fn self_mask(&self, keys: usize) -> Vec<u16> {
        let tokens = self.span.tokens;
        let mut hidden = vec![HIDDEN; keys * tokens * self.work.len()];
        for (column, hidden) in hidden.chunks_mut(keys).enumerate() {
            let seen = self.work[column / tokens].map_or(1, |work| work.position + column % tokens + 1);
            hidden[..seen].fill(0);
        }
        hidden
    }
}

/// Lanes from `first` on become copies of lanes `parents`, as far as `tokens` tokens.
#[allow(
    clippy::too_many_arguments,
    reason = "the parts of an engine, which owns them apart"
)]
pub(crate) fn copy_lanes(
    arena: &mut Arena,
    backend: &Backend,
    cache: &Cache,
    parents: &[usize],
    first: usize,
    tokens: usize,
) -> Result<(), Error> {
    let layout = &cache.layout;
    let (row, lane) = (layout.width * tokens, layout.width * layout.tokens * HALF);
    let b = arena.begin(backend);
    let from = b.input::<i32>([parents.len(), 1, 1, 1]);
    for layer in 0..layout.layers {
        for all in [cache.self_keys(layer), cache.self_values(layer)] {
            let lanes = all.sizes()[2];
            let whole = b.view(all, [row, lanes, 1, 1], [lane, lane * lanes, lane * lanes], 0);
            let count = parents.len();
            let into = b.view(
                all,
                [row, count, 1, 1],
                [lane, lane * count, lane * count],
                first * lane,
            );
            b.compute(b.copy(b.get_rows(whole, from), into));
        }
    }
    let mut ready = b.allocate()?;
    let parents: Vec<i32> = parents.iter().map(|lane| *lane as i32).collect();
    ready.set(from, &parents);
    ready.run()
}
