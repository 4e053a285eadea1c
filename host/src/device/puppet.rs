//! A device that computes nothing: a row's number is known at once from its ids. For measuring all that surrounds an
//! engine; no command offers it. A row of zeros, which no tokenizer makes, has it fail as an engine with a bug would.

use assay_kernels::{
    Architecture, BatchReport, CheckedBatch, DeviceMemory, Engine, EngineError, EngineInfo, Model, ReadModel, RowShape,
    Ticket,
};

use super::choose::DeviceError;
use super::opened::Opened;

/// Most tokens of a batch: as many as one request of the usual size has.
const MAX_BATCH_TOKENS: usize = 16_384;

/// The device.
#[derive(Debug)]
pub(super) struct Puppet;

/// A model on it.
#[derive(Debug)]
struct PuppetEngine {
    info: EngineInfo,
    shape: RowShape,
    /// The numbers of the batch in flight.
    numbers: Vec<f32>,
    report: BatchReport,
    next: u64,
}

impl Opened for Puppet {
    fn name(&self) -> &'static str {
        "puppet"
    }

    fn description(&self) -> String {
        "nothing is computed".to_owned()
    }

    fn threads(&self) -> usize {
        0
    }

    fn memory_needed(&self, _: &Architecture) -> Result<DeviceMemory, DeviceError> {
        Ok(DeviceMemory::default())
    }

    fn engine(&self, model: Model, _: ReadModel) -> Result<Box<dyn Engine>, DeviceError> {
        let info = EngineInfo { name: self.name(), device: self.description(), precision: "f32", threads: 0 };
        let shape = model.architecture.row_shape();
        let (numbers, report) = (Vec::new(), BatchReport::default());
        Ok(Box::new(PuppetEngine { info, shape, numbers, report, next: 0 }))
    }
}

impl Engine for PuppetEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        self.shape
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        tokens as u64
    }

    fn max_batch_tokens(&self) -> usize {
        MAX_BATCH_TOKENS.max(self.shape.max_tokens)
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        if *batch.shape() != self.shape {
            return Err(EngineError::OtherShape { found: *batch.shape(), expected: self.shape });
        }
        self.numbers.clear();
        for row in batch.iter() {
            assert!(row.ids.iter().any(|&id| id != 0), "a row of zeros");
            let number = row.ids.iter().map(|&id| id as f32).sum::<f32>() / row.ids.len() as f32;
            self.numbers.extend(std::iter::repeat_n(number, self.shape.outputs));
        }
        self.report = BatchReport { rows: batch.rows(), tokens: batch.tokens(), ..BatchReport::default() };
        self.next += 1;
        Ok(Ticket(self.next))
    }

    fn finish(&mut self, _: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        outputs.append(&mut self.numbers);
        Ok(self.report)
    }
}
