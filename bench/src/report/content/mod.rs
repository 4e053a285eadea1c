//! The report's contents: the baseline report's sections in its units, and what it lacks.

mod dashboard;
mod detail;
mod plots;
mod series;

use super::block::{Block, Headline, Table};
use super::schema::{ConfigurationReport, Machine, Repeat, Report};

/// The whole report.
pub(super) fn blocks(report: &Report) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, report.scenario.clone()), Block::Paragraph(format!("_{}_", report.about))];
    blocks.push(Block::Facts(facts(report)));
    if report.interrupted {
        blocks.push(Block::Paragraph("The run was stopped early. The report has the part that was run.".to_owned()));
    }
    if report.ceiling.is_some_and(|ceiling| ceiling.was_disturbed()) {
        let warning = "Something else was running: the processor's own speed varied by a fifth or more. Do not compare \
                       these figures.";
        blocks.push(Block::Paragraph(warning.to_owned()));
    }
    blocks.push(Block::Heading(2, "Results Summary".to_owned()));
    blocks.push(Block::Table(results(report)));
    blocks.extend(plots::sweep(report));
    blocks.push(Block::Heading(2, "Detailed Metrics".to_owned()));
    for (number, configuration) in report.configurations.iter().enumerate() {
        detail::configuration(&mut blocks, report, number + 1, configuration);
    }
    blocks.push(Block::Heading(2, "Overall Summary".to_owned()));
    blocks.push(Block::Table(overall(report)));
    dashboard::summary(&mut blocks, report);
    dashboard::time_series(&mut blocks, report);
    blocks.push(Block::Heading(2, "Machine".to_owned()));
    blocks.push(Block::Table(machine(report)));
    blocks.push(Block::Heading(2, "How to read this".to_owned()));
    blocks.extend(NOTES.iter().map(|&note| Block::Paragraph(note.to_owned())));
    blocks
}

/// What the figures mean.
const NOTES: [&str; 7] = [
    "Tables show the repeat of median time. The spread is the smallest and the largest value over all repeats. \
     Percentiles are by nearest rank, to three significant digits.",
    "Latency counts from the intended start: in a closed loop, when the request was sent; in an open loop, when the \
     schedule would have sent it, so a stall counts against every request that it delays. Warm-up requests have figures \
     of their own.",
    "Throughput, Value: the average is all pairs over the whole time. The other rows are each request's pairs over its \
     latency, as in the baseline's report; with several requests in flight they share the device and lie below the \
     average. Per second: pairs completed in each whole second.",
    "Tokenization is the guest's whole time (instance, tokenising, ranking, copies) minus the median start of an \
     instance, measured by requests without documents. Queue wait and inference are by the host's clocks.",
    "Padding waste is computation on padding: 0, because rows are packed end to end. Padded batching would waste the \
     share in the other column, if each request were one batch padded to its longest row, as in the baseline.",
    "Useful FLOPs are computed from the rows' lengths by formula, without padding, with the last layer pruned to what the \
     head reads. The ceiling is candle's matrix multiplication on all cores, the best run before and after. It excludes \
     attention, layer norms and activations.",
    "Device utilization is the share of time with a batch on the device. CPU usage is the process's share of all cores, \
     with this program's own work. Memory is in 10⁶ bytes.",
];

/// Milliseconds in a summary's column.
fn ms(value: f64) -> String {
    format!("{value:.1}ms")
}

/// A number with digits that suit its size.
fn number(value: f64) -> String {
    match value.abs() {
        value_abs if value_abs >= 1_000.0 => format!("{value:.0}"),
        value_abs if value_abs >= 0.1 || value_abs == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn dash_or<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Smallest and largest over the repeats, or a dash if there is only one.
fn spread(configuration: &ConfigurationReport, figure: impl Fn(&Repeat) -> f64) -> String {
    let values: Vec<f64> = configuration.repeats.iter().map(figure).collect();
    if values.len() < 2 {
        return "-".to_owned();
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} to {}", number(least), number(most))
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let target = &report.target;
    // Only at the top if all configurations have one load; otherwise each configuration shows its own.
    let mut tenants = report.configurations.iter().flat_map(|configuration| &configuration.tenants);
    let first = tenants.next();
    let only = first.filter(|first| tenants.all(|other| other.load.tokens == first.load.tokens));
    let load = only.map_or_else(String::new, |tenant| {
        let load = &tenant.load;
        format!(
            ": {} requests, {} pairs, {} tokens, {:.1} a row (least {:.0}, most {:.0}); padding to the longest row of each request would waste {:.1} %",
            load.requests,
            load.pairs,
            load.tokens,
            load.row_tokens.avg,
            load.row_tokens.min,
            load.row_tokens.max,
            load.padded_waste_percent.avg
        )
    });
    vec![
        ("Timestamp", report.timestamp.clone()),
        ("Model", format!("`{}`", target.model)),
        (
            "Backend",
            format!(
                "`assay {} {}` | **Device:** `{}` | **Driver:** {}",
                target.engine, target.precision, target.device, target.driver
            ),
        ),
        ("Load", format!("{}{load}", report.load_source)),
    ]
}

fn shown(report: &Report) -> impl Iterator<Item = (&ConfigurationReport, &Repeat)> {
    report.configurations.iter().filter_map(|configuration| Some((configuration, configuration.shown()?)))
}

fn results(report: &Report) -> Table {
    let mut table = Table::new(&[
        "Batch", "Conc", "Pairs", "Time(s)", "Lat Avg", "Lat P95", "Lat P99", "TP Avg", "TP P95", "Tokens/s",
        "GFLOP/s", "Errors", "Config",
    ]);
    for (configuration, repeat) in shown(report) {
        table.row([
            dash_or(configuration.batch),
            dash_or(configuration.concurrency),
            repeat.pairs.to_string(),
            format!("{:.2}", repeat.elapsed_s),
            ms(repeat.latency_ms.avg),
            ms(repeat.latency_ms.p95),
            ms(repeat.latency_ms.p99),
            format!("{:.1}", repeat.throughput.average),
            format!("{:.1}", repeat.throughput.per_request.p95),
            format!("{:.0}", repeat.work.tokens_per_s),
            format!("{:.1}", repeat.work.gflop_per_s),
            repeat.errors.values().sum::<u64>().to_string(),
            configuration.name.clone(),
        ]);
    }
    table
}

fn overall(report: &Report) -> Table {
    let mut table = Table::new(&["Metric", "Value", "Config"]);
    let best = |better: fn(&Repeat) -> f64| {
        let answered = shown(report).filter(|(_, repeat)| repeat.pairs > 0);
        answered.max_by(|left, right| better(left.1).total_cmp(&better(right.1)))
    };
    let name = |configuration: &ConfigurationReport| match (configuration.batch, configuration.concurrency) {
        (Some(batch), Some(concurrency)) => format!("batch={batch}, conc={concurrency}"),
        _ => configuration.name.clone(),
    };
    if let Some((configuration, repeat)) = best(|repeat| repeat.throughput.average) {
        let value = format!("{:.2} p/s", repeat.throughput.average);
        table.row(["Best Throughput".to_owned(), value, name(configuration)]);
    }
    if let Some((configuration, repeat)) = best(|repeat| -repeat.latency_ms.avg) {
        table.row(["Best Latency".to_owned(), format!("{:.2}ms", repeat.latency_ms.avg), name(configuration)]);
    }
    let count = shown(report).count().max(1) as f64;
    let mean = |figure: fn(&Repeat) -> f64| shown(report).map(|(_, repeat)| figure(repeat)).sum::<f64>() / count;
    let all = || "all configs".to_owned();
    table.row(["Avg Throughput".to_owned(), format!("{:.2} p/s", mean(|repeat| repeat.throughput.average)), all()]);
    table.row(["Avg Latency".to_owned(), format!("{:.2}ms", mean(|repeat| repeat.latency_ms.avg)), all()]);
    table
}

fn machine(report: &Report) -> Table {
    let mut table = Table::new(&["Fact", "Value"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let (here, command) = machine_facts(&report.machine);
    here.into_iter().for_each(|(name, value)| row(name, value));
    row("Device", format!("{}, {} threads", report.target.device, report.target.threads));
    row("Model revision", report.target.model_revision.clone());
    if let Some(ceiling) = &report.ceiling {
        let speed = &ceiling.gflop_per_s;
        let shape = format!("{}×{}×{}", ceiling.m, ceiling.k, ceiling.n);
        row(
            "Ceiling",
            format!(
                "{:.1} GFLOP/s f32 matrix multiplication, {shape}, best of {} (median {:.1}, least {:.1})",
                speed.max, speed.count, speed.p50, speed.min
            ),
        );
    }
    command.into_iter().for_each(|(name, value)| row(name, value));
    table
}

/// A fact's name and value.
pub(super) type Fact = (&'static str, String);

/// Facts about the machine, and about the program and its command.
pub(super) fn machine_facts(machine: &Machine) -> ([Fact; 3], [Fact; 3]) {
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let here = [
        ("Processor", format!("{}, {} cores, {}", machine.cpu, machine.cores, machine.arch)),
        ("Memory", format!("{:.1} GB", machine.memory_bytes as f64 / 1e9)),
        ("System", machine.os.clone()),
    ];
    let command = [
        ("Versions", versions.join(", ")),
        ("Commit", dash_or(machine.commit.clone())),
        ("Command", format!("`{}`", machine.command.join(" "))),
    ];
    (here, command)
}

/// The figures at the top of the page, of the configuration with the best throughput.
pub(super) fn headline(report: &Report) -> Vec<Headline> {
    let best = shown(report).max_by(|left, right| left.1.throughput.average.total_cmp(&right.1.throughput.average));
    let Some((configuration, repeat)) = best else { return Vec::new() };
    let latency = &repeat.latency_ms;
    let share = repeat.work.ceiling_percent;
    let card = |label, value, unit, note| Headline { label, value, unit, note };
    vec![
        card("Throughput", format!("{:.1}", repeat.throughput.average), "pairs/s", configuration.name.clone()),
        card(
            "Latency, median",
            format!("{:.1}", latency.p50),
            "ms",
            format!("average {:.1}, P99 {:.1}", latency.avg, latency.p99),
        ),
        card(
            "Useful tokens",
            format!("{:.0}", repeat.work.tokens_per_s),
            "per second",
            format!("{} in all", repeat.tokens),
        ),
        card(
            "Useful work",
            format!("{:.1}", repeat.work.gflop_per_s),
            "GFLOP/s",
            share.map_or_else(String::new, |share| format!("{share:.0} % of the ceiling")),
        ),
        card(
            "Padding",
            format!("{:.0}", repeat.work.padding_waste_percent),
            "%",
            format!("padded batches would waste {:.1} %", repeat.work.padded_waste_percent),
        ),
        card("Errors", repeat.errors.values().sum::<u64>().to_string(), "", format!("of {} requests", repeat.requests)),
    ]
}
