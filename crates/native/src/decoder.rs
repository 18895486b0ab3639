//! The decoder: one step of any number of rows, each a hypothesis of some window with its next tokens.
//!
//! A layer is six phases of the team. Where rows attend, an item is a head: its share of query, key and value, then the attention
//! of all rows to it. In the other products an item is some panels of the weights, so each weight is read once a step.

use crate::buffer::{Buffer, Carver, Shared};
use crate::context::{Context, QUERY_SCALE};
use crate::kernels::{Attend, AttendTokens, Epilogue, PANEL, Rows, StoreToken, attend_scratch};
use crate::plan::{DecoderLayer, MatrixAt, NormAt, Plan};
use crate::rows::{Row, StepError, Tables, check};
use crate::sequence::head_at;
use crate::shape::HEAD;
use crate::team::Scratch;
use crate::{Precision, Team};

/// Where cross-attention weights are to be copied: `heads x tokens x positions`.
pub(crate) struct Capture<'a> {
    pub(crate) heads: &'a [(usize, usize)],
    pub(crate) out: &'a mut [f32],
}

/// Intermediates of a step, for all tokens.
#[derive(Clone, Copy)]
struct Common {
    /// The residual stream.
    x: Shared<f32>,
    /// Normalised rows.
    normal: Shared<f32>,
    /// Rows quantised.
    rows: Shared<u8>,
    /// Query, key and value; then the queries of the cross-attention.
    qkv: Shared<f32>,
    /// What attention gives.
    attended: Shared<f32>,
    /// The MLP's inside.
    inner: Shared<f32>,
}

/// One thread's intermediates.
struct Own {
    scores: Shared<f32>,
    queries: Shared<u8>,
    attend: Shared<u8>,
}

/// The heads of [`Capture`] and where their weights go.
#[derive(Clone, Copy)]
struct Captured<'a> {
    heads: &'a [(usize, usize)],
    out: Shared<f32>,
}

struct Step<'a> {
    context: Context<'a>,
    plan: &'a Plan,
    tables: &'a Tables,
    common: Common,
    count: usize,
    padded: usize,
    capture: Option<Captured<'a>>,
}

/// Takes a step. See [`crate::Weights::step`].
pub(crate) fn step(
    context: Context<'_>,
    plan: &Plan,
    team: &mut Team,
    rows: &mut [Row<'_>],
    logits: &mut [f32],
    capture: Option<Capture<'_>>,
) -> Result<usize, StepError> {
    let (count, wanted) = check(&context, rows, logits.len())?;
    if count == 0 {
        return Ok(0);
    }
    let mut scratch = team.take_scratch();
    let mut tables = std::mem::take(&mut scratch.step);
    tables.fill(rows);
    let padded = rows.iter().map(|row| row.encoded.padded()).max().unwrap_or(PANEL);
    let common = room(&context, &mut scratch, team.threads(), count, padded);
    tables.own.clear();
    tables.own.extend(scratch.own.iter().map(Buffer::shared));
    let step = Step {
        context,
        plan,
        tables: &tables,
        common,
        count,
        padded,
        capture: capture.map(|capture| Captured {
            heads: capture.heads,
            out: Shared(capture.out.as_mut_ptr()),
        }),
    };
    step.embed();
    for (index, layer) in plan.decoder.iter().enumerate() {
        step.self_attention(team, index, layer);
        step.product(team, common.attended, &layer.out, common.x, Epilogue::Add);
        step.cross_attention(team, index, layer);
        step.product(team, common.attended, &layer.cross_out, common.x, Epilogue::Add);
        step.norm(team, &layer.mlp_norm, common.x);
        step.product(team, common.normal, &layer.expand, common.inner, Epilogue::Gelu);
        step.product(team, common.inner, &layer.contract, common.x, Epilogue::Add);
    }
    step.logits(team, Shared(logits.as_mut_ptr()));
    scratch.step = tables;
    team.put_scratch(scratch);
    Ok(wanted)
}

/// Makes room for the intermediates of `count` tokens.
fn room(context: &Context<'_>, scratch: &mut Scratch, threads: usize, count: usize, padded: usize) -> Common {
    let width = context.shape.text_state;
    let carve = |carver: &mut Carver| Common {
        x: carver.take(count * width),
        normal: carver.take(count * width),
        rows: carver.take(count * context.row(4 * width).max(context.row(width))),
        qkv: carver.take(count * 3 * width),
        attended: carver.take(count * width),
        inner: carver.take(count * 4 * width),
    };
    let mut measure = Carver::measure();
    carve(&mut measure);
    scratch.common.reserve(measure.used());
    let mut measure = Carver::measure();
    own(context.shape.text_ctx, count, padded, &mut measure);
    scratch.own.resize_with(threads, Buffer::default);
    for own in &mut scratch.own {
        own.reserve(measure.used());
    }
    carve(&mut Carver::over(scratch.common.shared()))
}

fn own(text_ctx: usize, count: usize, padded: usize, carver: &mut Carver) -> Own {
    Own {
        scores: carver.take(text_ctx + 32),
        queries: carver.take(count * HEAD * 4),
        attend: carver.take(attend_scratch(padded)),
    }
}

/// Bytes of weights that an item of a product reads at least: some microseconds from memory, for which claiming it costs little.
const ITEM: usize = 32 << 10;
/// Most items for each thread.
const MOST_ITEMS: usize = 32;

/// Items of a product of `panels` panels over `k` inputs: many small ones, so that threads end together.
fn items(team: &Team, panels: usize, k: usize) -> usize {
    if team.threads() == 1 {
        return 1;
    }
    let bytes = panels * PANEL * k;
    (bytes / ITEM)
        .clamp(team.threads(), MOST_ITEMS * team.threads())
        .min(panels)
}

/// Up to this many tokens the leader normalises and quantises alone: a phase of the team costs as much.
const FEW: usize = 4;

impl Step<'_> {
    fn width(&self) -> usize {
        self.context.shape.text_state
    }

    fn own(&self, thread: usize) -> Own {
        let mut carver = Carver::over(self.tables.own[thread]);
        own(self.context.shape.text_ctx, self.count, self.padded, &mut carver)
    }

    /// `x = embedding of the token + embedding of its position`.
    fn embed(&self) {
        let (width, base) = (self.width(), self.context.base());
        let embedding = self.plan.embedding.0;
        for (index, token) in self.tables.tokens.iter().enumerate() {
            let row = token.id as usize * width;
            // SAFETY: `x` holds `count` rows; token and position were checked against the sizes of the two tables.
            let x = unsafe { std::slice::from_raw_parts_mut(self.common.x.at(index * width), width) };
            // SAFETY: as above.
            let position = unsafe {
                let positions = self.plan.text_positions.of(base).add(token.position * width);
                std::slice::from_raw_parts(positions, width)
            };
            if self.context.precision == Precision::F32 {
                let bytes = &self.context.region[embedding + row * 4..][..width * 4];
                for ((x, bytes), position) in x.iter_mut().zip(bytes.chunks_exact(4)).zip(position) {
                    *x = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) + position;
                }
            } else {
                let bytes = &self.context.region[embedding + row * 2..][..width * 2];
                for ((x, bytes), position) in x.iter_mut().zip(bytes.chunks_exact(2)).zip(position) {
                    *x = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32() + position;
                }
            }
        }
    }

    /// Does `work` for every token: on the leader if they are few.
    fn tokens(&self, team: &mut Team, work: &(dyn Fn(usize) + Sync)) {
        if self.count <= FEW {
            (0..self.count).for_each(work);
            return;
        }
        let items = self.count.div_ceil(FEW).min(2 * team.threads());
        team.parallel(items, &|item| {
            (self.count * item / items..self.count * (item + 1) / items).for_each(work);
        });
    }

    /// `normal = norm(from)`, quantised into `rows`.
    fn norm(&self, team: &mut Team, norm: &NormAt, from: Shared<f32>) {
        let (width, to) = (self.width(), self.common.normal);
        self.tokens(team, &|index| {
            // SAFETY: each token has a row of its own in all three.
            unsafe {
                self.context
                    .norm(norm, from.at(index * width), to.at(index * width), 1, width);
            };
            self.quantise(index, to, width);
        });
    }

    /// Quantises one row of `k` values into its place among `rows`.
    fn quantise(&self, index: usize, from: Shared<f32>, k: usize) {
        let to = self.common.rows.at(index * self.context.row(k));
        // SAFETY: each token has a row of its own in both.
        unsafe {
            self.context
                .quantise(self.context.precision, from.at(index * k), k, 1, k, to);
        };
    }

    /// All rows, quantised from `k` values each.
    fn rows(&self, k: usize) -> Rows {
        Rows {
            start: self.common.rows.0,
            stride: self.context.row(k),
            count: self.count,
        }
    }

    /// A product of all rows, the panels spread over the team. Rows that [`Step::norm`] made are quantised already.
    fn product(
        &self,
        team: &mut Team,
        from: Shared<f32>,
        at: &MatrixAt,
        to: Shared<f32>,
        epilogue: Epilogue,
    ) {
        let matrix = at.of(self.context.base());
        if !std::ptr::eq(from.0, self.common.normal.0) {
            self.tokens(team, &|index| self.quantise(index, from, matrix.k));
        }
        let (rows, panels) = (self.rows(matrix.k), matrix.panels());
        let items = items(team, matrix.panels(), matrix.k);
        team.parallel(items, &|item| {
            let panels = panels * item / items..panels * (item + 1) / items;
            // SAFETY: items write to different columns; `rows` is only read now.
            unsafe {
                self.context
                    .product(rows, at, panels, to.at(0), matrix.n, epilogue);
            };
        });
    }

    /// Norm, query, key, value, and attention to the tokens so far.
    fn self_attention(&self, team: &mut Team, index: usize, layer: &DecoderLayer) {
        self.norm(team, &layer.attention_norm, self.common.x);
        let (width, rows) = (self.width(), self.rows(self.width()));
        let (qkv, out) = (self.common.qkv, self.common.attended);
        let panels = HEAD / PANEL;
        team.run(
            self.context.shape.text_heads,
            &|head, thread| {
                let own = self.own(thread);
                let epilogue = Epilogue::Scale {
                    channels: width,
                    by: QUERY_SCALE,
                };
                for part in 0..3 {
                    let first = part * width / PANEL + head * panels;
                    // SAFETY: heads write to different columns; `rows` is only read now.
                    unsafe {
                        let panels = first..first + panels;
                        self.context
                            .product(rows, &layer.qkv, panels, qkv.at(0), 3 * width, epilogue);
                    }
                }
                let format = self.context.attention();
                let at = head_at(index, head, width, format);
                for (row, token) in self.tables.tokens.iter().enumerate() {
                    let kept = self.tables.kept[token.kept + token.position];
                    let key = qkv.at(row * 3 * width + width + head * HEAD);
                    let store = StoreToken {
                        key,
                        value: key.wrapping_add(width),
                        to: kept.wrapping_add(at),
                    };
                    // SAFETY: the token is new and this sequence's alone, and each head has its own place.
                    unsafe { self.context.kernels.store_token(format)(&store) };
                }
                for (row, token) in self.tables.tokens.iter().enumerate() {
                    let attend = AttendTokens {
                        query: qkv.at(row * 3 * width + head * HEAD),
                        tokens: self.tables.kept[token.kept..].as_ptr(),
                        at,
                        count: token.position + 1,
                        out: out.at(row * width + head * HEAD),
                        scores: own.scores.0,
                    };
                    // SAFETY: all tokens up to this one are kept, the last ones since the loop above.
                    unsafe { self.context.kernels.attend_tokens(format)(&attend) };
                }
            },
            None,
        );
    }

    /// Norm, query, and attention to the windows.
    fn cross_attention(&self, team: &mut Team, index: usize, layer: &DecoderLayer) {
        self.norm(team, &layer.cross_norm, self.common.x);
        let (width, rows) = (self.width(), self.rows(self.width()));
        let (queries, out) = (self.common.qkv, self.common.attended);
        let panels = HEAD / PANEL;
        let format = self.context.precision.cross();
        team.run(
            self.context.shape.text_heads,
            &|head, thread| {
                let own = self.own(thread);
                let epilogue = Epilogue::Scale {
                    channels: width,
                    by: QUERY_SCALE,
                };
                let channels = head * panels..(head + 1) * panels;
                // SAFETY: heads write to different columns; `rows` is only read now; the queries' copy is this thread's.
                let rows = unsafe {
                    self.context
                        .product(rows, &layer.cross_query, channels, queries.at(0), width, epilogue);
                    let from = queries.at(head * HEAD);
                    if format == Precision::Int8Row {
                        Rows {
                            start: from.cast(),
                            stride: width * 4,
                            count: self.count,
                        }
                    } else {
                        self.context
                            .quantise(format, from, width, self.count, HEAD, own.queries.0)
                    }
                };
                let captured = self.capture.and_then(|Captured { heads, out }| {
                    let found = heads.iter().position(|pair| *pair == (index, head))?;
                    Some((found, out))
                });
                for group in &self.tables.groups {
                    // SAFETY: the rows of this call hold the windows.
                    let encoded = unsafe { &*group.encoded };
                    let positions = encoded.positions();
                    let weights = captured.map_or(std::ptr::null_mut(), |(found, out)| {
                        out.at((found * self.count + group.first) * positions)
                    });
                    let attend = Attend {
                        queries: Rows {
                            start: rows.start.wrapping_add(group.first * rows.stride),
                            stride: rows.stride,
                            count: group.count,
                        },
                        head: encoded.head(index, head),
                        out: out.at(group.first * width + head * HEAD),
                        out_stride: width,
                        scratch: own.attend.0,
                        weights,
                        weights_stride: positions,
                    };
                    // SAFETY: the scratch is for the longest of the windows; heads write to different columns.
                    unsafe { self.context.kernels.attend(format)(&attend) };
                }
            },
            None,
        );
    }

    /// The last norm and the vocabulary, for the tokens whose logits are wanted.
    fn logits(&self, team: &mut Team, logits: Shared<f32>) {
        let (wanted, width) = (&self.tables.wanted, self.width());
        if wanted.is_empty() {
            return;
        }
        let stride = self.context.row(width);
        for (to, from) in wanted.iter().enumerate() {
            let norm = &self.plan.decoder_norm;
            // SAFETY: each wanted token has a row of its own in `normal` and in `rows`.
            unsafe {
                let normal = self.common.normal.at(to * width);
                self.context
                    .norm(norm, self.common.x.at(from * width), normal, 1, width);
                let rows = self.common.rows.at(to * stride);
                self.context
                    .quantise(self.context.precision, normal, width, 1, width, rows);
            }
        }
        let rows = Rows {
            start: self.common.rows.0,
            stride,
            count: wanted.len(),
        };
        let matrix = self.plan.logits.of(self.context.base());
        let panels = matrix.panels();
        let items = items(team, panels, matrix.k);
        team.parallel(items, &|item| {
            let panels = panels * item / items..panels * (item + 1) / items;
            // SAFETY: items write to different columns of the caller's logits, which have room for all wanted rows.
            unsafe {
                self.context.product(
                    rows,
                    &self.plan.logits,
                    panels,
                    logits.at(0),
                    matrix.n,
                    Epilogue::Store,
                );
            }
        });
    }
}
