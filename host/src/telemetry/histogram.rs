//! A histogram with fixed buckets: what Prometheus takes, and what percentiles are read from. Its owner locks it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Bounds for times in seconds: five a decade from 0.1 ms to 60 s, so that a percentile is off by at most a third.
pub const SECONDS: &[f64] = &[
    0.000_1, 0.000_15, 0.000_25, 0.000_4, 0.000_65, 0.001, 0.001_5, 0.002_5, 0.004, 0.006_5, 0.01, 0.015, 0.025, 0.04,
    0.065, 0.1, 0.15, 0.25, 0.4, 0.65, 1.0, 1.5, 2.5, 4.0, 6.5, 10.0, 15.0, 25.0, 40.0, 60.0,
];

/// Bounds for numbers of rows, tokens and tenants: powers of two to 65,536.
pub const NUMBERS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0, 16_384.0, 32_768.0,
    65_536.0,
];

/// How often values fell into each bucket. A bucket ends at its bound, which belongs to it; the last one has no end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    bounds: Cow<'static, [f64]>,
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Without values yet. The bounds ascend.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds: Cow::Borrowed(bounds), counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bucket's end and its values; the last one has no end.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().chain(std::iter::once(f64::INFINITY)).zip(self.counts.iter().copied()).collect()
    }

    /// The values that were counted since an earlier reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: usize| earlier.counts.get(bucket).copied().unwrap_or(0);
        let counts = self.counts.iter().enumerate().map(|(bucket, count)| count.saturating_sub(before(bucket)));
        Self { bounds: self.bounds.clone(), counts: counts.collect(), sum: (self.sum - earlier.sum).max(0.0) }
    }

    /// The value below which a part of the values is, between 0 and 1; `None` if there are none. Within a bucket values
    /// count as spread evenly, as in Prometheus' `histogram_quantile`.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let rank = part * self.count() as f64;
        let (mut below, mut start) = (0.0, 0.0);
        for (index, &count) in self.counts.iter().enumerate() {
            let (count, end) = (count as f64, self.bounds.get(index).copied());
            if count > 0.0 && below + count >= rank {
                // The last bucket has no end: the largest bound stands for it.
                return Some(end.map_or(start, |end| start + (end - start) * ((rank - below) / count)));
            }
            below += count;
            start = end.unwrap_or(start);
        }
        None
    }

    /// The mean of the values; `None` if there are none.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_belongs_to_the_bucket_that_ends_there() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 3.0].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.buckets(), [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((histogram.count(), histogram.sum(), histogram.mean()), (5, 8.0, Some(1.6)));
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        assert_eq!(histogram.quantile(0.5), None);
        for _ in 0..10 {
            histogram.observe(1.5);
        }
        assert_eq!(histogram.quantile(0.5), Some(1.5));
        assert_eq!(histogram.quantile(1.0), Some(2.0));
        histogram.observe(100.0);
        assert_eq!(histogram.quantile(1.0), Some(4.0), "beyond the last bound, that bound is told");
    }

    #[test]
    fn what_was_counted_before_is_taken_off() {
        let mut histogram = Histogram::new(NUMBERS);
        histogram.observe(3.0);
        let earlier = histogram.clone();
        histogram.observe(5.0);
        let since = histogram.since(&earlier);
        assert_eq!((since.count(), since.sum()), (1, 5.0));
        assert_eq!(earlier.since(&histogram).count(), 0);
    }
}
