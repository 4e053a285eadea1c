//! The plots.

use super::super::block::{Axis, Block, Plot, PlotKind, Scale, Series};
use super::super::schema::{ConfigurationReport, Repeat, Report, SeriesPoint};
use super::series::{smoothed, thin};
use super::shown;

/// Most points of a line: with more, neighbours would share a pixel.
const LINE_POINTS: usize = 160;

/// Most points of the stacked stages: each has several requests, so that the areas show a trend and not noise.
const STAGE_POINTS: usize = 60;

/// Throughput and latency by batch and concurrency, if the configurations are a grid.
pub(super) fn sweep(report: &Report) -> Option<Block> {
    let points: Vec<(&ConfigurationReport, &Repeat, u32, u32)> = shown(report)
        .filter_map(|(configuration, repeat)| {
            Some((configuration, repeat, configuration.batch?, configuration.concurrency?))
        })
        .collect();
    let axis = |coordinate: fn(&(&ConfigurationReport, &Repeat, u32, u32)) -> u32| {
        let mut values: Vec<u32> = points.iter().map(coordinate).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let (batches, concurrencies) = (axis(|point| point.2), axis(|point| point.3));
    if batches.len() < 2 || concurrencies.len() < 2 {
        return None;
    }
    let heat = |title: &str, figure: fn(&Repeat) -> f64| {
        let cell = |batch: u32, concurrency: u32| {
            points.iter().find(|point| (point.2, point.3) == (batch, concurrency)).map(|point| figure(point.1))
        };
        let cells =
            concurrencies.iter().flat_map(|&concurrency| batches.iter().map(move |&batch| (batch, concurrency)));
        Plot {
            title: title.to_owned(),
            x: Axis::linear("documents in a request"),
            y: Axis::linear("requests at once"),
            kind: PlotKind::Heat {
                columns: batches.iter().map(u32::to_string).collect(),
                rows: concurrencies.iter().map(u32::to_string).collect(),
                cells: cells.map(|(batch, concurrency)| cell(batch, concurrency)).collect(),
            },
        }
    };
    Some(Block::Plots(vec![
        heat("Throughput (pairs/s)", |repeat| repeat.throughput.average),
        heat("Median latency (ms)", |repeat| repeat.latency_ms.p50),
        heat("P99 latency (ms)", |repeat| repeat.latency_ms.p99),
    ]))
}

/// The plots of one configuration.
pub(super) fn configuration(repeat: &Repeat) -> Vec<Plot> {
    let bars = repeat.latency_histogram.iter().map(|bar| (bar.from, bar.to, bar.count as f64)).collect();
    let latency = &repeat.latency_ms;
    let marks = [("P50", latency.p50), ("P95", latency.p95), ("P99", latency.p99)];
    let marks = marks.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut plots = vec![
        Plot {
            title: "Latency histogram".to_owned(),
            x: Axis::log("latency (ms)"),
            y: Axis::count("requests"),
            kind: PlotKind::Bars { bars, marks },
        },
        Plot {
            title: "Latency by percentile".to_owned(),
            x: Axis { label: "percentile".to_owned(), scale: Scale::Percentile },
            y: Axis::linear("latency (ms)"),
            kind: PlotKind::Lines(vec![Series { name: "latency".to_owned(), points: repeat.percentile_curve.clone() }]),
        },
        Plot {
            title: "Throughput over time".to_owned(),
            x: Axis::linear("time (s)"),
            y: Axis::linear("pairs/s, mean of the second before"),
            kind: PlotKind::Lines(vec![Series {
                name: "pairs/s".to_owned(),
                points: smoothed(&repeat.series, LINE_POINTS),
            }]),
        },
    ];
    let merged = thin(&repeat.series, STAGE_POINTS);
    let stage = |name: &str, figure: fn(&SeriesPoint) -> Option<f64>| Series {
        name: name.to_owned(),
        points: merged.iter().filter_map(|point| Some((point.at_s, figure(point)?))).collect(),
    };
    if merged.iter().any(|point| point.inference_ms.is_some()) {
        plots.push(Plot {
            title: "Where a request's time goes".to_owned(),
            x: Axis::linear("time (s)"),
            y: Axis::linear("ms a request"),
            kind: PlotKind::Stacked(vec![
                stage("inference", |point| point.inference_ms),
                stage("guest", |point| point.guest_ms),
                stage("queue wait", |point| point.queue_ms),
            ]),
        });
    }
    plots
}

/// The sampled values.
pub(super) fn dashboard(repeat: &Repeat) -> Vec<Plot> {
    let points = thin(&repeat.series, LINE_POINTS);
    let line = |title: &str, unit: &str, figure: fn(&SeriesPoint) -> Option<f64>| {
        let points: Vec<(f64, f64)> = points.iter().filter_map(|point| Some((point.at_s, figure(point)?))).collect();
        (!points.is_empty()).then(|| Plot {
            title: title.to_owned(),
            x: Axis::linear("time (s)"),
            y: Axis::linear(unit),
            kind: PlotKind::Lines(vec![Series { name: title.to_lowercase(), points }]),
        })
    };
    let plots = [
        line("Device utilization", "%", |point| point.device_utilization_percent),
        line("CPU usage, of all cores", "%", |point| Some(point.cpu_percent)),
        line("Process memory", "MB", |point| Some(point.rss_mb)),
        line("Device memory", "MB", |point| point.device_memory_mb),
        line("Waiting tokens", "tokens", |point| point.waiting_tokens.map(|tokens| tokens as f64)),
        line("Padding that batches padded by request would have", "%", |point| point.padded_waste_percent),
    ];
    plots.into_iter().flatten().collect()
}
