//! `assay devices`, `assay tune` and `--engine`: on a machine without a graphics driver, and on one with.
//!
//! `cargo xtask test` names a driver to start the command with (`ASSAY_TEST_RUNNER`); otherwise it is this machine's own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use common::{Bench, finish};
use serde_json::{Value, json};

/// How far the GPU engine's scores may be from the CPU engine's.
const F32_TOLERANCE: f64 = 1e-4;
/// The same for f16 storage.
const F16_TOLERANCE: f64 = 2e-2;

/// The command on a machine without a driver: any driver here is hidden from it.
fn without_driver(data_dir: &Path) -> Command {
    let mut command = common::assay(data_dir);
    command.env("VK_DRIVER_FILES", "/nowhere").env("VK_ICD_FILENAMES", "/nowhere");
    command
}

/// The command with the driver that tests run on.
fn with_driver(data_dir: &Path) -> Command {
    let assay = common::assay(data_dir);
    let Some(runner) = std::env::var_os("ASSAY_TEST_RUNNER") else { return assay };
    let mut command = Command::new(runner);
    command.arg(assay.get_program()).args(assay.get_args());
    command
}

/// The first adapter of the driver that tests run on; says so where there is none.
fn adapter(data_dir: &Path) -> Option<Value> {
    let devices = finish(with_driver(data_dir).args(["devices", "--json"])).succeeds().lines().remove(0);
    let adapter = devices["adapters"].get(0).cloned();
    if adapter.is_none() {
        testdata::skip(testdata::Cause::NoAdapter, &format!("no adapter ({})", devices["auto"]["reason"]));
    }
    adapter
}

/// A bench whose model has a head wide enough for the GPU engine.
fn bench() -> Bench {
    let mut model = common::tiny::Model::default();
    model.config["num_attention_heads"] = json!(1);
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    model.write(&bench.path("tiny"));
    bench.add(&bench.path("tiny")).succeeds();
    bench
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_devices_says_so_and_auto_takes_the_processor() {
    let bench = Bench::new();
    let text = finish(without_driver(&bench.path("data")).arg("devices")).succeeds().stdout;
    assert!(text.starts_with("no adapters") && text.contains("--engine auto takes cpu: no GPU"), "{text}");
    let devices = finish(without_driver(&bench.path("data")).args(["devices", "--json"])).succeeds().lines().remove(0);
    assert_eq!((&devices["adapters"], &devices["auto"]["engine"]), (&json!([]), &json!("cpu")));
    assert_eq!(devices["processor"]["precisions"], json!(["f32", "int8", "int16"]));
    let reranked = finish(without_driver(&bench.path("data")).args(["rerank", "--query", "blue", "sky"])).succeeds();
    assert!(reranked.stdout.contains("tiny · cpu f32") && reranked.stdout.contains("no GPU"), "{}", reranked.stdout);
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_the_gpu_engine_and_tune_fail_and_name_the_remedy() {
    let bench = Bench::new();
    let data = bench.path("data");
    let remedy = ["no GPU adapter", "assay devices", "cpu"];
    finish(without_driver(&data).arg("tune")).fails(1, &remedy);
    finish(without_driver(&data).args(["rerank", "--engine", "gpu", "--query", "q", "d"])).fails(1, &remedy);
    finish(without_driver(&data).args(["rerank", "--precision", "f16", "--query", "q", "d"]))
        .fails(1, &["f16 needs the GPU engine", "no GPU"]);
}

#[test]
fn choices_that_contradict_each_other_are_refused_whatever_the_machine_has() {
    let bench = Bench::new();
    let rerank = |args: &[&str]| bench.rerank(&[args, &["--query", "q", "d"]].concat());
    rerank(&["--engine", "gpu", "--precision", "int8"]).fails(2, &["int8", "f32, f16"]);
    rerank(&["--engine", "cpu", "--precision", "f16"]).fails(2, &["f16", "f32, int8, int16"]);
    rerank(&["--engine", "cpu", "--adapter", "0"]).fails(2, &["adapter", "cpu"]);
    rerank(&["--engine", "tpu"]).fails(2, &["tpu", "auto, gpu, cpu"]);
    finish(bench.assay().args(["tune", "--precision", "int16"])).fails(2, &["int16", "f32, f16"]);
}

#[test]
fn integers_come_from_the_processor_and_say_so() {
    let bench = Bench::new();
    let text = bench.rerank(&["--precision", "int8", "--query", "blue", "sky"]).succeeds().stdout;
    assert!(text.contains("tiny · cpu int8") && text.contains("only the CPU engine computes in int8"), "{text}");
}

#[test]
fn devices_lists_adapters_and_auto_never_takes_a_software_one() {
    let bench = Bench::new();
    let data = bench.path("data");
    let Some(adapter) = adapter(&data) else { return };
    let text = finish(with_driver(&data).arg("devices")).succeeds().stdout;
    assert!(text.contains(adapter["name"].as_str().unwrap()), "{text}");
    if adapter["kind"] == "software" {
        assert_eq!(adapter["variant"], "software");
        assert!(text.contains("--engine auto takes cpu: no GPU"), "{text}");
        let text = finish(with_driver(&data).args(["rerank", "--query", "blue", "sky"])).succeeds().stdout;
        assert!(text.contains("tiny · cpu f32") && text.contains("computes on the processor"), "{text}");
    }
}

#[test]
fn a_shape_that_the_gpu_engine_does_not_compute_is_named() {
    let bench = Bench::new();
    let data = bench.path("data");
    if adapter(&data).is_none() {
        return;
    }
    finish(with_driver(&data).args(["rerank", "--engine", "gpu", "--query", "blue", "sky"]))
        .fails(1, &["attention heads of 4 numbers", "use the CPU engine"]);
    // Without `--engine gpu`, the processor takes over.
    finish(with_driver(&data).args(["rerank", "--query", "blue", "sky"])).succeeds();
}

#[test]
fn tune_prints_a_table_and_keeps_it_in_the_data_directory() {
    let bench = bench();
    let data = bench.path("data");
    let Some(adapter) = adapter(&data) else { return };
    let tuned = finish(with_driver(&data).args(["tune", "--precision", "f16"])).succeeds();
    for part in [adapter["name"].as_str().unwrap(), "qkv", "attention", "chosen"] {
        assert!(tuned.stdout.contains(part), "no {part:?} in\n{}", tuned.stdout);
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(data.join("gpu-tune.json")).unwrap()).unwrap();
    let keys: Vec<&String> = kept["entries"].as_object().unwrap().keys().collect();
    assert!(keys.len() == 1 && keys[0].contains(" f16 "), "{keys:?}");
    let json = finish(with_driver(&data).args(["tune", "--json"])).succeeds().lines().remove(0);
    assert_eq!((&json["model"], &json["precision"]), (&json!("tiny"), &json!("f32")));
    let chosen = json["entries"].as_array().unwrap().iter().filter(|entry| entry["chosen"] == true);
    assert_eq!(chosen.map(|entry| entry["kernel"].as_str().unwrap()).collect::<Vec<_>>().len(), 6);
    let args = ["rerank", "--engine", "gpu", "--query", "blue", "sky"];
    let text = finish(with_driver(&data).args(args)).succeeds().stdout;
    assert!(text.contains("tiny · gpu f32") && text.contains("chosen by name"), "{text}");
}

#[test]
fn the_doctor_checks_every_candidate_kernel_and_tunes_as_tune_does() {
    let bench = bench();
    let data = bench.path("data");
    let Some(adapter) = adapter(&data) else { return };
    let out = bench.path("found.json");
    let args = ["doctor", "--engine", "gpu", "--short", "--out"];
    let done = finish(with_driver(&data).args(args).arg(&out)).succeeds();
    let found: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let gpu = &found["gpu"];
    assert_eq!(gpu["adapter"]["name"], adapter["name"]);
    for part in [adapter["name"].as_str().unwrap(), "loops", "broadcasts", "candidate kernels"] {
        assert!(done.stdout.contains(part), "no {part:?} in\n{}", done.stdout);
    }
    let numbers = ["multiply_adds", "rolled_multiply_adds", "broadcast_bytes_per_s", "dispatch_s", "round_trip_s"];
    assert!(numbers.iter().all(|number| gpu["ceilings"][number].as_f64().unwrap() > 0.0), "{}", gpu["ceilings"]);
    let f32 = &gpu["precisions"][0];
    let candidates = f32["candidates"].as_array().unwrap();
    assert!(candidates.len() >= 6 && candidates.iter().all(|entry| entry["right"] == true), "{candidates:?}");
    assert_eq!(f32["numbers"]["right"], true);
    let kernels = f32["kernels"].as_array().unwrap();
    let is_judged = |kernel: &Value| kernel["verdict"]["sentence"].as_str().is_some_and(|text| !text.is_empty());
    assert!(kernels.len() > 5 && kernels.iter().all(is_judged), "{kernels:?}");
    // Of a busy machine no choice is kept, and tests run side by side.
    if done.stdout.contains("BUSY") {
        assert!(done.stdout.contains("so this choice was not kept"), "{}", done.stdout);
        return;
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(data.join("gpu-tune.json")).unwrap()).unwrap();
    assert!(kept["entries"].as_object().unwrap().keys().any(|key| key.contains(" f32 ")), "{kept}");
}

#[test]
fn an_adapter_is_taken_by_number_or_by_a_part_of_its_name() {
    let bench = bench();
    let data = bench.path("data");
    let Some(adapter) = adapter(&data) else { return };
    let name = adapter["name"].as_str().unwrap();
    let part = name[..name.len() / 2].to_uppercase();
    let rerank = |adapter: &str| {
        let args = ["rerank", "--engine", "gpu", "--adapter", adapter, "--query", "blue", "sky"];
        finish(with_driver(&data).args(args))
    };
    for chosen in ["0", &part] {
        let text = rerank(chosen).succeeds().stdout;
        assert!(text.contains(name), "{text}");
    }
    rerank("99").fails(1, &["number 99", name, "assay devices"]);
    rerank("no such thing").fails(1, &["no such thing", name]);
}

#[test]
fn the_gpu_engine_scores_our_passages_as_the_cpu_engine_does() {
    let data = common::test_data();
    if adapter(&data).is_none() {
        return;
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(testdata::golden("passages.json")).unwrap()).unwrap();
    // Requests of one document each: a score stands by itself.
    let requests: String = golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| json!({ "query": case["query"], "documents": [case["document"]] }).to_string() + "\n")
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("requests.jsonl");
    std::fs::write(&file, requests).unwrap();
    let scores = |engine: &[&str]| -> Vec<f64> {
        let args = ["rerank", "--model", "assay/minilm-l6-debian", "--json", "--requests"].map(OsStr::new);
        let lines = finish(with_driver(&data).args(args).arg(&file).args(engine)).succeeds().lines();
        lines.iter().map(|line| line["hits"][0]["score"].as_f64().unwrap()).collect()
    };
    let cpu = scores(&["--engine", "cpu"]);
    for (engine, tolerance) in [
        (["--engine", "gpu", "--precision", "f32"], F32_TOLERANCE),
        (["--engine", "gpu", "--precision", "f16"], F16_TOLERANCE),
    ] {
        let gpu = scores(&engine);
        assert_eq!(gpu.len(), cpu.len());
        let worst = cpu.iter().zip(&gpu).map(|(cpu, gpu)| (cpu - gpu).abs()).fold(0.0, f64::max);
        eprintln!("{}: largest difference {worst:.1e} over {} pairs", engine[3], cpu.len());
        assert!(worst <= tolerance, "{engine:?}: {worst:e}");
    }
}
