//! The CPU engine: the whole forward pass in f32 on the host's processor.
//!
//! It consumes the weights, computes in [`Engine::submit`] and hands the numbers over in [`Engine::finish`]. A row's
//! numbers are computed from that row alone, in an order that depends on nothing else, so they have the same bits in
//! any batch.

mod plain;

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::batch::PackedBatch;
use crate::config::BertConfig;
use crate::engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Ticket};
use crate::flops::batch_flops;
use crate::weights::BertWeights;

/// Token budget of a batch: enough to keep every core of a large machine busy, and a few milliseconds a core.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 16_384;

/// Numbers as stored and multiplied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// Weights and activations in f32: exact to rounding.
    #[default]
    F32,
}

impl Precision {
    /// Every precision that the CPU engine computes in.
    pub const ALL: [Self; 1] = [Self::F32];
}

/// How a [`CpuEngine`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's included; all that the process may use where `None`.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one batch; raised to the model's longest row where it is less.
    pub max_batch_tokens: usize,
    /// Numbers as stored and multiplied.
    pub precision: Precision,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: None, max_batch_tokens: DEFAULT_MAX_BATCH_TOKENS, precision: Precision::F32 }
    }
}

/// Computes packed batches of one model on the processor.
#[derive(Debug)]
pub struct CpuEngine {
    info: EngineInfo,
    model: plain::Model,
    max_batch_tokens: usize,
    weights_bytes: u64,
    next_ticket: u64,
    pending: Option<Pending>,
    outputs: Vec<f32>,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    report: BatchReport,
}

impl CpuEngine {
    /// Takes the weights over.
    ///
    /// # Errors
    /// None yet.
    pub fn new(weights: BertWeights, options: CpuOptions) -> Result<Self, EngineError> {
        let max_batch_tokens = options.max_batch_tokens.max(weights.config.max_position_embeddings);
        let info = EngineInfo { name: "cpu", device: "portable".to_owned(), precision: "f32", threads: 1 };
        let weights_bytes = weights.parameters() * size_of::<f32>() as u64;
        let model = plain::Model::new(weights);
        Ok(Self { info, model, max_batch_tokens, weights_bytes, next_ticket: 0, pending: None, outputs: Vec::new() })
    }
}

impl Engine for CpuEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn config(&self) -> &BertConfig {
        self.model.config()
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory { weights_bytes: self.weights_bytes, arena_bytes: 0, io_bytes: 0 }
    }

    fn submit(&mut self, batch: &PackedBatch) -> Result<Ticket, EngineError> {
        if self.pending.is_some() {
            return Err(EngineError::TooManyInFlight { in_flight: 1 });
        }
        let (tokens, max_batch_tokens) = (batch.tokens(), self.max_batch_tokens);
        if tokens > max_batch_tokens {
            return Err(EngineError::TooManyTokens { tokens, max_batch_tokens });
        }
        batch.check(self.model.config())?;
        let started = Instant::now();
        self.outputs.clear();
        for row in batch.iter() {
            self.outputs.extend(self.model.forward(row));
        }
        let elapsed = started.elapsed();
        let report = BatchReport {
            rows: batch.rows(),
            tokens,
            useful_flops: batch_flops(self.model.config(), batch),
            elapsed,
            device_time: Some(elapsed),
            dispatches: 0,
            bytes_moved: 0,
        };
        self.next_ticket += 1;
        self.pending = Some(Pending { ticket: self.next_ticket, report });
        Ok(Ticket(self.next_ticket))
    }

    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        match self.pending.take_if(|pending| pending.ticket == ticket.0) {
            None => Err(EngineError::WrongTicket { ticket: ticket.0 }),
            Some(Pending { report, .. }) => {
                outputs.extend_from_slice(&self.outputs);
                Ok(report)
            }
        }
    }
}
