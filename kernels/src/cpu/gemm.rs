//! Matrix product in f32: a register tile of [`Simd::TILE_ROWS`] rows by one panel, over panels packed at load.
//!
//! The loops follow Goto and van de Geijn (<https://doi.org/10.1145/1356052.1356053>), adapted to a tall left matrix
//! that is already in cache. A panel of the right matrix, `[k, PANEL]` and at most [`K_BLOCK`] deep, stays in the
//! first-level cache while every strip of the left matrix is multiplied by it; the next panel is prefetched. The left
//! matrix is read in place: its elements are broadcast one at a time, so it needs no packing.
//!
//! Each number of the product is one chain of fused multiply-adds in ascending k, in any tile. So its bits do not
//! depend on the other rows of the left matrix.

#![allow(unsafe_code, reason = "pointer arithmetic in the innermost loop, where bounds checks would cost a third")]

use super::matrix::{Matrix, MatrixMut};
use super::simd::{Kernel, MAX_TILE_ROWS, PANEL_VECTORS, Simd, math};
use crate::architecture::Activation;

/// Inputs per block: the panel (24 KiB on AVX2) shares a first-level cache of 32 KiB with a strip of the left matrix.
/// The default model's hidden size, 384, is exactly one block.
pub(super) const K_BLOCK: usize = 384;

/// Initial value of the sums.
#[derive(Debug, Clone, Copy)]
pub(super) enum Init<'a> {
    /// Zero.
    Zero,
    /// The bias, `[panels · PANEL]`.
    Bias(&'a [f32]),
    /// The bias plus the number at the same place in another matrix.
    BiasAndResidual(&'a [f32], Matrix<'a>),
    /// The bias plus the current contents of `c`.
    BiasAndItself(&'a [f32]),
    /// The current contents of `c`: the product of the columns to the left.
    Accumulate,
    /// Zero, and what is stored is the sums plus the current contents of `c`: a new chain. Costs a little more.
    Add,
}

/// Applied to the sums before they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Store,
    /// The activation of each number.
    Activate(Activation),
    /// Of each panel's two vectors, the activation of the first times the second. The products of all panels lie side
    /// by side at the start of each row; what follows them is undefined.
    Gate(Activation),
}

/// `c = finish(init + a · b)`: `a` is `[rows, depth]`, `b` is packed panels `[panels, depth, PANEL]`, `c` is
/// `[rows, panels · PANEL]`.
#[derive(Debug)]
pub(super) struct Gemm<'a> {
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) a: Matrix<'a>,
    pub(super) b: &'a [f32],
    pub(super) c: MatrixMut<'a>,
    pub(super) init: Init<'a>,
    pub(super) finish: Finish,
}

/// Most cache lines of the next panel that one tile prefetches. With few tiles per panel the hardware prefetcher does
/// better.
pub(super) const MAX_PREFETCH_LINES: usize = 64;

/// Bytes of a cache line.
pub(super) const CACHE_LINE: usize = 64;

const CACHE_LINE_F32: usize = CACHE_LINE / size_of::<f32>();

impl Kernel for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, depth, a, b, c, init, finish } = self;
        if rows == 0 || depth == 0 {
            return;
        }
        let panel_len = depth * S::PANEL;
        let panels = b.len() / panel_len;
        let columns = panels * S::PANEL;
        // The tiles below rely on these bounds.
        assert!(a.data.len() >= (rows - 1) * a.stride + depth, "left matrix too short");
        assert!(c.data.len() >= (rows - 1) * c.stride + columns, "result too short");
        match init {
            Init::Zero | Init::Accumulate | Init::Add => {}
            Init::Bias(bias) | Init::BiasAndItself(bias) => assert!(bias.len() >= columns, "bias too short"),
            Init::BiasAndResidual(bias, residual) => {
                assert!(bias.len() >= columns, "bias too short");
                assert!(residual.data.len() >= (rows - 1) * residual.stride + columns, "residual too short");
            }
        }
        let strips = rows.div_ceil(S::TILE_ROWS);
        // Strips of equal height: a low one would load as much of the panel for fewer multiply-adds.
        let tile_rows = rows.div_ceil(strips);
        let lines_per_strip = panel_len.div_ceil(CACHE_LINE_F32).div_ceil(strips).min(MAX_PREFETCH_LINES);
        for (panel, b) in b.chunks_exact(panel_len).enumerate() {
            let column = panel * S::PANEL;
            let mut ahead = b.as_ptr().wrapping_add(panel_len);
            for row in (0..rows).step_by(tile_rows) {
                for _ in 0..lines_per_strip {
                    s.prefetch(ahead.cast());
                    ahead = ahead.wrapping_add(CACHE_LINE_F32);
                }
                // SAFETY: row < rows and column + PANEL <= columns, so by the assertions above each of the tile's
                // `rows - row` rows is within a, c and the residual, and the bias has PANEL numbers from `column`;
                // b is one panel by chunks_exact. Gated numbers are written over columns of this panel or of panels
                // that all rows are done with.
                unsafe {
                    let c_row = c.data.as_mut_ptr().add(row * c.stride);
                    let (start, residual_stride) = match init {
                        Init::Zero => (Start::Zero, 0),
                        Init::Bias(bias) => (Start::Bias(bias.as_ptr().add(column)), 0),
                        Init::BiasAndResidual(bias, residual) => {
                            let at = residual.data.as_ptr().add(row * residual.stride + column);
                            (Start::BiasAndResidual(bias.as_ptr().add(column), at), residual.stride)
                        }
                        Init::BiasAndItself(bias) => {
                            let at = c_row.add(column).cast_const();
                            (Start::BiasAndResidual(bias.as_ptr().add(column), at), c.stride)
                        }
                        Init::Accumulate => (Start::Accumulate, 0),
                        Init::Add => (Start::Add, 0),
                    };
                    let tile = FloatTile {
                        depth,
                        a: a.data.as_ptr().add(row * a.stride),
                        a_stride: a.stride,
                        b: b.as_ptr(),
                        c: c_row.add(column),
                        gated: c_row.add(panel * S::LANES),
                        c_stride: c.stride,
                        start,
                        residual_stride,
                        finish,
                    };
                    tile.run(s, (rows - row).min(tile_rows));
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Start {
    Zero,
    Bias(*const f32),
    BiasAndResidual(*const f32, *const f32),
    Accumulate,
    Add,
}

// A tile has an arm for each number of rows.
const _: () = assert!(MAX_TILE_ROWS == 12);

/// A few rows by one panel.
#[derive(Clone, Copy)]
struct FloatTile {
    depth: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    c: *mut f32,
    /// Where the panel's gated numbers go.
    gated: *mut f32,
    c_stride: usize,
    start: Start,
    residual_stride: usize,
    finish: Finish,
}

impl FloatTile {
    /// Computes the first `rows` rows, or [`Simd::TILE_ROWS`] if those are fewer.
    ///
    /// # Safety
    /// The pointers are valid for that many rows of `depth` (a), PANEL (c, residual) and LANES (gated) numbers, for
    /// PANEL (bias) and for `depth · PANEL` (b).
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S, rows: usize) {
        const { assert!(S::TILE_ROWS <= MAX_TILE_ROWS) };
        let rows = rows.min(S::TILE_ROWS);
        // SAFETY: passed on; each arm computes no more rows than asked for. TILE_ROWS is a constant, so the arms above
        // it are not compiled.
        unsafe {
            match rows {
                1 => self.rows::<S, 1>(s),
                2 => self.rows::<S, 2>(s),
                3 => self.rows::<S, 3>(s),
                4 => self.rows::<S, 4>(s),
                5 => self.rows::<S, 5>(s),
                6 => self.rows::<S, 6>(s),
                7 => self.rows::<S, 7>(s),
                8 => self.rows::<S, 8>(s),
                9 => self.rows::<S, 9>(s),
                10 => self.rows::<S, 10>(s),
                11 => self.rows::<S, 11>(s),
                _ => self.rows::<S, MAX_TILE_ROWS>(s),
            }
            self.finish(s, rows);
        }
    }

    /// What [`rows`](Self::rows) has not done: here it is compiled once, not for each number of rows.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, s: S, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.finish {
                Finish::Store | Finish::Activate(Activation::Gelu) => {}
                Finish::Activate(activation) => {
                    for row in 0..rows {
                        for vector in 0..PANEL_VECTORS {
                            let c = self.c.add(row * self.c_stride + vector * S::LANES);
                            s.store_ptr(c, math::activate(s, activation, s.load_ptr(c)));
                        }
                    }
                }
                Finish::Gate(activation) => {
                    for row in 0..rows {
                        let c = self.c.add(row * self.c_stride);
                        let (x, gate) = (s.load_ptr(c), s.load_ptr(c.add(S::LANES)));
                        s.store_ptr(self.gated.add(row * self.c_stride), s.mul(math::activate(s, activation, x), gate));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run), for `R` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(self, s: S) {
        if R > S::TILE_ROWS {
            return;
        }
        // SAFETY: the caller's promise covers R rows of every matrix.
        unsafe {
            let mut sums = self.start::<S, R>(s);
            let mut a = self.a;
            let mut b = self.b;
            for _ in 0..self.depth / UNROLL {
                for step in 0..UNROLL {
                    multiply_add::<S, R>(s, &mut sums, a.add(step), self.a_stride, b.add(step * S::PANEL));
                }
                a = a.add(UNROLL);
                b = b.add(UNROLL * S::PANEL);
            }
            for step in 0..self.depth % UNROLL {
                multiply_add::<S, R>(s, &mut sums, a.add(step), self.a_stride, b.add(step * S::PANEL));
            }
            if let Start::Add = self.start {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let before = load_panel(s, self.c.add(row * self.c_stride));
                    for vector in 0..PANEL_VECTORS {
                        sums[vector] = s.add(before[vector], sums[vector]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    s.store_ptr(self.c.add(row * self.c_stride + vector * S::LANES), sum);
                }
            }
            if self.finish == Finish::Activate(Activation::Gelu) {
                // Read the sums back from the first-level cache: the polynomials need the registers.
                for row in 0..R {
                    for vector in 0..PANEL_VECTORS {
                        let c = self.c.add(row * self.c_stride + vector * S::LANES);
                        s.store_ptr(c, math::gelu(s, s.load_ptr(c)));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run), for `R` rows.
    #[inline(always)]
    unsafe fn start<S: Simd, const R: usize>(self, s: S) -> [[S::F32; PANEL_VECTORS]; R] {
        let mut sums = [[s.splat(0.0); PANEL_VECTORS]; R];
        // SAFETY: the caller's promise covers R rows of the result and the residual, and PANEL numbers of the bias.
        unsafe {
            match self.start {
                Start::Zero | Start::Add => {}
                Start::Bias(bias) => {
                    let bias = load_panel(s, bias);
                    sums = [bias; R];
                }
                Start::BiasAndResidual(bias, residual) => {
                    let bias = load_panel(s, bias);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let residual = load_panel(s, residual.add(row * self.residual_stride));
                        for vector in 0..PANEL_VECTORS {
                            sums[vector] = s.add(bias[vector], residual[vector]);
                        }
                    }
                }
                Start::Accumulate => {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        *sums = load_panel(s, self.c.add(row * self.c_stride));
                    }
                }
            }
        }
        sums
    }
}

/// Steps of k between two checks for the end of the loop.
const UNROLL: usize = 4;

/// One step of k: `R` broadcasts, one row of the panel, `R · PANEL_VECTORS` multiply-adds.
///
/// # Safety
/// `a` is valid at `R` rows, `b` for PANEL numbers.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const R: usize>(
    s: S,
    sums: &mut [[S::F32; PANEL_VECTORS]; R],
    a: *const f32,
    a_stride: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let b = load_panel(s, b);
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = s.splat(*a.add(row * a_stride));
            for vector in 0..PANEL_VECTORS {
                sums[vector] = s.mul_add(a, b[vector], sums[vector]);
            }
        }
    }
}

/// # Safety
/// `from` is valid for PANEL numbers.
#[inline(always)]
unsafe fn load_panel<S: Simd>(s: S, from: *const f32) -> [S::F32; PANEL_VECTORS] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|vector| unsafe { s.load_ptr(from.add(vector * S::LANES)) })
}

#[cfg(test)]
mod tests {
    use super::super::pack::{self, Format, Left, PackedLinear, Plus, Product};
    use super::super::simd::Isa;
    use super::*;
    use crate::reference;
    use crate::weights::Linear;

    const GELU: Finish = Finish::Activate(Activation::Gelu);

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn products_of_odd_sizes_agree_with_float64() {
        for isa in Isa::available() {
            for rows in [1, 2, 5, 6, 7, 11, 12, 13, 47, 48] {
                for (inputs, outputs) in [(1, 1), (15, 17), (16, 16), (48, 100), (384, 33), (385, 16), (800, 5)] {
                    check(isa, rows, inputs, outputs);
                }
            }
        }
    }

    fn check(isa: Isa, rows: usize, inputs: usize, outputs: usize) {
        let linear = Linear { weight: numbers(inputs * outputs, 1).into(), bias: Some(numbers(outputs, 2)), inputs };
        let packed = PackedLinear::plain(isa, Format::F32, &linear);
        let x = numbers(rows * inputs, 3);
        let stride = packed.outputs();
        let residual = numbers(rows * stride, 4);
        let mut c = vec![f32::NAN; rows * stride];
        let x64: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let expected = reference::linear(&x64, &linear);
        let bound = 1e-6 * (inputs as f64).sqrt() * 4.0;

        let a = Left::F32(Matrix::new(&x, inputs));
        let product = Product { rows, a, c: MatrixMut::new(&mut c, stride), plus: Plus::Nothing, finish: GELU };
        packed.apply(isa, 0..stride, product);
        for (index, &expected) in expected.iter().enumerate() {
            let actual = c[index / outputs * stride + index % outputs];
            let error = (f64::from(actual) - reference::gelu(expected)).abs();
            assert!(error <= bound, "{isa:?} {rows}×{inputs}×{outputs} [{index}]: {actual}, off by {error:e}");
        }

        let residual = Matrix::new(&residual, stride);
        let product =
            Product { rows, a, c: MatrixMut::new(&mut c, stride), plus: Plus::Other(residual), finish: Finish::Store };
        packed.apply(isa, 0..stride, product);
        for (index, expected) in expected.iter().enumerate() {
            let at = index / outputs * stride + index % outputs;
            let error = (f64::from(c[at]) - (expected + f64::from(residual.data[at]))).abs();
            assert!(error <= bound, "{isa:?} {rows}×{inputs}×{outputs} [{index}]: {}, off by {error:e}", c[at]);
        }

        // Once more on top of the result.
        let before = c.clone();
        let product = Product { rows, a, c: MatrixMut::new(&mut c, stride), plus: Plus::Itself, finish: Finish::Store };
        packed.apply(isa, 0..stride, product);
        for (index, expected) in expected.iter().enumerate() {
            let at = index / outputs * stride + index % outputs;
            let error = (f64::from(c[at]) - (expected + f64::from(before[at]))).abs();
            assert!(error <= bound, "{isa:?} {rows}×{inputs}×{outputs} [{index}]: {}, off by {error:e}", c[at]);
        }
    }

    #[test]
    fn gated_products_of_odd_sizes_agree_with_float64() {
        for isa in Isa::available() {
            for rows in [1, 5, 13, 48] {
                for (inputs, size) in [(1, 1), (48, 17), (384, 33), (385, 48), (800, 5)] {
                    for activation in [Activation::Gelu, Activation::Silu] {
                        check_gated(isa, rows, inputs, size, activation);
                    }
                }
            }
        }
    }

    fn check_gated(isa: Isa, rows: usize, inputs: usize, size: usize, activation: Activation) {
        let linear = Linear { weight: numbers(inputs * 2 * size, 1).into(), bias: Some(numbers(2 * size, 2)), inputs };
        let columns = pack::gated_columns(isa, &linear);
        let packed = PackedLinear::new(isa, Format::F32, &columns, &pack::all_inputs(inputs));
        let x = numbers(rows * inputs, 3);
        let x64: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let stride = packed.outputs();
        let mut c = vec![f32::NAN; rows * stride];
        let a = Left::F32(Matrix::new(&x, inputs));
        let finish = Finish::Gate(activation);
        let product = Product { rows, a, c: MatrixMut::new(&mut c, stride), plus: Plus::Nothing, finish };
        packed.apply(isa, 0..stride, product);
        let bound = 1e-6 * inputs as f64 * 2.0;
        for (row, expected) in reference::linear(&x64, &linear).chunks_exact(2 * size).enumerate() {
            for index in 0..size {
                let expected = reference::activate(activation, expected[index]) * expected[size + index];
                let actual = c[row * stride + index];
                let error = (f64::from(actual) - expected).abs();
                assert!(error <= bound, "{isa:?} {rows}×{inputs}×{size} [{index}]: {actual}, off by {error:e}");
            }
        }
    }
}
