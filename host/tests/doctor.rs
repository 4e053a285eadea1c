//! `assay doctor`: one command that measures the machine, checks kernels, and says what it found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, Finished, finish};
use serde_json::{Value, json};

/// Largest bundle.
const MAX_BYTES: usize = 1 << 20;

/// Runs the doctor on the processor alone; gives the page and the bundle.
fn doctor(bench: &Bench, arguments: &[&str]) -> (Finished, Value) {
    let out = bench.path("found.json");
    let arguments = [&["doctor", "--engine", "cpu", "--short"], arguments].concat();
    let done = finish(bench.assay().args(arguments).arg("--out").arg(&out)).succeeds();
    let bytes = std::fs::read(&out).unwrap();
    assert!(bytes.len() < MAX_BYTES, "{} bytes", bytes.len());
    (done, serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn the_processor_is_measured_and_every_kernel_of_it_is_right() {
    let bench = Bench::new();
    let (done, found) = doctor(&bench, &[]);
    for part in ["Machine", "registers allow", "reads, by each thread's bytes", "f32", "int8", "int16", "Findings"] {
        assert!(done.stdout.contains(part), "no {part:?} in\n{}", done.stdout);
    }
    assert!(done.stderr.contains("found.json") && done.stderr.contains("paste this page"), "{}", done.stderr);
    assert_eq!((&found["format"], &found["model"]["stand_in"]), (&json!(1), &json!(false)));
    assert_eq!((&found["gpu"], &found["failed"]), (&Value::Null, &json!([])));
    let numbers = found["processor"]["numbers"].as_array().unwrap();
    // Each precision, on the set that serves and on portable code at least.
    assert!(numbers.len() >= 6 && numbers.iter().all(|checked| checked["right"] == true), "{numbers:?}");
    assert!(numbers.iter().any(|checked| checked["what"] == "portable int16"), "{numbers:?}");
    for precision in found["processor"]["precisions"].as_array().unwrap() {
        let rows: Vec<&Value> = precision["passes"].as_array().unwrap().iter().map(|pass| &pass["rows"]).collect();
        assert_eq!(rows, [&json!(1), &json!(4)], "{precision}");
        assert!(precision["passes"][0]["verdict"]["sentence"].as_str().unwrap().contains("bound"), "{precision}");
    }
}

#[test]
fn neither_page_nor_file_has_a_path_or_a_models_name() {
    let bench = Bench::new();
    let (done, found) = doctor(&bench, &[]);
    let dir = bench.dir.path().to_str().unwrap();
    for text in [&done.stdout, &found.to_string()] {
        assert!(!text.contains(dir) && !text.contains("\"tiny\"") && !text.contains("/home/"), "{text}");
    }
}

#[test]
fn without_a_model_random_weights_in_the_default_models_shape_are_measured() {
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    let (done, found) = doctor(&bench, &[]);
    assert!(done.stdout.contains("no model is in the store"), "{}", done.stdout);
    let model = &found["model"];
    assert_eq!((&model["stand_in"], &model["hidden"], &model["layers"]), (&json!(true), &json!(384), &json!(6)));
    assert!(found["processor"]["numbers"].as_array().unwrap().iter().all(|checked| checked["right"] == true));
}

#[test]
fn a_model_that_is_not_there_and_a_file_that_cannot_be_written_are_named() {
    let bench = Bench::new();
    let doctor =
        |arguments: &[&str]| finish(bench.assay().args(["doctor", "--engine", "cpu", "--short"]).args(arguments));
    doctor(&["--model", "no/such"]).fails(2, &["no/such", "assay model list"]);
    doctor(&["--out", "/no/such/dir/found.json"]).fails(2, &["found.json", "--out"]);
    doctor(&["--out", "-"]).fails(2, &["standard output"]);
    doctor(&["--adapter="]).fails(2, &["--adapter"]);
    doctor(&["--adapter", "0"]).fails(2, &["adapter", "gpu"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_or_link_in_the_files_place_stays_and_the_file_has_the_usual_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let (link, file) = (bench.path("link"), bench.path("file"));
    std::fs::write(&file, "earlier").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let doctor = |out: &std::path::Path| {
        finish(bench.assay().args(["doctor", "--engine", "cpu", "--short", "--out"]).arg(out)).succeeds()
    };
    doctor(&link);
    assert!(link.is_symlink());
    serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();
    doctor(&bench.path("new"));
    let usual = std::fs::metadata(bench.file("usual", "")).unwrap().permissions().mode();
    assert_eq!(std::fs::metadata(bench.path("new")).unwrap().permissions().mode(), usual);
}

#[cfg(target_os = "linux")]
#[test]
fn the_page_is_there_even_if_the_file_cannot_be_written_at_the_end() {
    let bench = Bench::new();
    let done = finish(bench.assay().args(["doctor", "--engine", "cpu", "--short", "--out", "/dev/full"]));
    done.fails(1, &["/dev/full"]);
    assert!(done.stdout.contains("Findings"), "{}", done.stdout);
}

#[test]
fn a_damaged_model_stops_it_with_the_ways_on() {
    let bench = Bench::new();
    let models = bench.path("data").join("models");
    let name = std::fs::read_to_string(models.join("default")).unwrap();
    let mut dirs = vec![models.join(name.trim())];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.file_name().unwrap() == "model.safetensors" => std::fs::write(path, "damaged").unwrap(),
                false => {}
            }
        }
    }
    let done = finish(bench.assay().args(["doctor", "--engine", "cpu", "--short"]));
    done.fails(2, &["assay model verify", "--model", "--data-dir"]);
}
