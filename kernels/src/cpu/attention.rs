//! `softmax(q · kᵀ / √head_dim) · v` of one head over one row or a part of it.
//!
//! Packs the head's keys and values into panels (a copy of 2/queries of the work). Both products are [`Gemm`]s on a
//! block of queries whose scores stay in the first-level cache. Keys are packed [`KEY_BLOCK`] at a time, so no buffer
//! depends on the length of a row. Most rows are one block: all their scores are known before they are normalised, so a
//! plain softmax is enough. In a row of several blocks each query keeps its largest score and the sum of its weights so
//! far (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>); its context is rescaled when a block has a
//! larger score.
//!
//! A block of queries reads the panels of keys that a [`Mask`] leaves to any of them, and no others. A query's masked
//! keys among these get the weight 0, so its numbers depend only on the row's keys and values and their order, not on
//! the queries beside it.

use std::ops::Range;

use super::buffer::grow;
use super::gemm::{Finish, Gemm, Init};
use super::matrix::{Matrix, MatrixMut};
use super::places::{KEY_BLOCK, KeyBlock, Places};
use super::relative::{AddRelative, RelativeHead};
use super::simd::{Isa, Kernel, MAX_PANEL, MAX_TILE_ROWS, Simd, math};
use crate::architecture::Mask;

/// Keys and values of one head over a block of a row, packed, and room for the scores of a block of queries.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[panel of keys][head_dim][key in the panel]`.
    keys: Vec<f32>,
    /// `[panel of dims][key][dim in the panel]`.
    values: Vec<f32>,
    /// `[queries in a block, keys]`, keys padded.
    scores: Vec<f32>,
    /// Largest score of each query so far; used if a row has several blocks.
    maxima: Vec<f32>,
    /// Sum of each query's weights so far.
    sums: Vec<f32>,
    /// Scores of the block's keys by the table of relative positions, `[KEY_BLOCK, columns]`.
    pub(super) by_query: Vec<f32>,
    /// The same for a block of queries.
    by_key: Vec<f32>,
}

/// Keys whose values are summed in one chain: a longer one would round the same way each time where tokens are alike.
const CHAIN: usize = 128;

/// Register tiles of queries per block: the scores of 24 queries on 85 keys fill a quarter of the first-level cache.
const TILES_PER_BLOCK: usize = 4;

impl Scratch {
    /// Makes room for rows of `tokens` queries, heads of `head_width` columns and a table of `relative_rows`, padding
    /// included.
    pub(super) fn fit(&mut self, tokens: usize, head_width: usize, relative_rows: usize, isa: Isa) {
        let query_block = TILES_PER_BLOCK * isa.tile_rows();
        // No more columns than distances, rounded up at both ends.
        let columns = |queries: usize| relative_rows.min(queries + KEY_BLOCK + 2 * isa.panel());
        grow(&mut self.by_query, KEY_BLOCK * columns(tokens));
        grow(&mut self.by_key, query_block * columns(query_block));
        grow(&mut self.keys, KEY_BLOCK * head_width);
        grow(&mut self.values, KEY_BLOCK * head_width);
        grow(&mut self.scores, query_block * KEY_BLOCK);
        grow(&mut self.maxima, tokens);
        grow(&mut self.sums, tokens);
    }

    pub(super) fn bytes(&self) -> u64 {
        let Self { keys, values, scores, maxima, sums, by_query, by_key } = self;
        let buffers = [keys, values, scores, maxima, sums, by_query, by_key];
        buffers.iter().map(|values| size_of_val(values.as_slice()) as u64).sum()
    }
}

/// Packs the keys and values of some adjacent tokens of a block: `keys` and `values` are `[tokens, head_width]`.
#[derive(Debug)]
pub(super) struct PackKeysValues<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) keys: Matrix<'a>,
    pub(super) values: Matrix<'a>,
    /// Index in the block of the first of these tokens.
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) block: KeyBlock,
    pub(super) head_width: usize,
}

impl Kernel for PackKeysValues<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.head_width;
        for token in 0..self.tokens {
            let at = self.first + token;
            let key = &self.keys.data[token * self.keys.stride..][..width];
            let panel = &mut self.scratch.keys[at / S::PANEL * S::PANEL * width..][..S::PANEL * width];
            for (key, column) in key.iter().zip(panel.chunks_exact_mut(S::PANEL)) {
                column[at % S::PANEL] = *key;
            }
            let value = &self.values.data[token * self.values.stride..][..width];
            for (panel, value) in value.chunks_exact(S::PANEL).enumerate() {
                let to = &mut self.scratch.values[(panel * self.block.to + at) * S::PANEL..][..S::PANEL];
                for (to, value) in to.chunks_exact_mut(S::LANES).zip(value.chunks_exact(S::LANES)) {
                    s.store(to, s.load(value));
                }
            }
        }
    }
}

/// Attends from some adjacent queries of a row to the packed block: `queries` and `context` are `[rows, head_width]`.
/// The blocks of a row come in order, each with the same queries; the context is complete after the last.
#[derive(Debug)]
pub(super) struct Attend<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) queries: Matrix<'a>,
    pub(super) context: MatrixMut<'a>,
    pub(super) rows: usize,
    pub(super) places: Places,
    pub(super) block: KeyBlock,
    /// Of a model with relative positions, whose scores of this block's keys are in the scratch.
    pub(super) relative: Option<RelativeHead<'a>>,
    pub(super) head_width: usize,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::TILE_ROWS <= MAX_TILE_ROWS && KEY_BLOCK.is_multiple_of(S::PANEL)) };
        const { assert!(MAX_PANEL.is_multiple_of(S::PANEL)) };
        let query_block = TILES_PER_BLOCK * S::TILE_ROWS;
        let Self { scratch, queries, context, rows, places, block, relative, head_width } = self;
        for first in (0..rows).step_by(query_block) {
            let queries_here = first..(first + query_block).min(rows);
            let keys = places.keys(queries_here.clone());
            let end = block.first + block.to;
            if keys.end <= block.first + block.from || keys.start >= end {
                continue;
            }
            let context_stride = context.stride;
            AttendBlock {
                scratch: &mut *scratch,
                queries: queries.skip_rows(first),
                context: MatrixMut::new(&mut context.data[first * context_stride..], context_stride),
                queries_here,
                part_queries: rows,
                places,
                block,
                relative,
                from: keys.start.saturating_sub(block.first) / S::PANEL * S::PANEL,
                to: keys.end.min(end) - block.first,
                is_first: keys.start >= block.first,
                is_last: keys.end <= end,
                head_width,
            }
            .run(s);
        }
    }
}

/// [`Attend`] for queries whose scores fit the cache.
struct AttendBlock<'a, 'b> {
    scratch: &'a mut Scratch,
    queries: Matrix<'b>,
    context: MatrixMut<'a>,
    /// Which of the queries these are.
    queries_here: Range<usize>,
    /// All of them.
    part_queries: usize,
    places: Places,
    block: KeyBlock,
    relative: Option<RelativeHead<'b>>,
    /// The keys of the block that any of the queries attends to; from the start of a panel.
    from: usize,
    to: usize,
    /// Whether no block before has keys for these queries.
    is_first: bool,
    /// Whether none after has.
    is_last: bool,
    head_width: usize,
}

impl Kernel for AttendBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scratch, queries, context, queries_here, places, block, relative, from, to, head_width, .. } = self;
        let (is_first, is_last) = (self.is_first, self.is_last);
        let (rows, keys) = (queries_here.len(), to - from);
        let padded = keys.next_multiple_of(S::PANEL);
        Gemm {
            rows,
            depth: head_width,
            a: queries,
            b: &scratch.keys[from * head_width..(from + padded) * head_width],
            c: MatrixMut::new(&mut scratch.scores, padded),
            init: Init::Zero,
            finish: Finish::Store,
        }
        .run(s);
        if let Some(relative) = relative {
            AddRelative {
                relative,
                scores: MatrixMut::new(&mut scratch.scores, padded),
                by_query: &scratch.by_query,
                by_key: &mut scratch.by_key,
                queries,
                queries_here: queries_here.clone(),
                part_queries: self.part_queries,
                places,
                block,
                keys: from..to,
                head_width,
            }
            .run(s);
        }
        let context_stride = context.stride;
        let context = context.data;
        let mut whole_sums = [0f32; TILES_PER_BLOCK * MAX_TILE_ROWS];
        let (sums, maxima) = if is_first && is_last {
            (&mut whole_sums[..rows], None)
        } else {
            (&mut scratch.sums[queries_here.clone()], Some(&mut scratch.maxima[queries_here.clone()]))
        };
        // A query's own keys among those scored.
        let own = |query: usize| {
            let within = |key: usize| key.saturating_sub(block.first + from).min(keys);
            let own = places.keys(query..query + 1);
            within(own.start)..within(own.end)
        };
        for (scores, query) in scratch.scores.chunks_exact_mut(padded).zip(queries_here.clone()) {
            // Others become e⁻⁸⁷, negligible beside the 1 of the largest score.
            let own = own(query);
            scores[..own.start].fill(f32::MIN);
            scores[own.end..].fill(f32::MIN);
        }
        match maxima {
            None => {
                for (scores, sum) in scratch.scores.chunks_exact_mut(padded).zip(&mut *sums) {
                    let max = row_max(s, scores);
                    *sum = exp_sum(s, scores, max);
                }
            }
            Some(maxima) => {
                let contexts = context.chunks_mut(context_stride).map(|context| &mut context[..head_width]);
                let so_far = maxima.iter_mut().zip(&mut *sums).zip(contexts);
                for (scores, ((max, sum), context)) in scratch.scores.chunks_exact_mut(padded).zip(so_far) {
                    let block_max = row_max(s, scores);
                    if is_first {
                        (*max, *sum) = (block_max, exp_sum(s, scores, block_max));
                    } else {
                        let larger = if block_max > *max { block_max } else { *max };
                        let rescale = math::exp(s, s.splat(*max - larger));
                        scale(s, context, rescale);
                        *sum = *sum * s.reduce_max(rescale) + exp_sum(s, scores, larger);
                        *max = larger;
                    }
                }
            }
        }
        if places.mask != Mask::All {
            for (scores, query) in scratch.scores.chunks_exact_mut(padded).zip(queries_here) {
                let own = own(query);
                scores[..own.start].fill(0.0);
                scores[own.end..].fill(0.0);
            }
        }
        let panels = scratch.values.chunks_exact(block.to * S::PANEL).take(head_width / S::PANEL);
        for (panel, values) in panels.enumerate() {
            // Chains begin at the same keys of the row for all queries.
            let mut first = from;
            while first < to {
                let end = ((first / CHAIN + 1) * CHAIN).min(to);
                Gemm {
                    rows,
                    depth: end - first,
                    a: Matrix::new(&scratch.scores[first - from..], padded),
                    b: &values[first * S::PANEL..end * S::PANEL],
                    c: MatrixMut::new(&mut context[panel * S::PANEL..], context_stride),
                    init: if is_first && first == from { Init::Zero } else { Init::Add },
                    finish: Finish::Store,
                }
                .run(s);
                first = end;
            }
        }
        if is_last {
            for (context, sum) in context.chunks_mut(context_stride).zip(&*sums) {
                scale(s, &mut context[..head_width], s.splat(1.0 / sum));
            }
        }
    }
}

#[inline(always)]
fn scale<S: Simd>(s: S, context: &mut [f32], by: S::F32) {
    for context in context.chunks_exact_mut(S::LANES) {
        s.store(context, s.mul(s.load(context), by));
    }
}

/// The largest of some scores, a whole number of panels.
#[inline(always)]
fn row_max<S: Simd>(s: S, scores: &[f32]) -> f32 {
    let (mut even, mut odd) = (s.splat(f32::MIN), s.splat(f32::MIN));
    for panel in scores.chunks_exact(S::PANEL) {
        even = s.max(even, s.load(panel));
        odd = s.max(odd, s.load(&panel[S::LANES..]));
    }
    s.reduce_max(s.max(even, odd))
}

/// Turns scores, a whole number of panels, into e^(score − max) and returns their sum.
#[inline(always)]
fn exp_sum<S: Simd>(s: S, scores: &mut [f32], max: f32) -> f32 {
    let max = s.splat(max);
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    for panel in scores.chunks_exact_mut(S::PANEL) {
        let first = math::exp(s, s.sub(s.load(panel), max));
        let second = math::exp(s, s.sub(s.load(&panel[S::LANES..]), max));
        s.store(panel, first);
        s.store(&mut panel[S::LANES..], second);
        even = s.add(even, first);
        odd = s.add(odd, second);
    }
    s.reduce_add(s.add(even, odd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Attention;
    use crate::reference;

    #[test]
    fn attention_of_odd_lengths_agrees_with_float64() {
        for isa in Isa::available() {
            for tokens in [1, 5, 6, 7, 15, 16, 17, 31, 33, 100, 511, 512, 513, 600, 1_024, 1_025] {
                check(isa, tokens, isa.panel(), Mask::All);
                check(isa, tokens, 2 * isa.panel(), Mask::All);
            }
        }
    }

    #[test]
    fn masked_attention_of_odd_lengths_agrees_with_float64() {
        let windows = [0, 1, 4, 64, 600].map(|radius| Mask::Window { radius });
        for isa in Isa::available() {
            for mask in windows.into_iter().chain([Mask::Causal]) {
                for tokens in [1, 2, 64, 65, 66, 130, 511, 512, 513, 1_100] {
                    check(isa, tokens, isa.panel(), mask);
                }
            }
        }
    }

    #[test]
    fn a_querys_bits_do_not_depend_on_the_queries_beside_it() {
        let mask = Mask::Window { radius: 40 };
        for isa in Isa::available() {
            let numbers = Numbers::new(700, isa.panel());
            let whole = numbers.attend(isa, 0..700, mask);
            for first in [0, 1, 17, 300, 480, 512, 699] {
                let alone = numbers.attend(isa, first..first + 1, mask);
                assert_eq!(whole[first * numbers.width..][..numbers.width], alone, "{isa:?}, query {first}");
            }
        }
    }

    struct Numbers {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        tokens: usize,
        width: usize,
    }

    impl Numbers {
        fn new(tokens: usize, width: usize) -> Self {
            let numbers = |seed: f32| -> Vec<f32> {
                (0..tokens * width).map(|i| 2.0 * (i as f32 * seed).sin() + (i as f32 * 0.013).cos()).collect()
            };
            Self { q: numbers(0.7), k: numbers(1.3), v: numbers(2.1), tokens, width }
        }

        fn attend(&self, isa: Isa, queries: Range<usize>, mask: Mask) -> Vec<f32> {
            let width = self.width;
            let scaled: Vec<f32> = self.q.iter().map(|q| q / (width as f32).sqrt()).collect();
            let mut scratch = Scratch::default();
            scratch.fit(queries.len(), width, 0, isa);
            // Whatever a row before has left.
            scratch.keys.fill(3.5);
            scratch.values.fill(f32::NAN);
            let mut context = vec![f32::NAN; queries.len() * width];
            let places = Places { first: queries.start, row_tokens: self.tokens, mask };
            for block in KeyBlock::of_keys(places.keys(0..queries.len())) {
                let half = (block.from + block.to) / 2;
                for (first, end) in [(block.from, half), (half, block.to)] {
                    isa.run(PackKeysValues {
                        scratch: &mut scratch,
                        keys: Matrix::new(&self.k, width).skip_rows(block.first + first),
                        values: Matrix::new(&self.v, width).skip_rows(block.first + first),
                        first,
                        tokens: end - first,
                        block,
                        head_width: width,
                    });
                }
                isa.run(Attend {
                    scratch: &mut scratch,
                    queries: Matrix::new(&scaled, width).skip_rows(queries.start),
                    context: MatrixMut::new(&mut context, width),
                    rows: queries.len(),
                    places,
                    block,
                    relative: None,
                    head_width: width,
                });
            }
            context
        }
    }

    fn check(isa: Isa, tokens: usize, width: usize, mask: Mask) {
        let numbers = Numbers::new(tokens, width);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let one_head = Attention::of_heads(1, width);
        let expected = reference::attention(&wide(&numbers.q), &wide(&numbers.k), &wide(&numbers.v), &one_head, mask);
        let context = numbers.attend(isa, 0..tokens, mask);
        for (index, (actual, expected)) in context.iter().zip(&expected).enumerate() {
            let error = (f64::from(*actual) - expected).abs();
            assert!(
                error <= 5e-6,
                "{isa:?} {tokens} tokens, width {width}, {mask:?} [{index}]: {actual} for {expected}"
            );
        }
    }
}
