//! LayerNorm over rows that a matrix product has just written to the second-level cache, and the embeddings.
//!
//! Fusing LayerNorm into the product's epilogue would need a whole row's panels at once. A separate pass costs 0.2 % of
//! a layer.

use super::pack::{Format, PackedLinear};
use super::simd::{Isa, Kernel, Simd};
use crate::architecture::{Architecture, Embeddings, Positions};
use crate::weights::{self, EmbeddingWeights, NormWeights};

/// LayerNorm's weights, padded with zeros to whole panels, so that padding stays zero.
#[derive(Debug)]
pub(super) struct PackedNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Numbers in a row, without padding.
    hidden: usize,
    eps: f32,
}

impl PackedNorm {
    pub(super) fn new(isa: Isa, norm: NormWeights, eps: f64) -> Self {
        let NormWeights { mut weight, bias } = norm;
        let hidden = weight.len();
        let stride = hidden.next_multiple_of(isa.panel());
        weight.resize(stride, 0.0);
        let mut bias = bias.unwrap_or_default();
        bias.resize(stride, 0.0);
        Self { weight, bias, hidden, eps: eps as f32 }
    }

    /// Numbers in a row, without padding.
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// Numbers in a row, with padding.
    pub(super) fn stride(&self) -> usize {
        self.weight.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        (2 * size_of_val(self.weight.as_slice())) as u64
    }

    /// `to = (from − mean) / √(variance + eps) · weight + bias`, for every row of both.
    pub(super) fn apply(&self, isa: Isa, from: &[f32], to: &mut [f32]) {
        isa.run(NormRows { norm: self, from, to });
    }
}

struct NormRows<'a> {
    norm: &'a PackedNorm,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let stride = self.norm.stride();
        for (from, to) in self.from.chunks_exact(stride).zip(self.to.chunks_exact_mut(stride)) {
            let (mean, scale) = moments(s, &from[..self.norm.hidden], self.norm.eps);
            normalise(s, self.norm, from, to, mean, scale);
        }
    }
}

/// The mean and 1/√(variance + eps). Two passes: a difference of sums would be inaccurate for numbers far from zero.
#[inline(always)]
fn moments<S: Simd>(s: S, row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(s, row, |x| x, |x| x) / count;
    let mean_vector = s.splat(mean);
    let squares = sum(
        s,
        row,
        |x| {
            let difference = s.sub(x, mean_vector);
            s.mul(difference, difference)
        },
        |x| (x - mean) * (x - mean),
    );
    (mean, 1.0 / (squares / count + eps).sqrt())
}

/// The sum of a function over a row: whole vectors first, then the rest one by one.
#[inline(always)]
fn sum<S: Simd>(s: S, row: &[f32], vector: impl Fn(S::F32) -> S::F32, scalar: impl Fn(f32) -> f32) -> f32 {
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let mut pairs = row.chunks_exact(2 * S::LANES);
    for pair in &mut pairs {
        even = s.add(even, vector(s.load(pair)));
        odd = s.add(odd, vector(s.load(&pair[S::LANES..])));
    }
    let rest: f32 = pairs.remainder().iter().map(|&x| scalar(x)).sum();
    s.reduce_add(s.add(even, odd)) + rest
}

#[inline(always)]
fn normalise<S: Simd>(s: S, norm: &PackedNorm, from: &[f32], to: &mut [f32], mean: f32, scale: f32) {
    let (mean, scale) = (s.splat(mean), s.splat(scale));
    let vectors = from.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES));
    let weights = norm.weight.chunks_exact(S::LANES).zip(norm.bias.chunks_exact(S::LANES));
    for ((from, to), (weight, bias)) in vectors.zip(weights) {
        let x = s.mul(s.sub(s.load(from), mean), scale);
        s.store(to, s.mul_add(x, s.load(weight), s.load(bias)));
    }
}

/// The embedding tables, not packed: few rows are read, and each is read whole.
#[derive(Debug)]
pub(super) struct PackedEmbeddings {
    word: weights::Table,
    position: Table,
    token_type: Table,
    width: usize,
    /// Width of an embedded token with padding.
    stride: usize,
    norm: Option<PackedNorm>,
    /// `[hidden, width]`.
    pub(super) projection: Option<PackedLinear>,
}

/// A table that is added to the word table; if the model has none, one row of zeros.
#[derive(Debug)]
struct Table {
    values: Vec<f32>,
    is_absent: bool,
}

impl Table {
    fn new(values: Vec<f32>, width: usize) -> Self {
        match values.is_empty() {
            true => Self { values: vec![0.0; width], is_absent: true },
            false => Self { values, is_absent: false },
        }
    }

    fn row(&self, index: usize, width: usize) -> &[f32] {
        let index = if self.is_absent { 0 } else { index };
        &self.values[index * width..][..width]
    }
}

impl PackedEmbeddings {
    pub(super) fn new(isa: Isa, shape: &Embeddings, weights: EmbeddingWeights) -> Self {
        let EmbeddingWeights { word, position, token_type, norm, projection } = weights;
        Self {
            word,
            position: Table::new(position, shape.width),
            token_type: Table::new(token_type, shape.width),
            width: shape.width,
            stride: shape.width.next_multiple_of(isa.panel()),
            norm: shape.norm.zip(norm).map(|(norm, weights)| PackedNorm::new(isa, weights, norm.eps)),
            projection: projection.map(|projection| PackedLinear::plain(isa, Format::F32, &projection)),
        }
    }

    /// Width of an embedded token with padding: that of a hidden state, unless the model has a projection.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Most bytes of a model's tables: those of f32. A word table that is stored in fewer stays so.
    pub(super) fn bytes_of(architecture: &Architecture) -> u64 {
        let Embeddings { width, positions, token_types, .. } = architecture.embeddings;
        let positions = match positions {
            Positions::None => 0,
            Positions::Learned { rows, .. } => rows,
        };
        // A missing table is one row of zeros.
        let rows = architecture.vocab_size + positions.max(1) + token_types.rows().max(1);
        (rows * width * size_of::<f32>()) as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        let tables = [&self.position.values, &self.token_type.values];
        self.word.bytes()
            + tables.iter().map(|table| size_of_val(table.as_slice()) as u64).sum::<u64>()
            + self.norm.as_ref().map_or(0, PackedNorm::bytes)
            + self.projection.as_ref().map_or(0, PackedLinear::bytes)
    }

    /// Writes one embedded token, padded, before the projection.
    pub(super) fn embed(&self, isa: Isa, token: EmbeddedToken, to: &mut [f32]) {
        isa.run(Embed { embeddings: self, token, to });
    }
}

/// Row indices of one token in each table.
#[derive(Debug, Clone, Copy)]
pub(super) struct EmbeddedToken {
    pub(super) id: u32,
    pub(super) position: usize,
    pub(super) token_type: usize,
}

struct Embed<'a> {
    embeddings: &'a PackedEmbeddings,
    token: EmbeddedToken,
    to: &'a mut [f32],
}

impl Kernel for Embed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { embeddings: tables, token, to } = self;
        let width = tables.width;
        tables.word.copy_row(token.id as usize, &mut to[..width]);
        let position = tables.position.row(token.position, width);
        let token_type = tables.token_type.row(token.token_type, width);
        for ((to, position), token_type) in to.iter_mut().zip(position).zip(token_type) {
            *to = *to + position + token_type;
        }
        to[width..].fill(0.0);
        let Some(norm) = &tables.norm else { return };
        let (mean, scale) = moments(s, &to[..width], norm.eps);
        let (mean, scale) = (s.splat(mean), s.splat(scale));
        let weights = norm.weight.chunks_exact(S::LANES).zip(norm.bias.chunks_exact(S::LANES));
        for (to, (weight, bias)) in to.chunks_exact_mut(S::LANES).zip(weights) {
            let x = s.mul(s.sub(s.load(to), mean), scale);
            s.store(to, s.mul_add(x, s.load(weight), s.load(bias)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn layer_norm_of_odd_sizes_agrees_with_float64() {
        for isa in Isa::available() {
            for hidden in [1, 7, 15, 16, 17, 48, 384, 385] {
                let norm = NormWeights {
                    weight: (0..hidden).map(|i| 1.0 + (i as f32).sin() / 2.0).collect(),
                    bias: Some((0..hidden).map(|i| (i as f32).cos()).collect()),
                };
                let row: Vec<f32> = (0..hidden).map(|i| 3.0 + (i as f32 * 1.7).sin()).collect();
                let mut expected: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                reference::layer_norm(&mut expected, &norm, 1e-12);
                let packed = PackedNorm::new(isa, norm, 1e-12);
                let mut from = vec![0.0; packed.stride()];
                from[..hidden].copy_from_slice(&row);
                let mut to = vec![f32::NAN; packed.stride()];
                packed.apply(isa, &from, &mut to);
                assert!(to[hidden..].iter().all(|&x| x == 0.0), "padding stays zero");
                for (actual, expected) in to.iter().zip(&expected) {
                    assert!((f64::from(*actual) - expected).abs() <= 5e-6, "{isa:?} {hidden}: {actual} for {expected}");
                }
            }
        }
    }
}
