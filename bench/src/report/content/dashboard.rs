//! The sampled values, as summaries and as series.

use super::super::block::{Block, Table};
use super::super::schema::{Repeat, Report, SeriesPoint};
use super::{number, plots, series, shown};
use crate::stats::Summary;

/// Rows of a series, as in the baseline's report. The JSON has every sample.
const SERIES_ROWS: usize = 40;

/// Rows of each series in a report of many configurations.
const SHORT_SERIES_ROWS: usize = 8;

/// From this many configurations on, series are short.
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

/// `GPU`, as in the baseline's report, if the device is one.
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

pub(super) fn time_series(blocks: &mut Vec<Block>, report: &Report) {
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

fn series_table(report: &Report, points: &[SeriesPoint], rows: usize) -> Table {
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
    for (index, point) in series::thin(points, rows).iter().enumerate() {
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
