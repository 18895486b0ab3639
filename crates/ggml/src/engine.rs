//! One model on one device, with slots for windows.

use whisper_native::Shape;

use crate::cache::{Cache, Layout};
use crate::decoder::{self, Span, Wanted, Work};
use crate::device::{Backend, Device, DeviceKind};
use crate::encoder;
use crate::graph::Arena;
use crate::weights::{Source, Weights};
use crate::{Error, encoder::Input};

pub use whisper_native::Logits;

/// Most windows in one encoder graph: beyond that a GPU is busy anyway, and everybody waits longer.
pub const MOST_ENCODED_TOGETHER: usize = 4;
/// A narrow graph computes lanes that have nothing to do, if they lie between others. With more idle lanes than busy ones a
/// processor is better off without them; a GPU reads the weights once either way.
const IDLE_SHARE: usize = 2;

/// How an engine is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Windows it holds at once.
    pub slots: usize,
    /// Windows among them that follow several hypotheses at once.
    pub blocks: usize,
    /// Most hypotheses of such a window.
    pub hypotheses: usize,
    /// Attention that never makes the matrix of all weights.
    pub flash_attention: bool,
    /// Threads, on the processor.
    pub threads: usize,
}

/// One window to encode.
#[derive(Debug, Clone, Copy)]
pub struct Encode<'a> {
    /// Where to.
    pub slot: usize,
    /// [`Shape::n_mels`] rows of `2 * positions` frames.
    pub mel: &'a [f32],
    /// Encoder positions, 20 ms each.
    pub positions: usize,
}

/// One hypothesis in a step.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The slot of its window.
    pub slot: usize,
    /// Its number in the window.
    pub hypothesis: usize,
    /// Appended to it; never empty.
    pub tokens: &'a [u32],
    /// Which logits are wanted.
    pub logits: Logits,
}

impl Row<'_> {
    /// Rows of logits that it asks for.
    pub fn wanted(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.tokens.len(),
        }
    }
}

/// Bytes on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The weights.
    pub weights: usize,
    /// Keys and values.
    pub cache: usize,
    /// Intermediate results.
    pub scratch: usize,
    /// Keys and values of one slot, a part of `cache`.
    pub slot: usize,
}

/// What a slot holds.
#[derive(Debug, Default)]
struct Slot {
    /// 0 without a window.
    positions: usize,
    /// Tokens of each hypothesis.
    lens: Vec<usize>,
    /// The block its hypotheses are in; else the one is in the slot's own lane.
    block: Option<usize>,
}

/// One model on one device.
pub struct Engine {
    // Before the backend, which frees the device.
    weights: Weights,
    cache: Cache,
    encoding: Arena,
    stepping: Arena,
    backend: Backend,
    shape: Shape,
    slots: Vec<Slot>,
    /// Which blocks are free.
    free: Vec<usize>,
    /// Logits of one graph.
    scratch: Vec<f32>,
    /// Steps that were run as one graph, and their rows.
    graphs: (u64, u64),
}

impl Engine {
    /// Loads a model onto a device, and runs every kind of graph once, so that what the backend lacks shows at once.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] and [`Error::Kind`] for the checkpoint; [`Error::Device`], [`Error::Memory`] and [`Error::Unsupported`]
    /// for the device. With fewer slots memory may suffice.
    pub fn open(
        device: Device,
        shape: &Shape,
        source: &mut dyn Source,
        options: Options,
    ) -> Result<Self, Error> {
        let backend = Backend::new(device, options.threads)?;
        let weights = Weights::load(&backend, shape, source)?;
        let hypotheses = options.hypotheses.max(1);
        let blocks = if hypotheses > 1 { options.blocks.max(1) } else { 0 };
        let layout = Layout::new(
            shape,
            options.slots.max(1),
            blocks,
            hypotheses,
            options.flash_attention,
        );
        let cache = Cache::new(&backend, layout)?;
        let mut engine = Self {
            encoding: Arena::new(&backend, encoder::nodes(shape, MOST_ENCODED_TOGETHER)),
            stepping: Arena::new(&backend, decoder::nodes(shape)),
            slots: (0..layout.slots).map(|_| Slot::default()).collect(),
            free: (0..blocks).rev().collect(),
            weights,
            cache,
            backend,
            shape: *shape,
            scratch: Vec::new(),
            graphs: (0, 0),
        };
        engine.probe()?;
        Ok(engine)
    }

    /// Runs the largest graph of each kind once.
    fn probe(&mut self) -> Result<(), Error> {
        let gpu = self.backend.device().kind() != DeviceKind::Processor;
        let full = self.shape.n_audio_ctx;
        // A GPU's memory is taken now; the processor's when it is needed.
        let positions = if gpu { full } else { full.min(64) };
        let mel = vec![0.0; self.shape.n_mels * 2 * positions];
        let short = &mel[..self.shape.n_mels * 2 * positions.div_ceil(2)];
        let jobs: Vec<Encode<'_>> = (0..self.slots.len().min(MOST_ENCODED_TOGETHER))
            .map(|slot| Encode {
                slot,
                // One of them shorter, so that there is a mask.
                mel: if slot == 0 { &mel } else { short },
                positions: if slot == 0 {
                    positions
                } else {
                    positions.div_ceil(2)
                },
            })
            .collect();
        self.encode(&jobs)?;
        let row = |slot, hypothesis, tokens| Row {
            slot,
            hypothesis,
            tokens,
            logits: Logits::Last,
        };
        let mut logits = Vec::new();
        let prompt = vec![0; if gpu { self.shape.text_ctx / 2 } else { 3 }];
        let prompts: Vec<Row<'_>> = (0..jobs.len()).map(|slot| row(slot, 0, &prompt[..])).collect();
        self.step(&prompts, &mut logits)?;
        let all: Vec<Row<'_>> = (0..jobs.len()).map(|slot| row(slot, 0, &[0])).collect();
        self.step(&all, &mut logits)?;
        if !self.free.is_empty() {
            let count = self.cache.layout.block;
            self.rearrange(0, &vec![0; count])?;
            let rows: Vec<Row<'_>> = (0..count).map(|number| row(0, number, &[0])).collect();
            self.step(&rows, &mut logits)?;
        }
        let head = (self.shape.text_layers - 1, 0);
        self.attend(0, &[0; 4], &[head])?;
        for slot in 0..self.slots.len() {
            self.release(slot);
        }
        self.graphs = (0, 0);
        Ok(())
    }

    /// The model's sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Blocks for windows with several hypotheses that nobody has.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Bytes on the device.
    pub fn usage(&self) -> Usage {
        Usage {
            weights: self.weights.bytes(),
            cache: self.cache.bytes(),
            scratch: self.encoding.bytes() + self.stepping.bytes(),
            slot: self.cache.layout.slot_bytes(),
        }
    }

    /// Decoder graphs that were run, and rows of tokens in them.
    pub fn graphs(&self) -> (u64, u64) {
        self.graphs
    }

    /// The window of a slot is over: its hypotheses make room.
    pub fn release(&mut self, slot: usize) {
        if let Some(held) = self.slots.get_mut(slot) {
            held.positions = 0;
            held.lens.clear();
            self.free.extend(held.block.take());
        }
    }

    fn slot(&self, slot: usize) -> Result<&Slot, Error> {
        let held = self.slots.get(slot).ok_or(Error::Missing {
            what: "slot",
            index: slot,
            count: self.slots.len(),
        })?;
        if held.positions == 0 {
            return Err(Error::Slot {
                slot,
                reason: "holds no window",
            });
        }
        Ok(held)
    }

    /// Encodes windows in one graph, at most [`MOST_ENCODED_TOGETHER`]; each slot then holds its window with one empty
    /// hypothesis. It takes as long as the longest for each of them, so they should be of similar length.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left in the slots then.
    pub fn encode(&mut self, jobs: &[Encode<'_>]) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        if jobs.len() > MOST_ENCODED_TOGETHER {
            return Err(Error::Missing {
                what: "window",
                index: jobs.len() - 1,
                count: MOST_ENCODED_TOGETHER,
            });
        }
        for (number, job) in jobs.iter().enumerate() {
            if job.slot >= self.slots.len() {
                return Err(Error::Missing {
                    what: "slot",
                    index: job.slot,
                    count: self.slots.len(),
                });
            }
            if jobs[..number].iter().any(|other| other.slot == job.slot) {
                return Err(Error::Slot {
                    slot: job.slot,
                    reason: "is asked for twice",
                });
            }
            if job.positions == 0 || job.positions > self.shape.n_audio_ctx {
                return Err(Error::Positions {
                    positions: job.positions,
                    most: self.shape.n_audio_ctx,
                });
            }
            let expected = self.shape.n_mels * 2 * job.positions;
            if job.mel.len() != expected {
                return Err(Error::Mel {
                    len: job.mel.len(),
                    expected,
                });
            }
        }
        for job in jobs {
            self.release(job.slot);
        }
        let inputs: Vec<Input<'_>> = jobs
            .iter()
            .map(|job| Input {
                slot: job.slot,
                mel: job.mel,
                positions: job.positions,
            })
            .collect();
        encoder::encode(
            &mut self.encoding,
            &self.backend,
            &self.shape,
            &self.weights,
            &self.cache,
            &inputs,
        )?;
        for job in jobs {
            let slot = &mut self.slots[job.slot];
            slot.positions = job.positions;
            slot.lens.push(0);
        }
        Ok(())
    }

    /// Hypothesis `i` of a window becomes what `parents[i]` was; there are as many as `parents` afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::NoBlock`] when the window would be the first time to have several and no block is free; [`Error::Missing`].
    pub fn rearrange(&mut self, slot: usize, parents: &[usize]) -> Result<(), Error> {
        let held = self.slot(slot)?;
        let layout = self.cache.layout;
        let missing = |index, count| Error::Missing {
            what: "hypothesis",
            index,
            count,
        };
        if let Some(parent) = parents.iter().find(|parent| **parent >= held.lens.len()) {
            return Err(missing(*parent, held.lens.len()));
        }
        if parents.is_empty() || (parents.len() > 1 && parents.len() > layout.block) {
            return Err(missing(parents.len(), layout.block));
        }
        let lens: Vec<usize> = parents.iter().map(|parent| held.lens[*parent]).collect();
        let moved = parents.iter().enumerate().any(|(i, parent)| *parent != i);
        let (from, into) = match held.block {
            Some(block) => (layout.lane_of(block), layout.lane_of(block)),
            None if parents.len() == 1 => return Ok(()),
            None => {
                let block = self.free.pop().ok_or(Error::NoBlock)?;
                self.slots[slot].block = Some(block);
                (slot, layout.lane_of(block))
            }
        };
        let tokens = lens.iter().copied().max().unwrap_or(0);
        if tokens > 0 && (from != into || moved) {
            let parents: Vec<usize> = parents.iter().map(|parent| from + parent).collect();
            let tokens = layout.keys(tokens, layout.tokens);
            decoder::copy_lanes(
                &mut self.stepping,
                &self.backend,
                &self.cache,
                &parents,
                into,
                tokens,
            )?;
        }
        self.slots[slot].lens = lens;
        Ok(())
    }

    /// Takes back the last `tokens` tokens of a window's first hypothesis.
    ///
    /// # Errors
    ///
    /// [`Error::Slot`], [`Error::Missing`].
    pub fn forget(&mut self, slot: usize, tokens: usize) -> Result<(), Error> {
        self.slot(slot)?;
        if let Some(len) = self.slots[slot].lens.first_mut() {
            *len = len.saturating_sub(tokens);
        }
        Ok(())
    }

    fn check(&self, rows: &[Row<'_>]) -> Result<(), Error> {
        for (number, row) in rows.iter().enumerate() {
            let held = self.slot(row.slot)?;
            let Some(len) = held.lens.get(row.hypothesis) else {
                return Err(Error::Missing {
                    what: "hypothesis",
                    index: row.hypothesis,
                    count: held.lens.len(),
                });
            };
            if rows[..number]
                .iter()
                .any(|other| (other.slot, other.hypothesis) == (row.slot, row.hypothesis))
            {
                return Err(Error::Slot {
                    slot: row.slot,
                    reason: "has a hypothesis that is asked for twice",
                });
            }
            self.check_tokens(row.tokens, *len)?;
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32], before: usize) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        let n_vocab = self.shape.n_vocab;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= n_vocab) {
            return Err(Error::Token {
                token: *token,
                n_vocab,
            });
        }
        let (len, most) = (before + tokens.len(), self.shape.text_ctx);
        if len > most {
            return Err(Error::TooLong { len, most });
        }
        Ok(())
    }

    /// Appends each row's tokens to its hypothesis and leaves the logits that were asked for, in the order of the rows and
    /// their tokens, each [`Shape::n_vocab`] long. Returns the numbers of the rows whose window overflowed: its logits are
    /// worth nothing, its slot is empty, and nobody else's changed.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is appended then.
    pub fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<Vec<usize>, Error> {
        self.check(rows)?;
        let n_vocab = self.shape.n_vocab;
        let mut starts = Vec::with_capacity(rows.len());
        let mut count = 0;
        for row in rows {
            starts.push(count);
            count += row.wanted();
        }
        logits.clear();
        logits.resize(count * n_vocab, 0.0);
        for (done, group) in self.groups(rows).iter().enumerate() {
            if let Err(error) = self.run(rows, group, &starts, logits) {
                for number in self.groups(rows).iter().take(done).flatten() {
                    let row = &rows[*number];
                    self.slots[row.slot].lens[row.hypothesis] -= row.tokens.len();
                }
                return Err(error);
            }
        }
        let mut overflowed = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            // Whatever is no number in a column reaches all of its logits through the last norm.
            let spoilt = (0..row.wanted()).any(|i| !logits[(starts[number] + i) * n_vocab].is_finite());
            if spoilt {
                overflowed.push(number);
            }
        }
        for number in &overflowed {
            self.discard(rows[*number].slot);
        }
        Ok(overflowed)
    }

    /// Empties a slot whose numbers overflowed, with zeros: infinity comes through a mask.
    fn discard(&mut self, slot: usize) {
        let layout = self.cache.layout;
        let mut lanes = vec![slot, layout.spare_lane()];
        if let Some(block) = self.slots[slot].block {
            lanes.extend(layout.lane_of(block)..layout.lane_of(block) + layout.block);
        }
        self.cache.clear(Some(slot), &lanes);
        self.release(slot);
    }

    /// Which rows go into one graph each: those with one token and one hypothesis together, others by themselves.
    fn groups(&self, rows: &[Row<'_>]) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut narrow: Vec<usize> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let several = self.slots[row.slot].block.is_some();
            if row.tokens.len() == 1 && !several {
                narrow.push(number);
                continue;
            }
            // The hypotheses of one window, with as many tokens each, go together.
            let beside = groups.last_mut().filter(|group| {
                let first = &rows[group[0]];
                several && first.slot == row.slot && first.tokens.len() == row.tokens.len()
            });
            match beside {
                Some(group) => group.push(number),
                None => groups.push(vec![number]),
            }
        }
        narrow.sort_by_key(|number| rows[*number].slot);
        while !narrow.is_empty() {
            // As many as lie close enough together.
            let first = rows[narrow[0]].slot;
            let mut take = 1;
            for count in 2..=narrow.len() {
                if rows[narrow[count - 1]].slot - first < count * (1 + IDLE_SHARE) {
                    take = count;
                }
            }
            groups.push(narrow.drain(..take).collect());
        }
        groups
    }

    /// Runs one graph.
    fn run(
        &mut self,
        rows: &[Row<'_>],
        group: &[usize],
        starts: &[usize],
        logits: &mut [f32],
    ) -> Result<(), Error> {
        let layout = self.cache.layout;
        let n_vocab = self.shape.n_vocab;
        let first = &rows[group[0]];
        let block = self.slots[first.slot].block;
        let tokens = first.tokens.len();
        let most = |number: &usize| rows[*number].hypothesis + 1;
        let (span, heard) = if let Some(block) = block {
            let span = Span {
                first_slot: first.slot,
                slots: 1,
                first_lane: layout.lane_of(block),
                hypotheses: group.iter().map(most).max().unwrap_or(1),
                tokens,
            };
            (span, vec![self.slots[first.slot].positions])
        } else {
            let last = rows[group[group.len() - 1]].slot;
            let span = Span {
                first_slot: first.slot,
                slots: last + 1 - first.slot,
                first_lane: first.slot,
                hypotheses: 1,
                tokens,
            };
            let heard = (first.slot..=last).map(|slot| self.slots[slot].positions);
            (span, heard.collect())
        };
        let lane = |row: &Row<'_>| match block {
            Some(_) => row.hypothesis,
            None => row.slot - first.slot,
        };
        let mut work: Vec<Option<Work<'_>>> = vec![None; span.slots * span.hypotheses];
        let mut columns: Vec<i32> = Vec::new();
        let mut targets: Vec<usize> = Vec::new();
        for number in group {
            let row = &rows[*number];
            let lane = lane(row);
            work[lane] = Some(Work {
                tokens: row.tokens,
                position: self.slots[row.slot].lens[row.hypothesis],
            });
            let wanted = row.wanted();
            columns.extend((tokens - wanted..tokens).map(|token| (lane * tokens + token) as i32));
            targets.extend(starts[*number]..starts[*number] + wanted);
        }
        if columns.is_empty() {
            // A prompt that more follows: its keys and values matter, so some logits are computed and dropped.
            columns.push(0);
        }
        let whole = columns.len() == work.len() * tokens && columns.is_sorted();
        let columns = if whole {
            (0..(work.len() * tokens) as i32).collect()
        } else {
            columns
        };
        self.scratch.resize(columns.len() * n_vocab, 0.0);
        decoder::run(
            &mut self.stepping,
            &self.backend,
            &self.weights,
            &self.cache,
            span,
            &work,
            &heard,
            &Wanted::Logits(&columns),
            &mut self.scratch,
        )?;
        for (target, from) in targets.iter().zip(self.scratch.chunks(n_vocab)) {
            logits[target * n_vocab..(target + 1) * n_vocab].copy_from_slice(from);
        }
        for number in group {
            let row = &rows[*number];
            self.slots[row.slot].lens[row.hypothesis] += tokens;
        }
        self.graphs.0 += 1;
        self.graphs.1 += group.len() as u64;
        Ok(())
    }

    /// Runs `tokens` through the decoder from the start and returns the cross-attention weights (softmax over the window's
    /// positions) of each (layer, head) pair: `heads x tokens x positions`, row-major. The hypotheses stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn attend(
        &mut self,
        slot: usize,
        tokens: &[u32],
        heads: &[(usize, usize)],
    ) -> Result<Vec<f32>, Error> {
        let positions = self.slot(slot)?.positions;
        self.check_tokens(tokens, 0)?;
        for (layer, head) in heads {
            for (what, index, count) in [
                ("layer", *layer, self.shape.text_layers),
                ("head", *head, self.shape.text_heads),
            ] {
                if index >= count {
                    return Err(Error::Missing { what, index, count });
                }
            }
        }
        let mut out = vec![0.0; heads.len() * tokens.len() * positions];
        if heads.is_empty() {
            return Ok(out);
        }
        let span = Span {
            first_slot: slot,
            slots: 1,
            first_lane: self.cache.layout.spare_lane(),
            hypotheses: 1,
            tokens: tokens.len(),
        };
        let work = [Some(Work { tokens, position: 0 })];
        for attempt in 0..2 {
            decoder::run(
                &mut self.stepping,
                &self.backend,
                &self.weights,
                &self.cache,
                span,
                &work,
                &[positions],
                &Wanted::Heads(heads),
                &mut out,
            )?;
            if out.iter().all(|weight| weight.is_finite()) {
                return Ok(out);
            }
            // The spare lane may have it from a window that overflowed and was not stepped since.
            if attempt == 0 {
                self.cache.clear(None, &[span.first_lane]);
            }
        }
        self.discard(slot);
        Err(Error::NotFinite)
    }
}
