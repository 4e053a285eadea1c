//! Layout of a model in device memory: padded widths and the number format.
//!
//! Widths are padded once, at load, to [`WIDTH_STEP`], so no kernel has a partial tile in K or N. Padding is zero in
//! weights and in activations: buffers start as zeros, a GEMM writes zeros to padding, and no other kernel writes
//! there. Rows are padded only in the buffer: a GEMM may compute rows past the batch, up to 63, which nothing reads.

use super::error::GpuError;
use crate::architecture::{
    Architecture, Head, Mask, MlpKind, NormKind, NormPlacement, Pooling, Positions, Unsupported,
};
use crate::engine::Precision;

/// Widths are padded to a multiple of this. It is a multiple of 32 threads of four columns and of 32 numbers of K.
pub const WIDTH_STEP: usize = 128;
/// Widest attention head that the kernels hold in registers.
pub const MAX_HEAD_DIM: usize = 128;
/// The largest finite half.
const LARGEST_HALF: f32 = 65504.0;
/// Most workgroups that wgpu dispatches along one dimension.
const MAX_WORKGROUPS: usize = 65_535;

/// How numbers are stored in weights and activations. Arithmetic is f32 in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Within 1e-4 of the float64 reference's logits.
    #[default]
    F32,
    /// Half the memory and traffic; within 2e-2 of the reference's logits.
    F16,
}

impl Storage {
    /// Bytes of one stored number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Numbers in one 16-byte load.
    #[must_use]
    pub fn run(self) -> u32 {
        16 / self.bytes() as u32
    }

    /// Its name in kernels' names and the tuning cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// `values` as they are stored, little-endian. Values beyond the largest half are clamped to it.
    #[must_use]
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::F16 => values
                .iter()
                .flat_map(|&value| half::f16::from_f32(value.clamp(-LARGEST_HALF, LARGEST_HALF)).to_le_bytes())
                .collect(),
        }
    }

    /// Brings values into the range of a half, as [`encode`](Self::encode) does.
    pub(crate) fn clamp_to_halves(values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = value.clamp(-LARGEST_HALF, LARGEST_HALF));
    }
}

impl TryFrom<Precision> for Storage {
    type Error = GpuError;

    fn try_from(precision: Precision) -> Result<Self, GpuError> {
        match precision {
            Precision::F32 => Ok(Self::F32),
            Precision::F16 => Ok(Self::F16),
            Precision::Int8 | Precision::Int16 => Err(GpuError::Precision(precision)),
        }
    }
}

/// Rows of `width` numbers, `stride` numbers apart; the numbers between are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLayout {
    /// Numbers of a row: a multiple of 4.
    pub width: usize,
    /// From one row to the next: a multiple of [`WIDTH_STEP`].
    pub stride: usize,
    /// How a number is stored.
    pub storage: Storage,
}

impl RowLayout {
    /// Rows of `width` numbers, padded.
    #[must_use]
    pub fn padded(width: usize, storage: Storage) -> Self {
        Self { width, stride: width.next_multiple_of(WIDTH_STEP), storage }
    }

    /// Bytes from one row to the next.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.stride * self.storage.bytes()) as u64
    }

    /// The row kernels' constants HIDDEN4 and STRIDE4, in units of four numbers.
    pub(crate) fn constants(&self) -> [(&'static str, f64); 2] {
        [("HIDDEN4", (self.width / 4) as f64), ("STRIDE4", (self.stride / 4) as f64)]
    }
}

/// Where a model's word table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordTable {
    /// On the device, whole.
    OnDevice,
    /// In the processor's memory, as it is stored. Each batch brings the rows of its tokens.
    OnHost,
}

/// A model's widths for its kernels, and where its word table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Hidden states.
    pub states: RowLayout,
    /// The sum of the embedding tables, before a projection brings it to the width of hidden states.
    pub embeddings: RowLayout,
    /// The feed-forward width.
    pub intermediate: usize,
    /// Whether the feed-forward part has a gate.
    pub mlp: MlpKind,
    /// Where the norms of a layer are.
    pub norm_placement: NormPlacement,
    /// Attention heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// How numbers are stored.
    pub storage: Storage,
    /// Where the word table is.
    pub word_table: WordTable,
}

impl Layout {
    /// The layout of a model whose word table is on the device.
    ///
    /// # Errors
    /// The kernels lack a part of the model: see [`supports`].
    pub fn new(architecture: &Architecture, storage: Storage) -> Result<Self, Unsupported> {
        supports(architecture)?;
        Ok(Self {
            states: RowLayout::padded(architecture.hidden_size, storage),
            embeddings: RowLayout::padded(architecture.embeddings.width, storage),
            intermediate: architecture.block.mlp.intermediate_size,
            mlp: architecture.block.mlp.kind,
            norm_placement: architecture.block.norm_placement,
            heads: architecture.block.attention.heads,
            head_dim: architecture.block.attention.head_dim,
            storage,
            word_table: WordTable::OnDevice,
        })
    }

    /// The same with the word table in the processor's memory, if it would take more than `most` bytes on the device.
    #[must_use]
    pub fn with_tables_up_to(self, architecture: &Architecture, most: u64) -> Self {
        let bytes = (architecture.vocab_size * self.embeddings.width * self.storage.bytes()) as u64;
        Self { word_table: if bytes > most { WordTable::OnHost } else { WordTable::OnDevice }, ..self }
    }

    /// The feed-forward width, padded.
    #[must_use]
    pub fn intermediate_stride(&self) -> usize {
        self.intermediate.next_multiple_of(WIDTH_STEP)
    }

    /// Columns of the first feed-forward GEMM: what is activated and the gate, padded together to twice the stride.
    #[must_use]
    pub fn intermediate_columns(&self) -> usize {
        match self.mlp {
            MlpKind::Plain => self.intermediate_stride(),
            MlpKind::Gated => 2 * self.intermediate_stride(),
        }
    }

    /// Most tokens in a batch, limited by the dispatches of [`gather`](super::ops::gather) and attention.
    #[must_use]
    pub fn max_batch_tokens(&self) -> usize {
        (MAX_WORKGROUPS * 64 / (self.states.stride / 4)).min(MAX_WORKGROUPS)
    }

    /// Whether a linear layer brings embeddings to the width of hidden states.
    #[must_use]
    pub fn has_projection(&self) -> bool {
        self.embeddings.width != self.states.width
    }

    /// Whether any row of activations has padding, which must stay zero.
    #[must_use]
    pub fn has_padding(&self) -> bool {
        [self.states, self.embeddings].iter().any(|rows| rows.stride != rows.width)
    }
}

/// Whether the kernels compute every part of a model. Shaders run without bounds checks: they rely on the widths that
/// are checked here.
///
/// # Errors
/// Names the first missing part and what is supported instead.
pub fn supports(architecture: &Architecture) -> Result<(), Unsupported> {
    let embeddings = &architecture.embeddings;
    let (block, attention) = (&architecture.block, &architecture.block.attention);
    if let Positions::Learned { rows, first, padding_id } = embeddings.positions
        && (first + architecture.max_tokens > rows || padding_id.is_some_and(|id| id as usize >= rows))
    {
        return unsupported("rows that are longer than the position table", "rows that fit the table");
    }
    let Some(norm) = embeddings.norm else {
        return unsupported("embeddings without a norm", "embeddings with a LayerNorm");
    };
    let head_norm = match architecture.head {
        Head::Classifier { dense, .. } => dense.and_then(|dense| dense.norm),
        Head::Embedding => None,
    };
    let norms = [Some(norm), Some(block.norm), architecture.final_norm, head_norm];
    if norms.iter().flatten().any(|norm| norm.kind != NormKind::Layer) {
        return unsupported("RMSNorm", "LayerNorm");
    }
    if !embeddings.width.is_multiple_of(4) {
        return unsupported(format!("embeddings of {} numbers", embeddings.width), "multiples of 4");
    }
    let lacks_norm = architecture.layers.iter().any(|layer| !layer.attention_norm);
    if block.norm_placement == NormPlacement::After && lacks_norm {
        return unsupported("layers without a norm after attention", "those that have it");
    }
    if attention.kv_heads != attention.heads {
        return unsupported("key and value heads that are fewer than query heads", "as many of each");
    }
    let head_dim = attention.head_dim;
    if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(if head_dim > 64 { 16 } else { 8 }) {
        return unsupported(
            format!("attention heads of {head_dim} numbers"),
            "multiples of 8 up to 64, multiples of 16 up to 128",
        );
    }
    if attention.query_width() != architecture.hidden_size {
        return unsupported("attention heads that are not as wide together as a hidden state", "those that are");
    }
    for layer in &architecture.layers {
        match layer.mask {
            Mask::All | Mask::Window { .. } => {}
            Mask::Causal => return unsupported("causal attention", "attention to the whole row or a window"),
        }
        if layer.rotary.is_some() && embeddings.positions != Positions::None {
            return unsupported("rotary positions beside a position table", "one of both");
        }
        if layer.rotary.is_some() && attention.relative.is_some() {
            return unsupported("rotary positions beside relative ones", "one of both");
        }
    }
    match architecture.pooling {
        Pooling::First | Pooling::Mean => Ok(()),
        Pooling::Last => unsupported("pooling of the last token", "that of the first token, and the mean"),
    }
}

fn unsupported(part: impl Into<String>, supported: &'static str) -> Result<(), Unsupported> {
    Err(Unsupported { engine: "gpu", part: part.into(), supported })
}
