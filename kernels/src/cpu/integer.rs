//! Matrix product of integers with exact i32 sums: 8-bit weights with 16-bit activations, or both in 11 to 12 bits.
//!
//! Weights have a scale for each output and block of inputs. Activations have a scale for each row and block, computed
//! at run time: w ≈ s·q, a ≈ t·p. A block is [`K_BLOCK`] deep. The largest q and p are chosen so that [`K_BLOCK`]
//! products stay below 2³¹: no sum can overflow, and none is rounded before it becomes an f32.
//!
//! Why activations have more than 8 bits: the instruction that multiplies 8-bit numbers on AVX2 (`vpmaddubsw`)
//! saturates its sums of two products. The exact one (`vpmaddwd`) takes 16-bit numbers anyway, twice as many per cycle
//! as f32. VNNI has an exact instruction for both: `vpdpwssd` for 16-bit numbers adds to the sum at once, `vpdpbusd` for
//! 8-bit numbers is twice as fast. The second is not used: 8-bit activations triple the error of the logits, since a
//! row's largest number is ten times its typical one (docs/kernels-cpu.md has the figures).

#![allow(unsafe_code, reason = "pointer arithmetic in the innermost loop, as in the f32 product")]

use std::ops::Range;

use super::buffer::grow;
use super::gemm::{CACHE_LINE, Finish, Init, K_BLOCK, MAX_PREFETCH_LINES};
use super::matrix::{Matrix, MatrixMut};
use super::simd::{Isa, Kernel, MAX_PANEL, MAX_TILE_ROWS, PANEL_VECTORS, Simd, math};

/// A stored quantised weight.
pub(super) trait Weight: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Largest weight.
    const MAX: f32;

    /// Largest activation.
    const ACTIVATION_MAX: f32;

    fn round(value: f32) -> Self;

    /// A panel as i16: itself, or widened into `buffer`. A panel is widened once for all strips of the left matrix, so
    /// the innermost loop is the same for both widths.
    fn widen<'a, S: Simd>(s: S, panel: &'a [Self], buffer: &'a mut [i16]) -> &'a [i16];
}

impl Weight for i8 {
    const MAX: f32 = 127.0;
    const ACTIVATION_MAX: f32 = 32767.0;

    fn round(value: f32) -> Self {
        value.round() as Self
    }

    #[inline(always)]
    fn widen<'a, S: Simd>(s: S, panel: &'a [Self], buffer: &'a mut [i16]) -> &'a [i16] {
        let buffer = &mut buffer[..panel.len()];
        for (from, to) in panel.chunks_exact(2 * S::LANES).zip(buffer.chunks_exact_mut(2 * S::LANES)) {
            // SAFETY: both are two numbers a lane, by chunks_exact.
            unsafe { s.store_pairs(to.as_mut_ptr(), s.load_i8_pairs(from.as_ptr())) };
        }
        buffer
    }
}

/// A row's largest activation is about twice as far above the typical one as an output's largest weight. The bits are
/// divided so that both contribute equally to the error.
impl Weight for i16 {
    const MAX: f32 = 1672.0;
    const ACTIVATION_MAX: f32 = 3344.0;

    fn round(value: f32) -> Self {
        value.round() as Self
    }

    #[inline(always)]
    fn widen<'a, S: Simd>(_s: S, panel: &'a [Self], _buffer: &'a mut [i16]) -> &'a [i16] {
        panel
    }
}

const _: () =
    assert!(K_BLOCK as f64 * <i8 as Weight>::MAX as f64 * <i8 as Weight>::ACTIVATION_MAX as f64 <= i32::MAX as f64);
const _: () =
    assert!(K_BLOCK as f64 * <i16 as Weight>::MAX as f64 * <i16 as Weight>::ACTIVATION_MAX as f64 <= i32::MAX as f64);

/// Weights: `[block][panel][pair of inputs][column in the panel][2]`, and scales `[block][output]`.
#[derive(Debug)]
pub(super) struct IntegerPanels<W> {
    values: Vec<W>,
    scales: Vec<f32>,
    outputs: usize,
}

impl<W: Weight> IntegerPanels<W> {
    /// Quantises `weight(output, input)`; `outputs` is a whole number of panels.
    pub(super) fn new(outputs: usize, inputs: usize, panel: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        let mut values = Vec::with_capacity(outputs * inputs.next_multiple_of(2));
        let mut scales = Vec::with_capacity(outputs * inputs.div_ceil(K_BLOCK));
        for first in (0..inputs).step_by(K_BLOCK) {
            let block = first..(first + K_BLOCK).min(inputs);
            for output in 0..outputs {
                let max = block.clone().map(|input| weight(output, input).abs()).fold(0.0, f32::max);
                scales.push(max / W::MAX);
            }
            let scales = &scales[scales.len() - outputs..];
            for column in (0..outputs).step_by(panel) {
                for pair in block.clone().step_by(2) {
                    for (output, scale) in (column..).zip(&scales[column..column + panel]) {
                        for input in pair..pair + 2 {
                            let weight = if input < block.end { weight(output, input) } else { 0.0 };
                            values.push(W::round(weight / scale.max(f32::MIN_POSITIVE)));
                        }
                    }
                }
            }
        }
        Self { values, scales, outputs }
    }

    pub(super) fn bytes(&self) -> u64 {
        (size_of_val(self.values.as_slice()) + size_of_val(self.scales.as_slice())) as u64
    }

    /// Panels and scales of one block of inputs, `depth` deep, for some of the outputs.
    pub(super) fn block(&self, block: usize, depth: usize, outputs: Range<usize>) -> (&[W], &[f32]) {
        let start = block * K_BLOCK * self.outputs;
        let depth = depth.next_multiple_of(2);
        let values = &self.values[start + outputs.start * depth..start + outputs.end * depth];
        let first = block * self.outputs;
        (values, &self.scales[first + outputs.start..first + outputs.end])
    }
}

/// Room for one quantised left matrix.
#[derive(Debug, Default)]
pub(super) struct LeftBuffer {
    values: Vec<i16>,
    scales: Vec<f32>,
}

/// A quantised left matrix: `[block][row][K_BLOCK]`, and scales `[block][row]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantised<'a> {
    values: &'a [i16],
    scales: &'a [f32],
    rows: usize,
}

impl<'a> Quantised<'a> {
    /// One block of the inputs.
    pub(super) fn block(self, block: usize) -> Self {
        let rows = block * self.rows..(block + 1) * self.rows;
        Self {
            values: &self.values[rows.start * K_BLOCK..rows.end * K_BLOCK],
            scales: &self.scales[rows],
            rows: self.rows,
        }
    }
}

impl LeftBuffer {
    /// Makes room for `[rows, inputs]`.
    pub(super) fn fit(&mut self, rows: usize, inputs: usize) {
        let blocks = inputs.div_ceil(K_BLOCK);
        grow(&mut self.values, blocks * rows * K_BLOCK);
        grow(&mut self.scales, blocks * rows);
    }

    pub(super) fn bytes(&self) -> u64 {
        (size_of_val(self.values.as_slice()) + size_of_val(self.scales.as_slice())) as u64
    }

    /// Quantises `a`, `[rows, inputs]`.
    pub(super) fn quantise<W: Weight>(&mut self, isa: Isa, rows: usize, inputs: usize, a: Matrix<'_>) -> Quantised<'_> {
        for (block, first) in (0..inputs).step_by(K_BLOCK).enumerate() {
            let depth = K_BLOCK.min(inputs - first);
            let values = &mut self.values[block * rows * K_BLOCK..][..rows * K_BLOCK];
            let scales = &mut self.scales[block * rows..][..rows];
            let a = Matrix::new(&a.data[first..], a.stride);
            isa.run(Quantise { a, depth, max: W::ACTIVATION_MAX, values, scales });
        }
        Quantised { values: &self.values, scales: &self.scales, rows }
    }
}

struct Quantise<'a> {
    a: Matrix<'a>,
    depth: usize,
    /// Largest quantised activation.
    max: f32,
    /// `[rows, K_BLOCK]`.
    values: &'a mut [i16],
    scales: &'a mut [f32],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { a, depth, max: quantised_max, values, scales } = self;
        for ((row, values), scale) in a.data.chunks(a.stride).zip(values.chunks_exact_mut(K_BLOCK)).zip(scales) {
            let row = &row[..depth];
            let mut vectors = row.chunks_exact(S::LANES);
            let mut max = s.splat(0.0);
            for vector in &mut vectors {
                max = s.max(max, s.abs(s.load(vector)));
            }
            let rest = vectors.remainder();
            let max = rest.iter().map(|x| x.abs()).fold(s.reduce_max(max), f32::max);
            *scale = max / quantised_max;
            let inverse = quantised_max / max.max(f32::MIN_POSITIVE * quantised_max);
            let inverse_vector = s.splat(inverse);
            let whole = depth - rest.len();
            for (vector, to) in row.chunks_exact(S::LANES).zip(values[..whole].chunks_exact_mut(S::LANES)) {
                // SAFETY: `to` is LANES numbers, by chunks_exact_mut.
                unsafe { s.store_i16(to.as_mut_ptr(), s.mul(s.load(vector), inverse_vector)) };
            }
            for (x, to) in rest.iter().zip(&mut values[whole..]) {
                *to = (x * inverse).round_ties_even() as i16;
            }
            // Zero partner for the last input of an odd block.
            if depth < K_BLOCK {
                values[depth] = 0;
            }
        }
    }
}

/// [`Gemm`](super::gemm::Gemm) of a block of quantised numbers: `c = finish(init + scales · (a · b))`.
#[derive(Debug)]
pub(super) struct IntegerGemm<'a, W> {
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// One block.
    pub(super) a: Quantised<'a>,
    /// `[panels, pairs, PANEL, 2]`.
    pub(super) b: &'a [W],
    /// `[panels · PANEL]`.
    pub(super) scales: &'a [f32],
    pub(super) c: MatrixMut<'a>,
    pub(super) init: Init<'a>,
    pub(super) finish: Finish,
}

impl<W: Weight> Kernel for IntegerGemm<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, depth, a, b, scales, mut c, init, finish } = self;
        let pairs = depth.div_ceil(2);
        let panel_len = pairs * 2 * S::PANEL;
        if rows == 0 || depth == 0 {
            return;
        }
        const { assert!(S::INTEGER_TILE_ROWS <= MAX_TILE_ROWS && S::PANEL <= MAX_PANEL) };
        // The tiles below rely on these bounds.
        assert!(a.values.len() >= (rows - 1) * K_BLOCK + 2 * pairs, "left matrix too short");
        // Strips of equal height, and the next panel prefetched a part by each, as in the f32 product.
        let strips = rows.div_ceil(S::INTEGER_TILE_ROWS);
        let tile_rows = rows.div_ceil(strips);
        let panel_lines = (panel_len * size_of::<W>()).div_ceil(CACHE_LINE);
        let lines_per_strip = panel_lines.div_ceil(strips).min(MAX_PREFETCH_LINES);
        let mut buffer = [0i16; K_BLOCK * MAX_PANEL];
        for (panel, b) in b.chunks_exact(panel_len).enumerate() {
            let mut ahead = b.as_ptr().wrapping_add(panel_len).cast::<u8>();
            let b = W::widen(s, b, &mut buffer);
            let column = panel * S::PANEL;
            let columns = Columns { column, scales: &scales[column..column + S::PANEL], init, finish };
            for row in (0..rows).step_by(tile_rows) {
                for _ in 0..lines_per_strip {
                    s.prefetch(ahead);
                    ahead = ahead.wrapping_add(CACHE_LINE);
                }
                let tile = IntegerTile { pairs, a: a.values[row * K_BLOCK..].as_ptr(), b: b.as_ptr() };
                let a_scales = &a.scales[row..];
                // SAFETY: row < rows, so by the assertion above each of the tile's `rows - row` rows has `pairs` pairs;
                // b is one panel by chunks_exact.
                unsafe {
                    match (rows - row).min(tile_rows) {
                        1 => columns.write(s, row, tile.rows::<S, 1>(s), a_scales, &mut c),
                        2 => columns.write(s, row, tile.rows::<S, 2>(s), a_scales, &mut c),
                        3 => columns.write(s, row, tile.rows::<S, 3>(s), a_scales, &mut c),
                        4 => columns.write(s, row, tile.rows::<S, 4>(s), a_scales, &mut c),
                        5 => columns.write(s, row, tile.rows::<S, 5>(s), a_scales, &mut c),
                        6 => columns.write(s, row, tile.rows::<S, 6>(s), a_scales, &mut c),
                        7 => columns.write(s, row, tile.rows::<S, 7>(s), a_scales, &mut c),
                        8 => columns.write(s, row, tile.rows::<S, 8>(s), a_scales, &mut c),
                        9 => columns.write(s, row, tile.rows::<S, 9>(s), a_scales, &mut c),
                        10 => columns.write(s, row, tile.rows::<S, 10>(s), a_scales, &mut c),
                        11 => columns.write(s, row, tile.rows::<S, 11>(s), a_scales, &mut c),
                        _ => columns.write(s, row, tile.rows::<S, MAX_TILE_ROWS>(s), a_scales, &mut c),
                    }
                }
            }
        }
    }
}

// A tile has an arm for each number of rows.
const _: () = assert!(MAX_TILE_ROWS == 12);

/// A few rows by one panel.
#[derive(Clone, Copy)]
struct IntegerTile {
    pairs: usize,
    a: *const i16,
    b: *const i16,
}

impl IntegerTile {
    /// # Safety
    /// `a` is valid for `R` rows of `pairs` pairs, `K_BLOCK` apart; `b` for `pairs · PANEL` pairs.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(self, s: S) -> [[S::Sum; PANEL_VECTORS]; R] {
        let mut sums = [[s.zero_sum(); PANEL_VECTORS]; R];
        if R > S::INTEGER_TILE_ROWS {
            return sums;
        }
        // SAFETY: the caller's promise covers every pair below `pairs`.
        unsafe {
            for pair in (0..self.pairs - self.pairs % 2).step_by(2) {
                self.multiply_add::<S, R>(s, &mut sums, pair);
                self.multiply_add::<S, R>(s, &mut sums, pair + 1);
            }
            if !self.pairs.is_multiple_of(2) {
                self.multiply_add::<S, R>(s, &mut sums, self.pairs - 1);
            }
        }
        sums
    }

    /// # Safety
    /// As [`rows`](Self::rows); `pair` is below `pairs`.
    #[inline(always)]
    unsafe fn multiply_add<S: Simd, const R: usize>(self, s: S, sums: &mut [[S::Sum; PANEL_VECTORS]; R], pair: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let b: [S::I32; PANEL_VECTORS] =
                std::array::from_fn(|vector| s.load_i16_pairs(self.b.add(2 * (pair * S::PANEL + vector * S::LANES))));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = s.splat_pair(self.a.add(row * K_BLOCK + 2 * pair));
                for vector in 0..PANEL_VECTORS {
                    sums[vector] = s.dot_pairs(a, b[vector], sums[vector]);
                }
            }
        }
    }
}

/// How a panel's sums are scaled and stored.
struct Columns<'a> {
    column: usize,
    scales: &'a [f32],
    init: Init<'a>,
    finish: Finish,
}

impl Columns<'_> {
    #[inline(always)]
    fn write<S: Simd, const R: usize>(
        &self,
        s: S,
        row: usize,
        sums: [[S::Sum; PANEL_VECTORS]; R],
        a_scales: &[f32],
        c: &mut MatrixMut<'_>,
    ) {
        for (index, (sums, &a_scale)) in sums.iter().zip(a_scales).enumerate() {
            let row_start = (row + index) * c.stride;
            let gated = row_start + self.column / S::PANEL * S::LANES;
            let data = &mut *c.data;
            let c = &mut data[row_start + self.column..][..S::PANEL];
            let mut values = [s.splat(0.0); PANEL_VECTORS];
            for (vector, &sum) in sums.iter().enumerate() {
                let at = vector * S::LANES;
                let start = match self.init {
                    Init::Zero => s.splat(0.0),
                    Init::Bias(bias) => s.load(&bias[self.column + at..]),
                    Init::BiasAndResidual(bias, residual) => {
                        let residual = &residual.data[(row + index) * residual.stride + self.column + at..];
                        s.add(s.load(&bias[self.column + at..]), s.load(residual))
                    }
                    Init::BiasAndItself(bias) => s.add(s.load(&bias[self.column + at..]), s.load(&c[at..])),
                    Init::Accumulate | Init::Add => s.load(&c[at..]),
                };
                let scale = s.mul(s.splat(a_scale), s.load(&self.scales[at..]));
                values[vector] = s.mul_add(s.to_f32(sum), scale, start);
            }
            match self.finish {
                Finish::Store => {}
                Finish::Activate(activation) => {
                    for value in &mut values {
                        *value = math::activate(s, activation, *value);
                    }
                }
                Finish::Gate(activation) => {
                    let product = s.mul(math::activate(s, activation, values[0]), values[1]);
                    s.store(&mut data[gated..], product);
                    continue;
                }
            }
            for (vector, value) in values.into_iter().enumerate() {
                s.store(&mut c[vector * S::LANES..], value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
