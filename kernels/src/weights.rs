//! A model's weights, from which engines are made: matrices and the word table in the precision of their file, all else
//! widened to f32.
//!
//! Plain row-major matrices: a linear layer's weight is `[outputs, inputs]`. An [`Architecture`] determines their
//! number and shapes; only [`Weights::collect`] goes through all of them. Engines repack them for their kernels.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::architecture::{Architecture, Head, Positions};

/// A model: what it computes, and its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What it computes.
    pub architecture: Architecture,
    /// The weights.
    pub weights: Weights,
}

/// Reads a model again that was read before, from the same files.
pub type ReadModel = Box<dyn Fn() -> Result<Model, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// `y = x · weightᵀ + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs, inputs]`, row-major.
    pub weight: Table,
    /// `[outputs]`, if there is a bias.
    pub bias: Option<Vec<f32>>,
    /// Width of x.
    pub inputs: usize,
}

impl Linear {
    /// Width of y.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    /// The bias of one output; 0 without a bias.
    #[must_use]
    pub fn bias_of(&self, output: usize) -> f32 {
        self.bias.as_ref().map_or(0.0, |bias| bias[output])
    }

    fn numbers(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vec::len)
    }
}

/// A norm's weight and bias.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// `[width]`.
    pub weight: Vec<f32>,
    /// `[width]`, if there is a bias.
    pub bias: Option<Vec<f32>>,
}

impl NormWeights {
    fn numbers(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vec::len)
    }
}

/// A table or a matrix in the precision of its file. The word table of a multilingual model has more numbers than its
/// layers, and few of its rows are read: widened for good, it would only take memory. Layers are widened one at a time,
/// by an engine that computes in f32.
#[derive(Debug, Clone, PartialEq)]
pub enum Table {
    /// As most files have it.
    F32(Vec<f32>),
    /// Widening is exact.
    F16(Vec<f16>),
    /// Widening is exact.
    Bf16(Vec<bf16>),
}

impl Table {
    /// How many numbers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    /// Whether it has no numbers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let number = match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) | Self::Bf16(_) => size_of::<f16>(),
        };
        (self.len() * number) as u64
    }

    /// Some of its numbers, in row-major order.
    ///
    /// # Panics
    /// It does not have them.
    #[must_use]
    pub fn numbers(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Self::F32(numbers) => Cow::Borrowed(&numbers[range]),
            Self::F16(numbers) => Cow::Owned(numbers[range].to_f32_vec()),
            Self::Bf16(numbers) => Cow::Owned(numbers[range].to_f32_vec()),
        }
    }

    /// All of its numbers.
    #[must_use]
    pub fn all(&self) -> Cow<'_, [f32]> {
        self.numbers(0..self.len())
    }

    /// One of its numbers.
    ///
    /// # Panics
    /// It does not have it.
    #[must_use]
    pub fn number(&self, index: usize) -> f32 {
        match self {
            Self::F32(numbers) => numbers[index],
            Self::F16(numbers) => numbers[index].to_f32(),
            Self::Bf16(numbers) => numbers[index].to_f32(),
        }
    }

    /// Some of its numbers, as they are stored.
    ///
    /// # Panics
    /// It does not have them.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(numbers) => Self::F32(numbers[range].to_vec()),
            Self::F16(numbers) => Self::F16(numbers[range].to_vec()),
            Self::Bf16(numbers) => Self::Bf16(numbers[range].to_vec()),
        }
    }

    /// Moves the first `count` numbers behind the others.
    ///
    /// # Panics
    /// It has fewer.
    pub fn rotate_left(&mut self, count: usize) {
        match self {
            Self::F32(numbers) => numbers.rotate_left(count),
            Self::F16(numbers) => numbers.rotate_left(count),
            Self::Bf16(numbers) => numbers.rotate_left(count),
        }
    }

    /// Converts its numbers to f32.
    pub fn widen(&mut self) {
        if let Cow::Owned(numbers) = self.all() {
            *self = Self::F32(numbers);
        }
    }

    /// Writes the row `index` of as many numbers as `to` has.
    ///
    /// # Panics
    /// It does not have the row.
    pub fn copy_row(&self, index: usize, to: &mut [f32]) {
        let range = index * to.len()..(index + 1) * to.len();
        match self {
            Self::F32(numbers) => to.copy_from_slice(&numbers[range]),
            Self::F16(numbers) => numbers[range].convert_to_f32_slice(to),
            Self::Bf16(numbers) => numbers[range].convert_to_f32_slice(to),
        }
    }
}

impl From<Vec<f32>> for Table {
    fn from(numbers: Vec<f32>) -> Self {
        Self::F32(numbers)
    }
}

/// The embedding tables and what follows them.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingWeights {
    /// `[vocab_size, width]`.
    pub word: Table,
    /// `[rows, width]`; empty if positions are not learned.
    pub position: Vec<f32>,
    /// `[rows, width]`; empty without token types.
    pub token_type: Vec<f32>,
    /// `[width]`.
    pub norm: Option<NormWeights>,
    /// `[hidden_size, width]`, if the two differ.
    pub projection: Option<Linear>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// `[heads · head_dim, hidden_size]`; not scaled by 1/√head_dim.
    pub query: Linear,
    /// `[kv_heads · head_dim, hidden_size]`.
    pub key: Linear,
    /// `[kv_heads · head_dim, hidden_size]`.
    pub value: Linear,
    /// `[hidden_size, heads · head_dim]`, applied to the heads side by side.
    pub attention_output: Linear,
    /// The norm before or after attention, if the layer has it.
    pub attention_norm: Option<NormWeights>,
    /// `[intermediate_size, hidden_size]`, or `[2 · intermediate_size, hidden_size]` with a gate.
    pub intermediate: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub output: Linear,
    /// The norm before or after the feed-forward part.
    pub output_norm: NormWeights,
}

impl LayerWeights {
    /// Its matrices.
    pub fn matrices(&mut self) -> [&mut Linear; 6] {
        let Self { query, key, value, attention_output, intermediate, output, .. } = self;
        [query, key, value, attention_output, intermediate, output]
    }
}

/// The table of relative positions, which all layers share.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeWeights {
    /// `[rows, hidden_size]`.
    pub table: Vec<f32>,
    /// `[hidden_size]`.
    pub norm: Option<NormWeights>,
}

/// The head of a classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadWeights {
    /// `[hidden_size, hidden_size]`.
    pub dense: Option<Linear>,
    /// The norm after the dense layer, `[hidden_size]`.
    pub dense_norm: Option<NormWeights>,
    /// `[labels, hidden_size]`.
    pub classifier: Linear,
}

/// All weights of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// The embedding tables.
    pub embeddings: EmbeddingWeights,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// The table of relative positions, if attention has one.
    pub relative: Option<RelativeWeights>,
    /// `[hidden_size]`.
    pub final_norm: Option<NormWeights>,
    /// `None` for [`Head::Embedding`].
    pub head: Option<HeadWeights>,
}

/// A module of a model, by its part in the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// The word table.
    Word,
    /// The position table.
    Position,
    /// The token type table.
    TokenType,
    /// The norm of the embeddings.
    EmbeddingNorm,
    /// From the embeddings' width to `hidden_size`.
    Projection,
    /// The table of relative positions.
    Relative,
    /// Its norm.
    RelativeNorm,
    /// A module of one layer.
    Layer(usize, LayerModule),
    /// The norm after the last layer.
    FinalNorm,
    /// The head's linear layer before the classifier.
    Dense,
    /// The norm after the dense layer.
    DenseNorm,
    /// The head's last linear layer.
    Classifier,
}

/// A module of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerModule {
    /// See [`LayerWeights::query`].
    Query,
    /// See [`LayerWeights::key`].
    Key,
    /// See [`LayerWeights::value`].
    Value,
    /// See [`LayerWeights::attention_output`].
    AttentionOutput,
    /// See [`LayerWeights::attention_norm`].
    AttentionNorm,
    /// See [`LayerWeights::intermediate`].
    Intermediate,
    /// See [`LayerWeights::output`].
    Output,
    /// See [`LayerWeights::output_norm`].
    OutputNorm,
}

/// A source of weights: a checkpoint, or a generator for tests.
pub trait Source {
    /// Why a module is not available.
    type Error;

    /// An embedding table, `[rows, width]`.
    ///
    /// # Errors
    /// The source has no table of this shape.
    fn table(&mut self, module: Module, rows: usize, width: usize) -> Result<Vec<f32>, Self::Error>;

    /// The word table, `[rows, width]`, in any precision.
    ///
    /// # Errors
    /// The source has no table of this shape.
    fn word_table(&mut self, rows: usize, width: usize) -> Result<Table, Self::Error> {
        self.table(Module::Word, rows, width).map(Table::F32)
    }

    /// A linear layer with `[outputs, inputs]` weights.
    ///
    /// # Errors
    /// The source has no linear layer of this shape.
    fn linear(&mut self, module: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Self::Error>;

    /// A norm's weights, `[width]`.
    ///
    /// # Errors
    /// The source has no norm of this shape.
    fn norm(&mut self, module: Module, width: usize, bias: bool) -> Result<NormWeights, Self::Error>;
}

impl Weights {
    /// Takes every module of the architecture from `source`: embeddings first, the head last.
    ///
    /// # Errors
    /// The first error of the source.
    pub fn collect<S: Source>(architecture: &Architecture, source: &mut S) -> Result<Self, S::Error> {
        let hidden = architecture.hidden_size;
        let embeddings = Self::embeddings(architecture, source)?;
        let relative = match architecture.block.attention.relative {
            None => None,
            Some(relative) => Some(RelativeWeights {
                table: source.table(Module::Relative, relative.rows(), hidden)?,
                norm: match relative.norm {
                    None => None,
                    Some(norm) => Some(source.norm(Module::RelativeNorm, hidden, norm.bias)?),
                },
            }),
        };
        let layers = (0..architecture.layers.len())
            .map(|index| Self::layer(architecture, index, source))
            .collect::<Result<_, _>>()?;
        let final_norm = match architecture.final_norm {
            None => None,
            Some(norm) => Some(source.norm(Module::FinalNorm, hidden, norm.bias)?),
        };
        let head = match architecture.head {
            Head::Embedding => None,
            Head::Classifier { dense, labels, bias } => {
                let (mut linear, mut dense_norm) = (None, None);
                if let Some(dense) = dense {
                    linear = Some(source.linear(Module::Dense, hidden, hidden, dense.bias)?);
                    if let Some(norm) = dense.norm {
                        dense_norm = Some(source.norm(Module::DenseNorm, hidden, norm.bias)?);
                    }
                }
                let classifier = source.linear(Module::Classifier, labels, hidden, bias)?;
                Some(HeadWeights { dense: linear, dense_norm, classifier })
            }
        };
        Ok(Self { embeddings, layers, relative, final_norm, head })
    }

    fn embeddings<S: Source>(architecture: &Architecture, source: &mut S) -> Result<EmbeddingWeights, S::Error> {
        let shape = &architecture.embeddings;
        let word = source.word_table(architecture.vocab_size, shape.width)?;
        let mut table = |module, rows| match rows {
            0 => Ok(Vec::new()),
            rows => source.table(module, rows, shape.width),
        };
        let position = match shape.positions {
            Positions::None => Vec::new(),
            Positions::Learned { rows, .. } => table(Module::Position, rows)?,
        };
        let token_type = table(Module::TokenType, shape.token_types.rows())?;
        let norm = match shape.norm {
            None => None,
            Some(norm) => Some(source.norm(Module::EmbeddingNorm, shape.width, norm.bias)?),
        };
        let projection = match architecture.has_projection() {
            false => None,
            true => Some(source.linear(Module::Projection, architecture.hidden_size, shape.width, true)?),
        };
        Ok(EmbeddingWeights { word, position, token_type, norm, projection })
    }

    fn layer<S: Source>(architecture: &Architecture, index: usize, source: &mut S) -> Result<LayerWeights, S::Error> {
        let hidden = architecture.hidden_size;
        let (attention, mlp) = (&architecture.block.attention, &architecture.block.mlp);
        let norm_bias = architecture.block.norm.bias;
        let module = |module| Module::Layer(index, module);
        let (query, key_value) = (attention.query_width(), attention.key_value_width());
        let bias = attention.query_key_value_bias;
        Ok(LayerWeights {
            query: source.linear(module(LayerModule::Query), query, hidden, bias)?,
            key: source.linear(module(LayerModule::Key), key_value, hidden, bias)?,
            value: source.linear(module(LayerModule::Value), key_value, hidden, bias)?,
            attention_output: source.linear(
                module(LayerModule::AttentionOutput),
                hidden,
                query,
                attention.output_bias,
            )?,
            attention_norm: match architecture.layers[index].attention_norm {
                false => None,
                true => Some(source.norm(module(LayerModule::AttentionNorm), hidden, norm_bias)?),
            },
            intermediate: source.linear(
                module(LayerModule::Intermediate),
                mlp.intermediate_outputs(),
                hidden,
                mlp.intermediate_bias,
            )?,
            output: source.linear(module(LayerModule::Output), hidden, mlp.intermediate_size, mlp.output_bias)?,
            output_norm: source.norm(module(LayerModule::OutputNorm), hidden, norm_bias)?,
        })
    }

    /// How many numbers the model has.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let norm = |norm: &Option<NormWeights>| norm.as_ref().map_or(0, NormWeights::numbers);
        let linear = |linear: &Option<Linear>| linear.as_ref().map_or(0, Linear::numbers);
        let tables = &self.embeddings;
        let embeddings = tables.word.len() + tables.position.len() + tables.token_type.len() + norm(&tables.norm);
        let layers = self.layers.iter().map(|layer| {
            let linears =
                [&layer.query, &layer.key, &layer.value, &layer.attention_output, &layer.intermediate, &layer.output];
            linears.map(Linear::numbers).iter().sum::<usize>()
                + norm(&layer.attention_norm)
                + layer.output_norm.numbers()
        });
        let head = self
            .head
            .as_ref()
            .map_or(0, |head| linear(&head.dense) + norm(&head.dense_norm) + head.classifier.numbers());
        let relative = self.relative.as_ref().map_or(0, |relative| relative.table.len() + norm(&relative.norm));
        let encoder =
            relative + embeddings + linear(&tables.projection) + layers.sum::<usize>() + norm(&self.final_norm);
        (encoder + head) as u64
    }
}
