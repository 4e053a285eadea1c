//! An encoder as a value. Engines, the reference, FLOP counts and reports read it instead of having types per family.
//!
//! A [family](crate::families) makes one from a `config.json`; [`Weights`](crate::Weights) hold exactly the tensors
//! that it needs. The [reference](crate::reference) computes every possible value. An engine names the parts that it
//! lacks ([`Unsupported`]) before any weights are read.
//!
//! Notation below: x is the state of one token, `[hidden_size]`; a row has n tokens.

/// An encoder, from token ids to a row's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family's name, for display only.
    pub family: &'static str,
    /// Rows of the word embedding table; token ids are below this.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Longest row in tokens.
    pub max_tokens: usize,
    /// From token ids to the state before the first layer.
    pub embeddings: Embeddings,
    /// Common to all layers.
    pub block: Block,
    /// What differs between layers, first to last.
    pub layers: Vec<Layer>,
    /// Applied to the last layer's states.
    pub final_norm: Option<Norm>,
    /// The states that the head reads.
    pub pooling: Pooling,
    /// From the pooled state to a row's outputs.
    pub head: Head,
}

/// `x = projection(norm(word + position + token type))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Width of the tables and the norm. If it is not `hidden_size`, a linear layer with bias projects to
    /// `hidden_size`.
    pub width: usize,
    /// The position table.
    pub positions: Positions,
    /// The token type table.
    pub token_types: TokenTypes,
    /// Applied to the sum of the tables.
    pub norm: Option<Norm>,
}

/// How embeddings encode a token's position in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Not at all: layers may rotate queries and keys instead.
    None,
    /// By a row of a table.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// The row of a row's first token.
        first: usize,
        /// Tokens with this id use the table's row of the same number and are not counted: the next token has the
        /// position that the padding would have had.
        padding_id: Option<u32>,
    },
}

impl Positions {
    /// The position table's row for each token of a row; 0 without a table.
    pub fn indices(self, ids: &[u32]) -> impl Iterator<Item = usize> + '_ {
        let (mut next, padding_id) = match self {
            Self::None => (None, None),
            Self::Learned { first, padding_id, .. } => (Some(first), padding_id),
        };
        ids.iter().map(move |&id| match &mut next {
            None => 0,
            Some(_) if padding_id == Some(id) => id as usize,
            Some(next) => {
                *next += 1;
                *next - 1
            }
        })
    }
}

/// The token type table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenTypes {
    /// No table: a row's second segment has no effect.
    None,
    /// One row for every token: a row's second segment has no effect.
    One,
    /// Two rows: the second is for tokens from the row's second segment on.
    Two,
}

impl TokenTypes {
    /// Rows of the table.
    #[must_use]
    pub fn rows(self) -> usize {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The table's row of the token at `place` in a row whose second segment begins at `second_segment`.
    #[must_use]
    pub fn index(self, place: usize, second_segment: usize) -> usize {
        usize::from(self == Self::Two && place >= second_segment)
    }
}

/// A normalisation of one state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance, or to the mean of squares.
    pub eps: f64,
    /// Whether a bias is added after the weight is multiplied.
    pub bias: bool,
}

/// The formula of a [`Norm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `(x − mean) / √(variance + eps) · weight + bias` (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).
    Layer,
    /// `x / √(mean of squares + eps) · weight + bias` (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
    Rms,
}

/// Common to all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Both norms of a layer.
    pub norm: Norm,
    /// Where the norms are.
    pub norm_placement: NormPlacement,
    /// Attention's widths.
    pub attention: Attention,
    /// The feed-forward part.
    pub mlp: Mlp,
}

/// Where the norms of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x = norm(x + attention(x))`, `x = norm(x + mlp(x))`.
    After,
    /// `x = x + attention(norm(x))`, `x = x + mlp(norm(x))`.
    Before,
}

/// `output(softmax(q · kᵀ · scale) · v)` for each head over the tokens of one row, where the scale is 1/√head_dim
/// without [`RelativePositions`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head h reads the keys and values of head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether the query, key and value projections have biases.
    pub query_key_value_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Scores by distance, beside those by content.
    pub relative: Option<RelativePositions>,
}

/// Scores by the distance from a query to a key (He et al. 2021, <https://arxiv.org/abs/2006.03654>): with the row r of
/// a table for the distance, the score of q and k is `(q · k + q · key(r) + query(r) · k) / √(3 · head_dim)`. The
/// layer's own projections make key(r) and query(r), biases included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RelativePositions {
    /// Half the table's rows. The distance 0 has the row of this number.
    pub span: usize,
    /// If there is one: distances beyond half the span share rows, the more the farther, and those of this distance
    /// have the last row.
    pub max_distance: Option<usize>,
    /// Applied to the table.
    pub norm: Option<Norm>,
}

impl RelativePositions {
    /// Rows of the table.
    #[must_use]
    pub fn rows(self) -> usize {
        2 * self.span
    }

    /// The table's row for a query's place minus a key's; never decreases with it. Rounds to f32 at each step, as
    /// training code does.
    #[must_use]
    pub fn row(self, distance: isize) -> usize {
        let (span, middle) = (self.span as isize, (self.span / 2) as isize);
        let shared = match self.max_distance {
            Some(max_distance) if distance.abs() > middle => {
                let middle = middle as f32;
                let base = (max_distance.saturating_sub(1) as f32 / middle).ln();
                let steps = (distance.abs() as f32 / middle).ln() / base * (middle - 1.0);
                (steps.ceil() + middle) as isize * distance.signum()
            }
            _ => distance,
        };
        shared.saturating_add(span).clamp(0, 2 * span - 1) as usize
    }
}

impl Attention {
    /// As many key and value heads as query heads, and biases everywhere.
    #[must_use]
    pub fn of_heads(heads: usize, head_dim: usize) -> Self {
        Self { heads, kv_heads: heads, head_dim, query_key_value_bias: true, output_bias: true, relative: None }
    }

    /// Numbers whose products make a score: a head's width for each of its dot products.
    #[must_use]
    pub fn score_width(&self) -> usize {
        let products = if self.relative.is_some() { 3 } else { 1 };
        products * self.head_dim
    }

    /// What scores are multiplied by.
    #[must_use]
    pub fn scale(&self) -> f64 {
        1.0 / (self.score_width() as f64).sqrt()
    }

    /// Width of all query heads side by side.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads side by side, and of all value heads.
    #[must_use]
    pub fn key_value_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The feed-forward part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mlp {
    /// Width between the two linear layers.
    pub intermediate_size: usize,
    /// Applied between the two linear layers.
    pub activation: Activation,
    /// Whether a gate is multiplied in.
    pub kind: MlpKind,
    /// Whether the first linear layer has a bias.
    pub intermediate_bias: bool,
    /// Whether the second has.
    pub output_bias: bool,
}

impl Mlp {
    /// Outputs of the first linear layer.
    #[must_use]
    pub fn intermediate_outputs(&self) -> usize {
        match self.kind {
            MlpKind::Plain => self.intermediate_size,
            MlpKind::Gated => 2 * self.intermediate_size,
        }
    }
}

/// Whether an [`Mlp`] has a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `output(activation(intermediate(x)))`.
    Plain,
    /// `output(activation(a) · b)`, where a is the first half of `intermediate(x)` and b the second (Shazeer 2020,
    /// <https://arxiv.org/abs/2002.05202>). A family whose checkpoints store them in the other order swaps them.
    Gated,
}

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · (1 + erf(x / √2)) / 2` (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// Its approximation, `x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`.
    GeluTanh,
    /// `x / (1 + e⁻ˣ)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu by tanh",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
        }
    }
}

/// What differs between layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// The tokens that a token attends to.
    pub mask: Mask,
    /// Rotation of queries and keys by position.
    pub rotary: Option<Rotary>,
    /// Whether the layer has the norm of attention. With norms before, the first layer may lack it: its input has just
    /// been normalised.
    pub attention_norm: bool,
}

/// The tokens of its row that a token attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    All,
    /// Those at most `radius` before or after it.
    Window {
        /// In tokens; the token itself is at 0.
        radius: usize,
    },
    /// Itself and those before it.
    Causal,
}

impl Mask {
    /// The tokens that the token at `place` in a row of `tokens` attends to.
    #[must_use]
    pub fn keys(self, place: usize, tokens: usize) -> std::ops::Range<usize> {
        match self {
            Self::All => 0..tokens,
            Self::Window { radius } => {
                place.saturating_sub(radius)..place.saturating_add(radius).saturating_add(1).min(tokens)
            }
            Self::Causal => 0..place + 1,
        }
    }
}

/// Rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): the numbers i and i + head_dim/2 of each
/// head's query and key turn together by `position · theta^(−2i / head_dim) / frequency_divisor`; positions count from
/// 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// Divides every frequency; 1 where positions are not scaled.
    pub frequency_divisor: f64,
}

impl Rotary {
    /// Positions as they are.
    #[must_use]
    pub fn of_theta(theta: f64) -> Self {
        Self { theta, frequency_divisor: 1.0 }
    }

    /// The angle of pair `pair` of a head at `position`. Rounds to f32 at each step, as training code does: over
    /// thousands of positions the exact angle would differ by 1e-4.
    #[must_use]
    pub fn angle(self, position: usize, pair: usize, head_dim: usize) -> f32 {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        let frequency = 1.0 / (self.theta.powf(f64::from(exponent)) as f32) / self.frequency_divisor as f32;
        position as f32 * frequency
    }
}

/// The states of a row that the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    First,
    /// The mean over all tokens.
    Mean,
    /// The last token's.
    Last,
}

/// Turns the pooled state into a row's outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Head {
    /// The pooled state scaled to unit length: `hidden_size` numbers.
    Embedding,
    /// `classifier(dense(x))`: one logit for each label.
    Classifier {
        /// A layer before the classifier.
        dense: Option<Dense>,
        /// Outputs of the classifier.
        labels: usize,
        /// Whether the classifier has a bias.
        bias: bool,
    },
}

/// `norm(activation(linear(x)))`, `[hidden_size]` to the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dense {
    /// Whether the linear layer has a bias.
    pub bias: bool,
    /// Applied to the linear layer's outputs.
    pub activation: Option<Activation>,
    /// Applied after the activation.
    pub norm: Option<Norm>,
}

/// A model's inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Longest row in tokens.
    pub max_tokens: usize,
    /// Whether a row's second segment has an effect.
    pub token_types: TokenTypes,
    /// Outputs per row.
    pub outputs: usize,
}

/// What a model computes for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One logit for each label.
    CrossEncoder,
    /// A vector of unit length.
    Embedding,
}

/// A part that an engine does not compute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {engine} engine has no {part}: it has {supported}")]
pub struct Unsupported {
    /// The engine's name: `cpu` or `gpu`.
    pub engine: &'static str,
    /// The part that the engine lacks.
    pub part: String,
    /// What the engine supports instead.
    pub supported: &'static str,
}

impl Architecture {
    /// What the model computes.
    #[must_use]
    pub fn task(&self) -> Task {
        match self.head {
            Head::Embedding => Task::Embedding,
            Head::Classifier { .. } => Task::CrossEncoder,
        }
    }

    /// Outputs per row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self.head {
            Head::Embedding => self.hidden_size,
            Head::Classifier { labels, .. } => labels,
        }
    }

    /// The rows that the model takes.
    #[must_use]
    pub fn row_shape(&self) -> RowShape {
        RowShape {
            vocab_size: self.vocab_size,
            max_tokens: self.max_tokens,
            token_types: self.embeddings.token_types,
            outputs: self.outputs(),
        }
    }

    /// The ways in which layers rotate queries and keys, without duplicates.
    #[must_use]
    pub fn rotations(&self) -> Vec<Rotary> {
        let mut rotations: Vec<Rotary> = Vec::new();
        for rotary in self.layers.iter().filter_map(|layer| layer.rotary) {
            if !rotations.contains(&rotary) {
                rotations.push(rotary);
            }
        }
        rotations
    }

    /// Whether a linear layer projects the embeddings to `hidden_size`.
    #[must_use]
    pub fn has_projection(&self) -> bool {
        self.embeddings.width != self.hidden_size
    }
}
