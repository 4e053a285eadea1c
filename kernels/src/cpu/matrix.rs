//! Borrowed row-major matrices: a slice and the distance between rows.

/// `[rows, stride]` numbers of which a kernel reads some columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    /// Numbers from one row to the next.
    pub(super) stride: usize,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// Without the first `rows` rows.
    #[inline(always)]
    pub(super) fn skip_rows(self, rows: usize) -> Self {
        Self { data: &self.data[rows * self.stride..], stride: self.stride }
    }
}

/// A [`Matrix`] to write to.
#[derive(Debug)]
pub(super) struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    /// Numbers from one row to the next.
    pub(super) stride: usize,
}

impl<'a> MatrixMut<'a> {
    pub(super) fn new(data: &'a mut [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// The same matrix for a shorter time.
    pub(super) fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { data: self.data, stride: self.stride }
    }
}
