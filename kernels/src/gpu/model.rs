//! The model's weights on the device: transposed, padded, fused and stored in the engine's precision, once, at load.
//!
//! Query, key and value weights become one matrix, and queries are scaled by `log2(e) / √head_dim` in it, so that
//! attention needs no scale and its softmax no multiplication before exp2.

use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::{Layout, TILE};
use super::ops::gemm_norm;
use crate::weights::{BertWeights, Head, LayerNorm, Linear};

/// A linear layer on the device: weight `[k, n]` in the engine's precision, bias `[n]` in f32, both padded.
#[derive(Debug)]
pub struct DeviceLinear {
    /// `[k, n]`, row-major.
    pub weight: wgpu::Buffer,
    /// `[n]`.
    pub bias: wgpu::Buffer,
}

/// A LayerNorm's parameters on the device, `[hidden]` each, in f32.
#[derive(Debug)]
pub struct DeviceNorm {
    /// `[hidden]`.
    pub weight: wgpu::Buffer,
    /// `[hidden]`.
    pub bias: wgpu::Buffer,
}

/// One encoder layer on the device.
#[derive(Debug)]
pub struct DeviceLayer {
    /// Query, key and value side by side: `[hidden, 3 · hidden]`.
    pub qkv: DeviceLinear,
    /// `[hidden, hidden]`.
    pub attention_output: DeviceLinear,
    /// After the attention's residual.
    pub attention_norm: DeviceNorm,
    /// The attention output's bias and that norm together, for the fused kernel.
    pub attention_params: wgpu::Buffer,
    /// `[hidden, intermediate]`.
    pub intermediate: DeviceLinear,
    /// `[intermediate, hidden]`.
    pub output: DeviceLinear,
    /// After the feed-forward residual.
    pub output_norm: DeviceNorm,
    /// The output's bias and that norm together, for the fused kernel.
    pub output_params: wgpu::Buffer,
}

/// The head on the device.
#[derive(Debug)]
pub enum DeviceHead {
    /// Pooler and classifier; the classifier as in the checkpoint, in f32.
    CrossEncoder {
        /// `[hidden, hidden]`.
        pooler: DeviceLinear,
        /// `[outputs, hidden]` and `[outputs]`.
        classifier: DeviceLinear,
    },
    /// No weights.
    MeanEmbedding,
}

/// All weights of a model on the device.
#[derive(Debug)]
pub struct DeviceModel {
    /// Word, position and token type tables, and the norm's weight and bias in one.
    pub embeddings: [wgpu::Buffer; 4],
    /// First to last.
    pub layers: Vec<DeviceLayer>,
    /// The head.
    pub head: DeviceHead,
    /// Bytes held.
    pub bytes: u64,
}

impl DeviceModel {
    /// Repacks and uploads `weights`.
    ///
    /// # Errors
    /// A table is larger than the device can bind.
    pub fn new(gpu: &GpuDevice, weights: &BertWeights, layout: &Layout) -> Result<Self, GpuError> {
        let before = gpu.created().buffer_bytes;
        let upload = Upload { gpu, layout };
        let tables = &weights.embeddings;
        let norm = [tables.norm.weight.as_slice(), &tables.norm.bias].concat();
        let embeddings = [
            upload.stored("word embeddings", &tables.word)?,
            upload.stored("position embeddings", &tables.position)?,
            upload.stored("token type embeddings", &tables.token_type)?,
            upload.plain("embedding norm", &norm)?,
        ];
        let layers = weights.layers.iter().map(|layer| upload.layer(layer)).collect::<Result<_, _>>()?;
        let head = match &weights.head {
            Head::MeanEmbedding => DeviceHead::MeanEmbedding,
            Head::CrossEncoder { pooler, classifier } => DeviceHead::CrossEncoder {
                pooler: upload.linear("pooler", &[(pooler, 1.0)])?,
                classifier: DeviceLinear {
                    weight: upload.plain("classifier weight", &classifier.weight)?,
                    bias: upload.plain("classifier bias", &classifier.bias)?,
                },
            },
        };
        Ok(Self { embeddings, layers, head, bytes: gpu.created().buffer_bytes - before })
    }
}

struct Upload<'a> {
    gpu: &'a GpuDevice,
    layout: &'a Layout,
}

impl Upload<'_> {
    fn layer(&self, layer: &crate::weights::Layer) -> Result<DeviceLayer, GpuError> {
        let scale = std::f64::consts::LOG2_E / (self.layout.head_dim as f64).sqrt();
        Ok(DeviceLayer {
            qkv: self.linear("qkv", &[(&layer.query, scale), (&layer.key, 1.0), (&layer.value, 1.0)])?,
            attention_output: self.linear("attention output", &[(&layer.attention_output, 1.0)])?,
            attention_norm: self.norm(&layer.attention_norm)?,
            attention_params: self.params(&layer.attention_output, &layer.attention_norm)?,
            intermediate: self.linear("intermediate", &[(&layer.intermediate, 1.0)])?,
            output: self.linear("output", &[(&layer.output, 1.0)])?,
            output_norm: self.norm(&layer.output_norm)?,
            output_params: self.params(&layer.output, &layer.output_norm)?,
        })
    }

    fn linear(&self, label: &'static str, parts: &[(&Linear, f64)]) -> Result<DeviceLinear, GpuError> {
        let (weight, bias) = pack(parts);
        Ok(DeviceLinear { weight: self.stored(label, &weight)?, bias: self.plain(label, &bias)? })
    }

    fn norm(&self, norm: &LayerNorm) -> Result<DeviceNorm, GpuError> {
        Ok(DeviceNorm { weight: self.plain("norm", &norm.weight)?, bias: self.plain("norm", &norm.bias)? })
    }

    fn params(&self, linear: &Linear, norm: &LayerNorm) -> Result<wgpu::Buffer, GpuError> {
        self.plain("fused norm", &gemm_norm::params(self.layout, &linear.bias, norm))
    }

    fn stored(&self, label: &'static str, values: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        self.gpu.buffer_with(label, &self.layout.precision.encode(values), wgpu::BufferUsages::STORAGE)
    }

    fn plain(&self, label: &'static str, values: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        self.gpu.buffer_with(label, bytemuck::cast_slice(values), wgpu::BufferUsages::STORAGE)
    }
}

/// Linear layers over the same input, side by side: weight `[k, Σ n]` transposed from the checkpoint's `[n, k]` and bias
/// `[Σ n]`, each scaled, each padded with zeros to [`TILE`].
#[must_use]
pub fn pack(parts: &[(&Linear, f64)]) -> (Vec<f32>, Vec<f32>) {
    let inputs = |linear: &Linear| linear.weight.len() / linear.bias.len();
    let k = parts.first().map_or(0, |(linear, _)| inputs(linear)).next_multiple_of(TILE);
    let n: usize = parts.iter().map(|(linear, _)| linear.bias.len().next_multiple_of(TILE)).sum();
    let (mut weight, mut bias) = (vec![0.0; k * n], vec![0.0; n]);
    let mut first = 0;
    for &(linear, scale) in parts {
        for (column, row) in linear.weight.chunks_exact(inputs(linear)).enumerate() {
            for (index, &value) in row.iter().enumerate() {
                weight[index * n + first + column] = (f64::from(value) * scale) as f32;
            }
        }
        for (to, &value) in bias[first..].iter_mut().zip(&linear.bias) {
            *to = (f64::from(value) * scale) as f32;
        }
        first += linear.bias.len().next_multiple_of(TILE);
    }
    (weight, bias)
}
