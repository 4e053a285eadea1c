//! `softmax(q · kᵀ / √head_dim) · v` of one head over one row.
//!
//! Keys and values of the head are packed into panels (a copy of 2/queries of the work), and both products are
//! [`Gemm`]s on a block of queries whose scores stay in the first-level cache. The scores of a query are whole before
//! they are normalised, so a plain softmax does and no sum is ever rescaled. A query's numbers depend on the row's keys
//! and values in their order, and on nothing else.

use super::gemm::{Finish, Gemm, Init};
use super::matrix::{Matrix, MatrixMut};
use super::simd::{Kernel, Simd, math};

/// Keys and values of one head over one row, packed, and room for the scores of a block of queries.
#[derive(Debug)]
pub(super) struct Scratch {
    /// `[panel of keys][head_dim][key in the panel]`.
    keys: Vec<f32>,
    /// `[panel of dims][key][dim in the panel]`.
    values: Vec<f32>,
    /// `[queries in a block, keys]`, keys padded.
    scores: Vec<f32>,
}

/// Register tiles of queries to a block: the scores of 24 queries on 85 keys fill a quarter of the first-level cache.
const TILES_PER_BLOCK: usize = 4;

impl Scratch {
    /// For rows of up to `max_keys` tokens and heads of `head_width` columns, padding included.
    pub(super) fn new(max_keys: usize, head_width: usize, tile_rows: usize, panel: usize) -> Self {
        let keys = max_keys.next_multiple_of(panel);
        Self {
            keys: vec![0.0; keys * head_width],
            values: vec![0.0; keys * head_width],
            scores: vec![0.0; TILES_PER_BLOCK * tile_rows * keys],
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        [&self.keys, &self.values, &self.scores].iter().map(|values| size_of_val(values.as_slice()) as u64).sum()
    }
}

/// Packs some of a row's keys and values, whose tokens lie together: `keys` and `values` are `[tokens, head_width]`.
#[derive(Debug)]
pub(super) struct PackKeysValues<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) keys: Matrix<'a>,
    pub(super) values: Matrix<'a>,
    /// Where in the row the first of these tokens is.
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Tokens in the row.
    pub(super) row_tokens: usize,
    pub(super) head_width: usize,
}

impl Kernel for PackKeysValues<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.head_width;
        let values_len = self.row_tokens * S::PANEL;
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

/// Attends from some queries to the packed row: `queries` and `context` are `[rows, head_width]`.
#[derive(Debug)]
pub(super) struct Attend<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) queries: Matrix<'a>,
    pub(super) context: MatrixMut<'a>,
    pub(super) rows: usize,
    /// Tokens in the row.
    pub(super) row_tokens: usize,
    pub(super) head_width: usize,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scratch, queries, context, rows, row_tokens, head_width } = self;
        let padded = row_tokens.next_multiple_of(S::PANEL);
        let block = TILES_PER_BLOCK * S::TILE_ROWS;
        for first in (0..rows).step_by(block) {
            let rows = block.min(rows - first);
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
            // A block has at most this many rows on any instruction set.
            let mut sums = [0f32; TILES_PER_BLOCK * 12];
            for (scores, sum) in scratch.scores.chunks_exact_mut(padded).zip(&mut sums[..rows]) {
                // Padding becomes e⁻⁸⁷, which is nothing beside the 1 that every row of scores has.
                scores[row_tokens..].fill(f32::MIN);
                *sum = softmax(s, scores);
            }
            Gemm {
                rows,
                depth: row_tokens,
                a: Matrix::new(&scratch.scores, padded),
                b: &scratch.values[..row_tokens * head_width],
                c: MatrixMut::new(context, context_stride),
                init: Init::Zero,
                finish: Finish::Store,
            }
            .run(s);
            for (context, sum) in context.chunks_mut(context_stride).zip(&sums[..rows]) {
                let scale = s.splat(1.0 / sum);
                for context in context[..head_width].chunks_exact_mut(S::LANES) {
                    s.store(context, s.mul(s.load(context), scale));
                }
            }
        }
    }
}

/// Turns scores, a whole number of panels, into e^(score − max) and returns their sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
    let (mut even, mut odd) = (s.splat(f32::MIN), s.splat(f32::MIN));
    for panel in scores.chunks_exact(S::PANEL) {
        even = s.max(even, s.load(panel));
        odd = s.max(odd, s.load(&panel[S::LANES..]));
    }
    let max = s.splat(s.reduce_max(s.max(even, odd)));
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
    use super::super::simd::Isa;
    use super::*;
    use crate::architecture::{Attention, Mask};
    use crate::reference;

    #[test]
    fn attention_of_odd_lengths_agrees_with_float64() {
        for isa in Isa::available() {
            for tokens in [1, 5, 6, 7, 15, 16, 17, 31, 33, 100, 511, 512] {
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

        let mut scratch = Scratch::new(512, width, isa.tile_rows(), isa.panel());
        scratch.keys.fill(3.5);
        scratch.values.fill(-2.5);
        let half = tokens / 2;
        for (first, count) in [(0, half), (half, tokens - half)] {
            isa.run(PackKeysValues {
                scratch: &mut scratch,
                keys: Matrix::new(&k, width).skip_rows(first),
                values: Matrix::new(&v, width).skip_rows(first),
                first,
                tokens: count,
                row_tokens: tokens,
                head_width: width,
            });
        }
        let mut context = vec![f32::NAN; tokens * width];
        isa.run(Attend {
            scratch: &mut scratch,
            queries: Matrix::new(&scaled, width),
            context: MatrixMut::new(&mut context, width),
            rows: tokens,
            row_tokens: tokens,
            head_width: width,
        });
        for (index, (actual, expected)) in context.iter().zip(&expected).enumerate() {
            let error = (f64::from(*actual) - expected).abs();
            assert!(error <= 5e-6, "{isa:?} {tokens} tokens, width {width} [{index}]: {actual} for {expected}");
        }
    }
}
