//! The contract of what computes a batch on one device.
//!
//! One dispatch thread owns an engine; nothing else calls it. [`submit`](Engine::submit) hands a batch over,
//! [`finish`](Engine::finish) waits for it: a device that works beside the processor computes one batch while the
//! caller builds the next. An engine allocates nothing that grows after it is made, and a row's numbers depend on
//! neither its neighbours nor its place in the batch.

use std::time::Duration;

use crate::batch::{BatchError, PackedBatch};
use crate::config::BertConfig;

/// What computes packed batches of one model on one device.
pub trait Engine: Send + std::fmt::Debug {
    /// What the engine is and where it runs; the same for as long as it lives.
    fn info(&self) -> &EngineInfo;

    /// The shape of the model that it computes.
    fn config(&self) -> &BertConfig;

    /// Most tokens in one batch; at least the model's longest row.
    fn max_batch_tokens(&self) -> usize;

    /// Most batches that may be submitted and not yet finished; at least 1.
    fn max_in_flight(&self) -> usize {
        1
    }

    /// Memory that the engine holds for this model.
    fn memory(&self) -> DeviceMemory;

    /// Hands a batch over and returns as soon as the batch may be changed. Tickets are finished in the order in which
    /// they were given.
    ///
    /// # Errors
    /// The rows do not fit the model, the batch is over the token budget, too many are in flight, or the device failed;
    /// after an error the engine takes further batches.
    fn submit(&mut self, batch: &PackedBatch) -> Result<Ticket, EngineError>;

    /// Waits for the oldest batch in flight and appends its `[rows, outputs]` numbers, row-major, to `outputs`.
    ///
    /// # Errors
    /// The device failed: this batch is lost, the engine takes further ones.
    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError>;

    /// Computes one batch from end to end.
    ///
    /// # Errors
    /// As [`submit`](Self::submit) and [`finish`](Self::finish).
    fn run(&mut self, batch: &PackedBatch, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        let ticket = self.submit(batch)?;
        self.finish(ticket, outputs)
    }
}

/// A batch in flight.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a submitted batch must be finished"]
pub struct Ticket(pub u64);

/// What an engine is and where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// `cpu` or `gpu`.
    pub name: &'static str,
    /// The device, in its own words: processor and instruction set, or adapter, backend and driver.
    pub device: String,
    /// Numbers as stored and multiplied: `f32`, `f16`, `int8`.
    pub precision: &'static str,
    /// Threads that compute; 0 where the processor only waits.
    pub threads: usize,
}

/// Memory held by an engine for its model, in bytes. Constant after the engine is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The weights.
    pub weights_bytes: u64,
    /// Activations, sized by the token budget.
    pub arena_bytes: u64,
    /// Uploads and read-backs.
    pub io_bytes: u64,
}

/// What one batch took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchReport {
    /// Rows computed.
    pub rows: usize,
    /// Tokens computed: all useful.
    pub tokens: usize,
    /// Floating-point operations by formula ([`crate::flops`]), a multiply-add as two.
    pub useful_flops: u64,
    /// From submission to the numbers.
    pub elapsed: Duration,
    /// Time the device worked, where it can tell.
    pub device_time: Option<Duration>,
    /// Kernels dispatched; 0 on a processor.
    pub dispatches: u32,
    /// Device memory read and written by the kernels, by formula; 0 on a processor.
    pub bytes_moved: u64,
}

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The rows do not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// More tokens than one batch may have.
    #[error("the batch has {tokens} tokens but the engine takes at most {max_batch_tokens}")]
    TooManyTokens {
        /// Tokens in the batch.
        tokens: usize,
        /// The engine's token budget.
        max_batch_tokens: usize,
    },
    /// More batches than may be in flight.
    #[error("{in_flight} batches are in flight already, the most that the engine takes")]
    TooManyInFlight {
        /// Batches in flight.
        in_flight: usize,
    },
    /// The ticket is not that of the oldest batch in flight.
    #[error("ticket {ticket} is not the oldest batch in flight")]
    WrongTicket {
        /// The ticket's number.
        ticket: u64,
    },
    /// The device or its driver failed; trying again is sensible.
    #[error("the device failed: {0}")]
    Device(String),
}
