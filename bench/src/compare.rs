//! Two reports side by side: what changed, with which confidence, and whether it is a regression.
//!
//! Confidence comes from a bootstrap in two steps: it draws repeats, then requests within each. Throughput is drawn by
//! Little's law (throughput = requests in flight ÷ latency) with each repeat's mean number of requests in flight.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::report::schema::{ConfigurationReport, Repeat, Report};
use crate::stats::{self, Draws, Interval};

/// A change for the worse beyond this, in percent, is a regression: repeats on a quiet machine differ by less.
pub const DEFAULT_THRESHOLD_PERCENT: f64 = 5.0;

/// Fixed, so that two comparisons of the same files agree.
const SEED: u64 = 95;

/// The figures that are compared.
const METRICS: [Metric; 5] = [
    Metric { name: "throughput (pairs/s)", better: Better::More, figure: Figure::Throughput },
    Metric { name: "latency average (ms)", better: Better::Less, figure: Figure::Mean },
    Metric { name: "latency P50 (ms)", better: Better::Less, figure: Figure::Quantile(0.50) },
    Metric { name: "latency P95 (ms)", better: Better::Less, figure: Figure::Quantile(0.95) },
    Metric { name: "latency P99 (ms)", better: Better::Less, figure: Figure::Quantile(0.99) },
];

#[derive(Debug, Clone, Copy)]
struct Metric {
    name: &'static str,
    better: Better,
    figure: Figure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

#[derive(Debug, Clone, Copy)]
enum Figure {
    Throughput,
    Mean,
    Quantile(f64),
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Worse by more than the threshold, and the interval excludes no change.
    Regression,
    /// Better by more than the threshold, and the interval excludes no change.
    Improvement,
    /// Neither.
    Same,
}

/// One figure of one configuration in two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The configuration's name.
    pub configuration: String,
    /// The figure's name.
    pub metric: &'static str,
    /// In the first report.
    pub before: f64,
    /// In the second report.
    pub after: f64,
    /// Change in percent of the first.
    pub change_percent: Interval,
    /// What it means.
    pub verdict: Verdict,
}

/// Compares every configuration that both reports have.
///
/// # Errors
/// They have none in common.
pub fn compare(before: &Report, after: &Report, threshold_percent: f64) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for left in &before.configurations {
        let Some(right) = after.configurations.iter().find(|right| right.name == left.name) else { continue };
        differences.extend(METRICS.iter().filter_map(|metric| difference(metric, left, right, threshold_percent)));
    }
    ensure!(!differences.is_empty(), "the reports have no configuration in common with answered requests in both");
    Ok(differences)
}

fn difference(
    metric: &Metric,
    before: &ConfigurationReport,
    after: &ConfigurationReport,
    threshold_percent: f64,
) -> Option<Difference> {
    let (left, right) = (sample(before), sample(after));
    let own = |sample: &[&Repeat]| metric.figure.of(sample, &mut |items| items.to_vec());
    let (first, second) = (own(&left)?, own(&right)?);
    let percent = |first: f64, second: f64| 100.0 * (second - first) / first;
    let change_percent = stats::bootstrap(percent(first, second), SEED, |draws| {
        Some(percent(metric.figure.drawn(&left, draws)?, metric.figure.drawn(&right, draws)?))
    })?;
    let worse = match metric.better {
        Better::More => -1.0,
        Better::Less => 1.0,
    };
    let sure = change_percent.low > 0.0 || change_percent.high < 0.0;
    let verdict = match worse * change_percent.value {
        change if sure && change > threshold_percent => Verdict::Regression,
        change if sure && change < -threshold_percent => Verdict::Improvement,
        _ => Verdict::Same,
    };
    let configuration = before.name.clone();
    Some(Difference { configuration, metric: metric.name, before: first, after: second, change_percent, verdict })
}

/// The repeats with an answered request.
fn sample(configuration: &ConfigurationReport) -> Vec<&Repeat> {
    configuration.repeats.iter().filter(|repeat| !repeat.samples.latency_ms.is_empty()).collect()
}

impl Figure {
    fn drawn(self, repeats: &[&Repeat], draws: &mut Draws) -> Option<f64> {
        let drawn: Vec<&Repeat> = repeats.iter().map(|_| *draws.one(repeats)).collect();
        self.of(&drawn, &mut |items: &[usize]| items.iter().map(|_| *draws.one(items)).collect())
    }

    /// The figure over repeats; `pick` draws the requests of each, by index.
    fn of(self, repeats: &[&Repeat], pick: &mut dyn FnMut(&[usize]) -> Vec<usize>) -> Option<f64> {
        if repeats.is_empty() {
            return None;
        }
        let (mut latencies, mut throughput) = (Vec::new(), 0.0);
        for repeat in repeats {
            let samples = &repeat.samples;
            let all: Vec<usize> = (0..samples.latency_ms.len()).collect();
            let picked = pick(&all);
            let in_flight = samples.service_ms.iter().sum::<f64>() / (1e3 * repeat.elapsed_s);
            let service_s: f64 = picked.iter().map(|&index| samples.service_ms[index]).sum::<f64>() / 1e3;
            let pairs: u64 = picked.iter().map(|&index| samples.pairs[index]).sum();
            throughput += in_flight * pairs as f64 / service_s.max(1e-9) / repeats.len() as f64;
            latencies.extend(picked.iter().map(|&index| samples.latency_ms[index]));
        }
        match self {
            Self::Throughput => Some(throughput),
            Self::Mean => Some(latencies.iter().sum::<f64>() / latencies.len() as f64),
            Self::Quantile(quantile) => stats::quantile(&mut latencies, quantile),
        }
    }
}

/// The differences as a table.
#[must_use]
pub fn table(differences: &[Difference]) -> String {
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(|difference| {
            let Interval { value, low, high } = difference.change_percent;
            vec![
                difference.configuration.clone(),
                difference.metric.to_owned(),
                format!("{:.2}", difference.before),
                format!("{:.2}", difference.after),
                format!("{value:+.1} %"),
                format!("{low:+.1} to {high:+.1} %"),
                match difference.verdict {
                    Verdict::Regression => "REGRESSION",
                    Verdict::Improvement => "improvement",
                    Verdict::Same => "",
                }
                .to_owned(),
            ]
        })
        .collect();
    crate::table::markdown(&["config", "figure", "before", "after", "change", "95 % confidence", "verdict"], &rows)
}
