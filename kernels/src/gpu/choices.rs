//! The chosen variant of each kernel in a model's forward pass, for small and large batches.

use serde::{Deserialize, Serialize};

use super::adapter::{AdapterDescription, KernelFamily};
use super::layout::Layout;
use super::ops::gemm::GemmVariant;
use super::ops::{attention, gemm_norm};
use crate::architecture::NormPlacement;

/// The kernel variants of one model on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// The family of all variants.
    pub family: KernelFamily,
    /// For query, key and value.
    pub qkv: GemmVariant,
    /// For linear layers to the width of hidden states, except the feed-forward output.
    pub hidden: GemmVariant,
    /// For hidden to intermediate.
    pub intermediate: GemmVariant,
    /// For intermediate to hidden.
    pub output: GemmVariant,
    /// Queries per attention tile.
    pub attention_queries: u32,
    /// Whether LayerNorm is fused into the GEMM before it.
    pub norm: NormChoice,
}

/// Batches of up to this many tokens are small: five rows of 100, too few workgroups of the largest tiles for a GPU.
pub const SMALL_BATCH_TOKENS: usize = 512;

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Up to [`SMALL_BATCH_TOKENS`] tokens.
    Small,
    /// More.
    Large,
}

/// One for each size of batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySize<T> {
    /// For batches of up to [`SMALL_BATCH_TOKENS`] tokens.
    pub small: T,
    /// For larger ones.
    pub large: T,
}

impl Size {
    /// The size of a batch of `tokens` tokens.
    #[must_use]
    pub fn of(tokens: usize) -> Self {
        if tokens > SMALL_BATCH_TOKENS { Self::Large } else { Self::Small }
    }
}

impl<T> BySize<T> {
    /// The one for a size.
    #[must_use]
    pub fn get(&self, size: Size) -> &T {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }
}

impl<T: Copy> BySize<T> {
    /// The same for both.
    #[must_use]
    pub fn both(one: T) -> Self {
        Self { small: one, large: one }
    }

    pub(super) fn try_map<U, E>(self, map: impl Fn(T) -> Result<U, E>) -> Result<BySize<U>, E> {
        Ok(BySize { small: map(self.small)?, large: map(self.large)? })
    }
}

/// Whether LayerNorm is fused into the GEMM before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormChoice {
    /// One kernel: a workgroup holds whole rows.
    Fused,
    /// Two kernels.
    Separate,
}

impl Choices {
    /// The variants expected to be fastest, without timing.
    #[must_use]
    pub fn untimed(adapter: &AdapterDescription, family: KernelFamily, layout: &Layout) -> Self {
        let first = |columns| GemmVariant::candidates(adapter, family, columns, layout.storage)[0];
        Self {
            family,
            qkv: first(layout.states.stride),
            hidden: first(layout.states.stride),
            intermediate: first(layout.intermediate_columns()),
            output: first(layout.states.stride),
            attention_queries: attention::candidates(adapter, family)[0],
            norm: norm_candidates(adapter, family, layout)[0],
        }
    }

    /// Choices that together contain every variant of every kernel, on any adapter.
    #[must_use]
    pub fn all(layout: &Layout) -> Vec<Self> {
        let of_family = |family| {
            let (hidden, intermediate) = (layout.states.stride, layout.intermediate_columns());
            let gemms = [hidden, intermediate].map(|columns| GemmVariant::all(family, columns));
            combined(family, &gemms, attention::thread_counts(family), &norm_choices(family, layout))
        };
        [KernelFamily::Gpu, KernelFamily::Software].into_iter().flat_map(of_family).collect()
    }

    /// Choices that together contain every variant that tuning may take on `adapter`.
    #[must_use]
    pub fn candidates(adapter: &AdapterDescription, layout: &Layout) -> Vec<Self> {
        let family = adapter.kernel_family();
        let (hidden, intermediate) = (layout.states.stride, layout.intermediate_columns());
        let gemm = |columns| GemmVariant::candidates(adapter, family, columns, layout.storage);
        let threads = attention::candidates(adapter, family);
        combined(family, &[hidden, intermediate].map(gemm), &threads, &norm_candidates(adapter, family, layout))
    }
}

/// As many choices as it takes to have each of the variants: `gemms` are those to the hidden and to the intermediate
/// width.
fn combined(
    family: KernelFamily,
    [hidden, intermediate]: &[Vec<GemmVariant>; 2],
    threads: &[u32],
    norms: &[NormChoice],
) -> Vec<Choices> {
    let count = hidden.len().max(intermediate.len()).max(threads.len());
    let each = norms.iter().flat_map(|&norm| (0..count).map(move |index| (norm, index)));
    let choices = each.map(|(norm, index)| {
        // A kernel with fewer variants starts over with its first.
        let (hidden, intermediate) = (hidden[index % hidden.len()], intermediate[index % intermediate.len()]);
        let attention_queries = threads[index % threads.len()];
        Choices { family, qkv: hidden, hidden, intermediate, output: hidden, attention_queries, norm }
    });
    choices.collect()
}

/// LayerNorm choices that `adapter` may take; the first is the default without timing.
pub(super) fn norm_candidates(adapter: &AdapterDescription, family: KernelFamily, layout: &Layout) -> Vec<NormChoice> {
    let runs = |norm: &NormChoice| *norm == NormChoice::Separate || gemm_norm::runs_on(adapter, &layout.states);
    norm_choices(family, layout).into_iter().filter(runs).collect()
}

/// LayerNorm choices worth timing, on any adapter.
fn norm_choices(family: KernelFamily, layout: &Layout) -> Vec<NormChoice> {
    match family {
        // With norms before, the sum is needed without its norm.
        _ if layout.norm_placement == NormPlacement::Before => vec![NormChoice::Separate],
        KernelFamily::Gpu if gemm_norm::fits(&layout.states) => vec![NormChoice::Fused, NormChoice::Separate],
        _ => vec![NormChoice::Separate],
    }
}
