//! A BERT model's weights, widened to f32, as engines take them over.
//!
//! Plain row-major matrices in the layout of the checkpoint: a linear layer's weight is `[out, in]`. Engines repack
//! them as their kernels like and drop these.

use crate::config::BertConfig;

/// `y = x · weightᵀ + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs, inputs]`, row-major.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// `y = (x − mean) / sqrt(variance + eps) · weight + bias` over the hidden dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// `[hidden_size]`.
    pub weight: Vec<f32>,
    /// `[hidden_size]`.
    pub bias: Vec<f32>,
}

/// The three embedding tables, summed and normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// `[vocab_size, hidden_size]`.
    pub word: Vec<f32>,
    /// `[max_position_embeddings, hidden_size]`.
    pub position: Vec<f32>,
    /// `[type_vocab_size, hidden_size]`.
    pub token_type: Vec<f32>,
    /// Applied to the sum.
    pub norm: LayerNorm,
}

/// One encoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// `[hidden_size, hidden_size]`; not scaled by 1/√head_dim.
    pub query: Linear,
    /// `[hidden_size, hidden_size]`.
    pub key: Linear,
    /// `[hidden_size, hidden_size]`.
    pub value: Linear,
    /// `[hidden_size, hidden_size]`, applied to the concatenated heads.
    pub attention_output: Linear,
    /// Applied to attention output plus residual.
    pub attention_norm: LayerNorm,
    /// `[intermediate_size, hidden_size]`, followed by the erf GELU.
    pub intermediate: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub output: Linear,
    /// Applied to feed-forward output plus residual.
    pub output_norm: LayerNorm,
}

/// What turns hidden states into a row's numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// `classifier(tanh(pooler(first token)))`: one logit per label.
    CrossEncoder {
        /// `[hidden_size, hidden_size]`.
        pooler: Linear,
        /// `[labels, hidden_size]`.
        classifier: Linear,
    },
    /// The mean over the row's tokens, scaled to unit length.
    MeanEmbedding,
}

/// Everything a forward pass needs.
#[derive(Debug, Clone, PartialEq)]
pub struct BertWeights {
    /// The model's shape.
    pub config: BertConfig,
    /// The embedding tables.
    pub embeddings: Embeddings,
    /// `num_hidden_layers` of them, first to last.
    pub layers: Vec<Layer>,
    /// The head.
    pub head: Head,
}

impl BertWeights {
    /// How many numbers the model has.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let linear = |linear: &Linear| linear.weight.len() + linear.bias.len();
        let norm = |norm: &LayerNorm| norm.weight.len() + norm.bias.len();
        let tables = &self.embeddings;
        let embeddings = tables.word.len() + tables.position.len() + tables.token_type.len() + norm(&tables.norm);
        let layers = self.layers.iter().map(|layer| {
            let linears =
                [&layer.query, &layer.key, &layer.value, &layer.attention_output, &layer.intermediate, &layer.output];
            linears.map(linear).iter().sum::<usize>() + norm(&layer.attention_norm) + norm(&layer.output_norm)
        });
        let head = match &self.head {
            Head::CrossEncoder { pooler, classifier } => linear(pooler) + linear(classifier),
            Head::MeanEmbedding => 0,
        };
        (embeddings + layers.sum::<usize>() + head) as u64
    }
}
