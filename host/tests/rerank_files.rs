//! What `assay rerank` makes of the files that people bring, and of those that it wrote itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Bench, Finished, finish};
use serde_json::{Value, json};

const DOCUMENTS: [&str; 4] = ["blue sky", "red sun", "green sea moon", "moon"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The hits for the query "blue" and the four documents as arguments.
fn expected(bench: &Bench) -> Value {
    let line = bench.rerank(&[&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat()).succeeds().lines();
    line[0]["hits"].clone()
}

/// Hits without ids.
fn plain(hits: &Value) -> Value {
    let plain = |hit: &Value| json!({ "index": hit["index"], "score": hit["score"] });
    hits.as_array().unwrap().iter().map(plain).collect()
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
