//! A device that is lost while it serves: the request that met it fails as one to try again, and the next is answered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use assay::device::{Account, DEFAULT_MAX_QUEUED_TOKENS, ModelId, Scheduler, ScoreError};
use assay_kernels::gpu::{AdapterSelection, GpuDevice, GpuEngine, GpuOptions};
use assay_kernels::{
    BatchReport, CheckedBatch, DeviceMemory, Engine, EngineError, EngineInfo, PackedBatch, Row, RowShape, Ticket,
    checkpoint,
};
use serde_json::json;

/// A GPU engine whose device is lost right after a batch was submitted, once for each order to.
#[derive(Debug)]
struct Losing {
    engine: GpuEngine,
    lose: Arc<AtomicBool>,
}

impl Engine for Losing {
    fn info(&self) -> &EngineInfo {
        self.engine.info()
    }

    fn shape(&self) -> RowShape {
        self.engine.shape()
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        self.engine.row_flops(tokens)
    }

    fn max_batch_tokens(&self) -> usize {
        self.engine.max_batch_tokens()
    }

    fn max_in_flight(&self) -> usize {
        self.engine.max_in_flight()
    }

    fn memory(&self) -> DeviceMemory {
        self.engine.memory()
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        let ticket = self.engine.submit(batch)?;
        if self.lose.swap(false, Ordering::Relaxed) {
            self.engine.provoke_device_loss();
        }
        Ok(ticket)
    }

    fn wait(&mut self, ticket: &Ticket, at_most: Duration) -> bool {
        self.engine.wait(ticket, at_most)
    }

    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        self.engine.finish(ticket, outputs)
    }
}

/// Scores one row of the tiny model, as a request of its own.
async fn score(scheduler: &Scheduler, model: ModelId, shape: &RowShape) -> Result<Vec<f32>, ScoreError> {
    let mut rows = PackedBatch::default();
    rows.push(Row { ids: &[2, 7, 3, 8, 3], second_segment: 3 }).unwrap();
    let rows = rows.check(shape).unwrap();
    Ok(scheduler.score(model, rows, &Account::default(), None).await?.outputs)
}

#[tokio::test]
async fn a_lost_device_costs_the_request_that_met_it_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = common::tiny::Model::default();
    // Heads of four numbers are too narrow for the GPU engine.
    model.config["num_attention_heads"] = json!(1);
    model.write(dir.path());
    let weights = checkpoint::load(dir.path(), None).unwrap();
    let device = match GpuDevice::open(&AdapterSelection::Any) {
        Ok(device) => device,
        Err(error) => return testdata::skip(testdata::Cause::NoAdapter, &error.to_string()),
    };
    let options = GpuOptions { max_batch_tokens: 256, ..GpuOptions::default() };
    let engine = GpuEngine::load(&device, weights, &options).unwrap();
    let lose = Arc::new(AtomicBool::new(false));
    let shape = engine.shape();
    let engine = Box::new(Losing { engine, lose: Arc::clone(&lose) });
    let scheduler = Scheduler::start(DEFAULT_MAX_QUEUED_TOKENS).unwrap();
    let model = scheduler.add(engine);
    let before = score(&scheduler, model, &shape).await.unwrap();
    for _ in 0..3 {
        lose.store(true, Ordering::Relaxed);
        // The device may have finished the batch in flight before it was lost: then the next one meets the loss.
        let mut met = score(&scheduler, model, &shape).await;
        if met.is_ok() {
            met = score(&scheduler, model, &shape).await;
        }
        assert!(matches!(met, Err(ScoreError::Device(_))), "{met:?}");
        assert_eq!(score(&scheduler, model, &shape).await.unwrap(), before);
    }
}
