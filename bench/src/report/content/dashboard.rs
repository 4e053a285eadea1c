//! The sampled values: summed up, and as a series.

use super::super::block::{Block, Table};
use super::super::schema::{Repeat, Report, SeriesPoint};
use super::{number, plots, shown};
use crate::stats::Summary;

/// Rows of a series: about as many as the baseline's report has. The JSON has every sample.
const SERIES_ROWS: usize = 40;

/// Rows of each series in a report of many configurations.
const SHORT_SERIES_ROWS: usize = 8;

/// From this many configurations on series are short.
const MANY_CONFIGURATIONS: usize = 4;

pub(super) fn summary(blocks: &mut Vec<Block>, report: &Report) {
    blocks.push(Block::Heading(2, "Dashboard Metrics Summary".to_owned()));
    for (configuration, repeat) in shown(report) {
        if report.configurations.len() > 1 {
            blocks.push(Block::Heading(3, configuration.name.clone()));
        }
        blocks.push(Block::Table(metrics(report, repeat, &configuration.tenants[0].load.padded_waste_percent)));
        blocks.push(Block::Plots(plots::dashboard(repeat)));
    }
}

/// `GPU`, as the baseline's report has it, where it is one.
fn device(report: &Report) -> &'static str {
    if report.target.engine == "gpu" { "GPU" } else { "Device" }
}

fn metrics(report: &Report, repeat: &Repeat, padded: &Summary) -> Table {
    let mut table = Table::new(&["Metric", "Avg", "Min", "Max", "P50", "P95"]);
    let device = device(report);
    let dashboard = &repeat.dashboard;
    let computed = Summary { count: padded.count, ..Summary::default() };
    let rows = [
        (format!("{device} Memory (MB)"), &dashboard.device_memory_mb),
        (format!("{device} Utilization (%)"), &dashboard.device_utilization_percent),
        ("CPU Usage (%)".to_owned(), &dashboard.cpu_percent),
        ("Tokenization (ms)".to_owned(), &repeat.tokenize_ms),
        ("Inference (ms)".to_owned(), &repeat.inference_ms),
        ("Queue Wait (ms)".to_owned(), &repeat.queue_ms),
        ("Padding Waste (%)".to_owned(), &computed),
        ("Padded batching would waste (%)".to_owned(), padded),
        ("Guest, whole (ms)".to_owned(), &repeat.guest_ms),
        ("Process memory (MB)".to_owned(), &dashboard.rss_mb),
        ("Waiting tokens".to_owned(), &dashboard.waiting_tokens),
    ];
    for (name, summary) in rows {
        let Summary { avg, min, max, p50, p95, .. } = *summary;
        let figures = [avg, min, max, p50, p95];
        let figures = figures.map(|value| if summary.count == 0 { "-".to_owned() } else { format!("{value:.1}") });
        table.row([vec![name], figures.to_vec()].concat());
    }
    table
}

pub(super) fn series(blocks: &mut Vec<Block>, report: &Report) {
    blocks.push(Block::Heading(2, "Dashboard Time-Series Data".to_owned()));
    let many = report.configurations.len() >= MANY_CONFIGURATIONS;
    let rows = if many { SHORT_SERIES_ROWS } else { SERIES_ROWS };
    for (configuration, repeat) in shown(report) {
        if report.configurations.len() > 1 {
            blocks.push(Block::Heading(3, configuration.name.clone()));
        }
        blocks.push(Block::Table(series_table(report, &repeat.series, rows)));
    }
}

fn series_table(report: &Report, series: &[SeriesPoint], rows: usize) -> Table {
    let device = device(report);
    let (memory, utilization) = (format!("{device} Mem (MB)"), format!("{device} Util (%)"));
    let mut table = Table::new(&[
        "Index",
        &memory,
        &utilization,
        "CPU (%)",
        "Latency (ms)",
        "Throughput",
        "Tokenize (ms)",
        "Inference (ms)",
        "Queue (ms)",
        "Padding (%)",
        "Padded would be (%)",
        "Time (s)",
        "RSS (MB)",
        "Waiting tokens",
    ]);
    let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for (index, chunk) in series.chunks(series.len().div_ceil(rows).max(1)).enumerate() {
        let point = merge(chunk);
        table.row([
            index.to_string(),
            of(point.device_memory_mb),
            of(point.device_utilization_percent),
            format!("{:.1}", point.cpu_percent),
            of(point.latency_ms),
            number(point.pairs_per_s),
            of(point.tokenize_ms),
            of(point.inference_ms),
            of(point.queue_ms),
            "0.0".to_owned(),
            of(point.padded_waste_percent),
            format!("{:.1}", point.at_s),
            format!("{:.1}", point.rss_mb),
            point.waiting_tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
        ]);
    }
    table
}

/// Several points as one: means, those of requests weighted by their number; time and queue as at the end.
pub(super) fn merge(points: &[SeriesPoint]) -> SeriesPoint {
    let Some(&last) = points.last() else { return SeriesPoint::default() };
    let completed: u64 = points.iter().map(|point| point.completed).sum();
    let mean = |figure: fn(&SeriesPoint) -> f64| points.iter().map(figure).sum::<f64>() / points.len() as f64;
    let known = |figure: fn(&SeriesPoint) -> Option<f64>| {
        let values: Vec<f64> = points.iter().filter_map(figure).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let weighted = |figure: fn(&SeriesPoint) -> Option<f64>| {
        let values = points.iter().filter_map(|point| Some((figure(point)?, point.completed as f64)));
        let (sum, weight) =
            values.fold((0.0, 0.0), |(sum, total), (value, weight)| (sum + value * weight, total + weight));
        (weight > 0.0).then(|| sum / weight)
    };
    SeriesPoint {
        device_memory_mb: known(|point| point.device_memory_mb),
        device_utilization_percent: known(|point| point.device_utilization_percent),
        cpu_percent: mean(|point| point.cpu_percent),
        rss_mb: mean(|point| point.rss_mb),
        completed,
        pairs_per_s: mean(|point| point.pairs_per_s),
        latency_ms: weighted(|point| point.latency_ms),
        tokenize_ms: weighted(|point| point.tokenize_ms),
        guest_ms: weighted(|point| point.guest_ms),
        queue_ms: weighted(|point| point.queue_ms),
        inference_ms: weighted(|point| point.inference_ms),
        padded_waste_percent: weighted(|point| point.padded_waste_percent),
        ..last
    }
}
