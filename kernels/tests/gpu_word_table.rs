//! A word table that the device cannot bind stays in the processor's memory, and every score has the bits that it has
//! with the table on the device.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use std::collections::VecDeque;
use std::sync::Arc;

use assay_kernels::gpu::layout::WordTable;
use assay_kernels::gpu::{GpuDevice, GpuEngine, GpuError, GpuOptions, KernelFamily};
use assay_kernels::weights::Table;
use assay_kernels::{DeviceMemory, Engine, Model, PackedBatch, Precision};
use gpu_support::{Golden, assert_close, run, shared_device, tiny, tolerance};
use half::{bf16, f16};

/// One of each family and of each way to use the table: with a projection, with rotary and with relative positions.
const TINY: [&str; 12] = [
    "bert-hd32",
    "xlm-roberta",
    "roberta",
    "distilbert",
    "electra",
    "electra-projected",
    "modernbert-mean",
    "ettin",
    "deberta-v3",
    "gte",
    "gte-new",
    "jina-v2",
];

fn options(precision: Precision, max_table_bytes: u64) -> GpuOptions {
    GpuOptions { precision, max_batch_tokens: 1024, max_table_bytes, ..GpuOptions::default() }
}

/// An engine without a table on the device.
fn on_host(device: &Arc<GpuDevice>, model: Model, precision: Precision) -> GpuEngine {
    let engine = GpuEngine::load(device, model, &options(precision, 0)).unwrap();
    assert_eq!(engine.word_table(), WordTable::OnHost);
    engine
}

fn on_device(device: &Arc<GpuDevice>, model: Model, precision: Precision) -> GpuEngine {
    let engine = GpuEngine::load(device, model, &options(precision, u64::MAX)).unwrap();
    assert_eq!(engine.word_table(), WordTable::OnDevice);
    engine
}

/// The same numbers in fewer bits.
fn stored_in(model: &Model, narrow: fn(Vec<f32>) -> Table) -> Model {
    let word = &model.weights.embeddings.word;
    let numbers = word.numbers(0..word.len()).into_owned();
    let mut model = model.clone();
    model.weights.embeddings.word = narrow(numbers);
    model
}

fn f16_table(numbers: Vec<f32>) -> Table {
    Table::F16(numbers.into_iter().map(f16::from_f32).collect())
}

fn bf16_table(numbers: Vec<f32>) -> Table {
    Table::Bf16(numbers.into_iter().map(bf16::from_f32).collect())
}

#[test]
fn every_familys_scores_have_the_bits_of_a_table_on_the_device() {
    let Some(device) = shared_device() else { return };
    for name in TINY {
        let (model, Golden { batch, logits }) = tiny(name).unwrap();
        for precision in [Precision::F32, Precision::F16] {
            let expected = run(&mut on_device(&device, model.clone(), precision), &batch);
            let scores = run(&mut on_host(&device, model.clone(), precision), &batch);
            assert_close(&format!("{name} {}", precision.name()), &scores, &logits, tolerance(precision));
            assert!(scores == expected, "{name} {}: {scores:?} and {expected:?}", precision.name());
        }
    }
}

#[test]
fn a_table_in_any_precision_gives_the_bits_that_it_gives_on_the_device() {
    let (Some(device), Some((model, golden))) = (shared_device(), tiny("xlm-roberta")) else { return };
    for narrow in [f16_table, bf16_table] {
        let model = stored_in(&model, narrow);
        for precision in [Precision::F32, Precision::F16] {
            let expected = run(&mut on_device(&device, model.clone(), precision), &golden.batch);
            let mut engine = on_host(&device, model.clone(), precision);
            assert_eq!(engine.memory().host_bytes, model.weights.embeddings.word.bytes(), "in its own precision");
            assert_eq!(run(&mut engine, &golden.batch), expected);
        }
    }
}

#[test]
fn kernels_for_gpus_read_the_rows_of_a_batch_too() {
    let (Some(device), Some((model, golden))) = (shared_device(), tiny("electra-projected")) else { return };
    let options = GpuOptions { family: Some(KernelFamily::Gpu), ..options(Precision::F16, u64::MAX) };
    let mut expected = GpuEngine::load(&device, model.clone(), &options).unwrap();
    let mut engine = GpuEngine::load(&device, model, &GpuOptions { max_table_bytes: 0, ..options }).unwrap();
    assert_eq!(engine.word_table(), WordTable::OnHost);
    assert_eq!(run(&mut engine, &golden.batch), run(&mut expected, &golden.batch));
}

#[test]
fn batches_in_flight_have_their_own_words() {
    let (Some(device), Some((model, golden))) = (shared_device(), tiny("bert-hd64")) else { return };
    let mut engine = on_host(&device, model, Precision::F32);
    let rows: Vec<PackedBatch> = golden
        .batch
        .iter()
        .take(9)
        .map(|row| {
            let mut batch = PackedBatch::default();
            batch.push(row).unwrap();
            batch
        })
        .collect();
    let alone: Vec<f32> = rows.iter().flat_map(|batch| run(&mut engine, batch)).collect();
    let (mut in_flight, mut together) = (VecDeque::new(), Vec::new());
    for batch in &rows {
        if in_flight.len() == engine.max_in_flight() {
            engine.finish(in_flight.pop_front().unwrap(), &mut together).unwrap();
        }
        in_flight.push_back(engine.submit(&batch.clone().check(&engine.shape()).unwrap()).unwrap());
    }
    for ticket in in_flight {
        engine.finish(ticket, &mut together).unwrap();
    }
    assert_eq!(together, alone);
}

#[test]
fn a_profile_runs_on_the_words_of_its_batch() {
    let (Some(device), Some((model, golden))) = (shared_device(), tiny("bert-hd32")) else { return };
    let mut engine = on_host(&device, model, Precision::F32);
    let before = run(&mut engine, &golden.batch);
    let mut rows = PackedBatch::default();
    rows.push(golden.batch.row(0)).unwrap();
    let profile = engine.profile(&rows.check(&engine.shape()).unwrap(), 1).unwrap();
    assert!(profile.iter().any(|kernel| kernel.part == "embeddings"));
    assert_eq!(run(&mut engine, &golden.batch), before);
}

#[test]
fn a_table_is_on_the_device_up_to_the_limit_and_its_memory_is_counted_where_it_is() {
    let (Some(device), Some((model, _))) = (shared_device(), tiny("bert-hd32")) else { return };
    let table = &model.weights.embeddings.word;
    for (precision, number) in [(Precision::F32, 4), (Precision::F16, 2)] {
        let bytes_on_device = table.len() as u64 * number;
        let [within, beyond] = [bytes_on_device, bytes_on_device - 1].map(|most| {
            let options = options(precision, most);
            let needed = GpuEngine::memory_needed(&device, &model.architecture, &options).unwrap();
            let before = device.opened().unwrap().created().buffer_bytes;
            let engine = GpuEngine::load(&device, model.clone(), &options).unwrap();
            // What the table is stored in is known once it is read; before, it counts in f32.
            let kept = if needed.host_bytes == 0 { 0 } else { table.bytes() };
            assert_eq!(engine.memory(), DeviceMemory { host_bytes: kept, ..needed });
            // A buffer that this model does not need has 16 bytes all the same.
            let made = engine.created().unwrap().buffer_bytes - before;
            assert_eq!(made, needed.weights_bytes + needed.arena_bytes + needed.io_bytes + 16);
            (engine.word_table(), needed)
        });
        assert_eq!((within.0, within.1.host_bytes), (WordTable::OnDevice, 0));
        assert_eq!((beyond.0, beyond.1.host_bytes), (WordTable::OnHost, table.len() as u64 * 4));
        assert_eq!(within.1.weights_bytes - beyond.1.weights_bytes, bytes_on_device);
        assert!(beyond.1.io_bytes > within.1.io_bytes, "each batch brings its words");
    }
}

#[test]
fn a_table_beyond_the_devices_largest_buffer_is_no_obstacle() {
    let (Some(device), Some((model, _))) = (shared_device(), tiny("bert-hd32")) else { return };
    let mut architecture = model.architecture;
    let limit = device.description().max_buffer_bytes;
    architecture.vocab_size = usize::try_from(limit).unwrap() / (4 * architecture.embeddings.width) + 1;
    let needed = |precision| GpuEngine::memory_needed(&device, &architecture, &options(precision, u64::MAX)).unwrap();
    assert!(needed(Precision::F32).host_bytes > limit);
    // In f16 it fits.
    assert_eq!(needed(Precision::F16).host_bytes, 0);
    assert!(needed(Precision::F16).weights_bytes > limit / 2);
}

#[test]
fn a_batch_whose_words_no_buffer_holds_is_refused_with_the_remedy() {
    let (Some(device), Some((model, _))) = (shared_device(), tiny("bert-hd32")) else { return };
    let width = model.architecture.embeddings.width as u64;
    let tokens = device.description().max_buffer_bytes / (4 * width) + 1;
    let Ok(max_batch_tokens) = usize::try_from(tokens) else { return };
    let options = GpuOptions { max_batch_tokens, ..options(Precision::F32, 0) };
    match GpuEngine::load(&device, model, &options) {
        Err(GpuError::TooLarge { remedy, .. }) => assert_eq!(remedy, "lower the token budget"),
        Err(GpuError::BatchTooLong { tokens, limit }) => assert!(tokens > limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_loss_the_table_is_there_again() {
    let (Some(device), Some((model, golden))) = (shared_device(), tiny("xlm-roberta")) else { return };
    let read = || Ok(stored_in(&tiny("xlm-roberta").unwrap().0, f16_table));
    let options = options(Precision::F16, 0);
    let mut engines = [
        GpuEngine::load_from_files(&device, read().unwrap(), Box::new(read), &options).unwrap(),
        GpuEngine::load(&device, stored_in(&model, f16_table), &options).unwrap(),
    ];
    let memory = engines[0].memory();
    let before = engines.each_mut().map(|engine| run(engine, &golden.batch));
    assert_eq!(before[0], before[1]);
    engines[0].provoke_device_loss();
    let mut batch = PackedBatch::default();
    batch.push(golden.batch.row(0)).unwrap();
    let batch = batch.check(&engines[0].shape()).unwrap();
    assert!(engines[0].run(&batch, &mut Vec::new()).is_err(), "the first batch meets the loss");
    assert_eq!(engines.each_mut().map(|engine| run(engine, &golden.batch)), before);
    assert_eq!(engines[0].memory(), memory);
}
