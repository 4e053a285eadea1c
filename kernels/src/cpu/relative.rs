//! Scores by distance: what attention adds to the products of queries and keys in a model with
//! [`RelativePositions`].
//!
//! A layer's projections of the table are packed once per head, so that two products give the scores of all distances
//! at hand: queries by the table's keys, keys by its queries. Each score of a query and a key then takes one number of
//! either product. Rows of the table are in descending order here: a query's keys in ascending order take ascending
//! columns, one after the other as long as every distance has its own row.

use std::ops::Range;

use super::gemm::{Finish, Gemm, Init};
use super::matrix::{Matrix, MatrixMut};
use super::pack::{self, Format, Left, PackedLinear, Plus, Product};
use super::places::{KeyBlock, Places};
use super::simd::{Isa, Kernel, Simd};
use super::widths::{HeadOrder, Widths, head_places, query_scale};
use crate::architecture::{Architecture, Attention, RelativePositions};
use crate::weights::Linear;

/// The column of each distance.
#[derive(Debug)]
pub(super) struct RelativeTable {
    /// By the key's place minus the query's, plus `max_tokens − 1`; ascending.
    columns: Vec<u32>,
    max_tokens: usize,
    /// Distances up to this one have columns side by side.
    near: usize,
    /// Column of the distance 0.
    middle: usize,
}

/// One layer's projections of the table, by head: `[panel of columns][head_width][column in the panel]`.
#[derive(Debug)]
pub(super) struct RelativePanels {
    keys: Vec<f32>,
    /// Scaled as queries are.
    queries: Vec<f32>,
    /// Numbers of one head in either.
    head_len: usize,
}

/// What one head's attention needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelativeHead<'a> {
    pub(super) table: &'a RelativeTable,
    keys: &'a [f32],
    queries: &'a [f32],
}

/// Columns of a product with the table, in whole panels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    first: usize,
    pub(super) count: usize,
}

/// Rows of a model's table in memory; 0 without relative positions.
pub(super) fn padded_rows(isa: Isa, architecture: &Architecture) -> usize {
    let relative = architecture.block.attention.relative;
    relative.map_or(0, |relative| relative.rows().next_multiple_of(isa.panel()))
}

impl RelativeTable {
    pub(super) fn new(positions: RelativePositions, max_tokens: usize) -> Self {
        let rows = positions.rows();
        let furthest = max_tokens as isize - 1;
        let columns = (-furthest..=furthest).map(|ahead| (rows - 1 - positions.row(-ahead)) as u32).collect();
        let near = match positions.max_distance {
            None => positions.span - 1,
            Some(_) => positions.span / 2,
        };
        Self { columns, max_tokens, near: near.min(positions.span - 1), middle: positions.span - 1 }
    }

    /// Bytes of a table.
    pub(super) fn bytes_of(max_tokens: usize) -> u64 {
        ((2 * max_tokens - 1) * size_of::<u32>()) as u64
    }

    #[inline(always)]
    fn column(&self, query: usize, key: usize) -> usize {
        self.columns[key + self.max_tokens - 1 - query] as usize
    }

    /// The columns of every distance between some queries and some keys.
    #[inline(always)]
    fn range(&self, queries: Range<usize>, keys: Range<usize>, panel: usize) -> Columns {
        let first = self.column(queries.end - 1, keys.start) / panel * panel;
        let end = (self.column(queries.start, keys.end - 1) + 1).next_multiple_of(panel);
        Columns { first, count: end - first }
    }

    /// The columns for all queries of a part and the needed keys of a block.
    #[inline(always)]
    fn of_block(&self, places: Places, rows: usize, block: KeyBlock, panel: usize) -> Columns {
        let keys = block.first + block.from..block.first + block.to;
        self.range(places.first..places.first + rows, keys, panel)
    }
}

impl RelativePanels {
    /// Projects the normalised table, `[rows, hidden]`. Stays in f32 in every precision: it is small.
    pub(super) fn new(
        isa: Isa,
        table: &[f32],
        (query, key): (&Linear, &Linear),
        attention: Attention,
        widths: Widths,
    ) -> Self {
        let scale = query_scale(attention);
        let mut columns = Vec::with_capacity(2 * widths.heads);
        for (linear, scale) in [(query, scale), (key, 1.0)] {
            let places = head_places(attention, widths, HeadOrder::Plain);
            columns.extend(places.map(|place| place.map(|output| (linear, output, scale))));
        }
        let projection = PackedLinear::new(isa, Format::F32, &columns, &pack::all_inputs(query.inputs));
        let rows = table.len() / query.inputs;
        let stride = projection.outputs();
        let mut projected = vec![0.0; rows * stride];
        let product = Product {
            rows,
            a: Left::F32(Matrix::new(table, query.inputs)),
            c: MatrixMut::new(&mut projected, stride),
            plus: Plus::Nothing,
            finish: Finish::Store,
        };
        projection.apply(isa, 0..stride, product);
        let head_len = rows.next_multiple_of(isa.panel()) * widths.head;
        let pack = |first: usize| {
            let mut panels = vec![0.0; widths.heads / widths.head * head_len];
            for (row, numbers) in projected.chunks_exact(stride).enumerate() {
                let column = rows - 1 - row;
                for (place, &number) in numbers[first..first + widths.heads].iter().enumerate() {
                    let (head, dim) = (place / widths.head, place % widths.head);
                    let panel = head * head_len + column / isa.panel() * isa.panel() * widths.head;
                    panels[panel + dim * isa.panel() + column % isa.panel()] = number;
                }
            }
            panels
        };
        Self { keys: pack(widths.heads), queries: pack(0), head_len }
    }

    /// Bytes of one layer's panels.
    pub(super) fn bytes_of(isa: Isa, architecture: &Architecture) -> u64 {
        let widths = Widths::of(isa, architecture);
        (2 * padded_rows(isa, architecture) * widths.heads * size_of::<f32>()) as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        (size_of_val(self.keys.as_slice()) + size_of_val(self.queries.as_slice())) as u64
    }

    pub(super) fn head<'a>(&'a self, table: &'a RelativeTable, head: usize) -> RelativeHead<'a> {
        let numbers = head * self.head_len..(head + 1) * self.head_len;
        RelativeHead { table, keys: &self.keys[numbers.clone()], queries: &self.queries[numbers] }
    }
}

/// Scores of some adjacent keys of a block by the table's queries: `keys` is `[tokens, head_width]`, the scores are
/// `[KEY_BLOCK, columns]`.
#[derive(Debug)]
pub(super) struct ScoreKeys<'a> {
    pub(super) relative: RelativeHead<'a>,
    pub(super) scores: &'a mut [f32],
    pub(super) keys: Matrix<'a>,
    /// Index in the block of the first of these keys.
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) places: Places,
    /// Queries of the part.
    pub(super) queries: usize,
    pub(super) block: KeyBlock,
    pub(super) head_width: usize,
}

impl Kernel for ScoreKeys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { relative, scores, keys, first, tokens, places, queries, block, head_width } = self;
        let columns = relative.table.of_block(places, queries, block, S::PANEL);
        Gemm {
            rows: tokens,
            depth: head_width,
            a: keys,
            b: &relative.queries[columns.first * head_width..][..columns.count * head_width],
            c: MatrixMut::new(&mut scores[first * columns.count..], columns.count),
            init: Init::Zero,
            finish: Finish::Store,
        }
        .run(s);
    }
}

/// Adds to `scores`, `[queries, padded keys]`, the scores by distance of some adjacent queries and keys of a block.
pub(super) struct AddRelative<'a, 'b> {
    pub(super) relative: RelativeHead<'b>,
    pub(super) scores: MatrixMut<'a>,
    /// Of [`ScoreKeys`].
    pub(super) by_query: &'a [f32],
    /// Room for `[queries, columns]`.
    pub(super) by_key: &'a mut [f32],
    /// `[queries, head_width]`.
    pub(super) queries: Matrix<'b>,
    /// Which of the part's queries these are.
    pub(super) queries_here: Range<usize>,
    /// Queries of the part.
    pub(super) part_queries: usize,
    pub(super) places: Places,
    pub(super) block: KeyBlock,
    /// The keys of the block that are scored.
    pub(super) keys: Range<usize>,
    pub(super) head_width: usize,
}

impl Kernel for AddRelative<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            relative, scores, by_query, by_key, queries, queries_here, part_queries, places, block, keys, ..
        } = self;
        let (table, width) = (relative.table, self.head_width);
        let places_here = places.first + queries_here.start..places.first + queries_here.end;
        let keys_here = block.first + keys.start..block.first + keys.end;
        let columns = table.range(places_here.clone(), keys_here.clone(), S::PANEL);
        Gemm {
            rows: queries_here.len(),
            depth: width,
            a: queries,
            b: &relative.keys[columns.first * width..][..columns.count * width],
            c: MatrixMut::new(by_key, columns.count),
            init: Init::Zero,
            finish: Finish::Store,
        }
        .run(s);
        let rows = scores.data.chunks_mut(scores.stride).zip(by_key.chunks_exact(columns.count));
        for ((scores, by_key), query) in rows.zip(places_here.clone()) {
            // Keys before the near ones, near ones, keys after them.
            let start = query.saturating_sub(table.near).clamp(keys_here.start, keys_here.end);
            let end = (query + table.near + 1).clamp(start, keys_here.end);
            let index = |key: usize| key - keys_here.start;
            for key in (keys_here.start..start).chain(end..keys_here.end) {
                scores[index(key)] += by_key[table.column(query, key) - columns.first];
            }
            if start < end {
                let first = table.middle + start - query - columns.first;
                let near = &by_key[first..first + (end - start)];
                scores[index(start)..index(end)].iter_mut().zip(near).for_each(|(score, near)| *score += near);
            }
        }
        let columns = table.of_block(places, part_queries, block, S::PANEL);
        for key in keys_here.clone() {
            let by_query = &by_query[(key - block.first) * columns.count..][..columns.count];
            let at = key - keys_here.start;
            let is_near = |query: usize| query.abs_diff(key) <= table.near;
            if is_near(places_here.start) && is_near(places_here.end - 1) {
                let last = table.middle + key - places_here.start - columns.first;
                let near = by_query[..=last].iter().rev();
                for (scores, near) in scores.data.chunks_mut(scores.stride).zip(near).take(places_here.len()) {
                    scores[at] += near;
                }
            } else {
                for (scores, query) in scores.data.chunks_mut(scores.stride).zip(places_here.clone()) {
                    scores[at] += by_query[table.column(query, key) - columns.first];
                }
            }
        }
    }
}
