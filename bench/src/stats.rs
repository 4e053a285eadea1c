//! Summaries of many values: quantiles by hdrhistogram, correlation, the bootstrap.

use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Significant digits of quantiles: more than two runs agree in.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Values are recorded as whole millionths, so that a nanosecond counts if the unit is a millisecond.
const UNITS: f64 = 1e6;

/// Most bars of a histogram: as many as a plot can show.
const MAX_BARS: usize = 40;

/// Fewest bars: fewer show no shape.
const MIN_BARS: usize = 8;

/// Resamples of a bootstrap: a 95 % interval then repeats to about a fiftieth of its width.
const RESAMPLES: usize = 2_000;

/// A summary of many values. Quantiles are by nearest rank, so each is one of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of values; without any, every other figure is 0.
    pub count: u64,
    /// Mean.
    pub avg: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Standard deviation of the population.
    pub std: f64,
    /// Median.
    pub p50: f64,
    /// 75th percentile.
    pub p75: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
}

impl Summary {
    /// A summary of the values that are finite and not negative.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite() && *value >= 0.0).collect();
        if values.is_empty() {
            return Self::default();
        }
        let histogram = histogram(&values);
        let count = values.len() as f64;
        let avg = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - avg).powi(2)).sum::<f64>() / count;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(0.0, f64::max);
        // The histogram returns a bucket's upper end, which may be above its largest value.
        let quantile = |quantile| (histogram.value_at_quantile(quantile) as f64 / UNITS).clamp(min, max);
        Self {
            count: values.len() as u64,
            avg,
            min,
            max,
            std: variance.sqrt(),
            p50: quantile(0.50),
            p75: quantile(0.75),
            p90: quantile(0.90),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
        }
    }
}

fn histogram(values: &[f64]) -> Histogram<u64> {
    let mut histogram = match Histogram::new(SIGNIFICANT_DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("three digits are always accepted: {error}"),
    };
    for value in values {
        // A histogram that resizes accepts every number.
        let _ = histogram.record((value * UNITS).round() as u64);
    }
    histogram
}

/// Values at evenly spread quantiles, `(percent, value)`, denser towards 100: a percentile curve.
#[must_use]
pub fn percentile_curve(values: &[f64]) -> Vec<(f64, f64)> {
    const PERCENTS: [f64; 18] =
        [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.99];
    if values.is_empty() {
        return Vec::new();
    }
    let histogram = histogram(values);
    let max = values.iter().copied().fold(0.0, f64::max);
    let value = |percent: f64| (histogram.value_at_quantile(percent / 100.0) as f64 / UNITS).min(max);
    // Above 1 − 1/n the curve would only repeat the largest value.
    let last = 100.0 * (1.0 - 0.5 / values.len() as f64);
    PERCENTS.into_iter().filter(|&percent| percent <= last).map(|percent| (percent, value(percent))).collect()
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Values from here …
    pub from: f64,
    /// … to here; the last bar includes its end.
    pub to: f64,
    /// The number of values.
    pub count: u64,
}

/// Counts values in bars whose widths grow by a constant factor, so that a long tail leaves room for the rest.
#[must_use]
pub fn bars(values: &[f64]) -> Vec<Bar> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = values.iter().copied().fold(0.0, f64::max);
    if values.is_empty() {
        return Vec::new();
    }
    // Few values in many bars would leave gaps.
    let count = (2.0 * (values.len() as f64).sqrt()) as usize;
    let count = count.clamp(MIN_BARS, MAX_BARS);
    // Nearly equal values still get bars of some width.
    let (low, high) = if most < least * 1.05 { (least * 0.97, most.max(least) * 1.03) } else { (least, most) };
    let step = (high / low).ln() / count as f64;
    let edge = |index: usize| if index == count { high } else { low * (step * index as f64).exp() };
    let mut bars: Vec<Bar> = (0..count).map(|index| Bar { from: edge(index), to: edge(index + 1), count: 0 }).collect();
    for value in values {
        let index = ((value.max(low) / low).ln() / step) as usize;
        bars[index.min(count - 1)].count += 1;
    }
    bars
}

/// Pearson's correlation; absent if one side does not vary.
#[must_use]
pub fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let mean = |side: fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut covariance, mut variance_x, mut variance_y) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        covariance += (x - mean_x) * (y - mean_y);
        variance_x += (x - mean_x).powi(2);
        variance_y += (y - mean_y).powi(2);
    }
    let scale = (variance_x * variance_y).sqrt();
    (scale > 0.0).then(|| covariance / scale)
}

/// A figure with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// 2.5th percentile of the resamples.
    pub low: f64,
    /// 97.5th percentile of the resamples.
    pub high: f64,
}

/// The percentile bootstrap (Efron and Tibshirani, 1993): the interval of the figures that `resample` computes from new
/// samples. `value` is the figure of the sample itself. Absent if no resample has a figure.
pub fn bootstrap(value: f64, seed: u64, mut resample: impl FnMut(&mut Draws) -> Option<f64>) -> Option<Interval> {
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(seed));
    let mut figures: Vec<f64> = (0..RESAMPLES).filter_map(|_| resample(&mut draws)).collect();
    figures.sort_by(f64::total_cmp);
    let at = |quantile: f64| figures.get(((figures.len().max(1) - 1) as f64 * quantile).round() as usize).copied();
    Some(Interval { value, low: at(0.025)?, high: at(0.975)? })
}

/// Draws with replacement.
#[derive(Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// One of `items`.
    ///
    /// # Panics
    /// `items` is empty.
    pub fn one<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.0.random_range(0..items.len())]
    }
}

/// The value at a quantile by nearest rank, of values in any order; absent without values.
#[must_use]
pub fn quantile(values: &mut [f64], quantile: f64) -> Option<f64> {
    let rank = ((values.len() as f64 * quantile).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(rank, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank_and_exact_to_three_digits() {
        let summary = Summary::of((1..=1_000).map(f64::from));
        let expected = [(summary.p50, 500.0), (summary.p75, 750.0), (summary.p99, 990.0), (summary.p99_9, 999.0)];
        for (actual, expected) in expected {
            assert!((actual / expected - 1.0).abs() < 2e-3, "{actual} is not {expected}");
        }
        assert_eq!((summary.count, summary.min, summary.max), (1_000, 1.0, 1_000.0));
        assert!((summary.avg - 500.5).abs() < 1e-9 && (summary.std - 288.675).abs() < 1e-3, "{summary:?}");
        assert_eq!(Summary::of([f64::NAN, -1.0]), Summary::default());
    }

    #[test]
    fn every_value_is_in_a_bar() {
        for values in [vec![5.0; 7], vec![0.0, 1.0, 1e4], vec![100.0, 101.0, 180.0, 3_000.0], vec![0.0]] {
            let bars = bars(&values);
            assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), values.len() as u64, "{values:?}");
            assert!(bars.iter().all(|bar| bar.from < bar.to), "{bars:?}");
            assert!(bars[bars.len() - 1].to >= values.iter().copied().fold(0.0, f64::max));
        }
        assert!(bars(&[]).is_empty());
    }

    #[test]
    fn correlation_has_a_sign_and_needs_variation() {
        assert!((correlation(&[(1.0, 4.0), (2.0, 2.0), (3.0, 0.0)]).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[(1.0, 4.0), (1.0, 2.0)]), None);
        assert_eq!(correlation(&[]), None);
    }

    #[test]
    fn a_bootstrap_interval_contains_the_mean_of_the_sample() {
        let sample: Vec<f64> = (0..200).map(|index| f64::from(index % 20)).collect();
        let mean =
            |draws: &mut Draws| Some((0..sample.len()).map(|_| *draws.one(&sample)).sum::<f64>() / sample.len() as f64);
        let interval = bootstrap(9.5, 1, mean).unwrap();
        // The standard error of the mean is 5.77 / √200 = 0.41.
        assert!(interval.low < 9.5 && interval.high > 9.5, "{interval:?}");
        assert!((1.2..2.0).contains(&(interval.high - interval.low)), "{interval:?}");
    }

    #[test]
    fn a_quantile_of_unsorted_values_is_one_of_them() {
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.99), Some(3.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
