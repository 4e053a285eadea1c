//! The chosen variant of each kernel in a model's forward pass.

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
            attention_queries: attention::thread_counts(family)[0],
            norm: norm_choices(family, layout)[0],
        }
    }

    /// Choices that together contain every variant of every kernel, on any adapter.
    #[must_use]
    pub fn all(layout: &Layout) -> Vec<Self> {
        let mut all = Vec::new();
        for family in [KernelFamily::Gpu, KernelFamily::Software] {
            let hidden = GemmVariant::all(family, layout.states.stride);
            let intermediate = GemmVariant::all(family, layout.intermediate_columns());
            let (threads, norms) = (attention::thread_counts(family), norm_choices(family, layout));
            let count = hidden.len().max(intermediate.len()).max(threads.len());
            all.extend(norms.iter().flat_map(|&norm| (0..count).map(move |index| (norm, index))).map(
                |(norm, index)| {
                    // A kernel with fewer variants starts over with its first.
                    let (hidden, intermediate) =
                        (hidden[index % hidden.len()], intermediate[index % intermediate.len()]);
                    let attention_queries = threads[index % threads.len()];
                    Self { family, qkv: hidden, hidden, intermediate, output: hidden, attention_queries, norm }
                },
            ));
        }
        all
    }
}

/// LayerNorm choices worth timing; the first is the default without timing.
pub(super) fn norm_choices(family: KernelFamily, layout: &Layout) -> &'static [NormChoice] {
    match family {
        // With norms before, the sum is needed without its norm.
        _ if layout.norm_placement == NormPlacement::Before => &[NormChoice::Separate],
        KernelFamily::Gpu if gemm_norm::fits(&layout.states) => &[NormChoice::Fused, NormChoice::Separate],
        _ => &[NormChoice::Separate],
    }
}
