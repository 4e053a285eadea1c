//! The forward pass in float64: slow, plain and readable. Every engine and every kernel is held to it.
//!
//! Nothing is fused, pruned or reordered; each function is the formula. Source: Devlin et al. 2018
//! (<https://arxiv.org/abs/1810.04805>) as implemented by Hugging Face's `BertForSequenceClassification`.

use crate::batch::{PackedBatch, Row};
use crate::config::BertConfig;
use crate::weights::{BertWeights, Head, Layer, LayerNorm, Linear};

/// Numbers of every row: `[rows, outputs]`, row-major.
///
/// # Panics
/// The batch does not fit the model: see [`PackedBatch::check`].
#[must_use]
pub fn forward(weights: &BertWeights, batch: &PackedBatch) -> Vec<f64> {
    batch.iter().flat_map(|row| forward_row(weights, row)).collect()
}

fn forward_row(weights: &BertWeights, row: Row<'_>) -> Vec<f64> {
    let config = &weights.config;
    let mut states = embeddings(weights, row);
    for layer in &weights.layers {
        states = encoder_layer(config, layer, &states);
    }
    head(config, &weights.head, &states)
}

/// Hidden states before the first layer, `[tokens, hidden_size]`.
#[must_use]
pub fn embeddings(weights: &BertWeights, row: Row<'_>) -> Vec<f64> {
    let hidden = weights.config.hidden_size;
    let tables = &weights.embeddings;
    let mut states = Vec::with_capacity(row.ids.len() * hidden);
    for (position, &id) in row.ids.iter().enumerate() {
        let token_type = usize::from(position >= row.second_segment);
        for column in 0..hidden {
            states.push(
                f64::from(tables.word[id as usize * hidden + column])
                    + f64::from(tables.position[position * hidden + column])
                    + f64::from(tables.token_type[token_type * hidden + column]),
            );
        }
    }
    layer_norm(&mut states, &tables.norm, weights.config.layer_norm_eps);
    states
}

/// One encoder layer over one row: `[tokens, hidden_size]` to the same.
#[must_use]
pub fn encoder_layer(config: &BertConfig, layer: &Layer, states: &[f64]) -> Vec<f64> {
    let query = linear(states, &layer.query);
    let key = linear(states, &layer.key);
    let value = linear(states, &layer.value);
    let context = attention(&query, &key, &value, config.hidden_size, config.num_attention_heads);
    let mut attended = linear(&context, &layer.attention_output);
    add(&mut attended, states);
    layer_norm(&mut attended, &layer.attention_norm, config.layer_norm_eps);

    let mut inner = linear(&attended, &layer.intermediate);
    inner.iter_mut().for_each(|value| *value = gelu(*value));
    let mut output = linear(&inner, &layer.output);
    add(&mut output, &attended);
    layer_norm(&mut output, &layer.output_norm, config.layer_norm_eps);
    output
}

/// A row's numbers from its last hidden states, `[tokens, hidden_size]` to `[outputs]`.
#[must_use]
pub fn head(config: &BertConfig, head: &Head, states: &[f64]) -> Vec<f64> {
    let hidden = config.hidden_size;
    match head {
        Head::CrossEncoder { pooler, classifier } => {
            let mut pooled = linear(&states[..hidden], pooler);
            pooled.iter_mut().for_each(|value| *value = value.tanh());
            linear(&pooled, classifier)
        }
        Head::MeanEmbedding => {
            let tokens = (states.len() / hidden) as f64;
            let mut mean = vec![0f64; hidden];
            for state in states.chunks_exact(hidden) {
                add(&mut mean, state);
            }
            mean.iter_mut().for_each(|value| *value /= tokens);
            let norm = mean.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12);
            mean.iter_mut().for_each(|value| *value /= norm);
            mean
        }
    }
}

/// `x · weightᵀ + bias`: `[m, inputs]` to `[m, outputs]`.
#[must_use]
pub fn linear(x: &[f64], linear: &Linear) -> Vec<f64> {
    let inputs = linear.weight.len() / linear.bias.len();
    let mut y = Vec::with_capacity(x.len() / inputs * linear.bias.len());
    for x in x.chunks_exact(inputs) {
        for (weight, &bias) in linear.weight.chunks_exact(inputs).zip(&linear.bias) {
            let dot: f64 = x.iter().zip(weight).map(|(&x, &weight)| x * f64::from(weight)).sum();
            y.push(dot + f64::from(bias));
        }
    }
    y
}

/// `softmax(q · kᵀ / √head_dim) · v` per head, over one row; all `[tokens, hidden_size]` with heads side by side.
#[must_use]
pub fn attention(query: &[f64], key: &[f64], value: &[f64], hidden: usize, heads: usize) -> Vec<f64> {
    let head_dim = hidden / heads;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut context = vec![0f64; query.len()];
    for (query, context) in query.chunks_exact(hidden).zip(context.chunks_exact_mut(hidden)) {
        for head in 0..heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            let scores: Vec<f64> = key
                .chunks_exact(hidden)
                .map(|key| dot(&query[columns.clone()], &key[columns.clone()]) * scale)
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(value.chunks_exact(hidden)) {
                for (context, value) in context[columns.clone()].iter_mut().zip(&value[columns.clone()]) {
                    *context += weight / sum * value;
                }
            }
        }
    }
    context
}

/// LayerNorm in place over rows of `norm.weight.len()`, with the biased variance.
pub fn layer_norm(states: &mut [f64], norm: &LayerNorm, eps: f64) {
    let hidden = norm.weight.len();
    for state in states.chunks_exact_mut(hidden) {
        let mean = state.iter().sum::<f64>() / hidden as f64;
        let variance = state.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / hidden as f64;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((value, &weight), &bias) in state.iter_mut().zip(&norm.weight).zip(&norm.bias) {
            *value = (*value - mean) * scale * f64::from(weight) + f64::from(bias);
        }
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
