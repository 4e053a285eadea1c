//! Engines of several models share one processor: its threads, and its buffers.
//!
//! One test, so that nothing else in this process starts threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::{CpuEngine, CpuOptions, Engine, PackedBatch, Precision, Task};
use common::{Shape, cpu_engine, processor, random_rows, random_weights, run};

const SMALL: Shape =
    Shape { heads: 2, head_dim: 32, intermediate: 100, layers: 2, outputs: 1, task: Task::CrossEncoder };
const LARGE: Shape = Shape { heads: 5, head_dim: 24, intermediate: 800, layers: 3, outputs: 3, ..SMALL };

/// Longer than what buffers are reserved for when a model is loaded.
const LONG_ROW: usize = 600;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Threads of this process that compute, where the system tells.
fn compute_threads() -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    Some(names.filter(|name| name.starts_with("assay-cpu")).count())
}

#[test]
fn engines_on_one_device_share_its_threads_and_buffers_and_compute_what_each_does_alone() {
    let device = processor(4);
    let load = |shape, seed, precision| {
        let options = CpuOptions { precision, ..CpuOptions::default() };
        CpuEngine::load(&device, random_weights(shape, seed), options).unwrap()
    };
    let mut small = load(SMALL, 1, Precision::F32);
    let mut large = load(LARGE, 2, Precision::F32);
    let mut integers = load(LARGE, 2, Precision::Int8);
    match compute_threads() {
        // The caller's thread is the fourth.
        Some(threads) => assert_eq!(threads, 3),
        None => testdata::skip(testdata::Cause::NoSystemFeature, "this system does not list a process's threads"),
    }

    let reserved = device.arena_bytes();
    assert_eq!((small.memory().arena_bytes, large.memory().arena_bytes), (reserved, reserved));
    let batches = [random_rows(&[7, 100, 33, 512], 3), random_rows(&[1], 4), random_rows(&[64; 30], 5)];
    let alone: Vec<[Vec<f32>; 3]> = batches.iter().map(compute_alone).collect();
    for _ in 0..2 {
        for (batch, [expected_small, expected_large, expected_integers]) in batches.iter().zip(&alone) {
            assert_eq!(bits(&run(&mut small, batch)), bits(expected_small));
            assert_eq!(bits(&run(&mut large, batch)), bits(expected_large));
            assert_eq!(bits(&run(&mut integers, batch)), bits(expected_integers));
        }
    }
    assert_eq!(device.arena_bytes(), reserved, "rows of up to 512 tokens need no more than what was reserved");

    run(&mut small, &random_rows(&[LONG_ROW; 8], 6));
    let grown = device.arena_bytes();
    assert!(grown > reserved, "a longer row makes buffers grow");
    run(&mut small, &random_rows(&[LONG_ROW; 8], 7));
    assert_eq!(device.arena_bytes(), grown, "a row of the same length needs no more");
    drop((small, large, integers));
    drop(device);
    assert!(compute_threads().is_none_or(|threads| threads == 0), "threads end with the device");
}

fn compute_alone(batch: &PackedBatch) -> [Vec<f32>; 3] {
    let models = [(SMALL, 1, Precision::F32), (LARGE, 2, Precision::F32), (LARGE, 2, Precision::Int8)];
    models.map(|(shape, seed, precision)| run(&mut cpu_engine(random_weights(shape, seed), 1, precision), batch))
}
