//! The contract of an engine, which computes batches on one device.
//!
//! One dispatch thread owns an engine and is its only caller. [`submit`](Engine::submit) hands a batch over and
//! [`finish`](Engine::finish) waits for it, so a GPU computes one batch while the caller builds the next. A row's
//! numbers depend neither on its neighbours nor on its place in the batch. Callers do not need to know the kind of
//! model, only which rows it takes ([`RowShape`]) and what they cost.

use std::time::Duration;

use crate::architecture::{RowShape, Unsupported};
use crate::batch::CheckedBatch;

/// Computes packed batches of one model on one device.
pub trait Engine: Send + std::fmt::Debug {
    /// What the engine is and where it runs; never changes.
    fn info(&self) -> &EngineInfo;

    /// The rows that the engine takes, and its outputs.
    fn shape(&self) -> RowShape;

    /// Useful floating-point operations of one row, by formula ([`crate::flops`]). The scheduler charges by it.
    fn row_flops(&self, tokens: usize) -> u64;

    /// Most tokens in one batch: at least the model's longest row.
    fn max_batch_tokens(&self) -> usize;

    /// Most batches that may be submitted and not yet finished; at least 1.
    fn max_in_flight(&self) -> usize {
        1
    }

    /// Memory that the engine holds for this model.
    fn memory(&self) -> DeviceMemory;

    /// Hands a batch over and returns as soon as the caller may change the batch. Tickets must be finished in order.
    ///
    /// # Errors
    /// The batch was checked for a model of another shape or is over the token budget, too many batches are in flight,
    /// or the device failed. After an error the engine takes further batches.
    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError>;

    /// Waits for the oldest batch in flight, at most this long; says whether [`finish`](Self::finish) would now return
    /// without waiting. The caller can submit in between. An engine that computes in `finish` says so at once.
    fn wait(&mut self, ticket: &Ticket, at_most: Duration) -> bool {
        let _ = (ticket, at_most);
        true
    }

    /// Waits for the oldest batch in flight and appends its `[rows, outputs]` numbers, row-major, to `outputs`.
    ///
    /// # Errors
    /// The device failed and this batch is lost. The engine takes further batches.
    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError>;

    /// Computes one batch from end to end.
    ///
    /// # Errors
    /// As [`submit`](Self::submit) and [`finish`](Self::finish).
    fn run(&mut self, batch: &CheckedBatch, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        let ticket = self.submit(batch)?;
        self.finish(ticket, outputs)
    }
}

/// Format in which numbers are stored and multiplied. No engine has all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Weights and activations in f32: within 1e-4 of the float64 reference's logits.
    #[default]
    F32,
    /// Weights and activations in f16, sums in f32: half the memory; within 2e-2 of the reference's logits.
    F16,
    /// Weights of the layers in 8 bits with a scale for each output, activations in 16 bits with a scale for each row,
    /// sums exact; attention, norms and the head in f32. Logits differ from f32's by some hundredths.
    Int8,
    /// As [`Int8`](Self::Int8), with weights of 11 and activations of 12 bits, both stored in 16: twice its memory and a
    /// tenth of its error.
    Int16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int16];

    /// Its name: `f32`, `f16`, `int8` or `int16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
        }
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
    /// The precision, by [`Precision::name`].
    pub precision: &'static str,
    /// Compute threads; 0 if the processor only waits.
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
    /// In the processor's memory, beside a device of its own: a word table that is larger than the device's buffers.
    pub host_bytes: u64,
}

/// Costs of one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchReport {
    /// Rows computed.
    pub rows: usize,
    /// Tokens computed; all are useful.
    pub tokens: usize,
    /// Floating-point operations by formula ([`crate::flops`]), a multiply-add as two.
    pub useful_flops: u64,
    /// From submission to the numbers.
    pub elapsed: Duration,
    /// Time the device worked, if it can measure it.
    pub device_time: Option<Duration>,
    /// Kernels dispatched; 0 on a processor.
    pub dispatches: u32,
    /// Device memory read and written by the kernels, by formula; 0 on a processor.
    pub bytes_moved: u64,
}

/// Why a batch was not computed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The batch was checked for a model that takes other rows.
    #[error("the batch was checked for {found:?} but the engine's model takes {expected:?}")]
    OtherShape {
        /// The shape that the batch was checked for.
        found: RowShape,
        /// The shape that the engine takes.
        expected: RowShape,
    },
    /// The engine does not compute in this precision.
    #[error("the {engine} engine does not compute in {}: it has {}", .precision.name(), names(.supported))]
    Precision {
        /// The engine's name.
        engine: &'static str,
        /// The precision that was asked for.
        precision: Precision,
        /// The precisions of the engine.
        supported: &'static [Precision],
    },
    /// The model has a part that the engine does not compute.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
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
    /// The device or its driver failed. A retry may succeed.
    #[error("the device failed: {0}")]
    Device(String),
}

fn names(precisions: &[Precision]) -> String {
    precisions.iter().map(|precision| precision.name()).collect::<Vec<_>>().join(", ")
}
