//! The forward pass in float64: slow, plain and readable. Every engine and kernel is tested against it.
//!
//! Computes every possible [`Architecture`]. Nothing is fused, pruned or reordered. Each function is the formula of one
//! part; the part's documentation names the source.

use crate::architecture::{
    Activation, Architecture, Attention, Block, Dense, Head, Layer, Mask, Mlp, MlpKind, Norm, NormKind, NormPlacement,
    Pooling, RelativePositions, Rotary,
};
use crate::batch::{PackedBatch, Row};
use crate::weights::{HeadWeights, LayerWeights, Linear, Model, NormWeights, Weights};

/// Outputs of every row: `[rows, outputs]`, row-major.
///
/// # Panics
/// The batch does not fit the model: see [`PackedBatch::check`].
#[must_use]
pub fn forward(model: &Model, batch: &PackedBatch) -> Vec<f64> {
    batch.iter().flat_map(|row| forward_row(model, row)).collect()
}

fn forward_row(model: &Model, row: Row<'_>) -> Vec<f64> {
    let Model { architecture, weights } = model;
    let mut states = embeddings(model, row);
    let relative = relative_table(model);
    for (layer, layer_weights) in architecture.layers.iter().zip(&weights.layers) {
        states = encoder_layer(&architecture.block, layer, layer_weights, &relative, &states);
    }
    if let Some(norm) = &architecture.final_norm {
        normalise(&mut states, norm, weights.final_norm.as_ref());
    }
    head(architecture, weights, &states)
}

/// Hidden states before the first layer, `[tokens, hidden_size]`.
#[must_use]
pub fn embeddings(model: &Model, row: Row<'_>) -> Vec<f64> {
    let (shape, tables) = (&model.architecture.embeddings, &model.weights.embeddings);
    let width = shape.width;
    let mut states = Vec::with_capacity(row.ids.len() * width);
    let positions = shape.positions.indices(row.ids);
    for (place, (&id, position)) in row.ids.iter().zip(positions).enumerate() {
        let token_type = shape.token_types.index(place, row.second_segment);
        let first = id as usize * width;
        let words = tables.word.numbers(first..first + width);
        for column in 0..width {
            // A missing table is empty.
            let number = |table: &[f32], row: usize| table.get(row * width + column).copied().map_or(0.0, f64::from);
            let word = f64::from(words[column]);
            states.push(word + number(&tables.position, position) + number(&tables.token_type, token_type));
        }
    }
    if let Some(norm) = &shape.norm {
        normalise(&mut states, norm, tables.norm.as_ref());
    }
    match &tables.projection {
        None => states,
        Some(projection) => linear(&states, projection),
    }
}

/// The table of relative positions, normalised: `[rows, hidden_size]`; empty without one.
#[must_use]
pub fn relative_table(model: &Model) -> Vec<f64> {
    let Some(relative) = &model.weights.relative else { return Vec::new() };
    let mut table: Vec<f64> = relative.table.iter().copied().map(f64::from).collect();
    if let Some(norm) = model.architecture.block.attention.relative.and_then(|relative| relative.norm) {
        normalise(&mut table, &norm, relative.norm.as_ref());
    }
    table
}

/// One layer over one row: `[tokens, hidden_size]` to the same. `relative` is the [`relative_table`].
#[must_use]
pub fn encoder_layer(
    block: &Block,
    layer: &Layer,
    weights: &LayerWeights,
    relative: &[f64],
    states: &[f64],
) -> Vec<f64> {
    let attended = residual(block, weights.attention_norm.as_ref(), states, |states| {
        let mut query = linear(states, &weights.query);
        let mut key = linear(states, &weights.key);
        let value = linear(states, &weights.value);
        if let Some(rotary) = layer.rotary {
            let Attention { heads, kv_heads, head_dim, .. } = block.attention;
            rotate(&mut query, heads, head_dim, rotary);
            rotate(&mut key, kv_heads, head_dim, rotary);
        }
        let context = match block.attention.relative {
            None => attention(&query, &key, &value, &block.attention, layer.mask),
            Some(positions) => {
                let (row_key, row_query) = (linear(relative, &weights.key), linear(relative, &weights.query));
                let scores = RelativeScores { positions, row_key: &row_key, row_query: &row_query };
                attention_by(&query, &key, &value, &block.attention, layer.mask, |head, place, token| {
                    scores.score(&block.attention, (&query, &key), head, (place, token))
                })
            }
        };
        linear(&context, &weights.attention_output)
    });
    residual(block, Some(&weights.output_norm), &attended, |states| {
        linear(&inner(&block.mlp, linear(states, &weights.intermediate)), &weights.output)
    })
}

/// `norm(x + f(x))` or `x + f(norm(x))`, depending on the block; a missing norm changes nothing.
fn residual(
    block: &Block,
    weights: Option<&NormWeights>,
    states: &[f64],
    f: impl FnOnce(&[f64]) -> Vec<f64>,
) -> Vec<f64> {
    match block.norm_placement {
        NormPlacement::After => {
            let mut sum = f(states);
            add(&mut sum, states);
            normalise(&mut sum, &block.norm, weights);
            sum
        }
        NormPlacement::Before => {
            let mut normalised = states.to_vec();
            normalise(&mut normalised, &block.norm, weights);
            let mut sum = f(&normalised);
            add(&mut sum, states);
            sum
        }
    }
}

/// Input of the second linear layer of the feed-forward part: `[tokens, intermediate_outputs]` to `[tokens,
/// intermediate_size]`.
fn inner(mlp: &Mlp, intermediate: Vec<f64>) -> Vec<f64> {
    match mlp.kind {
        MlpKind::Plain => intermediate.into_iter().map(|x| activate(mlp.activation, x)).collect(),
        MlpKind::Gated => intermediate
            .chunks_exact(2 * mlp.intermediate_size)
            .flat_map(|token| {
                let (activated, gate) = token.split_at(mlp.intermediate_size);
                activated.iter().zip(gate).map(|(&x, gate)| activate(mlp.activation, x) * gate)
            })
            .collect(),
    }
}

/// A row's outputs from its last hidden states, `[tokens, hidden_size]` to `[outputs]`.
#[must_use]
pub fn head(architecture: &Architecture, weights: &Weights, states: &[f64]) -> Vec<f64> {
    let pooled = pool(architecture.pooling, states, architecture.hidden_size);
    match (architecture.head, &weights.head) {
        (Head::Classifier { dense, .. }, Some(weights)) => classify(dense, weights, &pooled),
        _ => unit(pooled),
    }
}

/// The pooled state: `[tokens, hidden_size]` to `[hidden_size]`.
#[must_use]
pub fn pool(pooling: Pooling, states: &[f64], hidden: usize) -> Vec<f64> {
    match pooling {
        Pooling::First => states[..hidden].to_vec(),
        Pooling::Last => states[states.len() - hidden..].to_vec(),
        Pooling::Mean => {
            let tokens = (states.len() / hidden) as f64;
            let mut mean = vec![0f64; hidden];
            for state in states.chunks_exact(hidden) {
                add(&mut mean, state);
            }
            mean.iter_mut().for_each(|x| *x /= tokens);
            mean
        }
    }
}

/// A vector scaled to unit length; zeros stay zeros.
#[must_use]
pub fn unit(mut x: Vec<f64>) -> Vec<f64> {
    let length = dot(&x, &x).sqrt().max(1e-12);
    x.iter_mut().for_each(|x| *x /= length);
    x
}

/// `[hidden_size]` to `[labels]`.
fn classify(dense: Option<Dense>, weights: &HeadWeights, pooled: &[f64]) -> Vec<f64> {
    let (Some(dense), Some(layer)) = (dense, &weights.dense) else { return linear(pooled, &weights.classifier) };
    let mut pooled = linear(pooled, layer);
    if let Some(activation) = dense.activation {
        pooled.iter_mut().for_each(|x| *x = activate(activation, *x));
    }
    if let Some(norm) = &dense.norm {
        normalise(&mut pooled, norm, weights.dense_norm.as_ref());
    }
    linear(&pooled, &weights.classifier)
}

/// `x · weightᵀ + bias`: `[m, inputs]` to `[m, outputs]`.
#[must_use]
pub fn linear(x: &[f64], linear: &Linear) -> Vec<f64> {
    let (inputs, weight) = (linear.inputs, linear.weight.all());
    let mut y = Vec::with_capacity(x.len() / inputs * linear.outputs());
    for x in x.chunks_exact(inputs) {
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            let dot: f64 = x.iter().zip(weight).map(|(&x, &weight)| x * f64::from(weight)).sum();
            y.push(dot + f64::from(linear.bias_of(output)));
        }
    }
    y
}

/// `softmax(q · kᵀ · scale) · v` per head, over one row. `query` is `[tokens, heads · head_dim]`, as is the result;
/// `key` and `value` are `[tokens, kv_heads · head_dim]`.
#[must_use]
pub fn attention(query: &[f64], key: &[f64], value: &[f64], shape: &Attention, mask: Mask) -> Vec<f64> {
    attention_by(query, key, value, shape, mask, |_, _, _| 0.0)
}

/// A layer's projections of the table of relative positions.
struct RelativeScores<'a> {
    positions: RelativePositions,
    /// `[rows, heads · head_dim]`.
    row_key: &'a [f64],
    /// As above.
    row_query: &'a [f64],
}

impl RelativeScores<'_> {
    /// The scaled score by distance of one query and key.
    fn score(
        &self,
        shape: &Attention,
        (query, key): (&[f64], &[f64]),
        head: usize,
        (place, token): (usize, usize),
    ) -> f64 {
        let Attention { head_dim, .. } = *shape;
        let row = self.positions.row(place as isize - token as isize);
        let at = |row: usize| row * shape.query_width() + head * head_dim;
        let by_key = dot(&query[at(place)..][..head_dim], &self.row_key[at(row)..][..head_dim]);
        let by_query = dot(&self.row_query[at(row)..][..head_dim], &key[at(token)..][..head_dim]);
        (by_key + by_query) * shape.scale()
    }
}

/// [`attention`], with a number added to each score.
fn attention_by(
    query: &[f64],
    key: &[f64],
    value: &[f64],
    shape: &Attention,
    mask: Mask,
    added: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let Attention { heads, kv_heads, head_dim, .. } = *shape;
    let (query_width, key_width) = (shape.query_width(), shape.key_value_width());
    let tokens = query.len() / query_width;
    let scale = shape.scale();
    let mut context = vec![0f64; query.len()];
    for place in 0..tokens {
        for head in 0..heads {
            let at = place * query_width + head * head_dim;
            let query = &query[at..at + head_dim];
            let key_at = |token: usize| token * key_width + head / (heads / kv_heads) * head_dim;
            let keys = mask.keys(place, tokens);
            let by_content = |token| dot(query, &key[key_at(token)..][..head_dim]) * scale;
            let scores: Vec<f64> = keys.clone().map(|token| by_content(token) + added(head, place, token)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (token, weight) in keys.zip(weights) {
                let value = &value[key_at(token)..][..head_dim];
                context[at..at + head_dim].iter_mut().zip(value).for_each(|(x, value)| *x += weight / sum * value);
            }
        }
    }
    context
}

/// Rotates every head of `[tokens, heads · head_dim]` by its token's position in the row.
pub fn rotate(x: &mut [f64], heads: usize, head_dim: usize, rotary: Rotary) {
    let half = head_dim / 2;
    for (place, token) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        for head in token.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let angle = f64::from(rotary.angle(place, i, head_dim));
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
    }
}

/// A norm in place over rows of `weights.weight.len()`; without weights it changes nothing.
fn normalise(states: &mut [f64], norm: &Norm, weights: Option<&NormWeights>) {
    let Some(weights) = weights else { return };
    match norm.kind {
        NormKind::Layer => layer_norm(states, weights, norm.eps),
        NormKind::Rms => rms_norm(states, weights, norm.eps),
    }
}

/// LayerNorm in place over rows of `norm.weight.len()`, with the biased variance.
pub fn layer_norm(states: &mut [f64], norm: &NormWeights, eps: f64) {
    let width = norm.weight.len();
    for state in states.chunks_exact_mut(width) {
        let mean = state.iter().sum::<f64>() / width as f64;
        let variance = state.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (variance + eps).sqrt();
        for (column, x) in state.iter_mut().enumerate() {
            *x = (*x - mean) * scale * f64::from(norm.weight[column]) + bias(norm, column);
        }
    }
}

/// RMSNorm in place over rows of `norm.weight.len()`.
pub fn rms_norm(states: &mut [f64], norm: &NormWeights, eps: f64) {
    let width = norm.weight.len();
    for state in states.chunks_exact_mut(width) {
        let scale = 1.0 / (dot(state, state) / width as f64 + eps).sqrt();
        for (column, x) in state.iter_mut().enumerate() {
            *x = *x * scale * f64::from(norm.weight[column]) + bias(norm, column);
        }
    }
}

fn bias(norm: &NormWeights, column: usize) -> f64 {
    norm.bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]))
}

/// An activation by its formula.
#[must_use]
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}

/// The exact GELU: `x · (1 + erf(x / √2)) / 2`.
#[must_use]
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
