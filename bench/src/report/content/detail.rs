//! The section of one configuration.

use super::super::block::{Block, Table};
use super::super::schema::{ConfigurationReport, Repeat, Report};
use super::{dash_or, number, plots, spread};
use crate::stats::Summary;

type SummaryRow = (&'static str, fn(&Summary) -> f64);

/// Rows of a table over a summary.
const ROWS: [SummaryRow; 10] = [
    ("Average", |summary| summary.avg),
    ("Min", |summary| summary.min),
    ("Max", |summary| summary.max),
    ("Std Dev", |summary| summary.std),
    ("P50", |summary| summary.p50),
    ("P75", |summary| summary.p75),
    ("P90", |summary| summary.p90),
    ("P95", |summary| summary.p95),
    ("P99", |summary| summary.p99),
    ("P99.9", |summary| summary.p99_9),
];

pub(super) fn configuration(
    blocks: &mut Vec<Block>,
    report: &Report,
    number: usize,
    configuration: &ConfigurationReport,
) {
    blocks.push(Block::Heading(3, format!("Config {number}: {}", configuration.name)));
    let Some(repeat) = configuration.shown() else {
        blocks.push(Block::Paragraph("No repeat was finished.".to_owned()));
        return;
    };
    let total = format!("{} pairs in {:.2}s", repeat.pairs, repeat.elapsed_s);
    let paces: Vec<String> =
        configuration.tenants.iter().map(|tenant| format!("{}: {}", tenant.name, tenant.pace)).collect();
    let repeats = configuration.repeats.len();
    blocks.push(Block::Facts(vec![
        ("Total", total),
        ("Pace", paces.join("; ")),
        ("Repeats", format!("{repeats}, shown is number {}", configuration.median_repeat + 1)),
    ]));
    let section = |blocks: &mut Vec<Block>, title: &str, table: Table| {
        blocks.push(Block::Heading(4, title.to_owned()));
        blocks.push(Block::Table(table));
    };
    section(blocks, "Latency (ms)", latency(configuration, repeat));
    section(blocks, "Throughput (pairs/s)", throughput(configuration, repeat));
    blocks.push(Block::Plots(plots::configuration(repeat)));
    section(blocks, "Latency vs Throughput Analysis", bands(repeat));
    let correlation = repeat.correlation.map_or_else(
        || "- (latency or throughput does not vary)".to_owned(),
        |value| format!("{value:.3} (negative correlation expected: lower latency = higher throughput)"),
    );
    blocks.push(Block::Facts(vec![("Correlation", correlation)]));
    section(blocks, "Stages (ms)", stages(configuration, repeat));
    section(blocks, "Useful work", work(report, configuration, repeat));
    section(blocks, "Load", load(configuration));
    if configuration.tenants.len() > 1 {
        section(blocks, "Tenants", tenants(repeat));
    }
    section(blocks, "Warm-up and first batch", warmup(configuration));
    if !repeat.errors.is_empty() {
        section(blocks, "Errors", errors(repeat));
    }
}

fn latency(configuration: &ConfigurationReport, repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Metric", "Value", "Spread over repeats"]);
    for (name, figure) in ROWS {
        let spread = spread(configuration, |repeat| figure(&repeat.latency_ms));
        table.row([name.to_owned(), format!("{:.2}", figure(&repeat.latency_ms)), spread]);
    }
    table
}

fn throughput(configuration: &ConfigurationReport, repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Metric", "Value", "Per second", "Spread over repeats"]);
    let average = |repeat: &Repeat| repeat.throughput.average;
    let per_second = &repeat.throughput.per_second;
    let second = |value: f64| if per_second.count == 0 { "-".to_owned() } else { format!("{value:.2}") };
    for (name, figure) in ROWS {
        let value = match name {
            "Average" => average(repeat),
            _ => figure(&repeat.throughput.per_request),
        };
        let spread = match name {
            "Average" => spread(configuration, average),
            _ => spread(configuration, |repeat| figure(&repeat.throughput.per_request)),
        };
        table.row([name.to_owned(), format!("{value:.2}"), second(figure(per_second)), spread]);
    }
    table
}

fn bands(repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Latency Range", "Avg Throughput", "Min Throughput", "Max Throughput", "Count"]);
    for band in &repeat.bands {
        let Summary { avg, min, max, count, .. } = band.throughput;
        let figures = [avg, min, max].map(|value| if count == 0 { "-".to_owned() } else { format!("{value:.2}") });
        table.row([vec![band.range.clone()], figures.to_vec(), vec![count.to_string()]].concat());
    }
    table
}

fn stages(configuration: &ConfigurationReport, repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Stage", "Avg", "Min", "Max", "P50", "P95", "P99", "Spread of the average"]);
    type Figure = fn(&Repeat) -> &Summary;
    let stages: [(&str, Figure); 6] = [
        ("Tokenization", |repeat| &repeat.tokenize_ms),
        ("Guest, whole", |repeat| &repeat.guest_ms),
        ("Queue Wait", |repeat| &repeat.queue_ms),
        ("Inference", |repeat| &repeat.inference_ms),
        ("Service (from sending)", |repeat| &repeat.service_ms),
        ("Sent late by", |repeat| &repeat.send_lag_ms),
    ];
    let mut row = |name: &str, summary: &Summary, spread: String| {
        let Summary { avg, min, max, p50, p95, p99, .. } = *summary;
        let figures = [avg, min, max, p50, p95, p99];
        let figures = figures.map(|value| if summary.count == 0 { "-".to_owned() } else { format!("{value:.2}") });
        table.row([vec![name.to_owned()], figures.to_vec(), vec![spread]].concat());
    };
    for (name, figure) in stages {
        row(name, figure(repeat), spread(configuration, |repeat| figure(repeat).avg));
    }
    row("Instance start, alone", &configuration.instance_start_ms, "-".to_owned());
    table
}

fn work(report: &Report, configuration: &ConfigurationReport, repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Metric", "Value", "Spread over repeats"]);
    let work = &repeat.work;
    let none = || "-".to_owned();
    let by_guest = match repeat.tokens_by_guest {
        None => "the guests do not say".to_owned(),
        Some(tokens) if tokens == repeat.tokens => "the guests count the same".to_owned(),
        Some(tokens) => format!("the guests count {tokens}"),
    };
    let mut row = |name: &str, value: String, spread: String| table.row([name.to_owned(), value, spread]);
    row("Useful tokens", format!("{} ({by_guest})", repeat.tokens), none());
    let tokens = spread(configuration, |repeat| repeat.work.tokens_per_s);
    row("Useful tokens/s", format!("{:.0}", work.tokens_per_s), tokens);
    let flops = spread(configuration, |repeat| repeat.work.gflop_per_s);
    row("Useful GFLOP/s", format!("{:.2}", work.gflop_per_s), flops);
    row("Useful GFLOP/s while the device is busy", dash_or(work.gflop_per_s_busy.map(number)), none());
    let share = work.ceiling_percent.map(|share| format!("{share:.1} %"));
    let ceiling = report.ceiling.map(|ceiling| format!(" of {:.1} GFLOP/s", ceiling.gflop_per_s.max));
    row("Share of the ceiling", dash_or(share) + &ceiling.unwrap_or_default(), none());
    row("Padding waste", format!("{:.1} %", work.padding_waste_percent), none());
    row("Padded batching would waste", format!("{:.1} % of its tokens", work.padded_waste_percent), none());
    row("Batches on the device", dash_or(work.batches), none());
    row("Useful tokens in a batch", dash_or(work.tokens_per_batch.map(number)), none());
    table
}

fn load(configuration: &ConfigurationReport) -> Table {
    let mut table = Table::new(&[
        "Tenant",
        "Requests",
        "Pairs",
        "Tokens",
        "Cut rows",
        "Tokens/row avg",
        "min",
        "P50",
        "P99",
        "max",
        "Padded waste (%)",
        "Native tokenization (ms)",
        "Guest",
        "Model",
    ]);
    for tenant in &configuration.tenants {
        let load = &tenant.load;
        let rows = &load.row_tokens;
        table.row([
            tenant.name.clone(),
            load.requests.to_string(),
            load.pairs.to_string(),
            load.tokens.to_string(),
            load.truncated.to_string(),
            format!("{:.1}", rows.avg),
            format!("{:.0}", rows.min),
            format!("{:.0}", rows.p50),
            format!("{:.0}", rows.p99),
            format!("{:.0}", rows.max),
            format!("{:.1}", load.padded_waste_percent.avg),
            format!("{:.2}", load.native_tokenize_ms.avg),
            tenant.guest.clone(),
            tenant.model.clone(),
        ]);
    }
    table
}

fn tenants(repeat: &Repeat) -> Table {
    let mut table = Table::new(&[
        "Tenant",
        "Requests",
        "Pairs",
        "Lat Avg (ms)",
        "P50",
        "P95",
        "P99",
        "Max",
        "Queue Avg (ms)",
        "Pairs/s",
        "Device time (s)",
        "Share (%)",
        "Errors",
    ]);
    for tenant in &repeat.by_tenant {
        let latency = &tenant.latency_ms;
        let figures = [latency.avg, latency.p50, latency.p95, latency.p99, latency.max, tenant.queue_ms.avg];
        let mut cells = vec![tenant.name.clone(), tenant.requests.to_string(), tenant.pairs.to_string()];
        cells.extend(figures.map(|value| format!("{value:.1}")));
        let of_device = [tenant.device_time_s, tenant.device_share_percent].map(|value| dash_or(value.map(number)));
        cells.push(format!("{:.1}", tenant.throughput));
        cells.extend(of_device);
        cells.push(tenant.errors.values().sum::<u64>().to_string());
        table.row(cells);
    }
    table
}

fn warmup(configuration: &ConfigurationReport) -> Table {
    let mut table = Table::new(&["What", "Value"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let fresh = configuration.starts.len() > 1;
    for (number, start) in configuration.starts.iter().enumerate() {
        let which = if fresh { format!(", repeat {}", number + 1) } else { String::new() };
        row(&format!("Model loaded in (ms){which}"), format!("{:.1}", start.model_load_ms));
        row(&format!("Guests ready in (ms){which}"), format!("{:.1}", start.guest_load_ms));
        if let Some(first) = configuration.repeats.get(number).and_then(|repeat| repeat.first_ms).filter(|_| fresh) {
            row(&format!("First request (ms){which}"), format!("{first:.2}"));
            let total = start.model_load_ms + start.guest_load_ms + first;
            row(&format!("From nothing to the first answer (ms){which}"), format!("{total:.1}"));
        }
    }
    if fresh {
        return table;
    }
    row("First request (ms)", dash_or(configuration.warmup.first_ms.map(|ms| format!("{ms:.2}"))));
    let latency = &configuration.warmup.latency_ms;
    row(
        "Warm-up requests (ms)",
        format!("{} of them, average {:.2}, longest {:.2}", latency.count, latency.avg, latency.max),
    );
    for (kind, count) in &configuration.warmup.errors {
        row(&format!("Failed: {kind}"), count.to_string());
    }
    table
}

fn errors(repeat: &Repeat) -> Table {
    let mut table = Table::new(&["Kind", "Count", "Share (%)"]);
    for (kind, count) in &repeat.errors {
        let share = 100.0 * *count as f64 / repeat.requests.max(1) as f64;
        table.row([kind.clone(), count.to_string(), format!("{share:.1}")]);
    }
    table
}
