//! Rows packed end to end, as the contract's `token-rows` carries them.

/// Tokenised pairs in compressed sparse rows; grows as pairs are pushed and is cleared without giving memory back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Token ids of every row, one row after the other.
    pub ids: Vec<u32>,
    /// Row `r` is `ids[offsets[r]..offsets[r + 1]]`. One entry more than there are rows.
    pub offsets: Vec<u32>,
    /// For each row, the index within it where token type 1 begins; the row's length where there is no second segment.
    pub second_segment: Vec<u32>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { ids: Vec::new(), offsets: vec![0], second_segment: Vec::new() }
    }
}

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.second_segment.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.second_segment.is_empty()
    }

    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.truncate(1);
        self.second_segment.clear();
    }

    /// Ends the row that has been appended to `ids`.
    pub(super) fn end_row(&mut self, second_segment: usize) {
        // A guest addresses 4 GiB, which holds fewer than 2^30 ids: neither number can be cut short.
        self.offsets.push(self.ids.len() as u32);
        self.second_segment.push(second_segment as u32);
    }
}
