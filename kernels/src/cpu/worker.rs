//! One thread's buffers, which grow to what models and rows need.
//!
//! A group of [`GROUP_TOKENS`] tokens keeps its state, its sums and a block of its intermediate layer in the
//! second-level cache from the first layer to the last; only weights stream through. No kernel reads numbers that were
//! not written in the same batch, so models of different widths share the buffers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::attention::Scratch;
use super::buffer::grow;
use super::gemm::K_BLOCK;
use super::integer::LeftBuffer;
use super::pack::Format;
use super::packed_model::PackedModel;
use super::relative;
use super::simd::Isa;
use super::stages::Clock;
use super::widths::Widths;
use crate::architecture::{Architecture, Head};

/// Tokens per group. State, sums and one block of the intermediate layer are 4.5 KiB per token in MiniLM: in all a
/// little more than a second-level cache of 512 KiB, but one product touches only two thirds. Fewer tokens would read
/// each panel of weights more often. Measured: 96 is 6 % slower, 192 no faster (docs/kernels-cpu.md).
pub(super) const GROUP_TOKENS: usize = 144;

/// Rows collected before the rest of the last layer and the head are computed for them.
pub(super) const TAIL_ROWS: usize = 96;

/// Longest row for which a model reserves memory when it loads. A longer row makes the buffers grow when it comes.
const RESERVED_ROW_TOKENS: usize = 512;

/// Buffers that threads share.
#[derive(Debug)]
pub(super) struct Arena {
    /// Queries, keys and values of each thread's tokens; written by the thread, then read by its team. Two, so that a
    /// fast member can begin the next layer while a slow one still reads this one.
    pub(super) exchange: Vec<[RwLock<Vec<f32>>; 2]>,
    /// All threads' buffers, the exchange included.
    pub(super) bytes: AtomicU64,
}

impl Arena {
    pub(super) fn new(threads: usize) -> Self {
        Self { exchange: (0..threads).map(|_| Default::default()).collect(), bytes: AtomicU64::new(0) }
    }
}

/// Sizes of a worker's buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Tokens of one thread.
    tokens: usize,
    /// Width of a hidden state.
    hidden: usize,
    /// Width of all query heads.
    heads: usize,
    /// Width of what members of a team exchange per token.
    exchange: usize,
    /// Width of one head.
    head: usize,
    /// Rows of the table of relative positions.
    relative: usize,
    /// Width of an embedded token, if it is projected.
    embedded: usize,
    /// Columns of one block of the intermediate layer, or outputs of the classifier if those are more.
    block: usize,
    /// Whether activations are quantised.
    quantised: bool,
    isa: Isa,
}

impl Needs {
    /// The needs of a model, with rows of usual length.
    pub(super) fn of(isa: Isa, format: Format, architecture: &Architecture) -> Self {
        let widths = Widths::of(isa, architecture);
        let panels = |width: usize| width.next_multiple_of(isa.panel());
        Self {
            tokens: GROUP_TOKENS + architecture.max_tokens.min(RESERVED_ROW_TOKENS),
            hidden: widths.hidden,
            heads: widths.heads,
            exchange: (3 * widths.heads).max(widths.hidden),
            head: widths.head,
            relative: relative::padded_rows(isa, architecture),
            embedded: if architecture.has_projection() { panels(architecture.embeddings.width) } else { 0 },
            block: match architecture.head {
                Head::Classifier { labels, .. } => panels(labels),
                Head::Embedding => 0,
            }
            .max(K_BLOCK * PackedModel::intermediate_parts(architecture)),
            quantised: format != Format::F32,
            isa,
        }
    }

    /// Bytes of one thread's buffers, including its part of the exchange. Allocates the buffers to measure them: zeroed
    /// memory costs nothing until it is written.
    pub(super) fn bytes(&self) -> u64 {
        let mut worker = Worker::new(0);
        let arena = Arena::new(1);
        worker.fit(self, &arena);
        arena.bytes.load(Ordering::Relaxed)
    }

    /// The same for at least `tokens` tokens per thread. Rounds up, so that slowly growing lengths do not grow the
    /// buffers at every row.
    pub(super) fn for_tokens(self, tokens: usize) -> Self {
        Self { tokens: self.tokens.max(tokens.next_multiple_of(GROUP_TOKENS)), ..self }
    }
}

/// One thread's activations.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    /// Exchanges so far; selects the next of the two exchange buffers.
    pub(super) turn: usize,
    pub(super) clock: Clock,
    /// The state of this thread's tokens, `[tokens, hidden]`.
    pub(super) states: Vec<f32>,
    /// Embedded tokens before their projection, `[GROUP_TOKENS, width]`.
    pub(super) embedded: Vec<f32>,
    /// Attention's result, `[tokens, heads]`.
    pub(super) context: Vec<f32>,
    pub(super) tail: Tail,
    pub(super) block: BlockBuffers,
    pub(super) attention: Scratch,
    /// Bytes of the buffers above, plus this thread's part of the exchange.
    bytes: u64,
}

/// Buffers for the per-token part of a layer, for up to [`GROUP_TOKENS`] tokens.
#[derive(Debug, Default)]
pub(super) struct BlockBuffers {
    /// Input or result of a norm, `[tokens, hidden]`.
    pub(super) sums: Vec<f32>,
    /// One block of the intermediate layer, `[tokens, K_BLOCK]`; twice as wide with a gate.
    pub(super) intermediate: Vec<f32>,
    /// The left matrix of a product, quantised.
    pub(super) left: LeftBuffer,
    /// The same for a block of the intermediate layer.
    pub(super) left_block: LeftBuffer,
}

/// The states that the head reads, gathered over groups: a product over the one or two rows of a group would be bound
/// by reading the weights. With pooling of first tokens they are those before the last layer, otherwise pooled ones.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Rows of the batch.
    pub(super) rows: Vec<u32>,
    /// `[rows, hidden]`.
    pub(super) states: Vec<f32>,
    /// `[rows, heads]`.
    pub(super) queries: Vec<f32>,
    /// `[rows, heads]`.
    pub(super) context: Vec<f32>,
}

impl Worker {
    /// A worker without buffers.
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            turn: 0,
            clock: Clock::default(),
            states: Vec::new(),
            embedded: Vec::new(),
            context: Vec::new(),
            tail: Tail::default(),
            block: BlockBuffers::default(),
            attention: Scratch::default(),
            bytes: 0,
        }
    }

    /// Grows the buffers that are smaller than needed.
    pub(super) fn fit(&mut self, needs: &Needs, arena: &Arena) {
        let Needs { tokens, hidden, heads, exchange, head, relative, embedded, block, quantised, isa } = *needs;
        let tail_rows = TAIL_ROWS + tokens;
        let BlockBuffers { sums, intermediate, left, left_block } = &mut self.block;
        let Tail { rows, states, queries, context } = &mut self.tail;
        rows.reserve(tail_rows.saturating_sub(rows.len()));
        for (buffer, len) in [
            (&mut self.states, tokens * hidden),
            (&mut self.embedded, GROUP_TOKENS * embedded),
            (&mut self.context, tokens * heads),
            (states, tail_rows * hidden),
            (queries, tail_rows * heads),
            (context, tail_rows * heads),
            (sums, GROUP_TOKENS * hidden),
            (intermediate, GROUP_TOKENS * block),
        ] {
            grow(buffer, len);
        }
        if quantised {
            left.fit(tokens, hidden.max(heads));
            left_block.fit(GROUP_TOKENS, K_BLOCK);
        }
        self.attention.fit(tokens, head, relative, isa);
        let mut exchange_len = 0;
        for buffer in &arena.exchange[self.index] {
            let mut buffer = buffer.write().unwrap_or_else(PoisonError::into_inner);
            grow(&mut buffer, tokens.next_multiple_of(isa.tile_rows()) * exchange);
            exchange_len += buffer.len();
        }
        let before = self.bytes;
        self.bytes = self.buffer_bytes() + (exchange_len * size_of::<f32>()) as u64;
        arena.bytes.fetch_add(self.bytes - before, Ordering::Relaxed);
    }

    fn buffer_bytes(&self) -> u64 {
        let Tail { rows: _, states, queries, context } = &self.tail;
        let BlockBuffers { sums, intermediate, left, left_block } = &self.block;
        let buffers = [&self.states, &self.embedded, &self.context, states, queries, context, sums, intermediate];
        buffers.map(|buffer| size_of_val(buffer.as_slice()) as u64).iter().sum::<u64>()
            + left.bytes()
            + left_block.bytes()
            + self.attention.bytes()
    }
}

/// Calls `run` for each block of at most [`GROUP_TOKENS`] tokens.
pub(super) fn blocks(tokens: usize, mut run: impl FnMut(std::ops::Range<usize>)) {
    for start in (0..tokens).step_by(GROUP_TOKENS) {
        run(start..(start + GROUP_TOKENS).min(tokens));
    }
}
