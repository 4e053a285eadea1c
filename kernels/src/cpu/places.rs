//! Where queries stand in their row, and the blocks of keys that they attend to.

use std::ops::Range;

use super::simd::MAX_PANEL;
use crate::architecture::Mask;

/// Keys packed and scored together. In models that take up to 512 tokens, every row is one block.
pub(super) const KEY_BLOCK: usize = 512;

/// A block of a row's keys, of which some are needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyBlock {
    /// First key, counted in the row.
    pub(super) first: usize,
    /// First needed key, counted in the block; no panel begins before it and ends after it.
    pub(super) from: usize,
    /// After the last needed key, counted in the block.
    pub(super) to: usize,
}

impl KeyBlock {
    /// The blocks of a row that have some of `keys`, in order. A row's blocks begin at the same places for all queries.
    pub(super) fn of_keys(keys: Range<usize>) -> impl Iterator<Item = Self> {
        (keys.start / KEY_BLOCK * KEY_BLOCK..keys.end).step_by(KEY_BLOCK).map(move |first| Self {
            first,
            from: keys.start.saturating_sub(first) / MAX_PANEL * MAX_PANEL,
            to: KEY_BLOCK.min(keys.end - first),
        })
    }
}

/// Where queries stand in their row, and what they attend to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// Of the first query.
    pub(super) first: usize,
    pub(super) row_tokens: usize,
    pub(super) mask: Mask,
}

impl Places {
    /// The keys of any of the queries `queries`, counted from the first.
    #[inline(always)]
    pub(super) fn keys(self, queries: Range<usize>) -> Range<usize> {
        let of = |query: usize| self.mask.keys(self.first + query, self.row_tokens);
        of(queries.start).start..of(queries.end - 1).end
    }
}
