//! The command from end to end on the default model: three files, every section of the baseline's report, and figures
//! that add up.

#![expect(clippy::unwrap_used, reason = "a test fails where its files cannot be made or read")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use assay_bench::report::schema::{Repeat, Report};
use assay_bench::stats::Summary;
use serde_json::json;
use tokenizers::Tokenizer;

use common::data_dir;

const SCENARIO: &str = r#"
name = "check"
about = "A load that is small enough for a test."
repeats = 2
warmup_requests = 1

[[configuration]]
name = "closed"
concurrency = 2
requests = 6

[[configuration]]
name = "open"
rate_per_s = 20.0
requests = 4
arrivals = "uniform"
"#;

/// Different requests in the file.
const REQUESTS: usize = 3;

/// Documents of each.
const PAIRS: usize = 3;

/// Requests as pairs of texts, and the file that holds them.
fn requests(dir: &Path) -> (PathBuf, Vec<(String, Vec<String>)>) {
    let words = ["river", "library", "uncharacteristically long-winded", "Zürich", "model", "a"];
    let text = |seed: usize, length: usize| -> String {
        (0..length).map(|index| words[(seed * 5 + index * index) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    let request =
        |index: usize| (text(index, 3), (0..PAIRS).map(|document| text(document, 1 + 3 * document)).collect());
    let requests: Vec<(String, Vec<String>)> = (0..REQUESTS).map(request).collect();
    let lines: String = requests
        .iter()
        .map(|(query, documents)| json!({"query": query, "documents": documents}).to_string() + "\n")
        .collect();
    let path = dir.join("requests.jsonl");
    std::fs::write(&path, lines).unwrap();
    (path, requests)
}

fn assay_bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_assay-bench")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "assay-bench {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn tokens_by_tokenizer(data_dir: &Path, requests: &[(String, Vec<String>)]) -> Vec<u64> {
    let store = assay::model::ModelStore::new(data_dir);
    let tokenizer = Tokenizer::from_file(store.open(None).unwrap().dir().join("tokenizer.json")).unwrap();
    let row = |query: &str, document: &str| {
        let mut tokenizer = tokenizer.clone();
        tokenizer.with_padding(None);
        tokenizer.encode((query, document), true).unwrap().get_ids().len() as u64
    };
    let request = |(query, documents): &(String, Vec<String>)| documents.iter().map(|text| row(query, text)).sum();
    requests.iter().map(request).collect()
}

fn assert_monotonic(summary: &Summary, what: &str) {
    let Summary { min, p50, p75, p90, p95, p99, p99_9, max, avg, .. } = *summary;
    let order = [min, p50, p75, p90, p95, p99, p99_9, max];
    assert!(order.is_sorted() && (min..=max).contains(&avg), "{what}: {summary:?}");
}

fn assert_adds_up(repeat: &Repeat, requests: u64, tokens: &[u64]) {
    let pairs = requests * PAIRS as u64;
    assert_eq!((repeat.requests, repeat.pairs, repeat.errors.len()), (requests, pairs, 0));
    let sent = (0..requests as usize).map(|sequence| tokens[sequence % tokens.len()]).sum::<u64>();
    assert_eq!(repeat.tokens, sent, "useful tokens are the tokenizer's own count");
    assert_eq!(repeat.tokens_by_guest, Some(sent), "and the guests'");
    assert_eq!(repeat.latency_ms.count, requests);
    assert_eq!(repeat.latency_histogram.iter().map(|bar| bar.count).sum::<u64>(), requests);
    assert_eq!(repeat.bands.iter().map(|band| band.throughput.count).sum::<u64>(), requests);
    assert_eq!(repeat.samples.latency_ms.len() as u64, requests);
    assert_eq!(repeat.samples.pairs.iter().sum::<u64>(), pairs);
    assert_eq!(repeat.by_tenant.iter().map(|tenant| tenant.pairs).sum::<u64>(), pairs);
    for (summary, what) in [
        (&repeat.latency_ms, "latency"),
        (&repeat.throughput.per_request, "throughput"),
        (&repeat.inference_ms, "inference"),
        (&repeat.guest_ms, "guest"),
        (&repeat.dashboard.rss_mb, "memory"),
        (&repeat.dashboard.device_utilization_percent, "utilization"),
    ] {
        assert!(summary.count > 0, "{what} has no values");
        assert_monotonic(summary, what);
    }
    assert!(repeat.percentile_curve.is_sorted_by(|left, right| left.0 < right.0 && left.1 <= right.1));
    let average = repeat.pairs as f64 / repeat.elapsed_s;
    assert!((repeat.throughput.average / average - 1.0).abs() < 1e-9);
    let in_series: u64 = repeat.series.iter().map(|point| point.completed).sum();
    assert_eq!(in_series, requests, "every request is in the series");
    let stages = repeat.guest_ms.avg + repeat.queue_ms.avg + repeat.inference_ms.avg;
    assert!((stages / repeat.service_ms.avg - 1.0).abs() < 0.05, "stages make up the service time");
    assert!(repeat.work.padded_waste_percent > 0.0 && repeat.work.padding_waste_percent == 0.0);
    assert!(repeat.work.batches.is_some_and(|batches| batches > 0 && batches <= requests));
}

#[test]
fn a_run_writes_three_files_whose_figures_add_up() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (file, requests) = requests(dir.path());
    let scenario = dir.path().join("check.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (out, data) = (path(&dir.path().join("out")), path(&data_dir));
    let said = assay_bench(&["run", &path(&scenario), "--requests", &path(&file), "--out", &out, "--data-dir", &data]);
    assert!(said.contains("report.md, report.json, report.html in"), "{said}");

    let report = Report::read(Path::new(&out)).unwrap();
    let tokens = tokens_by_tokenizer(&data_dir, &requests);
    assert_eq!(report.configurations.len(), 2);
    for (configuration, requests) in report.configurations.iter().zip([6, 4]) {
        assert_eq!(configuration.repeats.len(), 2);
        assert_eq!(configuration.warmup.latency_ms.count, 1, "warm-up is apart");
        assert!(configuration.warmup.first_ms.is_some() && configuration.instance_start_ms.count > 0);
        assert_eq!(configuration.tenants[0].load.tokens, tokens.iter().sum::<u64>());
        for repeat in &configuration.repeats {
            assert_adds_up(repeat, requests, &tokens);
        }
    }
    assert_has_every_section(&std::fs::read_to_string(Path::new(&out).join("report.md")).unwrap());
    assert_has_every_plot(&std::fs::read_to_string(Path::new(&out).join("report.html")).unwrap());

    let compared = assay_bench(&["compare", &out, &out]);
    assert!(compared.contains("+0.0 %") && !compared.contains("REGRESSION"), "{compared}");
}

fn assert_has_every_section(markdown: &str) {
    let sections = [
        "# check\n",
        "**Timestamp:** 20",
        "**Model:** `",
        "**Backend:** `assay cpu",
        "## Results Summary\n\n| Batch | Conc | Pairs | Time(s) | Lat Avg | Lat P95 | Lat P99 | TP Avg | TP P95 |",
        "## Detailed Metrics\n\n### Config 1: closed\n\n**Total:** 18 pairs in ",
        "### Config 2: open\n",
        "#### Latency (ms)\n\n| Metric | Value |",
        "#### Throughput (pairs/s)\n\n| Metric | Value |",
        "| Std Dev |",
        "| P99.9 |",
        "#### Latency vs Throughput Analysis\n\n| Latency Range | Avg Throughput | Min Throughput | Max Throughput | Count |",
        "ms (P50-P75) |",
        "ms (P90+) |",
        "**Correlation:** ",
        "#### Warm-up and first batch",
        "## Overall Summary\n\n| Metric | Value | Config |",
        "| Best Throughput |",
        "| Best Latency |",
        "| Avg Throughput |",
        "| Avg Latency |",
        "## Dashboard Metrics Summary\n",
        "| Metric | Avg | Min | Max | P50 | P95 |",
        "| Tokenization (ms) |",
        "| Padding Waste (%) | 0.0 |",
        "## Dashboard Time-Series Data\n",
        "| Index | Device Mem (MB) | Device Util (%) | CPU (%) | Latency (ms) | Throughput | Tokenize (ms) | Inference (ms) | Queue (ms) | Padding (%) |",
        "## Machine\n",
        "| Command | `",
    ];
    for section in sections {
        assert!(markdown.contains(section), "report.md lacks {section:?}:\n{markdown}");
    }
}

fn assert_has_every_plot(html: &str) {
    let plots = [
        "Latency histogram",
        "Latency by percentile",
        "Throughput over time",
        "Where a request's time goes",
        "Device utilization",
        "CPU usage, of all cores",
        "Process memory",
        "Device memory",
        "Waiting tokens",
    ];
    for plot in plots {
        assert!(html.contains(&format!("<span class=\"title\">{plot}</span>")), "report.html lacks the plot {plot:?}");
    }
    assert!(!html.contains("NaN") && !html.contains("<script") && !html.contains("http://"), "one file, no nonsense");
}
