//! `assay-bench quality` and `models` from end to end: judged queries in; table, picture and runs out.

#![expect(clippy::unwrap_used, reason = "a test fails where its files cannot be made or read")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use assay_bench::report::quality::{QualityReport, VariantReport};

use common::data_dir;

const QUERIES: &str = "sky\twhy is the sky blue\nbread\thow is bread made\nnone\twhat has no answer here\n";

const DOCUMENTS: &str = "air\tAir scatters blue light more than red light, so the sky is blue.
flour\tBread is baked from flour, water and yeast, which rises for an hour before it goes into a hot oven.
sea\tThe sea reflects the sky.
cat\tA cat sleeps for most of the day.
";

/// Finds the right documents, and puts them below others.
const RUN: &str = "sky Q0 cat 1 9 first
sky Q0 flour 2 8 first
sky Q0 air 3 7 first
bread Q0 sea 1 3 first
bread Q0 flour 2 2 first
none Q0 cat 1 1 first
ignored Q0 cat 1 1 first
";

const QRELS: &str = "sky 0 air 2\nsky 0 missed 1\nsky 0 cat 0\nbread 0 flour 1\nnone 0 cat 0\nunasked 0 cat 1\n";

fn write_files(dir: &Path) {
    for (name, text) in [("queries.tsv", QUERIES), ("documents.tsv", DOCUMENTS), ("run", RUN), ("qrels", QRELS)] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// Runs the command on the files of a folder.
fn quality(data_dir: &Path, dir: &Path, run: &str, more: &[&str]) -> Output {
    let file = |name: &str| dir.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay-bench"));
    command.arg("quality").arg("--data-dir").arg(data_dir).arg("--run").arg(file(run));
    command.arg("--queries").arg(file("queries.tsv")).arg("--documents").arg(file("documents.tsv"));
    command.arg("--qrels").arg(file("qrels")).arg("--out").arg(file("report")).args(["--engine", "cpu"]).args(more);
    command.output().unwrap()
}

fn report(dir: &Path) -> QualityReport {
    serde_json::from_str(&std::fs::read_to_string(dir.join("report/quality.json")).unwrap()).unwrap()
}

#[test]
fn variants_are_compared_by_quality_and_speed() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let variants = ["f32", "int8:precision=int8", "short:max-tokens=12", "two:max-tokens=12,rescore=f32@2"];
    let output = quality(&data_dir, dir.path(), "run", &variants.map(|variant| ["--variant", variant]).concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("| the run itself"));
    let report = report(dir.path());
    let set = &report.query_set;
    assert_eq!((set.queries, set.pairs, set.without_relevant, set.unjudged_documents), (3, 6, 1, 2));
    assert_eq!((set.unjudged_queries, set.unasked_queries), (1, 1));
    let names: Vec<&str> = report.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["f32", "int8", "short", "two", "the run itself"]);

    // The model puts the relevant document first for both queries that have one.
    let [f32, int8, short, two, found] = &report.variants[..] else { panic!("{names:?}") };
    let ideal = 2.0 + 1.0 / 3f64.log2();
    assert!((f32.values[0][0] - 2.0 / ideal).abs() < 1e-12, "the document that was not found counts: {:?}", f32.values);
    assert_eq!(f32.values[0][1..], [1.0, 0.5, 0.5]);
    assert_eq!((f32.values[1], f32.values[2]), ([1.0; 4], [0.0; 4]));
    assert_eq!(found.values[0][1], 1.0 / 3.0);
    let mrr = &found.measures[1];
    assert_eq!(mrr.name, "MRR@10");
    assert!((mrr.value.value - (1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12);
    assert!((mrr.difference.unwrap().value - (1.0 / 3.0 + 0.5 - 2.0) / 3.0).abs() < 1e-12);
    assert_eq!((found.outcomes, f32.outcomes), (Some([0, 1, 2]), None));

    // Each variant did what its name says.
    assert_eq!((f32.precision.as_str(), int8.precision.as_str()), ("f32", "int8"));
    let cut = |number: usize| report.variants[number].speed.as_ref().unwrap().truncated;
    assert_eq!(cut(0), 0);
    assert!(cut(2) > 0 && short.about.contains("at most 12 tokens"), "{short:?}");
    // The second stage ranks two documents of each query again, where there are two.
    let rows = |number: usize| report.variants[number].speed.as_ref().unwrap().rows;
    assert_eq!((rows(0), rows(3)), (6, 6 + 5));
    assert!(two.about.contains("then f32 for the first 2"), "{two:?}");
    assert!(f32.speed.as_ref().unwrap().pairs_per_s.value > 0.0 && found.speed.is_none());

    let markdown = std::fs::read_to_string(dir.path().join("report/quality.md")).unwrap();
    for part in ["## Variants\n", "## Against the baseline\n", "1 queries have no relevant document", "| Processor |"] {
        assert!(markdown.contains(part), "quality.md lacks {part:?}:\n{markdown}");
    }
    let html = std::fs::read_to_string(dir.path().join("report/quality.html")).unwrap();
    assert!(html.contains("Quality against speed") && !html.contains("NaN") && !html.contains("<script"), "{html}");
}

#[test]
fn a_written_run_has_the_measures_of_its_variant() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let variants = ["--variant", "short:max-tokens=12", "--variant", "two:max-tokens=12,rescore=short@1"];
    assert!(quality(&data_dir, dir.path(), "run", &variants).status.success());
    let first = report(dir.path());
    for (number, file) in [(0, "1-short.run"), (1, "2-two.run"), (2, "found.run")] {
        assert_eq!(first.variants[number].run, file);
        std::fs::copy(dir.path().join("report/runs").join(file), dir.path().join(file)).unwrap();
        let again = quality(&data_dir, dir.path(), file, &["--variant", "f32"]);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        let again = report(dir.path());
        assert_eq!(again.variants.last().unwrap().values, first.variants[number].values, "{file}");
        quality(&data_dir, dir.path(), "run", &variants);
    }
}

/// Query and document of each line of a run.
fn order(dir: &Path, run: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir.join("report/runs").join(run)).unwrap();
    let columns = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(columns).map(|columns| (columns[0].clone(), columns[2].clone())).collect()
}

#[test]
fn a_second_stage_ranks_the_first_documents_as_its_variant_and_keeps_the_rest() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let variants = ["f32", "short:max-tokens=5", "all:max-tokens=5,rescore=f32@9", "one:max-tokens=5,rescore=f32@1"];
    let output = quality(&data_dir, dir.path(), "run", &variants.map(|variant| ["--variant", variant]).concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [f32, short, all, one] =
        ["1-f32.run", "2-short.run", "3-all.run", "4-one.run"].map(|run| order(dir.path(), run));
    assert_ne!(f32, short, "a second stage over all documents has something to change");
    assert_eq!(all, f32);
    assert_eq!(one, short, "a second stage over one document changes nothing, and loses none");
}

#[test]
fn bad_input_ends_with_exit_code_2_and_the_place() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    std::fs::write(dir.path().join("broken"), RUN.replace("sky Q0 air", "sky Q0 unknown")).unwrap();
    for (run, more, message) in [
        ("broken", &[][..], "broken, line 3: document \"unknown\" is not in"),
        ("run", &["--variant", "a:precision=f16"], "variant a: "),
        ("run", &["--variant", "a:model=no/such"], "variant a: "),
        ("run", &["--variant", "a:max-tokens=1"], "run, line 1: query \"sky\" with variant a: "),
        ("run", &["--variant", "a:rescore=b@1"], "a: rescore: \"b\" is no variant before it"),
    ] {
        let output = quality(&data_dir, dir.path(), run, more);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(message), "{more:?}: {error}");
        assert!(!dir.path().join("report").exists(), "nothing is written");
    }
}

/// Compares the default model with a tiny one in a directory.
fn models(data_dir: &Path, dir: &Path, requests: &str) -> (Output, QualityReport) {
    let file = dir.join("requests.jsonl");
    std::fs::write(&file, requests).unwrap();
    let default = std::fs::read_to_string(data_dir.join("models/default")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay-bench"));
    command.arg("models").arg(default.trim()).arg(testdata::model("bert-hd32")).arg("--data-dir").arg(data_dir);
    command.arg("--requests").arg(file).arg("--out").arg(dir.join("report")).args(["--engine", "cpu"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (output, report(dir))
}

#[test]
fn models_by_name_and_in_directories_are_compared_in_one_table() {
    let Some(data_dir) = data_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let documents = r#""documents":["Bread is baked from flour.","Air scatters blue light.","A cat sleeps."]"#;
    let judged = format!(r#"{{"query":"why is the sky blue",{documents},"relevant":[1]}}"#);
    let (output, report) = models(&data_dir, dir.path(), &judged);
    let table = String::from_utf8_lossy(&output.stdout);
    for column in ["nDCG@10", "Pairs/s", "Query P50 (ms)", "Weights (MB)", "| bert-hd32"] {
        assert!(table.contains(column), "no {column:?} in\n{table}");
    }
    let [default, tiny] = &report.variants[..] else { panic!("{report:?}") };
    assert_eq!((default.measures[0].value.value, tiny.measures.len()), (1.0, 4));
    assert!(default.weights_bytes > 40_000_000 && tiny.weights_bytes < 1_000_000, "{report:?}");
    let speed = |variant: &VariantReport| variant.speed.as_ref().unwrap().pairs_per_s.value;
    assert!(speed(tiny) > speed(default));
    assert!(dir.path().join("report/runs/qrels.txt").exists());

    let (output, report) = models(&data_dir, dir.path(), &format!(r#"{{"query":"why is the sky blue",{documents}}}"#));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(!table.contains("nDCG") && table.contains("Pairs/s"), "{table}");
    assert!(!report.query_set.is_judged && report.variants.iter().all(|variant| variant.measures.is_empty()));
    assert!(!dir.path().join("report/runs/qrels.txt").exists(), "nothing was judged");
    let markdown = std::fs::read_to_string(dir.path().join("report/quality.md")).unwrap();
    assert!(markdown.contains("none: only speed is compared") && !markdown.contains("NaN"), "{markdown}");
    let html = std::fs::read_to_string(dir.path().join("report/quality.html")).unwrap();
    assert!(!html.contains("NaN"), "{html}");

    let left: Vec<_> = std::fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")),
        "the directory's copy stays: {left:?}"
    );
}
