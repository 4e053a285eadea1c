//! The engine as its callers see it: several batches in flight, budgets, faults, and steady memory.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assay_kernels::gpu::choices::SMALL_BATCH_TOKENS;
use assay_kernels::gpu::{AdapterKind, GpuEngine, GpuError, GpuOptions, KernelFamily, TuneCache, auto, tune};
use assay_kernels::{BatchError, CheckedBatch, Engine, EngineError, Model, PackedBatch, Precision, ReadModel};
use gpu_support::{Random, engine, shared_device, tiny};

/// Batches in the steady-state test that runs by default, and in the long one.
const STEADY_BATCHES: usize = 300;
const MANY_BATCHES: usize = 10_000;
/// Growth of resident memory that is still noise: the allocator's arenas breathe.
const RSS_SLACK_KIB: u64 = 8 * 1024;

#[test]
fn three_batches_in_flight_give_what_each_gives_alone() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let rows: Vec<PackedBatch> = (0..9).map(|index| one_row(&golden, index)).collect();
    let shape = engine.shape();
    let alone: Vec<Vec<f32>> = rows.iter().map(|batch| run(&mut engine, batch)).collect();
    let mut in_flight = std::collections::VecDeque::new();
    let mut together = Vec::new();
    for batch in &rows {
        if in_flight.len() == engine.max_in_flight() {
            let ticket = in_flight.pop_front().unwrap();
            let mut outputs = Vec::new();
            engine.finish(ticket, &mut outputs).unwrap();
            together.push(outputs);
        }
        in_flight.push_back(engine.submit(&batch.clone().check(&shape).unwrap()).unwrap());
    }
    for ticket in in_flight {
        let mut outputs = Vec::new();
        engine.finish(ticket, &mut outputs).unwrap();
        together.push(outputs);
    }
    assert_eq!(together, alone);
}

#[test]
fn once_a_batch_is_finished_the_next_can_be_written_while_others_are_in_flight() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let batch = checked(&engine, one_row(&golden, 3));
    let mut outputs = Vec::new();
    for _ in 0..5 {
        let mut tickets: Vec<_> = (0..engine.max_in_flight()).map(|_| engine.submit(&batch).unwrap()).collect();
        engine.finish(tickets.remove(0), &mut outputs).unwrap();
        assert!(engine.takes_a_batch_at_once(), "the next submission would wait for the batches in flight");
        tickets.push(engine.submit(&batch).unwrap());
        for ticket in tickets {
            engine.finish(ticket, &mut outputs).unwrap();
        }
    }
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

#[test]
fn waiting_tells_when_a_batch_is_done() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let batch = checked(&engine, one_row(&golden, 0));
    let ticket = engine.submit(&batch).unwrap();
    assert!(engine.wait(&ticket, Duration::from_secs(60)), "a minute is enough for one row");
    assert!(engine.wait(&ticket, Duration::ZERO), "a batch that is done stays done");
    let mut outputs = Vec::new();
    engine.finish(ticket, &mut outputs).unwrap();
    assert_eq!(outputs, run(&mut engine, &one_row(&golden, 0)));
}

#[test]
fn a_report_counts_what_the_batch_took() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let mut outputs = Vec::new();
    let mut batch = PackedBatch::default();
    golden.iter().take(3).for_each(|row| batch.push(row).unwrap());
    let batch = batch.check(&engine.shape()).unwrap();
    let report = engine.run(&batch, &mut outputs).unwrap();
    assert_eq!((report.rows, report.tokens), (3, batch.tokens()));
    let flops: u64 = batch.iter().map(|row| engine.row_flops(row.ids.len())).sum();
    assert_eq!(report.useful_flops, flops);
    // Embedding, seven for the first of two layers, nine in the pruned last one, dense layer and classifier.
    assert_eq!(report.dispatches, 1 + 7 + 9 + 2);
    assert!(report.bytes_moved > 0);
    assert!(report.device_time.is_none_or(|time| time <= report.elapsed));
    let memory = engine.memory();
    assert!(memory.weights_bytes > 0 && memory.arena_bytes > 0 && memory.io_bytes > 0);
}

#[test]
fn misuse_is_refused_and_the_engine_goes_on() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let row = checked(&engine, one_row(&golden, 0));
    let mut huge = PackedBatch::default();
    while huge.tokens() <= engine.max_batch_tokens() {
        huge.push(golden.row(3)).unwrap();
    }
    let huge = checked(&engine, huge);
    assert!(matches!(engine.submit(&huge), Err(EngineError::TooManyTokens { .. })));
    let beyond = PackedBatch::new(vec![u32::MAX], vec![0, 1], vec![1]).unwrap();
    assert!(matches!(beyond.check(&engine.shape()), Err(BatchError::IdOutOfRange { .. })));
    let mut outputs = Vec::new();
    let empty = checked(&engine, PackedBatch::default());
    assert_eq!(engine.run(&empty, &mut outputs).unwrap().rows, 0);
    let tickets: Vec<_> = (0..engine.max_in_flight()).map(|_| engine.submit(&row).unwrap()).collect();
    assert!(matches!(engine.submit(&row), Err(EngineError::TooManyInFlight { .. })));
    let [first, second, third] = <[_; 3]>::try_from(tickets).unwrap();
    let number = second.0;
    assert!(matches!(
        engine.finish(assay_kernels::Ticket(number), &mut outputs),
        Err(EngineError::WrongTicket { ticket }) if ticket == number
    ));
    for ticket in [first, second, third] {
        engine.finish(ticket, &mut outputs).unwrap();
    }
}

#[test]
fn a_lost_device_costs_its_batches_and_nothing_else() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let batch = one_row(&golden, 1);
    let before = run(&mut engine, &batch);
    let memory = engine.memory();
    let rows = checked(&engine, batch.clone());
    let ticket = engine.submit(&rows).unwrap();
    engine.provoke_device_loss();
    let mut outputs = Vec::new();
    // The batch in flight may have been finished by the device already; the next one finds the loss.
    if engine.finish(ticket, &mut outputs).is_ok() {
        let error = engine.run(&rows, &mut outputs).unwrap_err();
        assert!(matches!(error, EngineError::Device(_)), "{error}");
    }
    assert_eq!(run(&mut engine, &batch), before);
    assert_eq!(engine.memory(), memory);
}

/// An engine that reads `read()` again after a loss, and a row with its numbers.
fn rereading_engine(read: ReadModel) -> Option<(GpuEngine, PackedBatch, Vec<f32>)> {
    let (device, (model, golden)) = (shared_device()?, tiny("bert-hd32")?);
    let mut engine = GpuEngine::load_from_files(&device, model, read, &GpuOptions::default()).unwrap();
    let batch = one_row(&golden.batch, 1);
    let outputs = run(&mut engine, &batch);
    Some((engine, batch, outputs))
}

/// Loses the device, and has a batch meet the loss.
fn lose(engine: &mut GpuEngine, batch: &PackedBatch) {
    engine.provoke_device_loss();
    assert!(engine.run(&checked(engine, batch.clone()), &mut Vec::new()).is_err());
}

#[test]
fn an_engine_without_a_copy_of_its_model_reads_it_again_after_each_loss() {
    let reads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reads);
    let read: ReadModel = Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(tiny("bert-hd32").unwrap().0)
    });
    let Some((mut engine, batch, outputs)) = rereading_engine(read) else { return };
    assert_eq!(reads.load(Ordering::Relaxed), 0, "the model was given");
    for losses in 1..3 {
        lose(&mut engine, &batch);
        assert_eq!(run(&mut engine, &batch), outputs);
        assert_eq!(reads.load(Ordering::Relaxed), losses);
    }
}

#[test]
fn files_that_are_gone_or_changed_cost_batches_until_they_are_back() {
    let reads = AtomicUsize::new(0);
    let read: ReadModel = Box::new(move || match reads.fetch_add(1, Ordering::Relaxed) {
        0 => Err("the file is gone".into()),
        1 => Ok(tiny("bert-hd64").unwrap().0),
        _ => Ok(tiny("bert-hd32").unwrap().0),
    });
    let Some((mut engine, batch, outputs)) = rereading_engine(read) else { return };
    lose(&mut engine, &batch);
    for message in ["the file is gone", "its files are those of another model now"] {
        let error = engine.run(&checked(&engine, batch.clone()), &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, format!("the device failed: the model cannot be read again after a fault: {message}"));
    }
    assert_eq!(run(&mut engine, &batch), outputs);
}

#[test]
fn running_out_of_memory_costs_one_batch() {
    let Some((mut engine, golden)) = tiny_engine(Precision::F32) else { return };
    let batch = one_row(&golden, 1);
    let before = run(&mut engine, &batch);
    let rows = checked(&engine, batch.clone());
    let first = engine.submit(&rows).unwrap();
    let second = engine.submit(&rows).unwrap();
    engine.provoke_out_of_memory();
    let mut outputs = Vec::new();
    let error = engine.finish(first, &mut outputs).unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert!(engine.finish(second, &mut outputs).is_err());
    assert!(outputs.is_empty());
    assert_eq!(run(&mut engine, &batch), before);
}

#[test]
fn a_budget_that_no_buffer_holds_is_refused_by_name() {
    let (Some((model, _)), Some(device)) = (tiny("bert-hd32"), shared_device()) else { return };
    let options = GpuOptions { max_batch_tokens: usize::MAX / 1024, ..GpuOptions::default() };
    match GpuEngine::load(&device, model, &options) {
        Err(GpuError::BatchTooLong { tokens, limit }) => assert!(tokens > limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn automatic_choice_never_takes_a_software_adapter() {
    let choice = auto();
    assert!(choice.adapter.is_none_or(|adapter| adapter.kind != AdapterKind::Software));
    assert!(!choice.reason.is_empty());
    eprintln!("{}", choice.reason);
}

#[test]
fn tuning_is_remembered_and_changes_no_numbers() {
    let (Some((model, golden)), Some(device)) = (tiny("bert-hd32"), shared_device()) else { return };
    let path = std::env::temp_dir().join(format!("assay-tune-{}.json", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let options = GpuOptions { max_batch_tokens: 1024, tune: TuneCache::File(path.clone()), ..GpuOptions::default() };
    let mut tuned = GpuEngine::load(&device, model.clone(), &options).unwrap();
    let remembered = std::fs::read(&path).unwrap();
    let again = GpuEngine::load(&device, model.clone(), &options).unwrap();
    assert_eq!(tuned.choices(), again.choices());
    assert_eq!(std::fs::read(&path).unwrap(), remembered);
    std::fs::remove_file(&path).unwrap();
    let mut plain = engine(model, Precision::F32, 1024).unwrap();
    let batch = one_row(&golden.batch, 2);
    assert_eq!(run(&mut tuned, &batch), run(&mut plain, &batch));
}

#[test]
fn tuning_checks_every_variant_of_both_families_and_scores_rows_alike_in_any_batch() {
    let Some(device) = shared_device() else { return };
    let kinds = [(Precision::F32, KernelFamily::Gpu), (Precision::F16, KernelFamily::Software)];
    // The second has gates and rotary positions.
    let models = ["bert-hd32", "modernbert-cls"].into_iter().flat_map(|name| kinds.map(|kind| (name, kind)));
    for (name, (precision, family)) in models {
        let Some((model, golden)) = tiny(name) else { return };
        let table = tune(&device, &model.architecture, precision, 1024, Some(family)).unwrap();
        eprintln!("{table}");
        assert!(table.entries.iter().all(|entry| entry.right), "{table}");
        for entry in &table.entries {
            let of_kernel = table.entries.iter().filter(|o| (o.kernel, o.tokens) == (entry.kernel, entry.tokens));
            assert_eq!(of_kernel.filter(|other| other.chosen).count(), 1, "{} {}", entry.kernel, entry.tokens);
        }
        let options = GpuOptions {
            precision,
            max_batch_tokens: 1024,
            tune: TuneCache::Memory,
            family: Some(family),
            ..GpuOptions::default()
        };
        let mut engine = GpuEngine::load(&device, model.clone(), &options).unwrap();
        let row = golden.batch.row(2);
        let mut many = PackedBatch::default();
        while many.tokens() + row.ids.len() <= 1024 {
            many.push(row).unwrap();
        }
        assert!(many.tokens() > SMALL_BATCH_TOKENS);
        let alone = run(&mut engine, &one_row(&golden.batch, 2));
        assert_eq!(run(&mut engine, &many)[..alone.len()], alone[..], "{:?}", engine.choices());
    }
}

#[test]
fn random_batches_create_nothing_and_hold_memory_steady() {
    steady(STEADY_BATCHES);
}

#[test]
#[ignore = "takes minutes: cargo test --release -p assay-kernels --test gpu_engine -- --ignored"]
fn ten_thousand_random_batches_create_nothing_and_hold_memory_steady() {
    steady(MANY_BATCHES);
}

fn steady(batches: usize) {
    let Some((mut engine, golden)) = tiny_engine(Precision::F16) else { return };
    let mut random = Random(11);
    let (longest, vocabulary) = (engine.shape().max_tokens, engine.shape().vocab_size);
    let (mut outputs, mut in_flight) = (Vec::new(), std::collections::VecDeque::new());
    let check = one_row(&golden, 2);
    let expected = run(&mut engine, &check);
    let (mut created, mut resident) = (None, None);
    for index in 0..batches {
        let mut batch = PackedBatch::default();
        let budget = 1 + random.below(engine.max_batch_tokens());
        loop {
            let tokens = 1 + random.below(longest.min(1 + index));
            if batch.tokens() + tokens > budget.max(tokens) {
                break;
            }
            let ids: Vec<u32> = (0..tokens).map(|_| random.below(vocabulary) as u32).collect();
            let second_segment = random.below(tokens + 1);
            batch.push(assay_kernels::Row { ids: &ids, second_segment }).unwrap();
        }
        if in_flight.len() == engine.max_in_flight() {
            outputs.clear();
            engine.finish(in_flight.pop_front().unwrap(), &mut outputs).unwrap();
        }
        let batch = checked(&engine, batch);
        in_flight.push_back(engine.submit(&batch).unwrap());
        if index == batches / 2 {
            (created, resident) = (engine.created(), resident_kib());
        }
    }
    for ticket in in_flight {
        engine.finish(ticket, &mut outputs).unwrap();
    }
    assert_eq!(engine.created(), created, "serving created pipelines or buffers");
    let (before, after) = (resident.unwrap_or(0), resident_kib().unwrap_or(0));
    eprintln!("{batches} batches: resident {before} KiB half way, {after} KiB at the end");
    assert!(after <= before + RSS_SLACK_KIB, "resident memory grew from {before} to {after} KiB");
    assert_eq!(run(&mut engine, &check), expected);
}

fn tiny_engine(precision: Precision) -> Option<(GpuEngine, PackedBatch)> {
    let (weights, golden): (Model, _) = tiny("bert-hd32")?;
    Some((engine(weights, precision, 1024)?, golden.batch))
}

fn one_row(batch: &PackedBatch, index: usize) -> PackedBatch {
    let mut one = PackedBatch::default();
    one.push(batch.row(index % batch.rows())).unwrap();
    one
}

fn checked(engine: &GpuEngine, batch: PackedBatch) -> CheckedBatch {
    batch.check(&engine.shape()).unwrap()
}

fn run(engine: &mut GpuEngine, batch: &PackedBatch) -> Vec<f32> {
    let mut outputs = Vec::new();
    engine.run(&checked(engine, batch.clone()), &mut outputs).unwrap();
    outputs
}

/// Resident memory of this process, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
