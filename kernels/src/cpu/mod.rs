//! The CPU engine: the whole forward pass on the host's processor.
//!
//! A [`CpuDevice`] owns the compute threads and their buffers; the engines of all models on it share them and compute
//! one batch at a time. An engine packs its weights once for its matrix product ([`gemm`]). A batch is divided by rows
//! over the threads ([`grouping`]). Each thread takes its rows through the whole model and keeps their activations in
//! its cache ([`forward`]). The engine computes in [`Engine::submit`] and returns the numbers in [`Engine::finish`].
//!
//! The order in which a row's numbers are computed depends only on that row, so they have the same bits in any batch
//! and on any number of threads. Between instruction sets they differ by rounding.

mod attention;
mod bandwidth;
mod buffer;
mod cores;
mod device;
mod feed_forward;
mod forward;
mod gemm;
mod grouping;
mod head;
mod integer;
mod matrix;
mod norm;
mod pack;
mod packed_model;
mod peak;
mod places;
mod pool;
mod relative;
mod rotary;
mod simd;
mod stages;
mod supports;
mod sync;
mod widths;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::architecture::{Architecture, RowShape, Unsupported};
use crate::batch::{CheckedBatch, PackedBatch};
use crate::engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Precision, Ticket};
use crate::flops::{batch_flops, row_flops};
use crate::weights::Model;
pub use bandwidth::MOST_READ_BYTES;
pub use cores::Cores;
pub use device::{CpuDevice, CpuDeviceOptions};
use forward::Forward;
use grouping::Limits;
use pack::Format;
use packed_model::PackedModel;
pub use peak::Peak;
pub use simd::InstructionSet;
pub use stages::Stage;
use worker::{GROUP_TOKENS, Needs};

/// Default token budget of a batch: enough groups for 64 threads, and two seconds of work for two threads.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 16_384;

/// Fewest tokens per thread when several share a row: with fewer, reading the weights again costs more than it saves.
const MIN_MEMBER_TOKENS: usize = 12;

/// Precisions of the CPU engine.
pub const PRECISIONS: &[Precision] = &[Precision::F32, Precision::Int8, Precision::Int16];

impl TryFrom<Precision> for Format {
    type Error = EngineError;

    fn try_from(precision: Precision) -> Result<Self, EngineError> {
        Self::of(precision).ok_or(EngineError::Precision { engine: "cpu", precision, supported: PRECISIONS })
    }
}

/// How a [`CpuEngine`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Most tokens in one batch; raised to the model's longest row if less.
    pub max_batch_tokens: usize,
    /// Numbers as stored and multiplied.
    pub precision: Precision,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { max_batch_tokens: DEFAULT_MAX_BATCH_TOKENS, precision: Precision::F32 }
    }
}

/// Computes packed batches of one model on the processor.
#[derive(Debug)]
pub struct CpuEngine {
    info: EngineInfo,
    device: Arc<CpuDevice>,
    max_batch_tokens: usize,
    weights_bytes: u64,
    limits: Limits,
    forward: Arc<Forward>,
    next_ticket: u64,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    report: BatchReport,
}

impl CpuEngine {
    /// Whether the engine can compute a model of this architecture.
    ///
    /// # Errors
    /// The engine lacks a part of the model; the error names it.
    pub fn supports(architecture: &Architecture) -> Result<(), Unsupported> {
        supports::check(architecture)
    }

    /// Memory that [`load`](Self::load) will take, computed without reading weights: the model's own, and its need of
    /// the device's buffers. Models share those buffers, which are as large as the largest need, not the sum.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn memory_needed(
        device: &CpuDevice,
        architecture: &Architecture,
        options: &CpuOptions,
    ) -> Result<DeviceMemory, EngineError> {
        Self::supports(architecture)?;
        let (isa, format) = (device.isa(), Format::try_from(options.precision)?);
        let needs = Needs::of(isa, format, architecture);
        Ok(DeviceMemory {
            weights_bytes: PackedModel::bytes_of(isa, format, architecture),
            arena_bytes: device.threads() as u64 * needs.bytes(),
            ..DeviceMemory::default()
        })
    }

    /// Packs the weights and reserves the device's buffers for rows of usual length. A longer row makes the buffers
    /// grow when it comes.
    ///
    /// # Errors
    /// The model has a part that the engine lacks, the engine lacks the precision, or a thread panicked.
    pub fn load(device: &Arc<CpuDevice>, model: Model, options: CpuOptions) -> Result<Self, EngineError> {
        Self::supports(&model.architecture)?;
        let CpuOptions { max_batch_tokens, precision } = options;
        let format = Format::try_from(precision)?;
        let isa = device.isa();
        let max_batch_tokens = max_batch_tokens.max(model.architecture.max_tokens);
        let model = PackedModel::new(isa, format, model);
        let needs = Needs::of(isa, format, &model.architecture);
        if !device.reserve(needs) {
            return Err(EngineError::Device("a compute thread has no memory".to_owned()));
        }
        let info = EngineInfo {
            name: "cpu",
            device: format!("{} ({})", std::env::consts::ARCH, device.instruction_set().name()),
            precision: precision.name(),
            threads: device.threads(),
        };
        let limits = Limits { threads: device.threads(), group_tokens: GROUP_TOKENS, member_tokens: MIN_MEMBER_TOKENS };
        let weights_bytes = model.bytes();
        let forward = Arc::new(Forward {
            isa,
            model,
            needs,
            arena: Arc::clone(device.arena()),
            batch: RwLock::default(),
            next_group: AtomicUsize::new(0),
            barrier: sync::Barrier::default(),
            outputs: Mutex::default(),
            stages: stages::Stages::default(),
            #[cfg(feature = "drills")]
            panics: std::sync::atomic::AtomicBool::new(false),
        });
        Ok(Self {
            info,
            device: Arc::clone(device),
            max_batch_tokens,
            weights_bytes,
            limits,
            forward,
            next_ticket: 0,
            pending: None,
        })
    }

    /// Has a compute thread panic in the next batch.
    #[cfg(feature = "drills")]
    pub fn panic_in_next_batch(&self) {
        self.forward.panics.store(true, Ordering::Relaxed);
    }

    /// Time spent in each stage since the engine was made, summed over threads.
    #[must_use]
    pub fn stage_times(&self) -> [(Stage, Duration); Stage::ALL.len()] {
        self.forward.stages.totals()
    }

    fn architecture(&self) -> &Architecture {
        &self.forward.model.architecture
    }

    fn compute(&mut self, rows: &PackedBatch) -> Result<(), EngineError> {
        {
            let mut batch = self.forward.batch.write().unwrap_or_else(PoisonError::into_inner);
            batch.rows.copy_from(rows);
            batch.grouping.make(self.architecture(), rows, self.limits);
            let mut outputs = self.forward.outputs.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.clear();
            outputs.resize(rows.rows() * self.architecture().outputs(), 0.0);
            self.forward.next_group.store(0, Ordering::Relaxed);
        }
        if rows.rows() > 0 && !self.device.run(self.forward.clone()) {
            // All threads have ended this batch. What they left in their buffers is overwritten by the next one.
            self.forward.barrier.mend();
            return Err(EngineError::Device("a thread of the engine panicked at this batch".to_owned()));
        }
        Ok(())
    }
}

impl Engine for CpuEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        self.architecture().row_shape()
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        row_flops(self.architecture(), tokens)
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn memory(&self) -> DeviceMemory {
        let outputs = self.forward.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        DeviceMemory {
            weights_bytes: self.weights_bytes,
            arena_bytes: self.device.arena_bytes(),
            io_bytes: (outputs.capacity() * size_of::<f32>()) as u64,
            host_bytes: 0,
        }
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        if self.pending.is_some() {
            return Err(EngineError::TooManyInFlight { in_flight: 1 });
        }
        let (found, expected) = (*batch.shape(), self.shape());
        if found != expected {
            return Err(EngineError::OtherShape { found, expected });
        }
        let (tokens, max_batch_tokens) = (batch.tokens(), self.max_batch_tokens);
        if tokens > max_batch_tokens {
            return Err(EngineError::TooManyTokens { tokens, max_batch_tokens });
        }
        let started = Instant::now();
        self.compute(batch)?;
        let elapsed = started.elapsed();
        let report = BatchReport {
            rows: batch.rows(),
            tokens,
            useful_flops: batch_flops(self.architecture(), batch),
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
                outputs.extend_from_slice(&self.forward.outputs.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(report)
            }
        }
    }
}
