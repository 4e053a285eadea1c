//! Rows packed end to end, as the contract's `token-rows` carries them.

/// Tokenised pairs as compressed sparse rows. [`clear`](Self::clear) keeps the memory for the next rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Token ids of every row, one row after the other.
    pub ids: Vec<u32>,
    /// Row `r` is `ids[offsets[r]..offsets[r + 1]]`. `[rows + 1]`.
    pub offsets: Vec<u32>,
    /// For each row, the index within it at which token type 1 starts; the row's length if it has no second segment.
    /// `[rows]`.
    pub second_segment: Vec<u32>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { ids: Vec::new(), offsets: vec![0], second_segment: Vec::new() }
    }
}

impl Rows {
    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.second_segment.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.second_segment.is_empty()
    }

    /// Removes the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.truncate(1);
        self.second_segment.clear();
    }

    /// Ends the row that was appended to `ids`.
    pub(super) fn end_row(&mut self, second_segment: usize) {
        // A guest has at most 4 GiB of memory, so fewer than 2^30 ids: neither cast loses bits.
        self.offsets.push(self.ids.len() as u32);
        self.second_segment.push(second_segment as u32);
    }
}
