//! The corpora of the fuzz targets, replayed: what once was a finding stays fixed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::tenants;

fn replay(target: &str, oracle: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        oracle(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{} is empty", dir.display());
}

#[test]
fn rows_hold_their_oracle() {
    replay("rows", assay::oracle::rows);
}

#[test]
fn limits_hold_their_oracle() {
    replay("limits", assay::oracle::limits);
}

#[test]
fn bodies_hold_their_oracle() {
    replay("body", assay::oracle::body);
}

#[test]
fn admin_requests_hold_their_oracle() {
    replay("admin", assay::oracle::admin);
}

#[test]
fn configurations_of_a_server_hold_their_oracle() {
    replay("config", |bytes| {
        assay::oracle::config(bytes);
    });
}

#[test]
fn models_hold_their_oracle() {
    replay("model", assay::oracle::model);
    // A whole model too, so that the path to the end is taken.
    let dir = tempfile::tempdir().unwrap();
    tenants::tiny_model(3).write(dir.path());
    let read = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
    assay::oracle::model(&[read("config.json"), vec![0], read("model.safetensors")].concat());
}
