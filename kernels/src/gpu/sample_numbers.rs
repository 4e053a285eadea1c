//! The numbers of the batch that kernels are tuned on, and how far a kernel's output may be from what it must be.

use super::layout::Storage;

/// What the first rows of an output must be, in some of its columns.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) stride: usize,
    pub(super) columns: Vec<usize>,
    /// `[rows, columns]`.
    pub(super) numbers: Vec<f64>,
}

/// Kinds of numbers in the sample.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    A,
    Residual,
    Weight,
    Params,
}

impl Expected {
    /// As a part of the largest number, at least 1. Numbers that are none are infinitely wrong.
    pub(super) fn largest_error(&self, actual: &[f32]) -> f64 {
        let largest = self.numbers.iter().fold(1.0f64, |largest, number| largest.max(number.abs()));
        let errors = self.numbers.iter().enumerate().map(|(index, expected)| {
            let (row, column) = (index / self.columns.len(), self.columns[index % self.columns.len()]);
            let error = (f64::from(actual[row * self.stride + column]) - expected).abs();
            if error.is_nan() { f64::INFINITY } else { error }
        });
        errors.fold(0.0, f64::max) / largest
    }
}

/// Largest error of a right kernel. Wrong loads make errors as large as the numbers; fast mathematics far smaller ones.
pub(super) fn tolerance(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 1e-4,
        Storage::F16 => 1e-2,
    }
}

/// A number in −1 to 1 that depends on nothing but its place.
pub(super) fn number(of: Of, index: usize) -> f32 {
    // The finaliser of MurmurHash3, <https://github.com/aappleby/smhasher>.
    let mut x = (index as u32).wrapping_mul(4).wrapping_add(of as u32 + 1);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    ((x ^ (x >> 16)) >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}

/// The numbers that bytes hold.
pub(super) fn decode(storage: Storage, bytes: &[u8]) -> Vec<f32> {
    match storage {
        Storage::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Storage::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_parts_of_the_largest_number_and_no_number_is_infinitely_wrong() {
        let expected = Expected { stride: 4, columns: vec![0, 2], numbers: vec![1.0, -10.0, 3.0, 4.0] };
        let right = [1.0, 77.0, -10.0, 77.0, 3.0, 77.0, 4.0, 77.0];
        assert_eq!(expected.largest_error(&right), 0.0);
        let mut wrong = right;
        wrong[6] = 5.0;
        assert!((expected.largest_error(&wrong) - 0.1).abs() < 1e-9);
        wrong[4] = f32::NAN;
        assert!(expected.largest_error(&wrong).is_infinite());
    }

    #[test]
    fn numbers_of_the_sample_differ_by_kind_and_place() {
        let row = |of| (0..1000).map(|index| number(of, index).to_bits()).collect::<std::collections::BTreeSet<_>>();
        assert!(row(Of::A).len() > 990);
        assert!(row(Of::A).intersection(&row(Of::Weight)).count() < 10);
        assert!((0..1000).all(|index| (-1.0..1.0).contains(&number(Of::Residual, index))));
    }
}
