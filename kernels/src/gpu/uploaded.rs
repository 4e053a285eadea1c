//! A model's weights on a device: transposed, padded, fused and stored in the engine's precision, once, at load.
//!
//! Query, key and value weights become one matrix. Its query part is scaled by `log2(e) / √head_dim`, so attention
//! needs no scale and its softmax no multiplication before exp2. Missing biases are zeros.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::columns;
use super::error::GpuError;
use super::freed;
use super::host_words::HostWords;
use super::layout::{Layout, RowLayout, Storage, WordTable};
use super::opened::{OpenDevice, padded_bytes};
use super::ops::{attention_relative, gemm_rotary};
use super::origin::ModelToLoad;
use crate::architecture::{Architecture, Head, MlpKind, Positions, RelativePositions, Rotary};
use crate::reference;
use crate::weights::{HeadWeights, LayerWeights, Linear, Model, NormWeights, Table, Weights};

/// Numbers encoded at a time, so that a table of a gigabyte is never held twice.
const PIECE_NUMBERS: usize = 1 << 18;

/// A buffer of weights, named by its contents. Below, h is the padded width of hidden states, e that of embeddings and
/// i the padded feed-forward width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WeightName {
    /// `[vocabulary, width of embeddings]`, not padded; only of a [table on the device](WordTable::OnDevice).
    Word,
    /// `[positions, width of embeddings]`, not padded; a row of zeros for a model without a position table.
    Position,
    /// `[types, width of embeddings]`, not padded; a row of zeros for a model without token types.
    TokenType,
    /// `[2, e]` in f32: weight, bias.
    EmbeddingNorm,
    /// `[e, h]`, if embeddings and hidden states differ in width.
    Projection,
    /// `[h]` in f32.
    ProjectionBias,
    /// `[longest row, head_dim]` in f32: the [table](gemm_rotary::table) of one of the model's
    /// [rotations](Architecture::rotations).
    Rotary(usize),
    /// `[2 · longest row − 1]` in f32: the row of relative positions by distance.
    DistanceRows,
    /// A weight of one layer.
    Layer(usize, LayerWeight),
    /// `[2, h]` in f32: weight, bias of the norm after the last layer.
    FinalNorm,
    /// `[h, h]`, if the classifier has a linear layer before the last.
    Dense,
    /// `[h]` in f32.
    DenseBias,
    /// `[2, h]` in f32: weight, bias of the norm after that layer.
    DenseNorm,
    /// `[labels, width of hidden states]` in f32, as in the checkpoint.
    Classifier,
    /// `[labels]` in f32.
    ClassifierBias,
}

/// A buffer of one layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LayerWeight {
    /// `[h, 3 · h]`: query, key and value side by side; with rotary positions, query and key in
    /// [pairs](columns::turned).
    QueryKeyValue,
    /// `[3 · h]` in f32.
    QueryKeyValueBias,
    /// `[table, 2 · h]`: the keys and the queries of the table of relative positions, if there is one.
    Relative,
    /// `[h, h]`.
    AttentionOutput,
    /// `[3, h]` in f32: the bias of the output, the norm's weight and its bias; zeros for a missing norm.
    AttentionParams,
    /// `[h, i]`; with a gate `[h, 2 · i]`, in [pairs](columns::gated).
    Intermediate,
    /// `[i]` or `[2 · i]` in f32.
    IntermediateBias,
    /// `[i, h]`.
    Output,
    /// `[3, h]` in f32: the bias of the output, the norm's weight and its bias.
    OutputParams,
}

/// All weights of a model on a device, and the word table if it is not there.
#[derive(Debug)]
pub(super) struct Uploaded {
    buffers: BTreeMap<WeightName, wgpu::Buffer>,
    words: Option<HostWords>,
}

impl Uploaded {
    /// Repacks and uploads the weights. Those of a model that nothing else keeps are freed as soon as they are on the
    /// device.
    ///
    /// # Errors
    /// A table is larger than the device can bind, or the device is out of memory.
    ///
    /// # Panics
    /// The weights do not fit the architecture.
    pub(super) fn new(gpu: &OpenDevice, mut model: ModelToLoad, layout: &Layout) -> Result<Self, GpuError> {
        let mut buffers = BTreeMap::new();
        for (name, numbers) in weights(&model.architecture, layout) {
            let values = values(name, &model, layout);
            let word = &model.weights.embeddings.word;
            let is_word = name == WeightName::Word;
            let found = if is_word { word.len() } else { values.len() };
            assert_eq!(found, numbers, "{name:?} is not as large as the architecture says");
            let storage = storage(name, layout);
            // The word table is widened piece by piece, whatever it is stored in.
            let pieces = (0..numbers).step_by(PIECE_NUMBERS).map(|first| {
                let range = first..numbers.min(first + PIECE_NUMBERS);
                if is_word { storage.encode(&word.numbers(range)) } else { storage.encode(&values[range]) }
            });
            let bytes = (numbers * storage.bytes()) as u64;
            let buffer = gpu.buffer_of_pieces(label(name), bytes, pieces, wgpu::BufferUsages::STORAGE)?;
            buffers.insert(name, buffer);
            if let WeightName::Word | WeightName::Layer(_, LayerWeight::OutputParams) = name {
                gpu.take_uploads()?;
                if let ModelToLoad::Read(model) = &mut model {
                    free(&mut model.weights, name);
                }
            }
        }
        gpu.take_uploads()?;
        let is_freed = matches!(model, ModelToLoad::Read(_));
        let words = match layout.word_table {
            WordTable::OnDevice => {
                drop(model);
                None
            }
            WordTable::OnHost => Some(HostWords::new(model, layout)),
        };
        if is_freed {
            freed::give_back();
        }
        Ok(Self { buffers, words })
    }

    /// The word table, if it is not on the device.
    pub(super) fn words(&self) -> Option<&HostWords> {
        self.words.as_ref()
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

/// Bytes of a word table that is not on the device, in f32: what it is stored in, only its file says.
pub(super) fn host_bytes(architecture: &Architecture, layout: &Layout) -> u64 {
    match layout.word_table {
        WordTable::OnDevice => 0,
        WordTable::OnHost => (architecture.vocab_size * architecture.embeddings.width * size_of::<f32>()) as u64,
    }
}

/// Frees the large weights that no buffer after `name` is made of: the word table, or a layer's matrices.
fn free(weights: &mut Weights, name: WeightName) {
    match name {
        WeightName::Word => weights.embeddings.word = Table::F32(Vec::new()),
        WeightName::Layer(layer, _) => {
            for linear in weights.layers[layer].matrices() {
                linear.weight = Table::F32(Vec::new());
            }
        }
        _ => {}
    }
}

/// The buffers of a model, with their sizes in numbers, in the order of uploading: [`LayerWeight::OutputParams`] is the
/// last of its layer.
fn weights(architecture: &Architecture, layout: &Layout) -> Vec<(WeightName, usize)> {
    let embeddings = &architecture.embeddings;
    let (states, intermediate) = (layout.states.stride, layout.intermediate_stride());
    let positions = match embeddings.positions {
        Positions::None => 1,
        Positions::Learned { rows, .. } => rows,
    };
    let columns = layout.intermediate_columns();
    let mut weights = Vec::new();
    if layout.word_table == WordTable::OnDevice {
        weights.push((WeightName::Word, architecture.vocab_size * embeddings.width));
    }
    weights.extend([
        (WeightName::Position, positions * embeddings.width),
        (WeightName::TokenType, embeddings.token_types.rows().max(1) * embeddings.width),
        (WeightName::EmbeddingNorm, 2 * layout.embeddings.stride),
    ]);
    if layout.has_projection() {
        weights.push((WeightName::Projection, layout.embeddings.stride * states));
        weights.push((WeightName::ProjectionBias, states));
    }
    for index in 0..architecture.rotations().len() {
        weights.push((WeightName::Rotary(index), architecture.max_tokens * layout.head_dim));
    }
    let relative_rows = architecture.block.attention.relative.map(RelativePositions::rows);
    if relative_rows.is_some() {
        weights.push((WeightName::DistanceRows, 2 * architecture.max_tokens - 1));
    }
    for layer in 0..architecture.layers.len() {
        weights.extend(relative_rows.map(|rows| (WeightName::Layer(layer, LayerWeight::Relative), rows * 2 * states)));
        let sizes = [
            (LayerWeight::QueryKeyValue, 3 * states * states),
            (LayerWeight::QueryKeyValueBias, 3 * states),
            (LayerWeight::AttentionOutput, states * states),
            (LayerWeight::AttentionParams, 3 * states),
            (LayerWeight::Intermediate, states * columns),
            (LayerWeight::IntermediateBias, columns),
            (LayerWeight::Output, intermediate * states),
            (LayerWeight::OutputParams, 3 * states),
        ];
        weights.extend(sizes.map(|(weight, numbers)| (WeightName::Layer(layer, weight), numbers)));
    }
    if architecture.final_norm.is_some() {
        weights.push((WeightName::FinalNorm, 2 * states));
    }
    if let Head::Classifier { dense, labels, .. } = architecture.head {
        if let Some(dense) = dense {
            weights.push((WeightName::Dense, states * states));
            weights.push((WeightName::DenseBias, states));
            weights.extend(dense.norm.map(|_| (WeightName::DenseNorm, 2 * states)));
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
        | WeightName::Layer(_, L::QueryKeyValue | L::Relative | L::AttentionOutput | L::Intermediate | L::Output)
        | WeightName::Dense => layout.storage,
        _ => Storage::F32,
    }
}

/// The numbers of a buffer. A missing weight is empty and so fails the size check.
fn values<'a>(name: WeightName, model: &'a Model, layout: &Layout) -> Cow<'a, [f32]> {
    let weights = &model.weights;
    let tables = &weights.embeddings;
    let head = weights.head.as_ref();
    let plain = |linear: Option<&'a Linear>| linear.map_or(Vec::new(), |linear| columns::plain(linear, 1.0));
    let matrix = |linear| columns::weights(&plain(linear));
    let vector = |linear| columns::biases(&plain(linear));
    let norm = |norm: Option<&NormWeights>| norm.map_or(Vec::new(), |norm| norm_params(&layout.states, norm));
    match name {
        // Not copied.
        WeightName::Word => Cow::Borrowed(&[][..]),
        WeightName::Position if tables.position.is_empty() => vec![0.0; model.architecture.embeddings.width].into(),
        WeightName::Position => Cow::Borrowed(&tables.position),
        WeightName::TokenType if tables.token_type.is_empty() => vec![0.0; model.architecture.embeddings.width].into(),
        WeightName::TokenType => Cow::Borrowed(&tables.token_type),
        WeightName::EmbeddingNorm => {
            tables.norm.as_ref().map_or(Vec::new(), |norm| norm_params(&layout.embeddings, norm)).into()
        }
        WeightName::Projection => matrix(tables.projection.as_ref()).into(),
        WeightName::ProjectionBias => vector(tables.projection.as_ref()).into(),
        WeightName::Rotary(index) => {
            let rotary = model.architecture.rotations()[index];
            gemm_rotary::table(rotary, model.architecture.max_tokens, layout.head_dim).into()
        }
        WeightName::DistanceRows => {
            let positions = model.architecture.block.attention.relative;
            let rows = |positions| attention_relative::distance_rows(positions, model.architecture.max_tokens);
            positions.map_or(Vec::new(), rows).into()
        }
        WeightName::Layer(layer, LayerWeight::Relative) => relative_rows(model, layer, layout).into(),
        WeightName::FinalNorm => norm(weights.final_norm.as_ref()).into(),
        WeightName::DenseNorm => norm(head.and_then(|head| head.dense_norm.as_ref())).into(),
        WeightName::Layer(layer, weight) => {
            let architecture = &model.architecture;
            let scale = architecture.block.attention.scale();
            let rotary = architecture.layers[layer].rotary;
            layer_values(weight, &weights.layers[layer], layout, (scale, rotary)).into()
        }
        WeightName::Dense => matrix(head.and_then(|head| head.dense.as_ref())).into(),
        WeightName::DenseBias => vector(head.and_then(|head| head.dense.as_ref())).into(),
        WeightName::Classifier => head.map_or(Cow::Borrowed(&[][..]), |head| head.classifier.weight.all()),
        WeightName::ClassifierBias => head.map_or(Vec::new(), classifier_bias).into(),
    }
}

/// `scale` is that of scores, `rotary` the layer's.
fn layer_values(
    weight: LayerWeight,
    layer: &LayerWeights,
    layout: &Layout,
    (scale, rotary): (f64, Option<Rotary>),
) -> Vec<f32> {
    let plain = |linear| columns::plain(linear, 1.0);
    let turned = |linear, scale| match rotary {
        None => columns::plain(linear, scale),
        Some(_) => columns::turned(linear, scale, layout.head_dim),
    };
    let query = || turned(&layer.query, std::f64::consts::LOG2_E * scale);
    let query_key_value = || [query(), turned(&layer.key, 1.0), plain(&layer.value)].concat();
    let intermediate = || match layout.mlp {
        MlpKind::Plain => plain(&layer.intermediate),
        MlpKind::Gated => columns::gated(&layer.intermediate),
    };
    let params = |linear: &Linear, norm: Option<&NormWeights>| {
        let norm = norm.map_or_else(|| vec![0.0; 2 * layout.states.stride], |norm| norm_params(&layout.states, norm));
        [columns::biases(&columns::plain(linear, 1.0)), norm].concat()
    };
    match weight {
        LayerWeight::QueryKeyValue => columns::weights(&query_key_value()),
        LayerWeight::QueryKeyValueBias => columns::biases(&query_key_value()),
        // Of the model's table too.
        LayerWeight::Relative => Vec::new(),
        LayerWeight::AttentionOutput => columns::weights(&plain(&layer.attention_output)),
        LayerWeight::AttentionParams => params(&layer.attention_output, layer.attention_norm.as_ref()),
        LayerWeight::Intermediate => columns::weights(&intermediate()),
        LayerWeight::IntermediateBias => columns::biases(&intermediate()),
        LayerWeight::Output => columns::weights(&plain(&layer.output)),
        LayerWeight::OutputParams => params(&layer.output, Some(&layer.output_norm)),
    }
}

/// The table of relative positions, normalised and projected as a layer projects keys and queries: `[table, 2 · h]`.
fn relative_rows(model: &Model, layer: usize, layout: &Layout) -> Vec<f32> {
    let attention = model.architecture.block.attention;
    let (LayerWeights { query, key, .. }, stride) = (&model.weights.layers[layer], layout.states.stride);
    let table = reference::relative_table(model);
    let mut rows = vec![0.0; table.len() / key.inputs * 2 * stride];
    for (first, linear, scale) in [(0, key, 1.0), (stride, query, std::f64::consts::LOG2_E * attention.scale())] {
        let projected = project(&table, linear);
        for (to, from) in rows.chunks_exact_mut(2 * stride).zip(projected.chunks_exact(linear.outputs())) {
            for (to, (output, from)) in to[first..].iter_mut().zip(from.iter().enumerate()) {
                *to = (f64::from(from + linear.bias_of(output)) * scale) as f32;
            }
        }
    }
    rows
}

/// `x · weightᵀ`, by blocks so that the weight is read from memory once for several rows.
fn project(x: &[f64], linear: &Linear) -> Vec<f32> {
    const ROWS: usize = 8;
    let (inputs, outputs) = (linear.inputs, linear.outputs());
    let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let (weight, mut y) = (linear.weight.all(), vec![0.0; x.len() / inputs * outputs]);
    for (x, y) in x.chunks(ROWS * inputs).zip(y.chunks_mut(ROWS * outputs)) {
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
                // Eight sums, which a compiler keeps in one vector.
                let mut sums = [0f32; 8];
                let (x_parts, x_rest) = x.as_chunks::<8>();
                let (weight_parts, weight_rest) = weight.as_chunks::<8>();
                for (x, weight) in x_parts.iter().zip(weight_parts) {
                    sums.iter_mut().zip(x.iter().zip(weight)).for_each(|(sum, (x, weight))| *sum += x * weight);
                }
                let rest: f32 = x_rest.iter().zip(weight_rest).map(|(x, weight)| x * weight).sum();
                y[output] = sums.iter().sum::<f32>() + rest;
            }
        }
    }
    y
}

fn classifier_bias(head: &HeadWeights) -> Vec<f32> {
    (0..head.classifier.outputs()).map(|output| head.classifier.bias_of(output)).collect()
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
        WeightName::Rotary(_) => "rotary positions",
        WeightName::DistanceRows | WeightName::Layer(_, LayerWeight::Relative) => "relative positions",
        WeightName::FinalNorm => "final norm",
        WeightName::Dense | WeightName::DenseBias | WeightName::DenseNorm => "dense weights",
        WeightName::Classifier | WeightName::ClassifierBias => "classifier weights",
    }
}
