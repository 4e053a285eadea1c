//! What an engine promises its dispatch thread, shown on the CPU engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::{
    BatchError, CpuEngine, CpuOptions, Engine, EngineError, PackedBatch, Row, Task, Ticket, flops::batch_flops,
};
use common::{Shape, random_rows, random_weights};

fn engine() -> CpuEngine {
    let shape = Shape { heads: 2, head_dim: 8, intermediate: 20, layers: 2, outputs: 1, task: Task::CrossEncoder };
    let options = CpuOptions { max_batch_tokens: 1_000, ..CpuOptions::default() };
    CpuEngine::new(random_weights(shape, 1), options).unwrap()
}

fn one_row(ids: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    batch.push(Row { ids, second_segment: ids.len() }).unwrap();
    batch
}

#[test]
fn an_empty_batch_has_no_numbers() {
    let mut outputs = vec![1.5];
    let report = engine().run(&PackedBatch::default(), &mut outputs).unwrap();
    assert_eq!((report.rows, report.tokens, outputs), (0, 0, vec![1.5]));
}

#[test]
fn numbers_are_appended_and_the_report_counts_the_work() {
    let mut engine = engine();
    let batch = random_rows(&[3, 9], 1);
    let mut outputs = vec![1.5];
    let report = engine.run(&batch, &mut outputs).unwrap();
    assert_eq!((report.rows, report.tokens, outputs.len()), (2, 12, 3));
    assert_eq!(report.useful_flops, batch_flops(engine.config(), &batch));
    assert!(report.elapsed >= report.device_time.unwrap());
}

#[test]
fn the_token_budget_is_at_least_the_longest_row_and_is_kept() {
    let mut engine = engine();
    assert_eq!(engine.max_batch_tokens(), 1_000);
    let error = engine.submit(&random_rows(&[500, 501], 1)).unwrap_err();
    assert!(matches!(error, EngineError::TooManyTokens { tokens: 1_001, max_batch_tokens: 1_000 }), "{error}");
    let shape = Shape { heads: 1, head_dim: 4, intermediate: 4, layers: 1, outputs: 1, task: Task::CrossEncoder };
    let options = CpuOptions { max_batch_tokens: 1, ..CpuOptions::default() };
    assert_eq!(CpuEngine::new(random_weights(shape, 1), options).unwrap().max_batch_tokens(), 600);
}

#[test]
fn rows_that_do_not_fit_the_model_are_refused_and_the_next_batch_is_computed() {
    let mut engine = engine();
    let cases = [
        (one_row(&[1; 601]), BatchError::RowTooLong { row: 0, tokens: 601, max_tokens: 600 }),
        (one_row(&[1, 100]), BatchError::IdOutOfRange { row: 0, position: 1, id: 100, vocab_size: 100 }),
    ];
    for (batch, expected) in cases {
        match engine.submit(&batch).unwrap_err() {
            EngineError::Batch(error) => assert_eq!(error, expected),
            other => panic!("{other} for {expected}"),
        }
    }
    let mut outputs = Vec::new();
    engine.run(&one_row(&[1, 99]), &mut outputs).unwrap();
    assert!(outputs[0].is_finite());
}

#[test]
fn one_batch_is_in_flight_and_tickets_are_checked() {
    let mut engine = engine();
    let batch = one_row(&[1, 2]);
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
