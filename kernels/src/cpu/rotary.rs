//! Rotary positions: turns queries and keys by their place in the row, right after their projection.
//!
//! The two numbers of a pair are `head_dim / 2` apart. In memory the first numbers of a head's pairs fill whole
//! vectors, padded, then the second ones do: [`head_dim_of`] is that order, in which the projections of queries and
//! keys are packed. It changes no score, since both have it.

use super::simd::{Isa, Kernel, PANEL_VECTORS, Simd};
use crate::architecture::Rotary;

/// Cosines and sines of every position.
#[derive(Debug)]
pub(super) struct RotaryTable {
    /// `[positions, 2, half]`: cosines, then sines; padding is 0.
    values: Vec<f32>,
    /// Padded width of half a head.
    half: usize,
}

impl RotaryTable {
    /// The table for rows of up to `positions` tokens and heads that are `head_width` wide with padding.
    pub(super) fn new(rotary: Rotary, positions: usize, head_dim: usize, head_width: usize) -> Self {
        let half = head_width / 2;
        let mut values = vec![0.0; positions * head_width];
        for (position, row) in values.chunks_exact_mut(head_width).enumerate() {
            let (cosines, sines) = row.split_at_mut(half);
            for (pair, (cosine, sine)) in cosines.iter_mut().zip(sines).take(head_dim / 2).enumerate() {
                let (sin, cos) = f64::from(rotary.angle(position, pair, head_dim)).sin_cos();
                (*cosine, *sine) = (cos as f32, sin as f32);
            }
        }
        Self { values, half }
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(self.values.as_slice()) as u64
    }

    /// Rotates `heads` heads at the start of each of some adjacent tokens, `stride` numbers apart; the first has the
    /// place `first` in its row.
    pub(super) fn apply(&self, isa: Isa, x: &mut [f32], stride: usize, heads: usize, first: usize) {
        isa.run(Rotate { table: self, x, stride, heads, first });
    }
}

/// The number of a head that is at `place` of the head in memory, `head_width` wide with padding; `None` is padding.
pub(super) fn head_dim_of(place: usize, head_dim: usize, head_width: usize) -> Option<usize> {
    let (half, padded) = (head_dim / 2, head_width / 2);
    (place % padded < half).then_some(place / padded * half + place % padded)
}

struct Rotate<'a> {
    table: &'a RotaryTable,
    x: &'a mut [f32],
    stride: usize,
    heads: usize,
    first: usize,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Heads are whole panels, so their halves are whole vectors.
        const { assert!(PANEL_VECTORS == 2) };
        let Self { table, x, stride, heads, first } = self;
        let half = table.half;
        for (token, row) in x.chunks_mut(stride).zip(table.values.chunks_exact(2 * half).skip(first)) {
            let (cosines, sines) = row.split_at(half);
            for head in token.chunks_exact_mut(2 * half).take(heads) {
                let (a, b) = head.split_at_mut(half);
                let vectors = a.chunks_exact_mut(S::LANES).zip(b.chunks_exact_mut(S::LANES));
                let turns = cosines.chunks_exact(S::LANES).zip(sines.chunks_exact(S::LANES));
                for ((a, b), (cosine, sine)) in vectors.zip(turns) {
                    let (x, y, cosine, sine) = (s.load(a), s.load(b), s.load(cosine), s.load(sine));
                    s.store(a, s.sub(s.mul(x, cosine), s.mul(y, sine)));
                    s.store(b, s.add(s.mul(y, cosine), s.mul(x, sine)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn rotation_of_odd_widths_agrees_with_float64() {
        let rotary = Rotary { theta: 10_000.0, frequency_divisor: 1.1 };
        for isa in Isa::available() {
            for (heads, head_dim) in [(1, 2), (3, 16), (2, 24), (2, 32), (1, 64), (2, 80usize)] {
                let (width, positions) = (head_dim.next_multiple_of(isa.panel()), 50);
                let table = RotaryTable::new(rotary, positions, head_dim, width);
                let numbers: Vec<f32> = (0..positions * heads * head_dim).map(|i| (i as f32 * 0.37).sin()).collect();
                let mut expected: Vec<f64> = numbers.iter().map(|&x| f64::from(x)).collect();
                reference::rotate(&mut expected, heads, head_dim, rotary);
                // What lies beside the heads stays as it is.
                let stride = heads * width + 3;
                let mut x = vec![7.0; positions * stride];
                let place = |token: usize, head: usize, place: usize| token * stride + head * width + place;
                for (token, head) in (0..positions).flat_map(|token| (0..heads).map(move |head| (token, head))) {
                    for at in 0..width {
                        let dim = head_dim_of(at, head_dim, width);
                        x[place(token, head, at)] =
                            dim.map_or(0.0, |dim| numbers[(token * heads + head) * head_dim + dim]);
                    }
                }
                // In two parts, as members of a team have them.
                let (first, second) = x.split_at_mut(17 * stride);
                table.apply(isa, first, stride, heads, 0);
                table.apply(isa, second, stride, heads, 17);
                for (token, head) in (0..positions).flat_map(|token| (0..heads).map(move |head| (token, head))) {
                    for at in 0..width {
                        let dim = head_dim_of(at, head_dim, width);
                        let expected = dim.map_or(0.0, |dim| expected[(token * heads + head) * head_dim + dim]);
                        let actual = x[place(token, head, at)];
                        let error = (f64::from(actual) - expected).abs();
                        assert!(error <= 3e-7, "{isa:?} {head_dim} token {token} [{at}]: {actual} for {expected}");
                    }
                    assert_eq!(x[place(token, heads, 0)..][..3], [7.0; 3]);
                }
            }
        }
    }
}
