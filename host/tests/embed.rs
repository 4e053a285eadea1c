//! Assay in a program of one's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::path::Path;
use std::process::Command;

use assay::rerank::{CallError, Request};
use assay::tenant::TenantLimits;
use assay::{AskError, Assay, Tenant};
use common::finish;
use common::server::copy_all;
use common::tenants::{self, Oracle, component, request, seeded};

fn open(data_dir: &Path) -> Assay {
    Assay::builder(data_dir).compiler(common::PROGRAM).open().unwrap()
}

fn of(component: Vec<u8>) -> Tenant {
    Tenant { component: Some(component), ..Tenant::default() }
}

#[test]
fn tenants_answer_threads_and_executors_and_stay_for_the_next_start() {
    let dir = tenants::data_dir();
    let expected = Oracle::new(dir.path()).scores(1, &["one".to_owned(), "two".to_owned()]);
    let assay = open(dir.path());
    assert_eq!(assay.deploy("acme", of(seeded(1))).unwrap(), 1);
    assert_eq!(assay.deploy("other", of(seeded(2))).unwrap(), 1);
    let ask = || {
        let mut hits = assay.rerank_blocking("acme", request(&["one", "two"])).unwrap().hits;
        hits.sort_by_key(|hit| hit.index);
        assert_eq!(hits.iter().map(|hit| hit.score).collect::<Vec<_>>(), expected);
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(ask))));
    drop(assay);

    // All of it within an executor, its end too.
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let assay = open(dir.path());
        assert_eq!(assay.rerank("acme", request(&["one"])).await.unwrap().hits[0].score, expected[0]);
        assert_eq!(assay.deploy("acme", of(seeded(2))).unwrap(), 2);
        assert_ne!(assay.rerank("acme", request(&["one"])).await.unwrap().hits[0].score, expected[0]);
        assay.remove("acme").unwrap();
        let gone = assay.rerank("acme", request(&["one"])).await.unwrap_err();
        assert_eq!(gone, AskError::NoTenant("acme".to_owned()));
        assay.rerank("other", request(&["one"])).await.unwrap();
    });
}

#[test]
fn limits_hold_and_what_is_refused_changes_nothing() {
    let dir = tenants::data_dir();
    let assay = open(dir.path());
    let limits = TenantLimits { max_documents: 1, max_guest_cpu_ms: 200, ..TenantLimits::default() };
    assay.deploy("acme", Tenant { limits: Some(limits), ..of(component("trigger")) }).unwrap();
    let refused = assay.rerank_blocking("acme", request(&["one", "two"])).unwrap_err();
    assert!(matches!(refused, AskError::Call(CallError::TooLarge { allowed: 1, .. })), "{refused}");
    let spin = Request { query: "ATTACK spin".to_owned(), ..request(&["one"]) };
    let stopped = assay.rerank_blocking("acme", spin).unwrap_err();
    assert!(matches!(stopped, AskError::Call(CallError::Internal(_))), "{stopped}");

    let wrong = assay.deploy("acme", of(b"not a component".to_vec())).unwrap_err();
    assert!(wrong.to_string().contains("component"), "{wrong}");
    let unknown = assay.deploy("acme", Tenant { model: Some("no-such".to_owned()), ..Tenant::default() }).unwrap_err();
    assert!(unknown.to_string().contains("no-such"), "{unknown}");
    assert!(assay.deploy("no name", Tenant::default()).is_err());
    assert!(assay.remove("nobody").is_err());
    assay.rerank_blocking("acme", request(&["one"])).unwrap();
    assert_eq!(assay.models().list().unwrap().len(), 2);

    // The directory is taken, and a compiler is needed.
    assert!(Assay::builder(dir.path()).compiler(common::PROGRAM).open().is_err());
    drop(assay);
    let nothing = Assay::builder(dir.path()).open().unwrap_err();
    assert!(nothing.to_string().contains("compile_if_asked"), "{nothing}");
}

#[test]
fn the_example_ranks() {
    let example = Path::new(common::PROGRAM).with_file_name("examples").join("embed");
    assert!(example.exists(), "{} is missing: `cargo test --workspace` builds it", example.display());
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    copy_all(&common::test_data(), &data_dir);
    let arguments = ["why is the sky blue", "Bread is baked.", "Air scatters blue light."];
    let ranked = finish(Command::new(example).arg(&data_dir).args(arguments));
    assert_eq!(ranked.code, Some(0), "{}", ranked.stderr);
    let documents: Vec<&str> = ranked.stdout.lines().map(|line| line.split_once('\t').unwrap().1).collect();
    assert_eq!(documents, ["Air scatters blue light.", "Bread is baked."]);
}
