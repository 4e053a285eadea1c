//! Several models on one device: what they share, what each holds, and a loss that all of them see.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use std::sync::Arc;

use assay_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions};
use assay_kernels::{Engine, EngineError, Model, PackedBatch, Task};
use gpu_support::common::{Shape, random_rows, random_weights};
use gpu_support::{run, shared_device};

/// A model whose rows have no padding.
fn model(heads: usize, layers: usize, seed: u64) -> Model {
    let task = Task::CrossEncoder;
    random_weights(Shape { heads, head_dim: 32, intermediate: 256, layers, outputs: 1, task }, seed)
}

fn load(device: &Arc<GpuDevice>, model: Model) -> GpuEngine {
    GpuEngine::load(device, model, &GpuOptions { max_batch_tokens: 1024, ..GpuOptions::default() }).unwrap()
}

fn rows() -> PackedBatch {
    random_rows(&[1, 17, 64, 70], 5)
}

#[test]
fn models_of_one_shape_share_their_pipelines_and_another_depth_adds_none() {
    let Some(device) = shared_device() else { return };
    let mut first = load(&device, model(4, 2, 1));
    let expected = run(&mut first, &rows());
    let made = first.created().unwrap().pipelines;
    let mut second = load(&device, model(4, 2, 2));
    let mut deeper = load(&device, model(4, 3, 3));
    assert_eq!(first.created().unwrap().pipelines, made);
    assert_ne!(run(&mut second, &rows()), expected, "other weights");
    assert_ne!(run(&mut deeper, &rows()), expected, "other weights");
    assert_eq!(run(&mut first, &rows()), expected);
}

#[test]
fn models_share_one_arena_as_large_as_the_largest_needs() {
    let Some(device) = shared_device() else { return };
    assert_eq!(device.arena_bytes(), 0);
    let mut small = load(&device, model(4, 2, 1));
    let expected = run(&mut small, &rows());
    assert_eq!(device.arena_bytes(), small.memory().arena_bytes);
    let mut large = load(&device, model(8, 2, 2));
    assert!(large.memory().arena_bytes > small.memory().arena_bytes);
    // The small model's arena goes with its next batch, whose numbers stay the same.
    assert_eq!(device.arena_bytes(), small.memory().arena_bytes + large.memory().arena_bytes);
    let ticket = large.submit(&rows().check(&large.shape()).unwrap()).unwrap();
    assert_eq!(run(&mut small, &rows()), expected);
    let mut outputs = Vec::new();
    large.finish(ticket, &mut outputs).unwrap();
    assert_eq!(outputs, run(&mut large, &rows()));
    assert_eq!(device.arena_bytes(), large.memory().arena_bytes);
    drop(large);
    assert_eq!(run(&mut small, &rows()), expected);
    drop(small);
    assert_eq!(device.arena_bytes(), 0);
}

#[test]
fn a_model_whose_rows_have_padding_has_an_arena_of_its_own() {
    let Some(device) = shared_device() else { return };
    let mut padded = load(&device, model(3, 2, 1));
    let expected = run(&mut padded, &rows());
    let mut plain = load(&device, model(4, 2, 2));
    run(&mut plain, &rows());
    assert_eq!(run(&mut padded, &rows()), expected);
    assert_eq!(device.arena_bytes(), padded.memory().arena_bytes + plain.memory().arena_bytes);
}

#[test]
fn what_a_model_needs_is_known_before_it_loads() {
    let Some(device) = shared_device() else { return };
    for model in [model(4, 2, 1), model(3, 1, 2)] {
        let options = GpuOptions { max_batch_tokens: 1024, ..GpuOptions::default() };
        let needed = GpuEngine::memory_needed(&device, &model.architecture, &options).unwrap();
        let before = device.opened().unwrap().created().buffer_bytes;
        let engine = GpuEngine::load(&device, model, &options).unwrap();
        assert_eq!(engine.memory(), needed);
        let made = engine.created().unwrap().buffer_bytes - before;
        // A buffer that no model here needs has 16 bytes all the same.
        let unused = 16;
        assert_eq!(made, needed.weights_bytes + needed.arena_bytes + needed.io_bytes + unused);
    }
}

#[test]
fn a_lost_device_costs_every_engine_its_batches_and_all_go_on_in_one_new_opening() {
    let Some(device) = shared_device() else { return };
    let mut engines = [load(&device, model(4, 2, 1)), load(&device, model(4, 2, 2))];
    let before = engines.each_mut().map(|engine| run(engine, &rows()));
    let pipelines = engines[0].created().unwrap().pipelines;
    let tickets = engines.each_mut().map(|engine| engine.submit(&rows().check(&engine.shape()).unwrap()).unwrap());
    engines[0].provoke_out_of_memory();
    for (engine, ticket) in engines.iter_mut().zip(tickets) {
        let error = engine.finish(ticket, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, EngineError::Device(_)), "{error}");
    }
    assert_eq!(engines.each_mut().map(|engine| run(engine, &rows())), before);
    assert_eq!(engines[0].created(), engines[1].created());
    assert_eq!(engines[0].created().unwrap().pipelines, pipelines);
}

#[test]
fn an_engine_without_batches_in_flight_moves_to_the_new_opening_without_an_error() {
    let Some(device) = shared_device() else { return };
    let [mut busy, mut idle] = [load(&device, model(4, 2, 1)), load(&device, model(4, 2, 2))];
    let expected = run(&mut idle, &rows());
    busy.provoke_device_loss();
    let checked = rows().check(&busy.shape()).unwrap();
    assert!(busy.run(&checked, &mut Vec::new()).is_err(), "the first to meet the loss reports it");
    busy.run(&checked, &mut Vec::new()).unwrap();
    assert_eq!(run(&mut idle, &rows()), expected);
}
