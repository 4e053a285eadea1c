//! The forward pass in plain f32, one row after another: correct, and slow.

use crate::batch::Row;
use crate::config::{BertConfig, Task};
use crate::weights::{BertWeights, Embeddings, Head, Layer, LayerNorm, Linear};

/// A model with its weights transposed to `[inputs, outputs]`, so that the inner loop runs over outputs.
#[derive(Debug)]
pub(super) struct Model {
    config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head: Head,
}

impl Model {
    pub(super) fn new(weights: BertWeights) -> Self {
        let BertWeights { config, embeddings, mut layers, mut head } = weights;
        for layer in &mut layers {
            let linears = [
                &mut layer.query,
                &mut layer.key,
                &mut layer.value,
                &mut layer.attention_output,
                &mut layer.intermediate,
                &mut layer.output,
            ];
            linears.into_iter().for_each(transpose);
        }
        if let Head::CrossEncoder { pooler, classifier } = &mut head {
            transpose(pooler);
            transpose(classifier);
        }
        Self { config, embeddings, layers, head }
    }

    pub(super) fn config(&self) -> &BertConfig {
        &self.config
    }

    /// A row's numbers, `[outputs]`.
    pub(super) fn forward(&self, row: Row<'_>) -> Vec<f32> {
        let mut states = self.embed(row);
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len() && self.config.task == Task::CrossEncoder;
            states = self.layer(layer, &states, last);
        }
        self.head(&states)
    }

    fn embed(&self, row: Row<'_>) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let tables = &self.embeddings;
        let mut states = Vec::with_capacity(row.ids.len() * hidden);
        for (position, &id) in row.ids.iter().enumerate() {
            let token_type = usize::from(position >= row.second_segment);
            let word = &tables.word[id as usize * hidden..][..hidden];
            let position = &tables.position[position * hidden..][..hidden];
            let token_type = &tables.token_type[token_type * hidden..][..hidden];
            states.extend(word.iter().zip(position).zip(token_type).map(|((a, b), c)| a + b + c));
        }
        layer_norm(&mut states, &tables.norm, self.config.layer_norm_eps);
        states
    }

    /// One layer; the last one of a cross-encoder is computed for the first token alone.
    fn layer(&self, layer: &Layer, states: &[f32], last: bool) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let kept = if last { &states[..hidden] } else { states };
        let query = linear(kept, &layer.query);
        let (key, value) = (linear(states, &layer.key), linear(states, &layer.value));
        let context = self.attention(&query, &key, &value);
        let mut attended = linear(&context, &layer.attention_output);
        attended.iter_mut().zip(kept).for_each(|(to, from)| *to += from);
        layer_norm(&mut attended, &layer.attention_norm, self.config.layer_norm_eps);
        let mut inner = linear(&attended, &layer.intermediate);
        inner.iter_mut().for_each(|x| *x = 0.5 * *x * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2)));
        let mut output = linear(&inner, &layer.output);
        output.iter_mut().zip(&attended).for_each(|(to, from)| *to += from);
        layer_norm(&mut output, &layer.output_norm, self.config.layer_norm_eps);
        output
    }

    fn attention(&self, query: &[f32], key: &[f32], value: &[f32]) -> Vec<f32> {
        let (hidden, head_dim) = (self.config.hidden_size, self.config.head_dim());
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut context = vec![0f32; query.len()];
        for (query, context) in query.chunks_exact(hidden).zip(context.chunks_exact_mut(hidden)) {
            for (query, (context, start)) in
                query.chunks_exact(head_dim).zip(context.chunks_exact_mut(head_dim).zip((0..hidden).step_by(head_dim)))
            {
                let mut scores: Vec<f32> = key
                    .chunks_exact(hidden)
                    .map(|key| query.iter().zip(&key[start..]).map(|(q, k)| q * k).sum::<f32>() * scale)
                    .collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|score| *score = (*score - max).exp());
                let sum: f32 = scores.iter().sum();
                for (score, value) in scores.iter().zip(value.chunks_exact(hidden)) {
                    let weight = score / sum;
                    context.iter_mut().zip(&value[start..]).for_each(|(to, value)| *to += weight * value);
                }
            }
        }
        context
    }

    fn head(&self, states: &[f32]) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        match &self.head {
            Head::CrossEncoder { pooler, classifier } => {
                let mut pooled = linear(&states[..hidden], pooler);
                pooled.iter_mut().for_each(|value| *value = libm::tanhf(*value));
                linear(&pooled, classifier)
            }
            Head::MeanEmbedding => {
                let mut mean = vec![0f32; hidden];
                for state in states.chunks_exact(hidden) {
                    mean.iter_mut().zip(state).for_each(|(to, from)| *to += from);
                }
                let norm = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
                mean.iter_mut().for_each(|value| *value /= norm);
                mean
            }
        }
    }
}

fn transpose(linear: &mut Linear) {
    let outputs = linear.bias.len();
    let inputs = linear.weight.len() / outputs;
    linear.weight = (0..inputs * outputs).map(|i| linear.weight[i % outputs * inputs + i / outputs]).collect();
}

fn linear(x: &[f32], linear: &Linear) -> Vec<f32> {
    let outputs = linear.bias.len();
    let inputs = linear.weight.len() / outputs;
    let mut y = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks_exact(inputs) {
        let start = y.len();
        y.extend_from_slice(&linear.bias);
        let y = &mut y[start..];
        for (&x, weight) in x.iter().zip(linear.weight.chunks_exact(outputs)) {
            y.iter_mut().zip(weight).for_each(|(y, weight)| *y += x * weight);
        }
    }
    y
}

fn layer_norm(states: &mut [f32], norm: &LayerNorm, eps: f64) {
    let hidden = norm.weight.len();
    for state in states.chunks_exact_mut(hidden) {
        let mean = state.iter().sum::<f32>() / hidden as f32;
        let variance = state.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / hidden as f32;
        let scale = 1.0 / (variance + eps as f32).sqrt();
        for ((value, &weight), &bias) in state.iter_mut().zip(&norm.weight).zip(&norm.bias) {
            *value = (*value - mean) * scale * weight + bias;
        }
    }
}
