//! One thread's part of the forward pass.
//!
//! The buffers of a [`Worker`] are sized so that a group of [`GROUP_TOKENS`] tokens keeps its state, its sums and a
//! block of its intermediate layer in the second-level cache from the first layer to the last; only weights stream by.
//!
//! Longer than other files: the steps of a layer share these buffers and the order in which teams meet, and apart they
//! could not be checked against each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use super::attention::{Attend, PackKeysValues, Scratch};
use super::gemm::Finish;
use super::integer::LeftBuffer;
use super::matrix::{Matrix, MatrixMut};
use super::model::{PackedHead, PackedLayer, PackedModel};
use super::norm::EmbeddedToken;
use super::pack::{K_BLOCK, Left, Product};
use super::plan::{Mode, Plan};
use super::pool::Task;
use super::simd::Isa;
use super::stages::{Clock, Stage, Stages};
use super::sync::Barrier;
use crate::architecture::Activation;
use crate::batch::PackedBatch;
use crate::reference;

/// Tokens to a group. State, sums and one block of the intermediate layer are 4.5 KiB a token in MiniLM, a little more
/// than a second-level cache of 512 KiB in all, of which one product touches two thirds; fewer tokens would read each
/// panel of weights more often. Measured: 96 is 6 % slower, 192 no faster (docs/kernels-cpu.md).
pub(super) const GROUP_TOKENS: usize = 144;

/// Rows of first tokens that are collected before the rest of the last layer and the head are computed for them.
const TAIL_ROWS: usize = 96;

/// What all threads see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) isa: Isa,
    pub(super) model: PackedModel,
    /// Written between batches, read during one.
    pub(super) job: RwLock<Job>,
    pub(super) next_group: AtomicUsize,
    /// Queries, keys and values of each thread's tokens, `[tokens, 3 · heads]`; written by the thread, then read by its
    /// team. Two, so that a fast member can begin the next layer while a slow one still reads this one.
    pub(super) exchange: Vec<[RwLock<Vec<f32>>; 2]>,
    pub(super) barrier: Barrier,
    /// `[rows, outputs]` of the batch.
    pub(super) outputs: Mutex<Vec<f32>>,
    pub(super) stages: Stages,
}

/// A batch and how it is divided.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: PackedBatch,
    pub(super) plan: Plan,
}

/// What one thread owns: its activations, allocated once.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    /// Layers and exchanges so far; tells which of the two exchange buffers is next.
    turn: usize,
    clock: Clock,
    /// The state of this thread's tokens, `[tokens, hidden]`.
    states: Vec<f32>,
    /// Embedded tokens before their projection, `[GROUP_TOKENS, stride]`; empty where there is none.
    embedded: Vec<f32>,
    /// Attention's result, `[tokens, heads]`.
    context: Vec<f32>,
    tail: Tail,
    block: BlockBuffers,
    attention: Scratch,
}

/// Buffers for the part of a layer that treats each token by itself, for up to [`GROUP_TOKENS`] tokens.
#[derive(Debug)]
struct BlockBuffers {
    /// What LayerNorm reads, `[tokens, hidden]`.
    sums: Vec<f32>,
    /// One block of the intermediate layer, `[tokens, K_BLOCK]`.
    intermediate: Vec<f32>,
    /// The left matrix of a product, quantised.
    left: LeftBuffer,
    /// The same for a block of the intermediate layer.
    left_block: LeftBuffer,
}

/// First tokens on their way through the last layer. They are gathered over groups, since a product over the one or
/// two rows of a group would be bound by reading the weights.
#[derive(Debug)]
struct Tail {
    /// Rows of the batch.
    rows: Vec<u32>,
    /// `[rows, hidden]`.
    states: Vec<f32>,
    /// `[rows, heads]`.
    queries: Vec<f32>,
    /// `[rows, heads]`.
    context: Vec<f32>,
}

impl Worker {
    /// Buffers for groups of up to `max_tokens` tokens.
    pub(super) fn new(isa: Isa, model: &PackedModel, index: usize, max_tokens: usize) -> Self {
        let widths = model.widths;
        let tail_rows = TAIL_ROWS + max_tokens;
        let labels = model.head.as_ref().map_or(0, |head| head.classifier.outputs());
        let embedded = model.embeddings.projection.as_ref().map_or(0, |_| model.embeddings.stride());
        Self {
            index,
            turn: 0,
            clock: Clock::default(),
            states: vec![0.0; max_tokens * widths.hidden],
            embedded: vec![0.0; GROUP_TOKENS * embedded],
            context: vec![0.0; max_tokens * widths.heads],
            tail: Tail {
                rows: Vec::with_capacity(tail_rows),
                states: vec![0.0; tail_rows * widths.hidden],
                queries: vec![0.0; tail_rows * widths.heads],
                context: vec![0.0; tail_rows * widths.heads],
            },
            block: BlockBuffers {
                sums: vec![0.0; GROUP_TOKENS * widths.hidden],
                intermediate: vec![0.0; GROUP_TOKENS * K_BLOCK.max(labels)],
                left: LeftBuffer::new(max_tokens, widths.hidden.max(widths.heads)),
                left_block: LeftBuffer::new(GROUP_TOKENS, K_BLOCK),
            },
            attention: Scratch::new(model.architecture.max_tokens, widths.head, isa.tile_rows(), isa.panel()),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        let Tail { rows: _, states, queries, context } = &self.tail;
        let BlockBuffers { sums, intermediate, .. } = &self.block;
        let buffers = [&self.states, &self.embedded, &self.context, states, queries, context, sums, intermediate];
        buffers.map(|buffer| size_of_val(buffer.as_slice()) as u64).iter().sum::<u64>()
            + self.block.left.bytes()
            + self.block.left_block.bytes()
            + self.attention.bytes()
    }
}

impl Task for Shared {
    type Worker = Worker;

    fn work(&self, worker: &mut Worker) {
        let job = self.job.read().unwrap_or_else(PoisonError::into_inner);
        worker.tail.rows.clear();
        worker.clock.start();
        match job.plan.mode {
            Mode::Alone => loop {
                let group = self.next_group.fetch_add(1, Ordering::Relaxed);
                if group >= job.plan.groups() {
                    break;
                }
                let team = Team { first: worker.index, members: 1, member: 0 };
                Pass::new(self, &job, team, job.plan.group(group)).run(worker);
            },
            Mode::Team(members) if worker.index < members => {
                // The buffers alternate in step: every member starts from the same one.
                worker.turn = 0;
                let team = Team { first: 0, members, member: worker.index };
                for group in 0..job.plan.groups() {
                    Pass::new(self, &job, team, job.plan.group(group)).run(worker);
                }
            }
            Mode::Team(_) => {}
        }
        self.finish_tail(worker);
        worker.clock.report(&self.stages);
    }

    fn abandon(&self) {
        self.barrier.break_up();
    }
}

/// Which threads share a group, and which of them this is.
#[derive(Debug, Clone, Copy)]
struct Team {
    /// The first member's index among all threads.
    first: usize,
    members: usize,
    member: usize,
}

/// One thread's pass over one group.
struct Pass<'a> {
    shared: &'a Shared,
    batch: &'a PackedBatch,
    team: Team,
    rows: &'a [u32],
    /// Tokens of a member: all have as many but the last ones.
    share: usize,
    /// Tokens of the group.
    tokens: usize,
}

/// The part of a row that a range of a group's tokens covers.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Row of the batch.
    row: u32,
    /// Tokens of the row.
    row_tokens: usize,
    /// The group's token at which the row begins.
    row_start: usize,
    /// First token of the part, counted in the group.
    from: usize,
    tokens: usize,
}

impl<'a> Pass<'a> {
    fn new(shared: &'a Shared, job: &'a Job, team: Team, rows: &'a [u32]) -> Self {
        let batch = &job.batch;
        let tokens: usize = rows.iter().map(|&row| batch.row(row as usize).ids.len()).sum();
        let share = tokens.div_ceil(team.members).next_multiple_of(shared.isa.tile_rows());
        Self { shared, batch, team, rows, share, tokens }
    }

    fn run(&self, worker: &mut Worker) {
        let model = &self.shared.model;
        self.embed(worker);
        worker.clock.lap(Stage::Embed);
        let (last, whole) = match model.layers.split_last() {
            Some((last, whole)) if model.is_pruned() => (Some(last), whole),
            _ => (None, model.layers.as_slice()),
        };
        for layer in whole {
            let exchange = self.query_key_value(layer, worker);
            self.attend(exchange, worker);
            worker.clock.lap(Stage::Attention);
            let tokens = self.own(self.team.member).len();
            let (context, states) = (&worker.context, &mut worker.states);
            after_attention(self.shared, layer, tokens, context, states, &mut worker.block, &mut worker.clock);
        }
        match last {
            Some(layer) => self.pruned_layer(layer, worker),
            None => self.mean(worker),
        }
    }

    /// A member's tokens of the group.
    fn own(&self, member: usize) -> std::ops::Range<usize> {
        let start = (member * self.share).min(self.tokens);
        start..(start + self.share).min(self.tokens)
    }

    /// The rows, or parts of rows, in a member's tokens.
    fn parts(&self, member: usize) -> impl Iterator<Item = Part> + '_ {
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
        let (isa, model) = (self.shared.isa, &self.shared.model);
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
                residual: None,
                finish: Finish::Store,
            };
            projection.apply(isa, 0..hidden, product);
        });
    }

    /// This member's tokens of the group, in order.
    fn own_tokens(&self) -> impl Iterator<Item = EmbeddedToken> + '_ {
        let shape = &self.shared.model.architecture.embeddings;
        self.parts(self.team.member).flat_map(move |part| {
            let row = self.batch.row(part.row as usize);
            let tokens = row.ids.iter().zip(shape.positions.indices(row.ids)).enumerate();
            tokens.skip(part.from - part.row_start).take(part.tokens).map(move |(place, (&id, position))| {
                EmbeddedToken { id, position, token_type: shape.token_types.index(place, row.second_segment) }
            })
        })
    }

    /// Writes queries, keys and values of this member's tokens, and waits for those of the others. Returns which of the
    /// exchange buffers has them.
    fn query_key_value(&self, layer: &PackedLayer, worker: &mut Worker) -> usize {
        let widths = self.shared.model.widths;
        self.publish(worker, |states, left, exchange, tokens| {
            blocks(tokens, |block| {
                let (isa, rows) = (self.shared.isa, block.len());
                let a = Matrix::new(&states[block.start * widths.hidden..], widths.hidden);
                let product = Product {
                    rows,
                    a: layer.query_key_value.left(isa, rows, a, left),
                    c: MatrixMut::new(&mut exchange[block.start * 3 * widths.heads..], 3 * widths.heads),
                    residual: None,
                    finish: Finish::Store,
                };
                layer.query_key_value.apply(isa, 0..3 * widths.heads, product);
            });
        })
    }

    /// Lets `write` fill this member's exchange buffer from its states, and waits until all members have filled theirs.
    fn publish(&self, worker: &mut Worker, write: impl FnOnce(&[f32], &mut LeftBuffer, &mut [f32], usize)) -> usize {
        let buffer = worker.turn % 2;
        worker.turn += 1;
        let mine = &self.shared.exchange[self.team.first + self.team.member][buffer];
        let tokens = self.own(self.team.member).len();
        let mut mine = mine.write().unwrap_or_else(PoisonError::into_inner);
        write(&worker.states, &mut worker.block.left, &mut mine, tokens);
        drop(mine);
        worker.clock.lap(Stage::QueryKeyValue);
        if self.team.members > 1 {
            self.shared.barrier.wait(self.team.members);
            worker.clock.lap(Stage::Wait);
        }
        buffer
    }

    /// Attention from each of this member's tokens to its whole row.
    fn attend(&self, buffer: usize, worker: &mut Worker) {
        let widths = self.shared.model.widths;
        let own = self.own(self.team.member);
        let mine = self.exchange(self.team.member, buffer);
        for part in self.parts(self.team.member) {
            for head in 0..widths.heads / widths.head {
                self.pack_keys_values(buffer, part, head, &mut worker.attention);
                let (first, column) = (part.from - own.start, head * widths.head);
                self.shared.isa.run(Attend {
                    scratch: &mut worker.attention,
                    queries: Matrix::new(&mine[first * 3 * widths.heads + column..], 3 * widths.heads),
                    context: MatrixMut::new(&mut worker.context[first * widths.heads + column..], widths.heads),
                    rows: part.tokens,
                    row_tokens: part.row_tokens,
                    head_width: widths.head,
                });
            }
        }
    }

    fn exchange(&self, member: usize, buffer: usize) -> std::sync::RwLockReadGuard<'a, Vec<f32>> {
        self.shared.exchange[self.team.first + member][buffer].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs the keys and values of one head over the whole row, from every member that has tokens of it.
    fn pack_keys_values(&self, buffer: usize, part: Part, head: usize, scratch: &mut Scratch) {
        let widths = self.shared.model.widths;
        let row = part.row_start..part.row_start + part.row_tokens;
        for member in row.start / self.share..=(row.end - 1) / self.share {
            let own = self.own(member);
            let (from, to) = (own.start.max(row.start), own.end.min(row.end));
            let exchange = self.exchange(member, buffer);
            let at = (from - own.start) * 3 * widths.heads + head * widths.head;
            self.shared.isa.run(PackKeysValues {
                scratch,
                keys: Matrix::new(&exchange[at + widths.heads..], 3 * widths.heads),
                values: Matrix::new(&exchange[at + 2 * widths.heads..], 3 * widths.heads),
                first: from - row.start,
                tokens: to - from,
                row_tokens: part.row_tokens,
                head_width: widths.head,
            });
        }
    }

    /// The last layer of a cross-encoder: keys and values of every token, the rest for the first token of each row.
    fn pruned_layer(&self, layer: &PackedLayer, worker: &mut Worker) {
        let (isa, widths) = (self.shared.isa, self.shared.model.widths);
        let buffer = self.publish(worker, |states, left, exchange, tokens| {
            blocks(tokens, |block| {
                let rows = block.len();
                let a = Matrix::new(&states[block.start * widths.hidden..], widths.hidden);
                let at = block.start * 3 * widths.heads + widths.heads;
                let product = Product {
                    rows,
                    a: layer.query_key_value.left(isa, rows, a, left),
                    c: MatrixMut::new(&mut exchange[at..], 3 * widths.heads),
                    residual: None,
                    finish: Finish::Store,
                };
                layer.query_key_value.apply(isa, widths.heads..3 * widths.heads, product);
            });
        });
        let own = self.own(self.team.member);
        let firsts = || self.parts(self.team.member).filter(|part| part.from == part.row_start);
        let before = worker.tail.rows.len();
        for part in firsts() {
            let slot = worker.tail.rows.len();
            worker.tail.rows.push(part.row);
            let state = &worker.states[(part.from - own.start) * widths.hidden..][..widths.hidden];
            worker.tail.states[slot * widths.hidden..][..widths.hidden].copy_from_slice(state);
        }
        let rows = worker.tail.rows.len() - before;
        let a = Matrix::new(&worker.tail.states[before * widths.hidden..], widths.hidden);
        let product = Product {
            rows,
            a: layer.query_key_value.left(isa, rows, a, &mut worker.block.left),
            c: MatrixMut::new(&mut worker.tail.queries[before * widths.heads..], widths.heads),
            residual: None,
            finish: Finish::Store,
        };
        layer.query_key_value.apply(isa, 0..widths.heads, product);
        for (part, slot) in firsts().zip(before..) {
            for head in 0..widths.heads / widths.head {
                self.pack_keys_values(buffer, part, head, &mut worker.attention);
                let at = slot * widths.heads + head * widths.head;
                isa.run(Attend {
                    scratch: &mut worker.attention,
                    queries: Matrix::new(&worker.tail.queries[at..], widths.heads),
                    context: MatrixMut::new(&mut worker.tail.context[at..], widths.heads),
                    rows: 1,
                    row_tokens: part.row_tokens,
                    head_width: widths.head,
                });
            }
        }
        worker.clock.lap(Stage::Attention);
        // There is room for a group of rows beyond this many.
        if worker.tail.rows.len() >= TAIL_ROWS {
            self.shared.finish_tail(worker);
        }
    }

    /// The mean of each row's last states, scaled to unit length, by the member that has the row's first token.
    fn mean(&self, worker: &mut Worker) {
        let model = &self.shared.model;
        let (stride, hidden) = (model.widths.hidden, model.architecture.hidden_size);
        let buffer = self.publish(worker, |states, _, exchange, tokens| {
            exchange[..tokens * stride].copy_from_slice(&states[..tokens * stride]);
        });
        let mean = &mut worker.block.sums[..hidden];
        for part in self.parts(self.team.member).filter(|part| part.from == part.row_start) {
            mean.fill(0.0);
            let row = part.row_start..part.row_start + part.row_tokens;
            for member in row.start / self.share..=(row.end - 1) / self.share {
                let own = self.own(member);
                let exchange = self.exchange(member, buffer);
                for token in own.start.max(row.start)..own.end.min(row.end) {
                    let state = &exchange[(token - own.start) * stride..][..hidden];
                    mean.iter_mut().zip(state).for_each(|(mean, x)| *mean += x);
                }
            }
            mean.iter_mut().for_each(|mean| *mean /= part.row_tokens as f32);
            let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            mean.iter_mut().for_each(|mean| *mean /= norm);
            self.shared.write_outputs(part.row, mean);
        }
        worker.clock.lap(Stage::Head);
    }
}

/// Calls `run` for each block of at most [`GROUP_TOKENS`] tokens.
fn blocks(tokens: usize, mut run: impl FnMut(std::ops::Range<usize>)) {
    for start in (0..tokens).step_by(GROUP_TOKENS) {
        run(start..(start + GROUP_TOKENS).min(tokens));
    }
}

/// The rest of a layer, which treats each token by itself: output projection, LayerNorm, feed-forward, LayerNorm.
/// `context` is `[tokens, heads]`; `states`, `[tokens, hidden]`, is the residual and becomes the layer's result.
fn after_attention(
    shared: &Shared,
    layer: &PackedLayer,
    tokens: usize,
    context: &[f32],
    states: &mut [f32],
    buffers: &mut BlockBuffers,
    clock: &mut Clock,
) {
    let (isa, widths) = (shared.isa, shared.model.widths);
    let hidden = widths.hidden;
    let BlockBuffers { sums, intermediate, left, left_block } = buffers;
    blocks(tokens, |block| {
        let rows = block.len();
        let states = &mut states[block.start * hidden..block.end * hidden];
        let sums = &mut sums[..rows * hidden];
        let a = Matrix::new(&context[block.start * widths.heads..], widths.heads);
        let product = Product {
            rows,
            a: layer.attention_output.left(isa, rows, a, left),
            c: MatrixMut::new(sums, hidden),
            residual: Some(Matrix::new(states, hidden)),
            finish: Finish::Store,
        };
        layer.attention_output.apply(isa, 0..hidden, product);
        match &layer.attention_norm {
            Some(norm) => norm.apply(isa, sums, states),
            None => states.copy_from_slice(sums),
        }
        clock.lap(Stage::Projection);
        // Block by block of the intermediate layer: each is the left matrix of the second product while it is in cache.
        let a = layer.intermediate.left(isa, rows, Matrix::new(states, hidden), left);
        for (index, start) in (0..layer.intermediate.outputs()).step_by(K_BLOCK).enumerate() {
            let end = (start + K_BLOCK).min(layer.intermediate.outputs());
            let product =
                Product { rows, a, c: MatrixMut::new(intermediate, K_BLOCK), residual: None, finish: Finish::Gelu };
            layer.intermediate.apply(isa, start..end, product);
            let product = Product {
                rows,
                a: layer.output.left_block(isa, rows, index, Matrix::new(intermediate, K_BLOCK), left_block),
                c: MatrixMut::new(sums, hidden),
                residual: Some(Matrix::new(states, hidden)),
                finish: Finish::Store,
            };
            layer.output.apply_block(isa, index, product);
        }
        layer.output_norm.apply(isa, sums, states);
        clock.lap(Stage::FeedForward);
    });
}

impl Shared {
    /// The rest of the last layer and the head, for the first tokens collected so far.
    fn finish_tail(&self, worker: &mut Worker) {
        let Some(PackedHead { dense, classifier }) = &self.model.head else { return };
        let Some(layer) = self.model.layers.last() else { return };
        let tail = &mut worker.tail;
        let hidden = self.model.widths.hidden;
        let tokens = tail.rows.len();
        let mut ignored = Clock::default();
        after_attention(self, layer, tokens, &tail.context, &mut tail.states, &mut worker.block, &mut ignored);
        blocks(tokens, |block| {
            let BlockBuffers { sums, intermediate, .. } = &mut worker.block;
            let mut pooled = Matrix::new(&tail.states[block.start * hidden..], hidden);
            if let Some(dense) = dense {
                let product = Product {
                    rows: block.len(),
                    a: Left::F32(pooled),
                    c: MatrixMut::new(sums, hidden),
                    residual: None,
                    finish: Finish::Store,
                };
                dense.apply(self.isa, 0..hidden, product);
                activate(self.model.head_activation(), &mut sums[..block.len() * hidden]);
                pooled = Matrix::new(sums, hidden);
            }
            let stride = classifier.outputs();
            let product = Product {
                rows: block.len(),
                a: Left::F32(pooled),
                c: MatrixMut::new(intermediate, stride),
                residual: None,
                finish: Finish::Store,
            };
            classifier.apply(self.isa, 0..stride, product);
            for (&row, logits) in tail.rows[block].iter().zip(intermediate.chunks_exact(stride)) {
                self.write_outputs(row, &logits[..self.model.architecture.outputs()]);
            }
        });
        tail.rows.clear();
        worker.clock.lap(Stage::Head);
    }

    fn write_outputs(&self, row: u32, values: &[f32]) {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs[row as usize * values.len()..][..values.len()].copy_from_slice(values);
    }
}

/// Applies the head's activation: of a row's numbers only, so one number at a time will do.
fn activate(activation: Option<Activation>, values: &mut [f32]) {
    let wide = |activation, x: f32| reference::activate(activation, f64::from(x)) as f32;
    match activation {
        None => {}
        Some(Activation::Tanh) => values.iter_mut().for_each(|x| *x = libm::tanhf(*x)),
        Some(activation) => values.iter_mut().for_each(|x| *x = wide(activation, *x)),
    }
}
