//! Padded widths of rows in memory, and the order of a head's numbers.

use super::rotary;
use super::simd::Isa;
use crate::architecture::{Architecture, Attention};

/// Widths of rows in memory, padding included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    /// A hidden state.
    pub(super) hidden: usize,
    /// One head.
    pub(super) head: usize,
    /// All heads side by side.
    pub(super) heads: usize,
}

impl Widths {
    pub(super) fn of(isa: Isa, architecture: &Architecture) -> Self {
        let attention = architecture.block.attention;
        let head = attention.head_dim.next_multiple_of(isa.panel());
        let hidden = architecture.hidden_size.next_multiple_of(isa.panel());
        Self { hidden, head, heads: head * attention.heads }
    }
}

/// What queries are multiplied by.
pub(super) fn query_scale(attention: Attention) -> f32 {
    1.0 / (attention.score_width() as f32).sqrt()
}

/// The order of a head's numbers in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeadOrder {
    /// As in the checkpoint.
    Plain,
    /// For [`rotary`].
    Rotary,
}

/// For each number of a padded row of heads, its index in the checkpoint's row; `None` is padding.
pub(super) fn head_places(
    attention: Attention,
    widths: Widths,
    order: HeadOrder,
) -> impl Iterator<Item = Option<usize>> {
    let head_dim = attention.head_dim;
    (0..widths.heads).map(move |column| {
        let (head, place) = (column / widths.head, column % widths.head);
        let dim = match order {
            HeadOrder::Plain => (place < head_dim).then_some(place),
            HeadOrder::Rotary => rotary::head_dim_of(place, head_dim, widths.head),
        };
        dim.map(|dim| head * head_dim + dim)
    })
}
