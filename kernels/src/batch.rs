//! Rows packed end to end for one forward pass.
//!
//! A [`PackedBatch`] cannot be malformed: its constructors check the structure once, and engines rely on that. A
//! [`CheckedBatch`] also fits a model's [`RowShape`] (vocabulary, longest row). [`PackedBatch::check`] makes one, and
//! further ones are put together from checked rows.

use std::ops::{Deref, Range};

use crate::architecture::RowShape;

/// Tokenised pairs packed end to end, as compressed sparse rows. No padding, and no empty rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,
    offsets: Vec<u32>,
    second_segment: Vec<u32>,
}

/// One row of a [`PackedBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Token ids, special tokens included; never empty.
    pub ids: &'a [u32],
    /// Index within the row where token type 1 begins; `ids.len()` without a second segment.
    pub second_segment: usize,
}

/// Why a batch is malformed or does not fit the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The offsets do not start at 0 (or are missing).
    #[error("offsets must start with 0 and have one entry more than there are rows")]
    OffsetsStart,
    /// An offset is not larger than the one before it.
    #[error("row {row} is empty or runs backwards: offsets {start} to {end}")]
    OffsetsOrder {
        /// The row at fault.
        row: usize,
        /// Its first offset.
        start: u32,
        /// Its last offset.
        end: u32,
    },
    /// The last offset is not the number of ids.
    #[error("offsets end at {end} but there are {ids} ids")]
    OffsetsEnd {
        /// The last offset.
        end: u32,
        /// How many ids there are.
        ids: usize,
    },
    /// `second_segment` does not have one entry per row.
    #[error("second-segment has {found} entries for {rows} rows")]
    SecondSegmentCount {
        /// Entries found.
        found: usize,
        /// Rows, by the offsets.
        rows: usize,
    },
    /// A second segment begins past the end of its row.
    #[error("row {row}: second segment begins at {second_segment} but the row has {tokens} tokens")]
    SecondSegment {
        /// The row at fault.
        row: usize,
        /// Where token type 1 is said to begin.
        second_segment: u32,
        /// The row's length in tokens.
        tokens: u32,
    },
    /// A row is longer than the model can take.
    #[error("row {row} has {tokens} tokens but the model takes at most {max_tokens}")]
    RowTooLong {
        /// The row at fault.
        row: usize,
        /// The row's length in tokens.
        tokens: usize,
        /// The model's longest row.
        max_tokens: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("row {row}, token {position}: id {id} is not below the vocabulary size {vocab_size}")]
    IdOutOfRange {
        /// The row at fault.
        row: usize,
        /// Position within the row.
        position: usize,
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// Rows checked for one model were put into a batch for a model that takes other rows.
    #[error("rows that were checked for {from:?} cannot join a batch for {to:?}")]
    OtherShape {
        /// The shape that the rows were checked for.
        from: RowShape,
        /// What the batch is for.
        to: RowShape,
    },
}

impl PackedBatch {
    /// Takes rows in the format of the guest boundary, without copying.
    ///
    /// `ids` is `[tokens]`, `offsets` is `[rows + 1]`, `second_segment` is `[rows]`. Without rows, `offsets` is `[0]`
    /// or empty.
    ///
    /// # Errors
    /// A row is malformed; the error says which and how.
    pub fn new(ids: Vec<u32>, mut offsets: Vec<u32>, second_segment: Vec<u32>) -> Result<Self, BatchError> {
        if offsets.is_empty() && ids.is_empty() {
            offsets.push(0);
        }
        if offsets.first() != Some(&0) {
            return Err(BatchError::OffsetsStart);
        }
        let rows = offsets.len() - 1;
        if second_segment.len() != rows {
            return Err(BatchError::SecondSegmentCount { found: second_segment.len(), rows });
        }
        for (row, (pair, &second_segment)) in offsets.windows(2).zip(&second_segment).enumerate() {
            let (start, end) = (pair[0], pair[1]);
            if end <= start {
                return Err(BatchError::OffsetsOrder { row, start, end });
            }
            if second_segment > end - start {
                return Err(BatchError::SecondSegment { row, second_segment, tokens: end - start });
            }
        }
        let end = offsets[rows];
        if end as usize != ids.len() {
            return Err(BatchError::OffsetsEnd { end, ids: ids.len() });
        }
        Ok(Self { ids, offsets, second_segment })
    }

    /// An empty batch to [`push`](Self::push) rows to, with room for `tokens` tokens in `rows` rows.
    #[must_use]
    pub fn with_capacity(rows: usize, tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { ids: Vec::with_capacity(tokens), offsets, second_segment: Vec::with_capacity(rows) }
    }

    /// Appends a row. A [`Row`] taken from a batch is always valid.
    ///
    /// # Errors
    /// The row is empty, its second segment begins past its end, or the batch would pass 2³² − 1 tokens.
    pub fn push(&mut self, row: Row<'_>) -> Result<(), BatchError> {
        let index = self.rows();
        let start = self.ids.len() as u32;
        let end = u32::try_from(self.ids.len() + row.ids.len()).unwrap_or(start);
        if end <= start {
            return Err(BatchError::OffsetsOrder { row: index, start, end });
        }
        if row.second_segment > row.ids.len() {
            let second_segment = u32::try_from(row.second_segment).unwrap_or(u32::MAX);
            return Err(BatchError::SecondSegment { row: index, second_segment, tokens: end - start });
        }
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.extend_from_slice(row.ids);
        self.offsets.push(end);
        self.second_segment.push(row.second_segment as u32);
        Ok(())
    }

    /// Removes every row and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.second_segment.clear();
    }

    /// Copies another batch into this one, reusing its memory.
    pub fn copy_from(&mut self, other: &Self) {
        self.ids.clone_from(&other.ids);
        self.offsets.clone_from(&other.offsets);
        self.second_segment.clone_from(&other.second_segment);
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.second_segment.len()
    }

    /// How many tokens there are; all are useful.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Token ids, `[tokens]`.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Row boundaries, `[rows + 1]`; empty or `[0]` without rows.
    #[must_use]
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Where token type 1 begins in each row, `[rows]`.
    #[must_use]
    pub fn second_segment(&self) -> &[u32] {
        &self.second_segment
    }

    /// Row `index`.
    ///
    /// # Panics
    /// `index` is not below [`rows`](Self::rows).
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        let ids = &self.ids[self.offsets[index] as usize..self.offsets[index + 1] as usize];
        Row { ids, second_segment: self.second_segment[index] as usize }
    }

    /// Every row, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> + '_ {
        (0..self.rows()).map(|index| self.row(index))
    }

    /// Checks the rows against the model that will compute them. If the model has no second token type, a second
    /// segment has no effect and is no error: tokenizers mark it for every model.
    ///
    /// # Errors
    /// A row is longer than the model takes, or an id is past its vocabulary.
    pub fn check(self, shape: &RowShape) -> Result<CheckedBatch, BatchError> {
        for (row, Row { ids, .. }) in self.iter().enumerate() {
            let (tokens, max_tokens) = (ids.len(), shape.max_tokens);
            if tokens > max_tokens {
                return Err(BatchError::RowTooLong { row, tokens, max_tokens });
            }
            // Checks all ids with vector code; looks for the bad one only if the check fails.
            let fits = ids.iter().fold(true, |fits, &id| fits & ((id as usize) < shape.vocab_size));
            if !fits && let Some(position) = ids.iter().position(|&id| id as usize >= shape.vocab_size) {
                let (id, vocab_size) = (ids[position], shape.vocab_size);
                return Err(BatchError::IdOutOfRange { row, position, id, vocab_size });
            }
        }
        Ok(CheckedBatch { rows: self, shape: *shape })
    }
}

/// Rows that fit a model. Dereferences to a [`PackedBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBatch {
    rows: PackedBatch,
    shape: RowShape,
}

impl CheckedBatch {
    /// A batch without rows, to [`append`](Self::append) to, with room for `tokens` tokens in `rows` rows.
    #[must_use]
    pub fn with_capacity(shape: &RowShape, rows: usize, tokens: usize) -> Self {
        Self { rows: PackedBatch::with_capacity(rows, tokens), shape: *shape }
    }

    /// The shape that the rows were checked for.
    #[must_use]
    pub fn shape(&self) -> &RowShape {
        &self.shape
    }

    /// Appends some rows of a batch that was checked for the same shape.
    ///
    /// # Errors
    /// The shapes differ, or the batch would pass 2³² − 1 tokens. Rows before the failing one have been appended.
    ///
    /// # Panics
    /// `rows` is out of range of `from`.
    pub fn append(&mut self, from: &Self, rows: Range<usize>) -> Result<(), BatchError> {
        if from.shape != self.shape {
            return Err(BatchError::OtherShape { from: from.shape, to: self.shape });
        }
        rows.into_iter().try_for_each(|row| self.rows.push(from.rows.row(row)))
    }

    /// Removes every row and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// The rows without their shape.
    #[must_use]
    pub fn into_rows(self) -> PackedBatch {
        self.rows
    }
}

impl Deref for CheckedBatch {
    type Target = PackedBatch;

    fn deref(&self) -> &PackedBatch {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::TokenTypes;

    #[test]
    fn rows_come_back_as_they_went_in() {
        let batch = PackedBatch::new(vec![1, 2, 3, 4, 5], vec![0, 2, 5], vec![1, 3]).unwrap();
        assert_eq!(batch.rows(), 2);
        assert_eq!(batch.row(0), Row { ids: &[1, 2], second_segment: 1 });
        assert_eq!(batch.row(1), Row { ids: &[3, 4, 5], second_segment: 3 });
        let mut copy = PackedBatch::default();
        for row in batch.iter() {
            copy.push(row).unwrap();
        }
        assert_eq!(copy, batch);
    }

    #[test]
    fn no_rows_is_a_batch() {
        assert_eq!(PackedBatch::new(vec![], vec![], vec![]).unwrap().rows(), 0);
        assert_eq!(PackedBatch::new(vec![], vec![0], vec![]).unwrap().rows(), 0);
    }

    #[test]
    fn malformed_rows_are_named() {
        type Case = (Vec<u32>, Vec<u32>, Vec<u32>, &'static str);
        let cases: [Case; 7] = [
            (vec![1], vec![], vec![], "start with 0"),
            (vec![1], vec![1], vec![], "start with 0"),
            (vec![1, 2, 3], vec![0, 2, 1], vec![0, 0], "row 1 is empty or runs backwards"),
            (vec![1, 2], vec![0, 0, 2], vec![0, 0], "row 0 is empty"),
            (vec![1, 2], vec![0, 3], vec![0], "end at 3 but there are 2 ids"),
            (vec![1, 2], vec![0, 2], vec![], "0 entries for 1 rows"),
            (vec![1, 2], vec![0, 2], vec![3], "second segment begins at 3 but the row has 2"),
        ];
        for (ids, offsets, second_segment, expected) in cases {
            let message = PackedBatch::new(ids, offsets, second_segment).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
    const SHAPE: RowShape = RowShape { vocab_size: 10, max_tokens: 3, token_types: TokenTypes::None, outputs: 1 };

    fn row(ids: &[u32]) -> PackedBatch {
        PackedBatch::new(ids.to_vec(), vec![0, ids.len() as u32], vec![0]).unwrap()
    }

    #[test]
    fn rows_that_do_not_fit_the_model_are_named() {
        let error = row(&[1; 4]).check(&SHAPE).unwrap_err();
        assert_eq!(error, BatchError::RowTooLong { row: 0, tokens: 4, max_tokens: 3 });
        let error = row(&[1, 10]).check(&SHAPE).unwrap_err();
        assert_eq!(error, BatchError::IdOutOfRange { row: 0, position: 1, id: 10, vocab_size: 10 });
    }

    #[test]
    fn a_second_segment_is_accepted_where_the_model_has_no_second_token_type() {
        assert_eq!(row(&[1, 9]).check(&SHAPE).unwrap().into_rows(), row(&[1, 9]));
    }

    #[test]
    fn a_batch_of_checked_rows_takes_rows_of_the_same_shape_only() {
        let mut batch = CheckedBatch::with_capacity(&SHAPE, 2, 4);
        let rows = PackedBatch::new(vec![1, 2, 3], vec![0, 1, 3], vec![0, 2]).unwrap().check(&SHAPE).unwrap();
        batch.append(&rows, 1..2).unwrap();
        batch.append(&rows, 0..1).unwrap();
        assert_eq!((batch.ids(), batch.second_segment()), (&[2, 3, 1][..], &[2, 0][..]));
        let larger = RowShape { vocab_size: 11, ..SHAPE };
        let others = row(&[10]).check(&larger).unwrap();
        let error = batch.append(&others, 0..1).unwrap_err();
        assert_eq!(error, BatchError::OtherShape { from: larger, to: SHAPE });
    }
}
