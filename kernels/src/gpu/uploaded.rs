//! A model's weights on a device: transposed, padded, fused and stored in the engine's precision, once, at load.
//!
//! Query, key and value weights become one matrix. Its query part is scaled by `log2(e) / √head_dim`, so attention
//! needs no scale and its softmax no multiplication before exp2. Missing biases are zeros.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::GpuError;
use super::layout::{Layout, RowLayout, Storage, WIDTH_STEP};
use super::opened::{OpenDevice, padded_bytes};
use crate::architecture::{Architecture, Head, Positions};
use crate::weights::{HeadWeights, LayerWeights, Linear, Model, NormWeights};

/// Numbers encoded at a time, so that a table of a gigabyte is never held twice.
const PIECE_NUMBERS: usize = 1 << 18;

/// A buffer of weights, named by its contents. Below, h is the padded width of hidden states, e that of embeddings and
/// i the padded feed-forward width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WeightName {
    /// `[vocabulary, width of embeddings]`, not padded.
    Word,
    /// `[positions, width of embeddings]`, not padded.
    Position,
    /// `[types, width of embeddings]`, not padded; a row of zeros for a model without token types.
    TokenType,
    /// `[2, e]` in f32: weight, bias.
    EmbeddingNorm,
    /// `[e, h]`, if embeddings and hidden states differ in width.
    Projection,
    /// `[h]` in f32.
    ProjectionBias,
    /// A weight of one layer.
    Layer(usize, LayerWeight),
    /// `[h, h]`, if the classifier has a linear layer before the last.
    Dense,
    /// `[h]` in f32.
    DenseBias,
    /// `[labels, width of hidden states]` in f32, as in the checkpoint.
    Classifier,
    /// `[labels]` in f32.
    ClassifierBias,
}

/// A buffer of one layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LayerWeight {
    /// `[h, 3 · h]`: query, key and value side by side.
    QueryKeyValue,
    /// `[3 · h]` in f32.
    QueryKeyValueBias,
    /// `[h, h]`.
    AttentionOutput,
    /// `[3, h]` in f32: the bias of the output, the norm's weight and its bias.
    AttentionParams,
    /// `[h, i]`.
    Intermediate,
    /// `[i]` in f32.
    IntermediateBias,
    /// `[i, h]`.
    Output,
    /// `[3, h]` in f32: the bias of the output, the norm's weight and its bias.
    OutputParams,
}

/// All weights of a model on a device.
#[derive(Debug)]
pub(super) struct Uploaded {
    buffers: BTreeMap<WeightName, wgpu::Buffer>,
}

impl Uploaded {
    /// Repacks and uploads the weights.
    ///
    /// # Errors
    /// A table is larger than the device can bind, or the device is out of memory.
    ///
    /// # Panics
    /// The weights do not fit the architecture.
    pub(super) fn new(gpu: &OpenDevice, model: &Model, layout: &Layout) -> Result<Self, GpuError> {
        let mut buffers = BTreeMap::new();
        for (name, numbers) in weights(&model.architecture, layout) {
            let values = values(name, model, layout);
            assert_eq!(values.len(), numbers, "{name:?} is not as large as the architecture says");
            let storage = storage(name, layout);
            let pieces = values.chunks(PIECE_NUMBERS).map(|piece| storage.encode(piece));
            let bytes = (numbers * storage.bytes()) as u64;
            let buffer = gpu.buffer_of_pieces(label(name), bytes, pieces, wgpu::BufferUsages::STORAGE)?;
            buffers.insert(name, buffer);
        }
        Ok(Self { buffers })
    }

    /// A buffer of the model.
    ///
    /// # Panics
    /// The architecture has no such weights.
    pub(super) fn buffer(&self, name: WeightName) -> &wgpu::Buffer {
        &self.buffers[&name]
    }
}

/// Bytes of all weights of a model on a device.
pub(super) fn bytes(architecture: &Architecture, layout: &Layout) -> u64 {
    let bytes = |(name, numbers)| padded_bytes((numbers * storage(name, layout).bytes()) as u64);
    weights(architecture, layout).into_iter().map(bytes).sum()
}

/// The buffers of a model, with their sizes in numbers.
fn weights(architecture: &Architecture, layout: &Layout) -> Vec<(WeightName, usize)> {
    let embeddings = &architecture.embeddings;
    let (states, intermediate) = (layout.states.stride, layout.intermediate_stride());
    let positions = match embeddings.positions {
        Positions::None => 0,
        Positions::Learned { rows, .. } => rows,
    };
    let mut weights = vec![
        (WeightName::Word, architecture.vocab_size * embeddings.width),
        (WeightName::Position, positions * embeddings.width),
        (WeightName::TokenType, embeddings.token_types.rows().max(1) * embeddings.width),
        (WeightName::EmbeddingNorm, 2 * layout.embeddings.stride),
    ];
    if layout.has_projection() {
        weights.push((WeightName::Projection, layout.embeddings.stride * states));
        weights.push((WeightName::ProjectionBias, states));
    }
    for layer in 0..architecture.layers.len() {
        let sizes = [
            (LayerWeight::QueryKeyValue, 3 * states * states),
            (LayerWeight::QueryKeyValueBias, 3 * states),
            (LayerWeight::AttentionOutput, states * states),
            (LayerWeight::AttentionParams, 3 * states),
            (LayerWeight::Intermediate, states * intermediate),
            (LayerWeight::IntermediateBias, intermediate),
            (LayerWeight::Output, intermediate * states),
            (LayerWeight::OutputParams, 3 * states),
        ];
        weights.extend(sizes.map(|(weight, numbers)| (WeightName::Layer(layer, weight), numbers)));
    }
    if let Head::Classifier { dense, labels, .. } = architecture.head {
        if dense.is_some() {
            weights.push((WeightName::Dense, states * states));
            weights.push((WeightName::DenseBias, states));
        }
        weights.push((WeightName::Classifier, labels * architecture.hidden_size));
        weights.push((WeightName::ClassifierBias, labels));
    }
    weights
}

/// Matrices and tables are stored in the engine's precision; biases, norms and the classifier in f32.
fn storage(name: WeightName, layout: &Layout) -> Storage {
    use LayerWeight as L;
    match name {
        WeightName::Word
        | WeightName::Position
        | WeightName::TokenType
        | WeightName::Projection
        | WeightName::Layer(_, L::QueryKeyValue | L::AttentionOutput | L::Intermediate | L::Output)
        | WeightName::Dense => layout.storage,
        _ => Storage::F32,
    }
}

/// The numbers of a buffer. A missing weight is empty and so fails the size check.
fn values<'a>(name: WeightName, model: &'a Model, layout: &Layout) -> Cow<'a, [f32]> {
    let weights = &model.weights;
    let tables = &weights.embeddings;
    let head = weights.head.as_ref();
    let matrix = |linear: Option<&Linear>| linear.map_or(Vec::new(), |linear| pack(&[(linear, 1.0)]));
    let vector = |linear: Option<&Linear>| linear.map_or(Vec::new(), |linear| biases(&[(linear, 1.0)]));
    match name {
        WeightName::Word => Cow::Borrowed(&tables.word),
        WeightName::Position => Cow::Borrowed(&tables.position),
        WeightName::TokenType if tables.token_type.is_empty() => vec![0.0; model.architecture.embeddings.width].into(),
        WeightName::TokenType => Cow::Borrowed(&tables.token_type),
        WeightName::EmbeddingNorm => {
            tables.norm.as_ref().map_or(Vec::new(), |norm| norm_params(&layout.embeddings, norm)).into()
        }
        WeightName::Projection => matrix(tables.projection.as_ref()).into(),
        WeightName::ProjectionBias => vector(tables.projection.as_ref()).into(),
        WeightName::Layer(layer, weight) => layer_values(weight, &weights.layers[layer], layout).into(),
        WeightName::Dense => matrix(head.and_then(|head| head.dense.as_ref())).into(),
        WeightName::DenseBias => vector(head.and_then(|head| head.dense.as_ref())).into(),
        WeightName::Classifier => head.map_or(Cow::Borrowed(&[][..]), |head| Cow::Borrowed(&head.classifier.weight)),
        WeightName::ClassifierBias => head.map_or(Vec::new(), classifier_bias).into(),
    }
}

fn layer_values(weight: LayerWeight, layer: &LayerWeights, layout: &Layout) -> Vec<f32> {
    let scale = std::f64::consts::LOG2_E / (layout.head_dim as f64).sqrt();
    let query_key_value = [(&layer.query, scale), (&layer.key, 1.0), (&layer.value, 1.0)];
    let params = |linear: &Linear, norm: Option<&NormWeights>| {
        norm.map_or(Vec::new(), |norm| [biases(&[(linear, 1.0)]), norm_params(&layout.states, norm)].concat())
    };
    match weight {
        LayerWeight::QueryKeyValue => pack(&query_key_value),
        LayerWeight::QueryKeyValueBias => biases(&query_key_value),
        LayerWeight::AttentionOutput => pack(&[(&layer.attention_output, 1.0)]),
        LayerWeight::AttentionParams => params(&layer.attention_output, layer.attention_norm.as_ref()),
        LayerWeight::Intermediate => pack(&[(&layer.intermediate, 1.0)]),
        LayerWeight::IntermediateBias => biases(&[(&layer.intermediate, 1.0)]),
        LayerWeight::Output => pack(&[(&layer.output, 1.0)]),
        LayerWeight::OutputParams => params(&layer.output, Some(&layer.output_norm)),
    }
}

fn classifier_bias(head: &HeadWeights) -> Vec<f32> {
    (0..head.classifier.outputs()).map(|output| head.classifier.bias_of(output)).collect()
}

/// Linear layers over the same input, side by side: `[k, Σ n]`, transposed from the checkpoint's `[n, k]`, each scaled,
/// each padded with zeros to [`WIDTH_STEP`].
fn pack(parts: &[(&Linear, f64)]) -> Vec<f32> {
    let k = parts.first().map_or(0, |(linear, _)| linear.inputs).next_multiple_of(WIDTH_STEP);
    let n: usize = parts.iter().map(|(linear, _)| linear.outputs().next_multiple_of(WIDTH_STEP)).sum();
    let mut weight = vec![0.0; k * n];
    let mut first = 0;
    for &(linear, scale) in parts {
        for (column, row) in linear.weight.chunks_exact(linear.inputs).enumerate() {
            for (index, &value) in row.iter().enumerate() {
                weight[index * n + first + column] = (f64::from(value) * scale) as f32;
            }
        }
        first += linear.outputs().next_multiple_of(WIDTH_STEP);
    }
    weight
}

/// The biases of the same layers, side by side: `[Σ n]`.
fn biases(parts: &[(&Linear, f64)]) -> Vec<f32> {
    let mut biases = Vec::new();
    for &(linear, scale) in parts {
        biases.extend((0..linear.outputs()).map(|output| (f64::from(linear.bias_of(output)) * scale) as f32));
        biases.resize(biases.len().next_multiple_of(WIDTH_STEP), 0.0);
    }
    biases
}

/// A norm over `rows`: `[2, stride]`, weight and bias, each padded with zeros.
#[must_use]
pub(super) fn norm_params(rows: &RowLayout, norm: &NormWeights) -> Vec<f32> {
    let mut params = norm.weight.clone();
    params.resize(rows.stride, 0.0);
    params.extend_from_slice(norm.bias.as_deref().unwrap_or_default());
    params.resize(2 * rows.stride, 0.0);
    params
}

/// A buffer's name in debuggers and errors.
fn label(name: WeightName) -> &'static str {
    match name {
        WeightName::Word => "word embeddings",
        WeightName::Position => "position embeddings",
        WeightName::TokenType => "token type embeddings",
        WeightName::EmbeddingNorm => "embedding norm",
        WeightName::Projection | WeightName::ProjectionBias => "embedding projection",
        WeightName::Layer(_, LayerWeight::QueryKeyValue | LayerWeight::QueryKeyValueBias) => {
            "query, key, value weights"
        }
        WeightName::Layer(_, LayerWeight::AttentionOutput | LayerWeight::AttentionParams) => "attention output weights",
        WeightName::Layer(_, LayerWeight::Intermediate | LayerWeight::IntermediateBias) => "feed-forward in weights",
        WeightName::Layer(_, LayerWeight::Output | LayerWeight::OutputParams) => "feed-forward out weights",
        WeightName::Dense | WeightName::DenseBias => "dense weights",
        WeightName::Classifier | WeightName::ClassifierBias => "classifier weights",
    }
}
