//! Bad input: each gets the right exit code, and a message that names what is wrong and where.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, component};

#[test]
fn a_missing_model_is_reported_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    common::finish(common::assay(dir.path()).args(["rerank", "--query", "q", "d"])).fails(1, &["assay model pull"]);
    common::finish(common::assay(dir.path()).args(["rerank", "--model", "a/b", "--query", "q", "d"]))
        .fails(2, &["no model a/b", "assay model list"]);
    common::finish(common::assay(dir.path()).args(["rerank", "--model", "../../etc", "--query", "q", "d"]))
        .fails(2, &["is not a model's name"]);
}

#[test]
fn missing_arguments_and_files_are_named() {
    let bench = Bench::new();
    bench.rerank(&[]).fails(2, &["--query", "--requests"]);
    bench.rerank(&["--query", "q"]).fails(2, &["no documents"]);
    bench.rerank(&["--query", "q", "--documents", "nowhere.txt"]).fails(2, &["nowhere.txt", "No such file"]);
    bench.rerank(&["--requests", "nowhere.jsonl"]).fails(2, &["nowhere.jsonl"]);
    bench.rerank(&["--query", "q", "--guest", "nowhere.wasm", "d"]).fails(2, &["nowhere.wasm"]);
    bench.rerank(&["--query", "q", "--requests", "x", "d"]).fails(2, &["cannot be used with"]);
    // Options of another kind of input.
    for (options, option) in [
        (&["--queries", "x"][..], "--queries"),
        (&["--requests-format", "csv"], "--requests-format"),
        (&["--keep-field", "x"], "--keep-field"),
        (&["--documents-format", "lines"], "--documents-format"),
        (&["--run-tag", "x"], "--run-tag is a column of a run: it needs --output run"),
    ] {
        bench.rerank(&[&["--query", "q", "d"], options].concat()).fails(2, &[option]);
    }
}

#[test]
fn broken_lines_are_numbered_and_what_came_before_is_answered() {
    let bench = Bench::new();
    let good = r#"{"query": "red", "documents": ["sun"]}"#;
    let cases = [
        ("{\"query\": \"red\", \"documents\": [\"sun\"", "EOF"),
        ("{\"documents\": []}", "missing field `query`"),
        ("{\"query\": \"red\"}", "missing field `documents`"),
        ("{\"query\": \"red\", \"documents\": [1]}", "document 0: invalid type: integer `1`, expected a document"),
        ("[1, 2]", "expected a request, {\"query\": …"),
    ];
    for (line, message) in cases {
        let file = bench.file("requests.jsonl", format!("{good}\n\n{line}\n{good}\n"));
        let finished = bench.rerank(&["--json", "--requests", file.to_str().unwrap()]);
        finished.fails(2, &["line 3", message]);
        assert_eq!(finished.lines().len(), 1, "{line}");
    }
    let file = bench.file("documents.jsonl", "\"sun\"\n{\"title\": \"moon\"}\n");
    bench.rerank(&["--query", "q", "--documents", file.to_str().unwrap()]).fails(2, &["line 2", "\"text\""]);
    let file = bench.file("latin1.txt", b"sun\nm\xf6\xf6n\n");
    bench.rerank(&["--query", "q", "--documents", file.to_str().unwrap()]).fails(2, &["line 2", "UTF-8"]);
}

#[test]
fn nothing_to_rank_is_an_empty_answer() {
    let bench = Bench::new();
    let file = bench.file("empty.txt", "\n\n");
    let finished = bench.rerank(&["--json", "--query", "q", "--documents", file.to_str().unwrap()]).succeeds();
    assert_eq!(finished.lines()[0]["hits"], serde_json::json!([]));
    let file = bench.file("requests.jsonl", "");
    assert_eq!(bench.rerank(&["--json", "--requests", file.to_str().unwrap()]).succeeds().stdout, "");
}

#[test]
fn a_request_over_a_limit_names_the_limit_and_the_document() {
    let bench = Bench::new();
    let file = bench.file("documents.txt", format!("sun\n{}\n", "x".repeat((1 << 20) + 1)));
    bench
        .rerank(&["--query", "q", "--documents", file.to_str().unwrap()])
        .fails(2, &["max_text_bytes of document 1 is limited to 1048576", "1048577"]);
    let file = bench.file("documents.txt", "sun\n".repeat(1001));
    bench
        .rerank(&["--query", "q", "--documents", file.to_str().unwrap()])
        .fails(2, &["documents.txt, line 1001", "max_documents is limited to 1000, the file has more"]);
    bench.rerank(&["--query", "q", "--max-tokens", "2", "sun"]).fails(2, &["2"]);
    let asked = bench.rerank(&["--query", "q", "--max-tokens", "100000", "sun"]).succeeds();
    assert!(asked.stderr.contains("note: --max-tokens 100000 is more than"), "{}", asked.stderr);
}

#[test]
fn a_file_that_is_no_guest_is_told_from_a_guest_that_misbehaves() {
    let bench = Bench::new();
    let with = |guest: &std::path::Path| bench.rerank(&["--query", "q", "--guest", guest.to_str().unwrap(), "sun"]);
    with(&bench.file("text.wasm", "not wasm")).fails(2, &["text.wasm is not WebAssembly"]);
    with(&bench.file("core.wasm", b"\0asm\x01\0\0\0")).fails(2, &["core module"]);
    with(&bench.file("cut.wasm", b"\0asm\x0d\0\x01\0\x01")).fails(2, &["cut.wasm cannot be compiled"]);
    with(&component("no-export")).fails(2, &["not a guest of assay:rerank/tenant", "assay:rerank/reranker"]);
    with(&component("traps")).fails(1, &["the guest failed", "unreachable"]);
    with(&component("hoards")).fails(1, &["the guest failed", "bytes of memory, its limit is 268435456"]);
    with(&component("spins")).fails(1, &["the guest failed", "computed for longer than its limit of 10000 ms"]);
}
