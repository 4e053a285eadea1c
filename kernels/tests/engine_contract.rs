//! What an engine promises its dispatch thread, shown on the CPU engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::cpu::PRECISIONS;
use assay_kernels::{
    BatchError, CheckedBatch, CpuEngine, CpuOptions, Engine, EngineError, PackedBatch, Precision, Row, Task, Ticket,
    flops::batch_flops,
};
use common::{Shape, architecture, processor, random_rows, random_weights};

const SHAPE: Shape = Shape { heads: 2, head_dim: 8, intermediate: 20, layers: 2, outputs: 1, task: Task::CrossEncoder };

fn engine() -> CpuEngine {
    let options = CpuOptions { max_batch_tokens: 1_000, ..CpuOptions::default() };
    CpuEngine::load(&processor(2), random_weights(SHAPE, 1), options).unwrap()
}

fn rows(lengths: &[usize]) -> CheckedBatch {
    random_rows(lengths, 1).check(&architecture(SHAPE).row_shape()).unwrap()
}

fn one_row(ids: &[u32]) -> Result<CheckedBatch, BatchError> {
    let mut batch = PackedBatch::default();
    batch.push(Row { ids, second_segment: ids.len() }).unwrap();
    batch.check(&architecture(SHAPE).row_shape())
}

#[test]
fn an_empty_batch_has_no_numbers() {
    let mut outputs = vec![1.5];
    let report = engine().run(&rows(&[]), &mut outputs).unwrap();
    assert_eq!((report.rows, report.tokens, outputs), (0, 0, vec![1.5]));
}

#[test]
fn numbers_are_appended_and_the_report_counts_the_work() {
    let mut engine = engine();
    let batch = rows(&[3, 9]);
    let mut outputs = vec![1.5];
    let report = engine.run(&batch, &mut outputs).unwrap();
    assert_eq!((report.rows, report.tokens, outputs.len()), (2, 12, 3));
    assert_eq!(report.useful_flops, batch_flops(&architecture(SHAPE), &batch));
    assert_eq!(report.useful_flops, engine.row_flops(3) + engine.row_flops(9));
    assert!(report.elapsed >= report.device_time.unwrap());
}

#[test]
fn the_token_budget_is_at_least_the_longest_row_and_is_kept() {
    let mut engine = engine();
    assert_eq!(engine.max_batch_tokens(), 1_000);
    let error = engine.submit(&rows(&[500, 501])).unwrap_err();
    assert!(matches!(error, EngineError::TooManyTokens { tokens: 1_001, max_batch_tokens: 1_000 }), "{error}");
    let options = CpuOptions { max_batch_tokens: 1, ..CpuOptions::default() };
    assert_eq!(CpuEngine::load(&processor(2), random_weights(SHAPE, 1), options).unwrap().max_batch_tokens(), 600);
}

#[test]
fn rows_that_do_not_fit_the_model_cannot_be_submitted() {
    let too_long = BatchError::RowTooLong { row: 0, tokens: 601, max_tokens: 600 };
    assert_eq!(one_row(&[1; 601]).unwrap_err(), too_long);
    let unknown = BatchError::IdOutOfRange { row: 0, position: 1, id: 100, vocab_size: 100 };
    assert_eq!(one_row(&[1, 100]).unwrap_err(), unknown);
}

#[test]
fn rows_that_were_checked_for_another_model_are_refused_and_the_next_batch_is_computed() {
    let mut engine = engine();
    let mut larger = engine.shape();
    larger.vocab_size += 1;
    let others = one_row(&[1, 99]).unwrap().into_rows().check(&larger).unwrap();
    let error = engine.submit(&others).unwrap_err();
    assert!(matches!(error, EngineError::OtherShape { found, .. } if found == larger), "{error}");
    let mut outputs = Vec::new();
    engine.run(&one_row(&[1, 99]).unwrap(), &mut outputs).unwrap();
    assert!(outputs[0].is_finite());
}

#[test]
fn a_precision_that_the_engine_lacks_is_refused_with_those_that_it_has() {
    let options = CpuOptions { precision: Precision::F16, ..CpuOptions::default() };
    let error = CpuEngine::load(&processor(2), random_weights(SHAPE, 1), options).unwrap_err();
    assert_eq!(error.to_string(), "the cpu engine does not compute in f16: it has f32, int8, int16");
}

#[test]
fn one_batch_is_in_flight_and_tickets_are_checked() {
    let mut engine = engine();
    let batch = one_row(&[1, 2]).unwrap();
    let ticket = engine.submit(&batch).unwrap();
    assert!(matches!(engine.submit(&batch), Err(EngineError::TooManyInFlight { in_flight: 1 })));
    let mut outputs = Vec::new();
    let wrong = engine.finish(Ticket(ticket.0 + 1), &mut outputs);
    assert!(matches!(wrong, Err(EngineError::WrongTicket { .. })));
    engine.finish(ticket, &mut outputs).unwrap();
    assert_eq!(outputs.len(), 1);
    let spent = engine.finish(Ticket(1), &mut outputs);
    assert!(matches!(spent, Err(EngineError::WrongTicket { ticket: 1 })));
}

#[test]
fn what_a_model_will_take_is_known_before_its_weights_are_read() {
    let embeddings = Shape { heads: 3, head_dim: 20, intermediate: 450, task: Task::Embedding, ..SHAPE };
    for shape in [SHAPE, embeddings, Shape { heads: 2, head_dim: 32, intermediate: 801, outputs: 3, ..SHAPE }] {
        for &precision in PRECISIONS {
            let (device, options) = (processor(2), CpuOptions { precision, ..CpuOptions::default() });
            let needed = CpuEngine::memory_needed(&device, &architecture(shape), &options).unwrap();
            let engine = CpuEngine::load(&device, random_weights(shape, 1), options).unwrap();
            assert_eq!(needed, engine.memory(), "{shape:?} in {}", precision.name());
        }
    }
}

#[test]
fn a_panic_in_a_compute_thread_costs_its_batch_and_the_next_has_the_same_bits() {
    // One long row is shared by a team of threads, which wait for each other; many short rows are not.
    for lengths in [vec![400], vec![3; 20]] {
        let (mut engine, batch) = (engine(), rows(&lengths));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        engine.run(&batch, &mut before).unwrap();
        for _ in 0..3 {
            engine.panic_in_next_batch();
            let error = engine.run(&batch, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("panicked at this batch"), "{error}");
        }
        engine.run(&batch, &mut after).unwrap();
        assert_eq!(before, after);
    }
}
