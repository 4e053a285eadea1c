//! `assay run`: components that call tenants, in this process and through a running server.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::server::{Server, tenant};
use common::service::until;
use common::tenants::{self, Oracle, seeded};
use common::{Finished, component, finish};
use serde_json::json;
use tempfile::TempDir;

/// Deploys the bytes of a component.
fn deploy(dir: &TempDir, name: &str, wasm: &[u8], limits: &str) {
    let (component, file) = (dir.path().join(format!("{name}.wasm")), dir.path().join(format!("{name}.toml")));
    std::fs::write(&component, wasm).unwrap();
    std::fs::write(&file, limits).unwrap();
    let limits = ["--limits", file.to_str().unwrap()];
    tenant(dir.path(), &[&["deploy", name, component.to_str().unwrap()], &limits[..]].concat());
}

/// A data directory with two tenants, whose scores differ.
fn two_tenants() -> TempDir {
    let dir = tenants::data_dir();
    deploy(&dir, "acme-7", &seeded(11), "");
    deploy(&dir, "law", &seeded(12), "");
    dir
}

fn run(data_dir: &Path, arguments: &[&str], caller: &str, own: &[&str]) -> Command {
    let mut command = common::assay(data_dir);
    command.arg("run").args(arguments).arg(component(caller)).args(own);
    command
}

/// Runs a command to its end with this standard input.
fn with_input(command: &mut Command, input: &str) -> Finished {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that is refused does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

const LINKED: [&str; 2] = ["--link", "news=acme-7"];
const INPUT: &str = "news\tq\tsome\tdocuments\nlaw\tq\tsome\tdocuments\n";

/// What `ask` prints for [`INPUT`]. The guest `seeded` leaves the hits in the documents' order.
fn expected(data_dir: &Path) -> String {
    let mut oracle = Oracle::new(data_dir);
    let documents = ["some".to_owned(), "documents".to_owned()];
    let lines = |label: &str, scores: Vec<f32>| -> String {
        scores.iter().enumerate().map(|(index, score)| format!("{label}\t{index}\t{score}\n")).collect()
    };
    lines("news", oracle.scores(11, &documents)) + &lines("law", oracle.scores(12, &documents))
}

#[test]
fn each_label_is_served_by_its_tenant_with_and_without_a_server() {
    let dir = two_tenants();
    let expected = expected(dir.path());
    assert_eq!(with_input(&mut run(dir.path(), &LINKED, "ask", &[]), INPUT).succeeds().stdout, expected);

    let server = Server::on(dir.path(), &[]);
    assert_eq!(with_input(&mut run(dir.path(), &LINKED, "ask", &[]), INPUT).succeeds().stdout, expected);
    // The same as over HTTP, and counted as a request of the tenant.
    let key = server.tenant(&["key", "create", "acme-7"]);
    let body = json!({ "query": "q", "documents": ["some", "documents"] }).to_string();
    let answer = server.post_as(&key, "/v1/rerank", body).ok();
    for (line, hit) in expected.lines().zip(answer["results"].as_array().unwrap()) {
        let score = hit["relevance_score"].as_f64().unwrap() as f32;
        assert_eq!(line, format!("news\t{}\t{score}", hit["index"]));
    }
    let shown: serde_json::Value = serde_json::from_str(&server.tenant(&["show", "acme-7", "--json"])).unwrap();
    assert_eq!(shown["usage"]["answered"], 2);
    assert!(server.stop());
}

#[test]
fn a_program_gets_its_arguments_its_variables_and_standard_input_and_its_exit_code_is_the_commands() {
    let dir = two_tenants();
    deploy(&dir, "plain", &seeded(13), "");
    assert_eq!(with_input(&mut run(dir.path(), &LINKED, "ask", &["2"]), INPUT).succeeds().stdout.lines().count(), 4);
    // The guest `seeded` gives all hits, and is told that one was asked for.
    let one = with_input(&mut run(dir.path(), &LINKED, "ask", &["1"]), INPUT);
    assert_eq!(one.code, Some(1));
    assert_eq!(one.stdout.matches("2 hits, but at most 1 were requested").count(), 2, "{}", one.stdout);
    let no_number = with_input(&mut run(dir.path(), &LINKED, "ask", &["--top-n"]), INPUT);
    assert_eq!((no_number.code, no_number.stdout.as_str()), (Some(1), "the argument must be a number of hits\n"));
    // Options of `assay run` are the program's where they follow it.
    for own in ["--help", "--memory=1MiB", "-h"] {
        let told = with_input(&mut run(dir.path(), &LINKED, "ask", &[own]), INPUT);
        assert_eq!((told.code, told.stdout.as_str()), (Some(1), "the argument must be a number of hits\n"), "{own}");
    }
    let hits = finish(&mut run(dir.path(), &["--link", "plain"], "plain", &["hits", "a", "b", "c"]));
    assert_eq!((hits.code, hits.stderr.as_str()), (Some(3), ""));
    // A variable reaches the program, which makes a setting for the tenant's guest of it.
    deploy(&dir, "law", &tenants::component("looks-around"), "");
    let variable = ["--link", "news=law", "--env", "SETTINGS=attack=look"];
    let found = with_input(&mut run(dir.path(), &variable, "ask", &[]), "law\tq\td\n");
    assert_eq!(found.code, Some(1));
    assert!(found.stdout.contains("0 variables, 0 arguments"), "{}", found.stdout);
}

#[test]
fn what_a_tenant_fails_with_is_a_value_for_the_program() {
    let dir = tenants::data_dir();
    deploy(&dir, "traps", &tenants::component("trigger"), "max_guest_cpu_ms = 100\n");
    deploy(&dir, "small", &seeded(12), "max_documents = 2\n");
    let links = ["--link", "news=traps", "--link", "law=small"];
    let input = "news\tATTACK spin\td\nlaw\tq\ta\tb\tc\nlaw\tq\ta\nnews\tq\td\n";
    let check = |finished: Finished| {
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let [spun, too_large, answered] = lines[..] else { panic!("{lines:?}") };
        for part in ["news\terror\tError::Internal", "tenant traps: the guest failed: it computed for longer"] {
            assert!(spun.contains(part), "no {part:?} in {spun}");
        }
        assert!(too_large.contains("Error::TooLarge") && too_large.contains("max_documents"), "{too_large}");
        assert!(answered.starts_with("law\t0\t"), "{answered}");
        assert_eq!(finished.stderr, "");
    };
    check(with_input(&mut run(dir.path(), &links, "ask", &[]), input));
    let server = Server::on(dir.path(), &[]);
    check(with_input(&mut run(dir.path(), &links, "ask", &[]), input));
    assert!(server.stop());
}

#[test]
fn links_that_lead_nowhere_are_refused_by_name_before_the_program_starts() {
    let dir = two_tenants();
    let check = || {
        let refused = |links: &[&str], parts: &[&str]| {
            let finished = with_input(&mut run(dir.path(), links, "ask", &[]), INPUT);
            finished.fails(2, parts);
            assert_eq!(finished.stdout, "");
        };
        refused(&[], &["import news", "news", "assay tenant list"]);
        refused(&["--link", "news=nobody"], &["import news", "nobody", "assay tenant list"]);
        refused(&["--link", "nwes=acme-7"], &["no reranker nwes", "imports news, law"]);
        refused(&["--link", "acme-7"], &["without a label", "imports news, law"]);
    };
    check();
    let server = Server::on(dir.path(), &[]);
    check();
    assert!(server.stop());
    // A guest is no program: it lacks `run`, and imports what only guests get.
    finish(&mut run(dir.path(), &[], "seeded", &[])).fails(2, &["seeded.wasm cannot be run", "wasi:cli/run"]);
}

#[test]
fn a_program_that_traps_or_takes_too_much_memory_fails_by_name() {
    let dir = tenants::data_dir();
    deploy(&dir, "plain", &seeded(13), "");
    let links = ["--link", "plain", "--memory", "64MiB"];
    finish(&mut run(dir.path(), &links, "plain", &["trap"])).fails(1, &["plain.wasm trapped", "unreachable"]);
    let hoarded = finish(&mut run(dir.path(), &links, "plain", &["hoard"]));
    hoarded.fails(1, &["plain.wasm", "bytes of memory, its limit is 67108864"]);
    finish(&mut run(dir.path(), &["--memory", "1"], "plain", &["hits"])).fails(2, &["--memory is 1 B"]);
}

#[test]
fn a_program_that_goes_away_cancels_what_it_asked() {
    let dir = tenants::data_dir();
    deploy(&dir, "spins", &tenants::component("trigger"), "max_guest_cpu_ms = 60000\nmax_wall_ms = 60000\n");
    let server = Server::on(dir.path(), &[]);
    let usage = |count: &str| -> u64 {
        let shown: serde_json::Value = serde_json::from_str(&server.tenant(&["show", "spins", "--json"])).unwrap();
        shown["usage"][count].as_u64().unwrap()
    };
    let mut command = run(dir.path(), &["--link", "news=spins", "--link", "law=spins"], "ask", &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"news\tATTACK spin\td\n").unwrap();
    until("the call's start", || usage("running") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the call's end", || usage("running") == 0 && usage("cancelled") == 1);
    assert!(server.stop());
}

#[test]
fn a_server_that_is_asked_to_stop_answers_calls_in_work_first() {
    let dir = tenants::data_dir();
    // Long enough to be in work when the order comes. On a busy machine that takes many times as long.
    deploy(&dir, "spins", &tenants::component("trigger"), "max_guest_cpu_ms = 1500\n");
    let server = Server::on(dir.path(), &["--drain-seconds", "100"]);
    let shown = || -> serde_json::Value { serde_json::from_str(&server.tenant(&["show", "spins", "--json"])).unwrap() };
    let mut command = run(dir.path(), &["--link", "news=spins", "--link", "law=spins"], "ask", &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The second request comes when the server is stopping.
    child.stdin.take().unwrap().write_all(b"news\tATTACK spin\td\nlaw\tq\td\n").unwrap();
    until("the call's start", || shown()["usage"]["running"] == 1);
    server.signal();
    let output = child.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let [spun, refused] = lines.lines().collect::<Vec<_>>()[..] else { panic!("{lines}") };
    assert!(spun.contains("tenant spins: the guest failed: it computed for longer"), "{spun}");
    assert!(refused.starts_with("law\terror\tError::Unavailable"), "{refused}");
    assert!(server.ended());
}

#[test]
fn tenants_are_linked_with_and_without_a_server() {
    let dir = tenants::data_dir();
    let allowed = "callers = [\"front\"]\n";
    deploy(&dir, "back", &seeded(11), allowed);
    let relays = component("relays");
    let relays = relays.to_str().unwrap();
    let failed = |arguments: &[&str], parts: &[&str]| {
        common::finish(common::assay(dir.path()).arg("tenant").args(arguments)).fails(2, parts);
    };
    failed(&["deploy", "front", relays], &["imports a reranker without a label", "--link TENANT"]);
    failed(&["deploy", "front", relays, "--link", "nobody"], &["link nobody: there is no tenant nobody"]);
    // No server serves the tenant behind the link, and the version is tried all the same.
    tenant(dir.path(), &["deploy", "front", relays, "--link", "back"]);
    let plain = |data_dir: &Path| finish(&mut run(data_dir, &["--link", "front"], "plain", &["hits", "a", "b", "c"]));
    assert_eq!(plain(dir.path()).code, Some(3));

    let server = Server::on(dir.path(), &[]);
    let key = server.tenant(&["key", "create", "front"]);
    let body = json!({ "query": "q", "documents": ["some", "documents"] }).to_string();
    let answer = server.post_as(&key, "/v1/rerank", &body).ok();
    let expected = Oracle::new(dir.path()).scores(11, &["some".to_owned(), "documents".to_owned()]);
    let scores: Vec<f32> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["relevance_score"].as_f64().unwrap() as f32)
        .collect();
    assert_eq!(scores, expected);
    assert_eq!(plain(dir.path()).code, Some(3));
    let shown = server.tenant(&["show", "front"]);
    for part in ["links\n", "(no label)", "back", "are allowed"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let shown = server.tenant(&["show", "back"]);
    assert!(shown.contains("called by front") && shown.contains("may be called by front"), "{shown}");

    failed(&["remove", "back"], &["back is called by front", "--force"]);
    server.post_as(&key, "/v1/rerank", &body).ok();
    server.tenant(&["remove", "back", "--force"]);
    server.post_as(&key, "/v1/rerank", &body).refused(502, &["tenant back: there is no such tenant"]);
    assert!(server.tenant(&["show", "front"]).contains("fail: there is no such tenant"));
    assert!(server.stop());
}
