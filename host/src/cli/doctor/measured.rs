//! What is measured alike on every device: numbers beside the reference's, and whole passes.

use assay_kernels::Precision;
use serde::Serialize;

use super::verdict::Verdict;

/// The numbers of one kernel beside the reference's.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    pub(super) what: String,
    /// Largest error, as a part of the largest number.
    pub(super) error: f64,
    pub(super) tolerance: f64,
    pub(super) right: bool,
}

/// Whole forward passes.
#[derive(Debug, Serialize)]
pub(super) struct Pass {
    pub(super) rows: usize,
    pub(super) tokens: usize,
    /// The fastest, the median and the slowest.
    pub(super) seconds: [f64; 3],
    /// How many passes were timed.
    pub(super) runs: usize,
    /// By the fastest, as ceilings are.
    pub(super) gflops: f64,
    /// Of the fastest.
    pub(super) verdict: Option<Verdict>,
}

impl Checked {
    pub(super) fn new(what: String, precision: Precision, error: f64) -> Self {
        let tolerance = tolerance(precision);
        Self { what, error, tolerance, right: error <= tolerance }
    }
}

/// Largest error of right kernels, as a part of the largest number. A wrong kernel's is about 1. The rows are made up, and
/// models have larger activations for such rows than for texts: the default one is off by 0.1 in int8, 0.01 in int16.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::F16 | Precision::Int16 => 5e-2,
        Precision::Int8 => 0.5,
    }
}
