//! `softmax(q · kᵀ / √head_dim) · v` of one head over one row.
//!
//! Packs the head's keys and values into panels (a copy of 2/queries of the work). Both products are [`Gemm`]s on a
//! block of queries whose scores stay in the first-level cache. Keys are packed [`KEY_BLOCK`] at a time, so no buffer
//! depends on the length of a row. Most rows are one block: all their scores are known before they are normalised, so a
//! plain softmax is enough. In a row of several blocks each query keeps its largest score and the sum of its weights so
//! far (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>); its context is rescaled when a block has a
//! larger score.
//!
//! A query's numbers depend only on the row's keys and values and their order.

use super::buffer::grow;
use super::gemm::{Finish, Gemm, Init};
use super::matrix::{Matrix, MatrixMut};
use super::simd::{Isa, Kernel, MAX_TILE_ROWS, Simd, math};

/// Keys packed and scored together. In models that take up to 512 tokens, every row is one block.
pub(super) const KEY_BLOCK: usize = 512;

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
}

/// Register tiles of queries per block: the scores of 24 queries on 85 keys fill a quarter of the first-level cache.
const TILES_PER_BLOCK: usize = 4;

impl Scratch {
    /// Makes room for rows of `tokens` queries and heads of `head_width` columns, padding included.
    pub(super) fn fit(&mut self, tokens: usize, head_width: usize, isa: Isa) {
        grow(&mut self.keys, KEY_BLOCK * head_width);
        grow(&mut self.values, KEY_BLOCK * head_width);
        grow(&mut self.scores, TILES_PER_BLOCK * isa.tile_rows() * KEY_BLOCK);
        grow(&mut self.maxima, tokens);
        grow(&mut self.sums, tokens);
    }

    pub(super) fn bytes(&self) -> u64 {
        let Self { keys, values, scores, maxima, sums } = self;
        [keys, values, scores, maxima, sums].iter().map(|values| size_of_val(values.as_slice()) as u64).sum()
    }
}

/// A block of a row's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyBlock {
    /// First key, counted in the row.
    pub(super) first: usize,
    pub(super) keys: usize,
    /// Tokens of the row.
    row_tokens: usize,
}

impl KeyBlock {
    /// The blocks of a row, in order.
    pub(super) fn of_row(row_tokens: usize) -> impl Iterator<Item = Self> {
        (0..row_tokens).step_by(KEY_BLOCK).map(move |first| Self {
            first,
            keys: KEY_BLOCK.min(row_tokens - first),
            row_tokens,
        })
    }

    fn is_first(self) -> bool {
        self.first == 0
    }

    fn is_last(self) -> bool {
        self.first + self.keys == self.row_tokens
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
        let values_len = self.block.keys * S::PANEL;
        for token in 0..self.tokens {
            let at = self.first + token;
            let key = &self.keys.data[token * self.keys.stride..][..width];
            let panel = &mut self.scratch.keys[at / S::PANEL * S::PANEL * width..][..S::PANEL * width];
            for (key, column) in key.iter().zip(panel.chunks_exact_mut(S::PANEL)) {
                column[at % S::PANEL] = *key;
            }
            let value = &self.values.data[token * self.values.stride..][..width];
            for (panel, value) in value.chunks_exact(S::PANEL).enumerate() {
                let to = &mut self.scratch.values[panel * values_len + at * S::PANEL..][..S::PANEL];
                for (to, value) in to.chunks_exact_mut(S::LANES).zip(value.chunks_exact(S::LANES)) {
                    s.store(to, s.load(value));
                }
            }
        }
    }
}

/// Attends from some queries to the packed block: `queries` and `context` are `[rows, head_width]`. The blocks of a row
/// come in order, each with the same queries; the context is complete after the last.
#[derive(Debug)]
pub(super) struct Attend<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) queries: Matrix<'a>,
    pub(super) context: MatrixMut<'a>,
    pub(super) rows: usize,
    pub(super) block: KeyBlock,
    pub(super) head_width: usize,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::TILE_ROWS <= MAX_TILE_ROWS && KEY_BLOCK.is_multiple_of(S::PANEL)) };
        let Self { scratch, queries, context, rows, block, head_width } = self;
        let padded = block.keys.next_multiple_of(S::PANEL);
        let is_whole_row = block.is_first() && block.is_last();
        let query_block = TILES_PER_BLOCK * S::TILE_ROWS;
        for first in (0..rows).step_by(query_block) {
            let rows = query_block.min(rows - first);
            Gemm {
                rows,
                depth: head_width,
                a: queries.skip_rows(first),
                b: &scratch.keys[..padded * head_width],
                c: MatrixMut::new(&mut scratch.scores, padded),
                init: Init::Zero,
                finish: Finish::Store,
            }
            .run(s);
            let context_stride = context.stride;
            let context = &mut context.data[first * context_stride..];
            let mut whole_sums = [0f32; TILES_PER_BLOCK * MAX_TILE_ROWS];
            let (sums, maxima) = if is_whole_row {
                (&mut whole_sums[..rows], None)
            } else {
                (&mut scratch.sums[first..first + rows], Some(&mut scratch.maxima[first..first + rows]))
            };
            for scores in scratch.scores.chunks_exact_mut(padded).take(rows) {
                // Padding becomes e⁻⁸⁷, negligible beside the 1 in every row of scores.
                scores[block.keys..].fill(f32::MIN);
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
                        if block.is_first() {
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
            Gemm {
                rows,
                depth: block.keys,
                a: Matrix::new(&scratch.scores, padded),
                b: &scratch.values[..block.keys * head_width],
                c: MatrixMut::new(context, context_stride),
                init: if block.is_first() { Init::Zero } else { Init::Accumulate },
                finish: Finish::Store,
            }
            .run(s);
            if block.is_last() {
                for (context, sum) in context.chunks_mut(context_stride).zip(&*sums) {
                    scale(s, &mut context[..head_width], s.splat(1.0 / sum));
                }
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
    use crate::architecture::{Attention, Mask};
    use crate::reference;

    #[test]
    fn attention_of_odd_lengths_agrees_with_float64() {
        for isa in Isa::available() {
            for tokens in [1, 5, 6, 7, 15, 16, 17, 31, 33, 100, 511, 512, 513, 600, 1_024, 1_025] {
                check(isa, tokens, isa.panel());
                check(isa, tokens, 2 * isa.panel());
            }
        }
    }

    fn check(isa: Isa, tokens: usize, width: usize) {
        let numbers = |seed: f32| -> Vec<f32> {
            (0..tokens * width).map(|i| 2.0 * (i as f32 * seed).sin() + (i as f32 * 0.013).cos()).collect()
        };
        let (q, k, v) = (numbers(0.7), numbers(1.3), numbers(2.1));
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let one_head = Attention::of_heads(1, width);
        let expected = reference::attention(&wide(&q), &wide(&k), &wide(&v), &one_head, Mask::All);
        let scaled: Vec<f32> = q.iter().map(|q| q / (width as f32).sqrt()).collect();

        let mut scratch = Scratch::default();
        scratch.fit(tokens, width, isa);
        scratch.keys.fill(3.5);
        scratch.values.fill(-2.5);
        let mut context = vec![f32::NAN; tokens * width];
        for block in KeyBlock::of_row(tokens) {
            let half = block.keys / 2;
            for (first, count) in [(0, half), (half, block.keys - half)] {
                isa.run(PackKeysValues {
                    scratch: &mut scratch,
                    keys: Matrix::new(&k, width).skip_rows(block.first + first),
                    values: Matrix::new(&v, width).skip_rows(block.first + first),
                    first,
                    tokens: count,
                    block,
                    head_width: width,
                });
            }
            isa.run(Attend {
                scratch: &mut scratch,
                queries: Matrix::new(&scaled, width),
                context: MatrixMut::new(&mut context, width),
                rows: tokens,
                block,
                head_width: width,
            });
        }
        for (index, (actual, expected)) in context.iter().zip(&expected).enumerate() {
            let error = (f64::from(*actual) - expected).abs();
            assert!(error <= 5e-6, "{isa:?} {tokens} tokens, width {width} [{index}]: {actual} for {expected}");
        }
    }
}
