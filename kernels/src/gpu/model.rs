//! The model's weights on the device: transposed, padded, fused and stored in the engine's precision, once, at load.
//!
//! Query, key and value weights become one matrix, and queries are scaled by `log2(e) / √head_dim` in it, so that
//! attention needs no scale and its softmax no multiplication before exp2.

use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::{Layout, TILE};
use super::ops::gemm_norm;
use crate::weights::{HeadWeights, LayerWeights, Linear, NormWeights, Weights};

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
    pub fn new(gpu: &GpuDevice, weights: &Weights, layout: &Layout) -> Result<Self, GpuError> {
        let before = gpu.created().buffer_bytes;
        let upload = Upload { gpu, layout };
        let tables = &weights.embeddings;
        let norm = tables.norm.as_ref().map(|norm| [norm.weight.as_slice(), bias_of(norm)].concat());
        let embeddings = [
            upload.stored("word embeddings", &tables.word)?,
            upload.stored("position embeddings", &tables.position)?,
            upload.stored("token type embeddings", &tables.token_type)?,
            upload.plain("embedding norm", &norm.unwrap_or_default())?,
        ];
        let layers = weights.layers.iter().map(|layer| upload.layer(layer)).collect::<Result<_, _>>()?;
        let head = match &weights.head {
            Some(HeadWeights { dense: Some(dense), classifier, .. }) => DeviceHead::CrossEncoder {
                pooler: upload.linear("pooler", &[(dense, 1.0)])?,
                classifier: DeviceLinear {
                    weight: upload.plain("classifier weight", &classifier.weight)?,
                    bias: upload.plain("classifier bias", classifier.bias.as_deref().unwrap_or_default())?,
                },
            },
            _ => DeviceHead::MeanEmbedding,
        };
        Ok(Self { embeddings, layers, head, bytes: gpu.created().buffer_bytes - before })
    }
}

struct Upload<'a> {
    gpu: &'a GpuDevice,
    layout: &'a Layout,
}

impl Upload<'_> {
    fn layer(&self, layer: &LayerWeights) -> Result<DeviceLayer, GpuError> {
        let scale = std::f64::consts::LOG2_E / (self.layout.head_dim as f64).sqrt();
        // Every model that the engine supports has one.
        let attention_norm = layer.attention_norm.as_ref().unwrap_or(&layer.output_norm);
        Ok(DeviceLayer {
            qkv: self.linear("qkv", &[(&layer.query, scale), (&layer.key, 1.0), (&layer.value, 1.0)])?,
            attention_output: self.linear("attention output", &[(&layer.attention_output, 1.0)])?,
            attention_norm: self.norm(attention_norm)?,
            attention_params: self.params(&layer.attention_output, attention_norm)?,
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

    fn norm(&self, norm: &NormWeights) -> Result<DeviceNorm, GpuError> {
        Ok(DeviceNorm { weight: self.plain("norm", &norm.weight)?, bias: self.plain("norm", bias_of(norm))? })
    }

    fn params(&self, linear: &Linear, norm: &NormWeights) -> Result<wgpu::Buffer, GpuError> {
        self.plain("fused norm", &gemm_norm::params(self.layout, linear.bias.as_deref().unwrap_or_default(), norm))
    }

    fn stored(&self, label: &'static str, values: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        self.gpu.buffer_with(label, &self.layout.precision.encode(values), wgpu::BufferUsages::STORAGE)
    }

    fn plain(&self, label: &'static str, values: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        self.gpu.buffer_with(label, bytemuck::cast_slice(values), wgpu::BufferUsages::STORAGE)
    }
}

/// The bias of a norm: every model that the engine supports has one.
fn bias_of(norm: &NormWeights) -> &[f32] {
    norm.bias.as_deref().unwrap_or_default()
}

/// Linear layers over the same input, side by side: weight `[k, Σ n]` transposed from the checkpoint's `[n, k]` and bias
/// `[Σ n]`, each scaled, each padded with zeros to [`TILE`].
#[must_use]
pub fn pack(parts: &[(&Linear, f64)]) -> (Vec<f32>, Vec<f32>) {
    let k = parts.first().map_or(0, |(linear, _)| linear.inputs).next_multiple_of(TILE);
    let n: usize = parts.iter().map(|(linear, _)| linear.outputs().next_multiple_of(TILE)).sum();
    let (mut weight, mut bias) = (vec![0.0; k * n], vec![0.0; n]);
    let mut first = 0;
    for &(linear, scale) in parts {
        for (column, row) in linear.weight.chunks_exact(linear.inputs).enumerate() {
            for (index, &value) in row.iter().enumerate() {
                weight[index * n + first + column] = (f64::from(value) * scale) as f32;
            }
        }
        for (to, &value) in bias[first..].iter_mut().zip(linear.bias.iter().flatten()) {
            *to = (f64::from(value) * scale) as f32;
        }
        first += linear.outputs().next_multiple_of(TILE);
    }
    (weight, bias)
}
