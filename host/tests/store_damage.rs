//! Damage in the store of models: what of it is noticed, by which command, and how it is repaired.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use assay::model::{Change, ModelStore, Source};
use common::tiny::Model;
use common::{Bench, change_byte, finish};

#[test]
fn a_file_that_is_not_of_a_revision_decides_nothing() {
    let bench = Bench::new();
    let show = || finish(bench.assay().args(["model", "show", "tiny", "--json"])).succeeds().stdout;
    let before = show();
    let stored = bench.path("data/models/tiny");
    let current = std::fs::read_to_string(stored.join("current")).unwrap();
    let settings = stored.join(current).join("settings.json");
    assert!(!settings.exists());
    std::fs::write(settings, r#"{"scores":"sigmoid","prompt":"another query: "}"#).unwrap();
    assert_eq!(show(), before);
}

#[test]
fn a_damaged_weights_file_is_refused_or_found() {
    let bench = Bench::new();
    let whole = bench.path("tiny/model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    for (name, damaged) in [
        ("cut", bytes[..bytes.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("header", [b"\xff\xff\xff\xff\xff\xff\xff\x7f", &bytes[8..]].concat()),
        ("longer", [bytes.as_slice(), b"more"].concat()),
    ] {
        Model::default().write(&bench.path(name));
        std::fs::write(bench.path(name).join("model.safetensors"), damaged).unwrap();
        bench.add(&bench.path(name)).fails(2, &["is not a whole safetensors file"]);
    }
    // One bit of one weight: nothing about the number shows it, its hash does.
    let verify = || finish(bench.assay().args(["model", "verify"]));
    verify().succeeds();
    let stored = std::path::absolute(bench.path("data/models/tiny")).unwrap();
    let current = std::fs::read_to_string(stored.join("current")).unwrap();
    let weights = stored.join(current).join("model.safetensors");
    change_byte(&weights, 5);
    let expected = ["model.safetensors", "SHA-256 is", "bring the model in again"];
    verify().fails(1, &expected);
    bench.rerank(&["--query", "q", "d"]).fails(1, &expected);
    change_byte(&weights, 5);
    verify().succeeds();
    std::fs::write(&weights, &bytes[..100]).unwrap();
    verify().fails(1, &["has 100 bytes, had"]);
    bench.rerank(&["--query", "q", "d"]).fails(1, &["has 100 bytes, had"]);
    bench.add(&bench.path("tiny")).succeeds();
    verify().succeeds();
}

#[test]
#[cfg(unix)]
fn what_lies_in_the_place_of_a_file_is_refused_at_once_and_repaired() {
    let bench = Bench::new();
    let stored = std::path::absolute(bench.path("data/models/tiny")).unwrap();
    let revision = stored.join(std::fs::read_to_string(stored.join("current")).unwrap());
    let rerank = || bench.rerank(&["--query", "q", "d"]);
    rerank().succeeds();
    let pipe = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    let device = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    let directory = |path: &Path| std::fs::create_dir(path).unwrap();
    let in_its_place: [&dyn Fn(&Path); 3] = [&pipe, &device, &directory];
    let files = ["model.safetensors", "tokenizer.json", "config.json", "manifest.json"];
    for file in files.iter().map(|file| revision.join(file)).chain([stored.join("current")]) {
        for put in in_its_place {
            std::fs::remove_file(&file).unwrap();
            put(&file);
            let expected = [file.file_name().unwrap().to_str().unwrap(), "is not a regular file", "bring the model in"];
            rerank().fails(1, &expected);
            finish(bench.assay().args(["model", "verify"])).fails(1, &expected);
            bench.add(&bench.path("tiny")).succeeds();
            rerank().succeeds();
        }
        std::fs::remove_file(&file).unwrap();
        assert_ne!(finish(bench.assay().args(["model", "verify"])).code, Some(0), "{}", file.display());
        bench.add(&bench.path("tiny")).succeeds();
    }
    // A pointer leads nowhere but to a revision.
    for elsewhere in ["../../../../tmp", "\u{fffd}\u{fffd}", ""] {
        std::fs::write(stored.join("current"), elsewhere).unwrap();
        rerank().fails(1, &["current: names no revision", "bring the model in"]);
        finish(bench.assay().args(["model", "verify"])).fails(1, &["current: names no revision"]);
        bench.add(&bench.path("tiny")).succeeds();
    }
    rerank().succeeds();
    std::fs::remove_file(stored.join("current")).unwrap();
    rerank().fails(1, &["current: is missing", "assay model add DIR --name NAME"]);
    bench.add(&bench.path("tiny")).succeeds();
    rerank().succeeds();
}

#[test]
fn a_damaged_revision_is_repaired_and_none_of_its_files_is_missing_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(&dir.path().join("data"));
    Model::default().write(&dir.path().join("tiny"));
    let add = || {
        let source = Source::Directory { path: "made for a test".to_owned() };
        let added = store.add("tiny", &dir.path().join("tiny"), source, None).unwrap();
        (added.model.manifest.revision, added.change)
    };
    let (revision, _) = add();
    let place = store.open(None).unwrap().dir().to_owned();
    let files = ["manifest.json", "config.json", "tokenizer.json", "model.safetensors"].map(|file| place.join(file));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !is_done.load(Ordering::SeqCst) {
                assert!(files.iter().all(|file| file.exists()), "a file is missing");
                looks += 1;
            }
            looks
        });
        for _ in 0..5 {
            for file in &files {
                change_byte(file, 5);
                assert_eq!(add(), (revision.clone(), Change::Repaired), "{file:?}");
                store.open(None).unwrap().verify().unwrap();
            }
        }
        is_done.store(true, Ordering::SeqCst);
        assert!(looks.join().unwrap() > 0);
    });
    // A file that is gone altogether comes back too.
    std::fs::remove_file(&files[3]).unwrap();
    assert_eq!(add().1, Change::Repaired);
    store.open(None).unwrap().verify().unwrap();
}
