//! One thread's part of the forward pass.
//!
//! A thread takes a group of rows from the embeddings to the last layer. Members of a team each take part of a group
//! and meet once per layer, before they read each other's keys and values. [`head`](super::head) does what follows the
//! layers.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::attention::{Attend, PackKeysValues, Scratch};
use super::feed_forward::after_attention;
use super::gemm::Finish;
use super::grouping::{Grouping, Sharing};
use super::matrix::{Matrix, MatrixMut};
use super::norm::EmbeddedToken;
use super::pack::{Left, Plus, Product};
use super::packed_model::{PackedLayer, PackedModel};
use super::places::{KeyBlock, Places};
use super::pool::Work;
use super::relative::{RelativeHead, ScoreKeys};
use super::simd::Isa;
use super::stages::{Stage, Stages};
use super::sync::Barrier;
use super::worker::{Arena, BlockBuffers, Needs, TAIL_ROWS, Worker, blocks};
use crate::batch::PackedBatch;

/// A model and its current batch, shared by all threads.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) isa: Isa,
    pub(super) model: PackedModel,
    pub(super) needs: Needs,
    pub(super) arena: Arc<Arena>,
    /// Written between batches, read during one.
    pub(super) batch: RwLock<GroupedBatch>,
    pub(super) next_group: AtomicUsize,
    pub(super) barrier: Barrier,
    /// `[rows, outputs]` of the batch.
    pub(super) outputs: Mutex<Vec<f32>>,
    pub(super) stages: Stages,
    /// Whether a thread is to panic in this batch.
    #[cfg(feature = "drills")]
    pub(super) panics: std::sync::atomic::AtomicBool,
}

/// A batch and how it is divided.
#[derive(Debug, Default)]
pub(super) struct GroupedBatch {
    pub(super) rows: PackedBatch,
    pub(super) grouping: Grouping,
}

impl Work<Worker> for Forward {
    fn run(&self, worker: &mut Worker) {
        let batch = self.batch.read().unwrap_or_else(PoisonError::into_inner);
        let GroupedBatch { rows, grouping } = &*batch;
        worker.tail.rows.clear();
        worker.clock.start();
        match grouping.sharing {
            Sharing::Alone => {
                worker.fit(&self.needs.for_tokens(grouping.max_tokens), &self.arena);
                let team = Team { first: worker.index, members: 1, member: 0 };
                loop {
                    let group = self.next_group.fetch_add(1, Ordering::Relaxed);
                    if group >= grouping.groups() {
                        break;
                    }
                    Pass::new(self, rows, team, grouping.group(group)).run(worker);
                }
            }
            Sharing::Team(members) if worker.index < members => {
                let share = share(grouping.max_tokens, members);
                worker.fit(&self.needs.for_tokens(share), &self.arena);
                // The buffers alternate in step, so every member must start from the same one.
                worker.turn = 0;
                let team = Team { first: 0, members, member: worker.index };
                for group in 0..grouping.groups() {
                    Pass::new(self, rows, team, grouping.group(group)).run(worker);
                }
            }
            Sharing::Team(_) => {}
        }
        self.finish_tail(worker);
        worker.clock.report(&self.stages);
    }

    fn abandon(&self) {
        self.barrier.break_up();
    }
}

/// Tokens per member of a team; the last members may have fewer. Not rounded to whole tiles: a product divides its rows
/// evenly, and a team waits for the member with most.
fn share(tokens: usize, members: usize) -> usize {
    tokens.div_ceil(members)
}

/// The threads that share a group, and this thread's place among them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Team {
    /// The first member's index among all threads.
    first: usize,
    members: usize,
    pub(super) member: usize,
}

/// One thread's pass over one group.
pub(super) struct Pass<'a> {
    pub(super) forward: &'a Forward,
    batch: &'a PackedBatch,
    pub(super) team: Team,
    rows: &'a [u32],
    /// Tokens per member; the last members may have fewer.
    pub(super) share: usize,
    /// Tokens of the group.
    tokens: usize,
}

/// The part of a row that a range of a group's tokens covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Row of the batch.
    pub(super) row: u32,
    /// Tokens of the row.
    pub(super) row_tokens: usize,
    /// Index in the group of the row's first token.
    pub(super) row_start: usize,
    /// Index in the group of the part's first token.
    pub(super) from: usize,
    tokens: usize,
}

impl<'a> Pass<'a> {
    fn new(forward: &'a Forward, batch: &'a PackedBatch, team: Team, rows: &'a [u32]) -> Self {
        let tokens: usize = rows.iter().map(|&row| batch.row(row as usize).ids.len()).sum();
        Self { forward, batch, team, rows, share: share(tokens, team.members), tokens }
    }

    fn run(&self, worker: &mut Worker) {
        let model = &self.forward.model;
        self.embed(worker);
        worker.clock.lap(Stage::Embed);
        #[cfg(feature = "drills")]
        assert!(!self.forward.panics.swap(false, Ordering::Relaxed), "a drill");
        let (last, whole) = match model.layers.split_last() {
            Some((last, whole)) if model.is_pruned() => (Some(last), whole),
            _ => (None, model.layers.as_slice()),
        };
        for layer in whole {
            let exchange = self.project(layer, 0, worker);
            self.attend(layer, exchange, worker);
            worker.clock.lap(Stage::Attention);
            let tokens = self.own(self.team.member).len();
            let states = &mut worker.states[..tokens * model.widths.hidden];
            let context = &worker.context;
            after_attention((self.forward.isa, model), layer, context, states, &mut worker.block, &mut worker.clock);
        }
        match last {
            Some(layer) => self.pruned_layer(layer, worker),
            None => self.mean(worker),
        }
        // The tail has room for one group of rows beyond this many.
        if worker.tail.rows.len() >= TAIL_ROWS {
            self.forward.finish_tail(worker);
        }
    }

    /// A member's tokens of the group.
    pub(super) fn own(&self, member: usize) -> Range<usize> {
        let start = (member * self.share).min(self.tokens);
        start..(start + self.share).min(self.tokens)
    }

    /// The rows, or parts of rows, in a member's tokens.
    pub(super) fn parts(&self, member: usize) -> impl Iterator<Item = Part> + '_ {
        let own = self.own(member);
        let mut row_start = 0;
        self.rows.iter().filter_map(move |&row| {
            let row_tokens = self.batch.row(row as usize).ids.len();
            let start = row_start;
            row_start += row_tokens;
            let from = own.start.max(start);
            let to = own.end.min(start + row_tokens);
            (from < to).then(|| Part { row, row_tokens, row_start: start, from, tokens: to - from })
        })
    }

    fn embed(&self, worker: &mut Worker) {
        let (isa, model) = (self.forward.isa, &self.forward.model);
        let (embeddings, hidden) = (&model.embeddings, model.widths.hidden);
        let mut tokens = self.own_tokens();
        let Some(projection) = &embeddings.projection else {
            let states = worker.states.chunks_exact_mut(hidden);
            return tokens.zip(states).for_each(|(token, state)| embeddings.embed(isa, token, state));
        };
        let stride = embeddings.stride();
        blocks(self.own(self.team.member).len(), |block| {
            let embedded = &mut worker.embedded[..block.len() * stride];
            for (to, token) in embedded.chunks_exact_mut(stride).zip(&mut tokens) {
                embeddings.embed(isa, token, to);
            }
            let product = Product {
                rows: block.len(),
                a: Left::F32(Matrix::new(embedded, stride)),
                c: MatrixMut::new(&mut worker.states[block.start * hidden..], hidden),
                plus: Plus::Nothing,
                finish: Finish::Store,
            };
            projection.apply(isa, 0..hidden, product);
        });
    }

    /// This member's tokens of the group, in order.
    fn own_tokens(&self) -> impl Iterator<Item = EmbeddedToken> + '_ {
        let shape = &self.forward.model.architecture.embeddings;
        self.parts(self.team.member).flat_map(move |part| {
            let row = self.batch.row(part.row as usize);
            let tokens = row.ids.iter().zip(shape.positions.indices(row.ids)).enumerate();
            tokens.skip(part.from - part.row_start).take(part.tokens).map(move |(place, (&id, position))| {
                EmbeddedToken { id, position, token_type: shape.token_types.index(place, row.second_segment) }
            })
        })
    }

    /// Writes this member's queries, keys and values, from column `first` on, and waits for the other members to write
    /// theirs. Returns the index of the exchange buffer that holds them.
    fn project(&self, layer: &PackedLayer, first: usize, worker: &mut Worker) -> usize {
        let (isa, widths) = (self.forward.isa, self.forward.model.widths);
        let stride = 3 * widths.heads;
        self.publish(worker, |states, buffers, exchange, tokens| {
            let BlockBuffers { sums, left, .. } = buffers;
            blocks(tokens, |block| {
                let rows = block.len();
                let states = &states[block.start * widths.hidden..block.end * widths.hidden];
                let a = Matrix::new(layer.attention_input(isa, states, sums), widths.hidden);
                let product = Product {
                    rows,
                    a: layer.query_key_value.left(isa, rows, a, left),
                    c: MatrixMut::new(&mut exchange[block.start * stride + first..], stride),
                    plus: Plus::Nothing,
                    finish: Finish::Store,
                };
                layer.query_key_value.apply(isa, first..stride, product);
            });
            self.rotate(layer, first, exchange);
        })
    }

    /// Rotates the queries and keys that [`project`](Self::project) has written from column `first` on.
    fn rotate(&self, layer: &PackedLayer, first: usize, exchange: &mut [f32]) {
        let Some(rotary) = layer.rotary else { return };
        let widths = self.forward.model.widths;
        let (own, stride) = (self.own(self.team.member), 3 * widths.heads);
        let heads = (2 * widths.heads - first) / widths.head;
        for part in self.parts(self.team.member) {
            let start = (part.from - own.start) * stride;
            let tokens = &mut exchange[start + first..start + part.tokens * stride];
            let place = part.from - part.row_start;
            self.forward.model.rotary[rotary].apply(self.forward.isa, tokens, stride, heads, place);
        }
    }

    /// Lets `write` fill this member's exchange buffer from its states, and waits until all members have filled theirs.
    pub(super) fn publish(
        &self,
        worker: &mut Worker,
        write: impl FnOnce(&[f32], &mut BlockBuffers, &mut [f32], usize),
    ) -> usize {
        let buffer = worker.turn % 2;
        worker.turn += 1;
        let mine = &self.forward.arena.exchange[self.team.first + self.team.member][buffer];
        let tokens = self.own(self.team.member).len();
        let mut mine = mine.write().unwrap_or_else(PoisonError::into_inner);
        write(&worker.states, &mut worker.block, &mut mine, tokens);
        drop(mine);
        worker.clock.lap(Stage::QueryKeyValue);
        if self.team.members > 1 {
            self.forward.barrier.wait(self.team.members);
            worker.clock.lap(Stage::Wait);
        }
        buffer
    }

    /// Attention from each of this member's tokens to its row.
    fn attend(&self, layer: &PackedLayer, buffer: usize, worker: &mut Worker) {
        let widths = self.forward.model.widths;
        let own = self.own(self.team.member);
        let mine = self.exchange(self.team.member, buffer);
        for part in self.parts(self.team.member) {
            let places = part.places(layer);
            for (head, block) in self.heads_and_blocks(places.keys(0..part.tokens)) {
                let relative = self.relative(layer, head);
                let packed = Packed { places, queries: part.tokens, block, head, relative };
                self.pack_keys_values(buffer, part, packed, &mut worker.attention);
                let (first, column) = (part.from - own.start, head * widths.head);
                self.forward.isa.run(Attend {
                    scratch: &mut worker.attention,
                    queries: Matrix::new(&mine[first * 3 * widths.heads + column..], 3 * widths.heads),
                    context: MatrixMut::new(&mut worker.context[first * widths.heads + column..], widths.heads),
                    rows: part.tokens,
                    places,
                    block,
                    relative,
                    head_width: widths.head,
                });
            }
        }
    }

    fn relative<'b>(&'b self, layer: &'b PackedLayer, head: usize) -> Option<RelativeHead<'b>> {
        let panels = layer.relative.as_ref().zip(self.forward.model.relative.as_ref());
        panels.map(|(panels, table)| panels.head(table, head))
    }

    /// Every block that has some of `keys`, for each head in turn.
    fn heads_and_blocks(&self, keys: Range<usize>) -> impl Iterator<Item = (usize, KeyBlock)> + use<> {
        let widths = self.forward.model.widths;
        (0..widths.heads / widths.head)
            .flat_map(move |head| KeyBlock::of_keys(keys.clone()).map(move |block| (head, block)))
    }

    pub(super) fn exchange(&self, member: usize, buffer: usize) -> std::sync::RwLockReadGuard<'a, Vec<f32>> {
        self.forward.arena.exchange[self.team.first + member][buffer].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs the needed keys and values of a block of the row for one head, from every member that has some of them.
    fn pack_keys_values(&self, buffer: usize, part: Part, packed: Packed<'_>, scratch: &mut Scratch) {
        let Packed { places, queries, block, head, relative } = packed;
        let (isa, widths) = (self.forward.isa, self.forward.model.widths);
        let start = part.row_start + block.first;
        let tokens = start + block.from..start + block.to;
        for member in tokens.start / self.share..=(tokens.end - 1) / self.share {
            let own = self.own(member);
            let (from, to) = (own.start.max(tokens.start), own.end.min(tokens.end));
            let exchange = self.exchange(member, buffer);
            let at = (from - own.start) * 3 * widths.heads + head * widths.head;
            let keys = Matrix::new(&exchange[at + widths.heads..], 3 * widths.heads);
            if let Some(relative) = relative {
                isa.run(ScoreKeys {
                    relative,
                    scores: &mut scratch.by_query,
                    keys,
                    first: from - start,
                    tokens: to - from,
                    places,
                    queries,
                    block,
                    head_width: widths.head,
                });
            }
            isa.run(PackKeysValues {
                scratch,
                keys,
                values: Matrix::new(&exchange[at + 2 * widths.heads..], 3 * widths.heads),
                first: from - start,
                tokens: to - from,
                block,
                head_width: widths.head,
            });
        }
    }

    /// The last layer of a model whose head reads first tokens: keys and values for every token, the rest only for the
    /// first token of each row.
    fn pruned_layer(&self, layer: &PackedLayer, worker: &mut Worker) {
        let (isa, widths) = (self.forward.isa, self.forward.model.widths);
        let buffer = self.project(layer, widths.heads, worker);
        let own = self.own(self.team.member);
        let firsts = || self.parts(self.team.member).filter(|part| part.from == part.row_start);
        let before = worker.tail.rows.len();
        for part in firsts() {
            let slot = worker.tail.rows.len();
            worker.tail.rows.push(part.row);
            let state = &worker.states[(part.from - own.start) * widths.hidden..][..widths.hidden];
            worker.tail.states[slot * widths.hidden..][..widths.hidden].copy_from_slice(state);
        }
        let BlockBuffers { sums, left, .. } = &mut worker.block;
        // Position 0 turns nothing, so these queries are not rotated.
        blocks(worker.tail.rows.len() - before, |block| {
            let (rows, first) = (block.len(), before + block.start);
            let states = &worker.tail.states[first * widths.hidden..(first + rows) * widths.hidden];
            let a = Matrix::new(layer.attention_input(isa, states, sums), widths.hidden);
            let product = Product {
                rows,
                a: layer.query_key_value.left(isa, rows, a, left),
                c: MatrixMut::new(&mut worker.tail.queries[first * widths.heads..], widths.heads),
                plus: Plus::Nothing,
                finish: Finish::Store,
            };
            layer.query_key_value.apply(isa, 0..widths.heads, product);
        });
        for (part, slot) in firsts().zip(before..) {
            let places = part.places(layer);
            for (head, block) in self.heads_and_blocks(places.keys(0..1)) {
                let relative = self.relative(layer, head);
                let packed = Packed { places, queries: 1, block, head, relative };
                self.pack_keys_values(buffer, part, packed, &mut worker.attention);
                let at = slot * widths.heads + head * widths.head;
                isa.run(Attend {
                    scratch: &mut worker.attention,
                    queries: Matrix::new(&worker.tail.queries[at..], widths.heads),
                    context: MatrixMut::new(&mut worker.tail.context[at..], widths.heads),
                    rows: 1,
                    places,
                    block,
                    relative,
                    head_width: widths.head,
                });
            }
        }
        worker.clock.lap(Stage::Attention);
    }
}

/// What is packed of a part's keys and values: a block, for one head and some queries.
#[derive(Clone, Copy)]
struct Packed<'a> {
    places: Places,
    queries: usize,
    block: KeyBlock,
    head: usize,
    relative: Option<RelativeHead<'a>>,
}

impl Part {
    /// The places of its tokens' queries.
    fn places(&self, layer: &PackedLayer) -> Places {
        Places { first: self.from - self.row_start, row_tokens: self.row_tokens, mask: layer.mask }
    }
}
