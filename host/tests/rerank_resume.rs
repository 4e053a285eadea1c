//! Long files: runs and requests that stop half-way, and answers that `assay rerank` wrote itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use common::files::{DOCUMENTS, plain, text};
use common::{Bench, Finished, finish};
use serde_json::{Value, json};

#[test]
fn a_file_that_was_written_with_other_texts_or_settings_is_not_gone_on_with() {
    let bench = Bench::new();
    // Of a size at which int8 and f32 differ.
    let model = testdata::model("bert-hd32");
    finish(bench.assay().args(["model", "add", text(&model), "--name", "hd32"])).succeeds();
    let requests = |text: &str| {
        let request =
            |id: u32| json!({ "id": id, "query": "red", "documents": [text, "blue moon"] }).to_string() + "\n";
        bench.file("requests.jsonl", request(1) + &request(2))
    };
    let file = requests("sun");
    let answers = bench.path("answers.jsonl");
    let args =
        ["--json", "--model", "hd32", "--engine", "cpu", "--output-file", text(&answers), "--requests", text(&file)];
    bench.rerank(&args).succeeds();
    let whole = std::fs::read_to_string(&answers).unwrap();
    let first = whole.lines().next().unwrap().to_owned() + "\n";
    // One answer, and half of the next.
    let begun = first.clone() + &whole[first.len()..first.len() + 9];
    let resume = |more: &[&str]| {
        std::fs::write(&answers, &begun).unwrap();
        bench.rerank(&[args.as_slice(), &["--resume"], more].concat())
    };
    let refused = |more: &[&str]| {
        let said = [
            "answers.jsonl, line 1: is not what this command gives for",
            "requests.jsonl, line 1",
            "another output file",
        ];
        resume(more).fails(2, &said);
        assert_eq!(std::fs::read_to_string(&answers).unwrap(), begun, "a file that is refused stays as it is");
    };
    refused(&["--scores", "sigmoid"]);
    refused(&["--precision", "int8"]);
    refused(&["--max-tokens", "5"]);
    refused(&["--top-n", "1"]);
    requests("sky");
    refused(&[]);
    requests("sun");
    resume(&[]).succeeds();
    assert_eq!(std::fs::read_to_string(&answers).unwrap().lines().count(), 2);
    // An error after the last answer is no answer to compare.
    std::fs::write(&answers, first + "{\"id\":2,\"error\":{\"kind\":\"invalid-input\"}}\n").unwrap();
    bench.rerank(&[args.as_slice(), &["--resume", "--scores", "sigmoid"]].concat()).fails(2, &["line 1: is not what"]);
}

#[test]
fn a_run_of_another_tag_or_other_scores_is_not_gone_on_with() {
    let bench = Bench::new();
    run_files(&bench);
    let whole = rerank_run(&bench, &[]).succeeds().stdout;
    let output = bench.path("out.run");
    let cut = whole.match_indices('\n').nth(1).unwrap().0 + 1;
    let resume = |more: &[&str]| {
        std::fs::write(&output, &whole[..cut]).unwrap();
        rerank_run(&bench, &[&["--output-file", text(&output), "--resume"], more].concat())
    };
    resume(&["--run-tag", "mine"]).fails(2, &["out.run, line 1: has the tag assay, and this run has mine"]);
    resume(&["--scores", "sigmoid"]).fails(2, &["out.run, query q1: is not what this command gives"]);
    bench.file(
        "collection.jsonl",
        "{\"_id\":\"d1\",\"text\":\"green\"}\n{\"_id\":\"d2\",\"text\":\"sun\"}\n{\"_id\":\"d3\",\"text\":\"sun\"}\n",
    );
    resume(&[]).fails(2, &["out.run, query q1: is not what this command gives"]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), whole[..cut], "the last query's lines stay");
}

/// Files of a run: two queries, three documents, and the run of another system.
fn run_files(bench: &Bench) -> [PathBuf; 3] {
    let run = "q1 Q0 d1 1 9.5 bm25\nq1 Q0 d2 2 8 bm25\nq2\tQ0\td3\t1\t3.25\tbm25\nq2 Q0 d1 2 1e-3 bm25\n";
    [
        bench.file("bm25.run", run),
        bench.file("queries.tsv", "q2\tsea moon\nq1\tblue\n"),
        bench.file("collection.jsonl", "{\"_id\":\"d3\",\"text\":\"moon\"}\n{\"_id\":\"d1\",\"text\":\"blue sky\"}\n{\"_id\":\"d2\",\"text\":\"red sun\"}\n"),
    ]
}

fn rerank_run(bench: &Bench, more: &[&str]) -> Finished {
    let [run, queries, documents] = ["bm25.run", "queries.tsv", "collection.jsonl"].map(|name| bench.path(name));
    let args = ["--run", text(&run), "--queries", text(&queries), "--documents", text(&documents)];
    bench.rerank(&[args.as_slice(), more].concat())
}

#[test]
fn a_trec_run_is_ranked_anew_and_written_as_a_run() {
    let bench = Bench::new();
    run_files(&bench);
    let run = rerank_run(&bench, &[]).succeeds().stdout;
    let rows: Vec<Vec<&str>> = run.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(rows.len(), 4, "{run}");
    for (query, rows) in [("q1", &rows[..2]), ("q2", &rows[2..])] {
        assert!(
            rows.iter().zip(["1", "2"]).all(|(row, rank)| row[0] == query && row[1] == "Q0" && row[3] == rank),
            "{run}"
        );
        assert!(rows.is_sorted_by(|a, b| a[4].parse::<f32>().unwrap() >= b[4].parse::<f32>().unwrap()), "{run}");
        assert!(rows.iter().all(|row| row[5] == "assay"), "{run}");
    }
    // The scores are those of the texts.
    let lines = rerank_run(&bench, &["--json"]).succeeds().lines();
    let direct = bench.rerank(&["--json", "--query", "sea moon", "moon", "blue sky"]).succeeds().lines();
    assert_eq!(plain(&lines[1]["hits"]), direct[0]["hits"]);
    let tagged = rerank_run(&bench, &["--run-tag", "mine", "--top-n", "1"]).succeeds().stdout;
    assert!(tagged.lines().count() == 2 && tagged.lines().all(|line| line.ends_with(" mine")), "{tagged}");
    // Requests with ids are written as a run too; ones without are refused.
    let file = bench.file("r.jsonl", r#"{"id": "q", "query": "red", "documents": [{"id": 5, "text": "sun"}]}"#);
    let run = bench.rerank(&["--requests", text(&file), "--output", "run"]).succeeds().stdout;
    assert!(run.starts_with("q Q0 5 1 "), "{run}");
    bench.rerank(&["--query", "red", "--output", "run", "sun"]).fails(2, &["the query has no id"]);
}

#[test]
fn a_run_that_names_missing_documents_is_refused() {
    let bench = Bench::new();
    run_files(&bench);
    bench.file("bm25.run", "q1 Q0 d1 1 9.5 t\nq1 Q0 d9 2 8 t\nq2 Q0 d3 1 8 t\n");
    rerank_run(&bench, &[]).fails(2, &["bm25.run, line 1", "document \"d9\" is not in", "collection.jsonl"]);
    let skipped = rerank_run(&bench, &["--on-error", "skip"]);
    skipped.fails(3, &["line 1: document \"d9\"", "1 of 2 requests"]);
    assert!(skipped.stdout.starts_with("q2 Q0 d3 1 "), "{}", skipped.stdout);
    bench.file("bm25.run", "q1 0 d1 1\nq1 0 d2 0\n");
    rerank_run(&bench, &[]).fails(2, &["line 1", "relevance judgements (qrels)"]);
    bench.file("bm25.run", "q1 Q0 d1 1 9.5 t\nq1 Q0 d1 2 8 t\n");
    rerank_run(&bench, &[]).fails(2, &["document \"d1\" is in this query's run twice"]);
    bench.rerank(&["--run", "x.run"]).fails(2, &["--queries", "--documents"]);
}

/// A thousand requests, of which every hundredth is bad in one of ten ways.
fn thousand(bench: &Bench) -> Vec<String> {
    let mut lines: Vec<String> = (0..1000)
        .map(|n| json!({ "id": n, "query": "red", "documents": ["sun", "moon", DOCUMENTS[n % 4]] }).to_string())
        .collect();
    let bad = [
        "",
        "{",
        "no JSON at all",
        "[1, 2]",
        r#"{"id": 449, "query": 7, "documents": []}"#,
        r#"{"query": "red"}"#,
        r#"{"id": 649, "query": "red", "documents": [null]}"#,
        "\"text\"",
        r#"{"id": 849, "query": "red", "documents": ["sun"], "top_n": 0}"#,
        "{\"id\": 949, \"quer",
    ];
    for (n, bad) in bad.iter().enumerate() {
        // A blank line is no request: the first bad one is of bytes that are no text.
        lines[n * 100 + 49] = if bad.is_empty() { "?".to_owned() } else { (*bad).to_owned() };
    }
    let mut bytes = lines.join("\n").into_bytes();
    let at = bytes.windows(3).position(|window| window == b"\n?\n").unwrap() + 1;
    bytes[at] = 0xff;
    std::fs::write(bench.path("thousand.jsonl"), bytes).unwrap();
    lines
}

/// Checks that a file has an outcome for each of the thousand requests, in order.
fn assert_whole(lines: &[Value]) {
    assert_eq!(lines.len(), 1000);
    let failed: Vec<usize> = (0..1000).filter(|&n| lines[n].get("error").is_some()).collect();
    assert_eq!(failed, (0..10).map(|n| n * 100 + 49).collect::<Vec<_>>());
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| line.get("error").is_none()) {
        assert_eq!((line["id"].as_u64(), line["hits"].as_array().unwrap().len()), (Some(n as u64), 3));
    }
}

#[test]
fn a_thousand_requests_with_ten_bad_lines_have_990_answers_and_ten_errors() {
    let bench = Bench::new();
    thousand(&bench);
    let file = bench.path("thousand.jsonl");
    let finished = bench.rerank(&["--json", "--on-error", "skip", "--requests", text(&file)]);
    finished.fails(3, &["10 of 1000 requests have an error"]);
    assert_whole(&finished.lines());
}

#[test]
fn a_run_that_was_killed_half_way_goes_on_and_every_request_is_answered_once() {
    let bench = Bench::new();
    let lines = thousand(&bench);
    let (requests, answers) = (bench.path("thousand.jsonl"), bench.path("answers.jsonl"));
    let args = ["--json", "--on-error", "skip", "--output-file", text(&answers), "--requests"];
    // The process is fed half of the requests, and killed when it has answered most of them.
    let mut child = bench.assay().arg("rerank").args(args).arg("-").stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all((lines[..500].join("\n") + "\n").as_bytes()).unwrap();
    let answered = || std::fs::read(&answers).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
    while answered() < 400 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Killed in the middle of a line, for what a kill could leave at worst.
    let mut left = std::fs::read(&answers).unwrap();
    assert!(left.iter().filter(|&&byte| byte == b'\n').count() < 1000);
    left.truncate(left.len() - 7);
    std::fs::write(&answers, left).unwrap();

    let again = [args.as_slice(), &[text(&requests)]].concat();
    bench.rerank(&again).fails(2, &["answers.jsonl", "is not empty", "--resume"]);
    bench.rerank(&[again.as_slice(), &["--resume"]].concat()).fails(3, &["10 of 1000 requests have an error"]);
    let whole = std::fs::read_to_string(&answers).unwrap();
    assert_whole(&whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>());
    // Once more there is nothing to do, and nothing changes.
    bench.rerank(&[again.as_slice(), &["--resume"]].concat()).fails(3, &["10 of 1000"]);
    assert_eq!(std::fs::read_to_string(&answers).unwrap(), whole);
}

#[test]
fn a_run_that_stopped_at_a_bad_line_goes_on_once_the_line_is_put_right() {
    let bench = Bench::new();
    let good = |id: u32| json!({ "id": id, "query": "red", "documents": ["sun"] }).to_string() + "\n";
    let file = bench.file("requests.jsonl", good(1) + "{\n" + &good(3));
    let answers = bench.path("answers.jsonl");
    let args = ["--json", "--output-file", text(&answers), "--resume", "--requests", text(&file)];
    bench.rerank(&args).fails(2, &["requests.jsonl, line 2"]);
    bench.file("requests.jsonl", good(1) + &good(2) + &good(3));
    bench.rerank(&args).succeeds();
    let lines = std::fs::read_to_string(&answers).unwrap();
    let found: Vec<u64> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap()).collect();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn a_run_goes_on_only_with_its_own_answers() {
    let bench = Bench::new();
    let request = |id: u32| json!({ "id": id, "query": "red", "documents": ["sun"] }).to_string() + "\n";
    let file = bench.file("requests.jsonl", request(1) + &request(2));
    let resume = |answers: &str| {
        let answers = bench.file("answers.jsonl", answers);
        bench.rerank(&["--json", "--resume", "--output-file", text(&answers), "--requests", text(&file)])
    };
    let answer = |id: u32, model: &str| json!({ "id": id, "model": model, "hits": [] }).to_string() + "\n";
    resume(&answer(2, "tiny")).fails(2, &["answers.jsonl, line 1", "id 2", "requests.jsonl, line 1 has id 1"]);
    resume(&answer(1, "other")).fails(2, &["answered by model other, and this run has tiny"]);
    resume("notes\n").fails(2, &["answers.jsonl, line 1: is no answer"]);
    resume(&(answer(1, "tiny") + &answer(2, "tiny") + &answer(3, "tiny"))).fails(2, &["fewer requests than answers"]);
    bench
        .rerank(&["--resume", "--output-file", "x", "--requests", text(&file)])
        .fails(2, &["--resume needs --output jsonl or run"]);
}

#[test]
fn a_trec_run_that_was_killed_goes_on_at_the_query_it_was_at() {
    let bench = Bench::new();
    run_files(&bench);
    let whole = rerank_run(&bench, &[]).succeeds().stdout;
    let output = bench.path("out.run");
    let args = ["--output-file", text(&output), "--resume"];
    let lines: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
    // Before, in, and after lines of either query.
    for cut in [0, 3, lines[0], lines[0] + 5, lines[1], lines[1] + 5, lines[2] + 5, whole.len()] {
        std::fs::write(&output, &whole[..cut]).unwrap();
        rerank_run(&bench, &args).succeeds();
        assert_eq!(std::fs::read_to_string(&output).unwrap(), whole, "cut at {cut}");
    }
    std::fs::write(&output, "q7 Q0 d1 1 1.5 assay\n").unwrap();
    rerank_run(&bench, &args).fails(2, &["out.run, line 1", "query q7"]);
}
