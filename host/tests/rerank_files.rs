//! What `assay rerank` makes of the files that people bring.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use common::files::{DOCUMENTS, plain, text};
use common::{Bench, finish};
use serde_json::{Value, json};

/// The hits for the query "blue" and the four documents as arguments.
fn expected(bench: &Bench) -> Value {
    let line = bench.rerank(&[&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat()).succeeds().lines();
    line[0]["hits"].clone()
}

fn ids(line: &Value) -> Vec<Value> {
    line["hits"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect()
}

#[test]
fn documents_of_a_json_array_are_ranked_and_not_its_brackets() {
    let bench = Bench::new();
    let one_line = json!(DOCUMENTS).to_string();
    let many_lines = serde_json::to_string_pretty(&json!(DOCUMENTS)).unwrap();
    let marked = format!("\u{feff}{many_lines}\n");
    for (name, content) in [("one.json", one_line), ("many.json", many_lines), ("marked", marked)] {
        let file = bench.file(name, content);
        let finished = bench.rerank(&["--json", "--query", "blue", "--documents", text(&file)]).succeeds();
        assert_eq!(finished.lines()[0]["hits"], expected(&bench), "{name}");
    }
    let broken = bench.file("broken.json", "[\"blue sky\",\n\"red sun\"");
    bench
        .rerank(&["--query", "blue", "--documents", text(&broken)])
        .fails(2, &["broken.json, line 2", "ends inside of its array", "--documents-format"]);
}

#[test]
fn a_byte_order_mark_changes_nothing_and_utf16_is_named() {
    let bench = Bench::new();
    let lines: String = DOCUMENTS.map(|text| json!({ "text": text }).to_string() + "\n").concat();
    let request = json!({ "query": "blue", "documents": DOCUMENTS }).to_string();
    for (name, content) in [("d.jsonl", lines.clone()), ("d.txt", DOCUMENTS.join("\n"))] {
        let file = bench.file(name, format!("\u{feff}{content}"));
        let finished = bench.rerank(&["--json", "--query", "blue", "--documents", text(&file)]).succeeds();
        assert_eq!(finished.lines()[0]["hits"], expected(&bench), "{name}");
    }
    let file = bench.file("requests.jsonl", format!("\u{feff}{request}\n"));
    let finished = bench.rerank(&["--json", "--requests", text(&file)]).succeeds();
    assert_eq!(finished.lines()[0]["hits"], expected(&bench));
    for content in [lines, request] {
        let utf16 = format!("\u{feff}{content}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let file = bench.file("utf16.jsonl", utf16);
        let named: &[&str] = &["utf16.jsonl", "is UTF-16", "iconv"];
        bench.rerank(&["--query", "blue", "--documents", text(&file)]).fails(2, named);
        bench.rerank(&["--requests", text(&file)]).fails(2, named);
    }
}

#[test]
fn half_an_emoji_in_a_request_is_ranked_as_the_replacement_character() {
    let bench = Bench::new();
    let lines = [
        r#"{"query": "blue sea \ud83d", "documents": ["moon \ud83d", "\udf1d sun"]}"#,
        "{\"query\": \"blue sea \u{fffd}\", \"documents\": [\"moon \u{fffd}\", \"\u{fffd} sun\"]}",
    ];
    let file = bench.file("requests.jsonl", lines.join("\n"));
    let lines = bench.rerank(&["--json", "--requests", text(&file)]).succeeds().lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["hits"], lines[1]["hits"]);
}

#[test]
fn a_bad_line_is_skipped_on_request_with_an_error_in_its_place() {
    let bench = Bench::new();
    let lines = [
        r#"{"id": "a", "query": "red", "documents": ["sun"]}"#.to_owned(),
        r#"{"id": "b", "query": "red"}"#.to_owned(),
        "no JSON".to_owned(),
        json!({ "id": 4, "query": "red", "documents": ["x".repeat((1 << 20) + 1)] }).to_string(),
        r#"{"id": 5, "query": "red", "documents": ["sun"], "top_k": 3}"#.to_owned(),
        r#"{"id": 6, "query": "red", "documents": ["sun"], "model": "other"}"#.to_owned(),
        r#"{"id": 7, "query": "red", "documents": ["sun"], "model": "tiny"}"#.to_owned(),
    ];
    let file = bench.file("requests.jsonl", lines.join("\n"));
    let finished = bench.rerank(&["--json", "--requests", text(&file), "--on-error", "skip"]);
    finished.fails(3, &["5 of 7 requests have an error"]);
    let lines = finished.lines();
    let found: Vec<(Value, Value)> =
        lines.iter().map(|line| (line["id"].clone(), line["error"]["kind"].clone())).collect();
    let invalid = json!("invalid-input");
    assert_eq!(
        found,
        [
            (json!("a"), Value::Null),
            (json!("b"), invalid.clone()),
            (Value::Null, invalid.clone()),
            (json!(4), json!("too-large")),
            (json!(5), invalid.clone()),
            (json!(6), invalid),
            (json!(7), Value::Null),
        ]
    );
    assert!(lines[1]["error"]["message"].as_str().unwrap().contains("missing field `documents`"));
    assert!(lines[2]["error"]["place"].as_str().unwrap().ends_with("requests.jsonl, line 3"));
    // Without being asked to skip, the run stops at the line and says which.
    let stopped = bench.rerank(&["--json", "--requests", text(&file)]);
    stopped.fails(2, &["requests.jsonl, line 2", "missing field `documents`"]);
    assert_eq!(stopped.lines().len(), 1);
    // A table has the error in its place too.
    let table = bench.rerank(&["--requests", text(&file), "--on-error", "skip"]);
    table.fails(3, &[]);
    assert_eq!(table.stdout.matches("error: ").count(), 5, "{}", table.stdout);
}

#[test]
fn requests_in_a_json_array_are_answered_as_those_on_lines() {
    let bench = Bench::new();
    let request = |id: u32| json!({ "id": id, "query": "red", "documents": DOCUMENTS });
    let array = json!([request(1), { "id": 2, "query": 3 }, request(3)]);
    let file = bench.file("requests.json", serde_json::to_string_pretty(&array).unwrap());
    let finished = bench.rerank(&["--json", "--on-error", "skip", "--requests", text(&file)]);
    finished.fails(3, &["1 of 3 requests"]);
    let lines = finished.lines();
    assert_eq!(lines.iter().map(|line| line["id"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(lines[1]["error"]["place"].as_str().unwrap().ends_with("element 1"), "{}", lines[1]);
    // A request that goes over several lines, with the way to put it on one.
    let file = bench.file("pretty.jsonl", serde_json::to_string_pretty(&request(1)).unwrap());
    bench.rerank(&["--requests", text(&file)]).fails(2, &["line 1", "must be on one line", "jq -c"]);
}

#[test]
fn a_program_that_waits_for_each_answer_gets_it() {
    let bench = Bench::new();
    let mut command = bench.assay();
    command.args(["rerank", "--json", "--requests", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (sender, answers) = std::sync::mpsc::channel();
    std::thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| sender.send(line.unwrap())));
    for id in 0..3 {
        writeln!(input, "{}", json!({ "id": id, "query": "red", "documents": DOCUMENTS })).unwrap();
        // Only a program that waits for more before it answers takes this long.
        let answer = answers.recv_timeout(std::time::Duration::from_secs(120));
        let Ok(answer) = answer else {
            child.kill().unwrap();
            panic!("no answer to request {id}")
        };
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["id"], id);
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_requests_id_and_its_documents_ids_come_back_and_its_fields_count() {
    let bench = Bench::new();
    let documents: Vec<Value> =
        DOCUMENTS.iter().zip(10..).map(|(text, id)| json!({ "id": id, "text": text })).collect();
    let lines = [
        json!({ "id": "q1", "query": "blue", "documents": documents }),
        json!({ "id": 2, "query": "blue", "documents": DOCUMENTS, "top_n": 2, "scores": "sigmoid", "relevant": [1] }),
        json!({ "query": "sea", "documents": ["moon ".repeat(40)], "truncation": "document-only", "max_tokens": 9 }),
    ];
    let file = bench.file("requests.jsonl", lines.map(|line| line.to_string()).join("\n"));
    let refused = bench.rerank(&["--json", "--requests", text(&file)]);
    refused.fails(2, &["line 2", "unknown field \"relevant\"", "top_n", "--keep-field"]);
    let lines = bench.rerank(&["--json", "--keep-field", "relevant", "--requests", text(&file)]).succeeds().lines();
    assert_eq!((&lines[0]["id"], &lines[1]["id"], lines[2].get("id")), (&json!("q1"), &json!(2), None));
    assert_eq!(plain(&lines[0]["hits"]), expected(&bench));
    for hit in lines[0]["hits"].as_array().unwrap() {
        assert_eq!(hit["id"].as_u64().unwrap(), hit["index"].as_u64().unwrap() + 10);
    }
    let hits = lines[1]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 2);
    for (hit, raw) in hits.iter().zip(expected(&bench).as_array().unwrap()) {
        let sigmoid = 1.0 / (1.0 + (-raw["score"].as_f64().unwrap()).exp());
        assert!((hit["score"].as_f64().unwrap() - sigmoid).abs() < 1e-6);
    }
    assert_eq!(lines[1]["fields"], json!({ "relevant": [1] }));
    assert_eq!(lines[2]["usage"], json!({ "tokens": 9, "rows": 1, "truncated": 1 }));
}

#[test]
fn a_query_and_documents_may_begin_with_a_hyphen() {
    let bench = Bench::new();
    let hyphens = ["--query", "-40 red sun in blue", "- first moon", "-1", "sea"];
    let plain = ["--query=-40 red sun in blue", "--", "- first moon", "-1", "sea"];
    let hits = |args: &[&str]| bench.rerank(&[&["--json"], args].concat()).succeeds().lines()[0]["hits"].clone();
    assert_eq!(hits(&hyphens), hits(&plain));
    assert_eq!(hits(&hyphens).as_array().unwrap().len(), 3);
    bench.rerank(&["--query", "q", "--jsno", "d"]).fails(2, &["unexpected argument '--jsno'"]);
}

#[test]
fn output_that_is_closed_early_ends_every_command_quietly() {
    let bench = Bench::new();
    let request = json!({ "query": "red", "documents": ["sun"] }).to_string() + "\n";
    let file = bench.file("requests.jsonl", request.repeat(50));
    let commands: [&[&str]; 8] = [
        &["model", "list"],
        &["model", "list", "--json"],
        &["model", "verify"],
        &["devices"],
        &["devices", "--json"],
        &["tenant", "list"],
        &["rerank", "--query", "red", "sun"],
        &["rerank", "--json", "--requests", text(&file)],
    ];
    // The first command that ranks may say that it prepares the guest.
    bench.rerank(&["--query", "red", "sun"]).succeeds();
    for command in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let finished = finish(bench.assay().args(command).stdout(writer));
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{command:?}");
    }
    // As `head -1` does: the reader takes a line and goes.
    let mut command = bench.assay();
    command.args(["rerank", "--json", "--requests", text(&file)]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("hits"));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn documents_in_csv_and_tsv_are_read_by_their_column() {
    let bench = Bench::new();
    let csv = format!(
        "docid,text\n{}",
        DOCUMENTS.iter().zip(1..).map(|(d, n)| format!("d{n},\"{d}\"\n")).collect::<String>()
    );
    let tsv = csv.replace(',', "\t").replace('"', "");
    for (name, content) in [("d.csv", &csv), ("d.tsv", &tsv)] {
        let file = bench.file(name, content);
        let line =
            bench.rerank(&["--json", "--query", "blue", "--documents", text(&file)]).succeeds().lines().remove(0);
        assert_eq!(plain(&line["hits"]), expected(&bench), "{name}");
        let hits = line["hits"].as_array().unwrap();
        assert!(hits.iter().all(|hit| hit["id"] == format!("d{}", hit["index"].as_u64().unwrap() + 1)), "{line}");
    }
    let file = bench.file("d.csv", "key,body\n1,moon\n");
    bench.rerank(&["--query", "q", "--documents", text(&file)]).fails(2, &["has no \"text\" but \"key\", \"body\""]);
    let chosen = ["--query", "q", "--documents", text(&file), "--field", "text=body", "--field", "id=key"];
    let table = bench.rerank(&chosen).succeeds().stdout;
    assert!(table.contains("rank  score") && table.contains("id  document") && table.contains("moon"), "{table}");
}

#[test]
fn pairs_in_csv_are_one_request_for_each_query() {
    let bench = Bench::new();
    let rows = "qid,query,docid,text\nq1,blue,d1,blue sky\nq1,blue,d2,red sun\nq2,\"sea, moon\",d3,moon\n";
    let file = bench.file("pairs.csv", rows);
    let lines = bench.rerank(&["--json", "--requests", text(&file)]).succeeds().lines();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&json!("q1"), &json!("q2")));
    let mut found = ids(&lines[0]);
    found.sort_by_key(ToString::to_string);
    assert_eq!((found, ids(&lines[1])), (vec![json!("d1"), json!("d2")], vec![json!("d3")]));
    // The layout of MS MARCO's top1000 files, which have no row of names.
    let file = bench.file("top1000.tsv", "q1\td1\tblue\tblue sky\nq1\td2\tblue\tred sun\nq2\td3\tsea, moon\tmoon\n");
    let named = ["--json", "--columns", "qid,pid,query,passage", "--requests", text(&file)];
    let without_times = |line: &Value| (line["id"].clone(), line["hits"].clone());
    let again = bench.rerank(&named).succeeds().lines();
    assert_eq!(
        again.iter().map(without_times).collect::<Vec<_>>(),
        lines.iter().map(without_times).collect::<Vec<_>>()
    );
    // Rows of a query that do not stand together would be ranked in two parts.
    let file = bench.file("mixed.csv", "query,text\nred,sun\nblue,sky\nred,moon\n");
    bench.rerank(&["--json", "--requests", text(&file)]).fails(2, &["line 4", "sort the file by query"]);
    let file = bench.file("short.csv", "query,text\nred,sun\nred\nred,moon\n");
    let stopped = bench.rerank(&["--json", "--requests", text(&file)]);
    stopped.fails(2, &["line 3", "has 1 columns"]);
    assert_eq!(stopped.stdout, "", "a query of which a document is missing has no answer");
    let skipped = bench.rerank(&["--json", "--on-error", "skip", "--requests", text(&file)]);
    skipped.fails(3, &["1 of 1 requests"]);
    assert!(skipped.lines()[0]["hits"].is_null(), "{}", skipped.stdout);
}

#[test]
fn a_query_with_a_bad_row_has_an_error_with_its_id_and_no_answer() {
    let bench = Bench::new();
    let long = "x".repeat(1025);
    let rows = format!(
        "qid,query,docid,text\nq1,red,d1,sun\nq1,red,{long},moon\nq2,blue,d1,sky\nq3,{long},d1,sky,more\nq4,sea,{long},sky\n\
         q4,sea,{long},sun\nq4,sea,d1,moon\nq5,sea,d1,moon\n"
    );
    let file = bench.file("pairs.csv", rows);
    let finished = bench.rerank(&["--json", "--on-error", "skip", "--requests", text(&file)]);
    // Four queries, and a row of too many columns that may be of any.
    finished.fails(3, &["3 of 5 requests"]);
    let lines = finished.lines();
    let found: Vec<(Value, bool, String)> = lines
        .iter()
        .map(|line| {
            let place = line["error"]["place"].as_str().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
            (line["id"].clone(), line["hits"].is_array(), place.to_owned())
        })
        .collect();
    let row = |id: Value, is_answer: bool, line: &str| (id, is_answer, line.to_owned());
    assert_eq!(
        found,
        [
            row(json!("q1"), false, "3"),
            row(Value::Null, false, "5"),
            row(json!("q2"), true, ""),
            row(json!("q4"), false, "6"),
            row(json!("q5"), true, ""),
        ]
    );
    let message = lines[3]["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("an id is limited to 1024 bytes") && message.ends_with("first of 2 bad rows of this query")
    );
}

#[test]
fn a_written_run_has_each_query_and_each_document_of_it_once() {
    let bench = Bench::new();
    let request = |id: &str, documents: [&str; 2]| {
        let documents = documents.map(|id| json!({ "id": id, "text": "sun" }));
        json!({ "id": id, "query": "red", "documents": documents }).to_string() + "\n"
    };
    let lines = [
        request("q1", ["d1", "d2"]),
        request("q2", ["d1", "d1"]),
        request("q1", ["d3", "d4"]),
        request("q3", ["d1", "d2"]),
    ];
    let file = bench.file("requests.jsonl", lines.concat());
    let args = ["--requests", text(&file), "--output", "run"];
    bench.rerank(&args).fails(2, &["line 2", "two documents have the id \"d1\""]);
    let skipped = bench.rerank(&[args.as_slice(), &["--on-error", "skip"]].concat());
    skipped.fails(3, &["line 3: an earlier request has the id \"q1\" too", "2 of 4 requests"]);
    let queries: Vec<&str> = skipped.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(queries, ["q1", "q1", "q3", "q3"]);
    // In JSON both are of use.
    let answers = bench.rerank(&["--requests", text(&file), "--json"]).succeeds().lines();
    assert_eq!(answers.len(), 4);
}

#[test]
fn titles_that_are_not_ranked_are_named_for_requests_and_pairs_too() {
    let bench = Bench::new();
    let request =
        json!({ "query": "red", "documents": ["sun", { "title": "Sky", "text": "moon" }] }).to_string() + "\n";
    let file = bench.file("requests.jsonl", request.repeat(2));
    let noted = bench.rerank(&["--json", "--requests", text(&file)]).succeeds().stderr;
    assert_eq!(noted.matches("titles are not ranked").count(), 1, "{noted}");
    let both = ["--json", "--field", "text=title", "--field", "text=text", "--requests", text(&file)];
    bench.rerank(&both).fails(0, &[]);
    assert!(!bench.rerank(&both).stderr.contains("titles"));
    let file = bench.file("pairs.csv", "query,title,text\nred,Sky,moon\nred,Sun,sun\n");
    let noted = bench.rerank(&["--json", "--requests", text(&file)]).succeeds().stderr;
    assert_eq!(noted.matches("titles are not ranked").count(), 1, "{noted}");
}

#[test]
fn names_that_nothing_reads_are_refused() {
    let bench = Bench::new();
    let lines = bench.file("lines.txt", "sun\nmoon\n");
    let documents = ["--query", "red", "--documents", text(&lines)];
    let with = |more: &[&str]| bench.rerank(&[documents.as_slice(), more].concat());
    with(&["--field", "text=nope"]).fails(2, &["lines.txt: is plain lines, which have no fields"]);
    with(&["--columns", "id,text"]).fails(2, &["lines.txt: has no columns that --columns could name"]);
    let braces = bench.file("braces.txt", "{sun} and moon\nmoon\n");
    let braces = ["--query", "red", "--documents", text(&braces)];
    bench.rerank(&braces).fails(2, &["is not JSON: ", "--documents-format lines reads it so"]);
    bench.rerank(&[braces.as_slice(), &["--documents-format", "lines"]].concat()).succeeds();
    with(&["--field", "query=q"]).fails(2, &["--field query=… is of no use"]);
    bench.rerank(&["--query", "red", "--field", "text=t", "sun"]).fails(2, &["the documents are arguments"]);
    let file = bench.file("requests.jsonl", "{\"q\": \"red\", \"documents\": [\"sun\"]}\n");
    bench.rerank(&["--requests", text(&file), "--field", "query=q"]).fails(2, &["has its query in \"query\""]);
    let file = bench.file("pairs.tsv", "red\tsun\n");
    bench
        .rerank(&["--requests", text(&file), "--columns", "query,docid,text"])
        .fails(2, &["has 2 columns, and --columns names 3"]);
    let file = bench.file("requests.jsonl", "not json\n");
    bench.rerank(&["--requests", text(&file)]).fails(2, &["line 1: is not JSON: "]);
}

#[test]
fn a_hyphen_for_the_output_file_is_standard_output() {
    let bench = Bench::new();
    let finished = finish(
        bench
            .assay()
            .current_dir(bench.dir.path())
            .args(["rerank", "--json", "-o", "-"])
            .args(["--query", "red", "sun"]),
    );
    assert_eq!(finished.succeeds().lines().len(), 1);
    assert!(!bench.path("-").exists());
    let file = bench.file("requests.jsonl", "");
    bench
        .rerank(&["--json", "-o", "-", "--resume", "--requests", text(&file)])
        .fails(2, &["standard output cannot be resumed"]);
}
