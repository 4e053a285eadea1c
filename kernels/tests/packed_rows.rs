//! A row's numbers depend on that row alone: not on its neighbours, its place in the batch, or the number of threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::cpu::PRECISIONS;
use assay_kernels::{CpuEngine, Model, PackedBatch, Precision, Task, reference};
use common::{Shape, cpu_engine, random_rows, random_weights, run, worst};
use proptest::prelude::*;

const SHAPE: Shape =
    Shape { heads: 3, head_dim: 20, intermediate: 100, layers: 2, outputs: 3, task: Task::CrossEncoder };

fn engine(weights: &Model, threads: usize, precision: Precision) -> CpuEngine {
    cpu_engine(weights.clone(), threads, precision)
}

/// A made-up row's numbers, every row computed alone.
fn alone(engine: &mut CpuEngine, batch: &PackedBatch) -> Vec<f32> {
    let mut outputs = Vec::new();
    for row in batch.iter() {
        let mut single = PackedBatch::default();
        single.push(row).unwrap();
        outputs.extend(run(engine, &single));
    }
    outputs
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packed_rows_have_the_bits_of_rows_alone_in_any_order(
        lengths in proptest::collection::vec(1usize..70, 1..24),
        rotation in 0usize..24,
        seed in 0u64..1000,
    ) {
        let weights = random_weights(SHAPE, 7);
        let rows = random_rows(&lengths, seed);
        let rotation = rotation % lengths.len();
        let mut rotated = PackedBatch::default();
        for index in 0..rows.rows() {
            rotated.push(rows.row((index + rotation) % rows.rows())).unwrap();
        }
        for &precision in PRECISIONS {
            let mut one = engine(&weights, 1, precision);
            let expected = alone(&mut one, &rows);
            prop_assert_eq!(bits(&run(&mut one, &rows)), bits(&expected), "packed");
            let mut outputs = run(&mut engine(&weights, 3, precision), &rotated);
            outputs.rotate_right(rotation * SHAPE.outputs);
            prop_assert_eq!(bits(&outputs), bits(&expected), "rotated, three threads");
        }
    }
}

/// Lengths at which tiles, strips and vectors begin and end.
const EDGES: [usize; 14] = [1, 2, 5, 6, 7, 15, 16, 17, 63, 64, 65, 511, 512, 600];

#[test]
fn every_edge_length_agrees_with_the_reference() {
    for task in [Task::CrossEncoder, Task::Embedding] {
        for (heads, head_dim, intermediate) in [(3, 20, 100), (2, 32, 130), (1, 64, 400), (5, 16, 33), (1, 7, 5)] {
            let shape = Shape { heads, head_dim, intermediate, task, ..SHAPE };
            let weights = random_weights(shape, 11);
            let rows = random_rows(&EDGES, 3);
            let expected = reference::forward(&weights, &rows);
            let outputs = run(&mut engine(&weights, 2, Precision::F32), &rows);
            let (error, at) = worst(&outputs, &expected);
            assert!(error <= 1e-4, "{shape:?}, output {at}: {} for {}", outputs[at], expected[at]);
        }
    }
}

#[test]
fn one_thread_or_many_give_the_same_bits() {
    let weights = random_weights(SHAPE, 5);
    for &precision in PRECISIONS {
        for lengths in [&[600][..], &[2, 600, 3], &[64; 40], &[1, 1, 1, 1, 1], &[13]] {
            let rows = random_rows(lengths, 9);
            let expected = run(&mut engine(&weights, 1, precision), &rows);
            for threads in [2, 3, 8] {
                let outputs = run(&mut engine(&weights, threads, precision), &rows);
                assert_eq!(bits(&outputs), bits(&expected), "{threads} threads, lengths {lengths:?}");
            }
        }
    }
}
