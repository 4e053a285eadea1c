//! The CPU engine: the whole forward pass on the host's processor.
//!
//! It consumes the weights and packs them once for its own matrix product ([`gemm`]); a batch is divided over a fixed
//! set of threads by rows ([`plan`]), each taking its rows through the whole model with activations that stay in its
//! cache ([`forward`]). It computes in [`Engine::submit`] and hands the numbers over in [`Engine::finish`].
//!
//! A row's numbers are computed in an order that depends on that row alone: they have the same bits in any batch and on
//! any number of threads. Between instruction sets they differ by rounding.

mod attention;
mod forward;
mod gemm;
mod integer;
mod matrix;
mod model;
mod norm;
mod pack;
mod plan;
mod pool;
mod simd;
mod stages;
mod supports;
mod sync;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::architecture::{Architecture, Unsupported};
use crate::batch::{CheckedBatch, PackedBatch};
use crate::engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Precision, RowShape, Ticket};
use crate::flops::{batch_flops, row_flops};
use crate::weights::Model;
use forward::{GROUP_TOKENS, Job, Shared, Worker};
use model::PackedModel;
use pack::Format;
use plan::{Limits, Plan};
use pool::Pool;
pub use simd::InstructionSet;
use simd::Isa;
pub use stages::Stage;

/// Token budget of a batch: keeps 64 threads in groups of their own, and two threads busy for two seconds.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 16_384;

/// Fewest tokens that a thread gets when several share a row: fewer would not pay for reading the weights once more.
const MIN_MEMBER_TOKENS: usize = 12;

/// Every precision that the CPU engine computes in.
pub const PRECISIONS: &[Precision] = &[Precision::F32, Precision::Int8, Precision::Int16];

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
    max_batch_tokens: usize,
    memory: DeviceMemory,
    limits: Limits,
    shared: Arc<Shared>,
    pool: Pool,
    /// What the calling thread computes with.
    worker: Worker,
    next_ticket: u64,
    pending: Option<Pending>,
    failed: bool,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    report: BatchReport,
}

impl CpuEngine {
    /// Packs the weights, starts the threads and allocates everything that serving will need.
    ///
    /// # Errors
    /// The model has a part that the engine lacks, the engine lacks the precision, or a thread cannot be started.
    pub fn new(model: Model, options: CpuOptions) -> Result<Self, EngineError> {
        Self::with_instruction_set(model, options, InstructionSet::detect())
    }

    /// As [`new`](Self::new), with kernels for the given instruction set.
    ///
    /// # Errors
    /// As [`new`](Self::new), or this processor does not have the instruction set.
    pub fn with_instruction_set(model: Model, options: CpuOptions, set: InstructionSet) -> Result<Self, EngineError> {
        let isa =
            Isa::new(set).ok_or_else(|| EngineError::Device(format!("this processor does not have {}", set.name())))?;
        Self::supports(&model.architecture)?;
        let precision = options.precision;
        let unsupported = EngineError::Precision { engine: "cpu", precision, supported: PRECISIONS };
        let format = Format::of(precision).ok_or(unsupported)?;
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = options.threads.unwrap_or_else(available).get();
        let longest_row = model.architecture.max_tokens;
        let max_batch_tokens = options.max_batch_tokens.max(longest_row);
        let model = PackedModel::new(isa, format, model);

        // A plan's group exceeds its aim by less than one row.
        let group_tokens = (GROUP_TOKENS + longest_row).next_multiple_of(isa.tile_rows());
        let exchange_len = group_tokens * (3 * model.widths.heads).max(model.widths.hidden);
        let exchange = || [(); 2].map(|()| RwLock::new(vec![0.0; exchange_len]));
        let mut workers: Vec<Worker> =
            (0..threads).map(|index| Worker::new(isa, &model, index, group_tokens)).collect();
        let arena_bytes =
            workers.iter().map(Worker::bytes).sum::<u64>() + (threads * 2 * exchange_len * size_of::<f32>()) as u64;
        let outputs = Vec::with_capacity(max_batch_tokens * model.architecture.outputs());
        let memory = DeviceMemory {
            weights_bytes: model.bytes(),
            arena_bytes,
            io_bytes: (outputs.capacity() * size_of::<f32>()) as u64,
        };
        let job = Job {
            batch: PackedBatch::with_capacity(max_batch_tokens, max_batch_tokens),
            plan: Plan::with_capacity(max_batch_tokens),
        };
        let shared = Arc::new(Shared {
            isa,
            model,
            job: RwLock::new(job),
            next_group: AtomicUsize::new(0),
            exchange: (0..threads).map(|_| exchange()).collect(),
            barrier: sync::Barrier::default(),
            outputs: Mutex::new(outputs),
            stages: stages::Stages::default(),
        });
        let worker = workers.remove(0);
        let pool = Pool::start(&shared, workers)
            .map_err(|error| EngineError::Device(format!("cannot start {threads} threads: {error}")))?;
        let info = EngineInfo {
            name: "cpu",
            device: format!("{} ({})", std::env::consts::ARCH, set.name()),
            precision: options.precision.name(),
            threads,
        };
        let limits = Limits { threads, group_tokens: GROUP_TOKENS, member_tokens: MIN_MEMBER_TOKENS };
        Ok(Self {
            info,
            max_batch_tokens,
            memory,
            limits,
            shared,
            pool,
            worker,
            next_ticket: 0,
            pending: None,
            failed: false,
        })
    }

    /// Whether the engine computes such a model.
    ///
    /// # Errors
    /// Names a part that it lacks.
    pub fn supports(architecture: &Architecture) -> Result<(), Unsupported> {
        supports::check(architecture)
    }

    /// Time that threads have spent in each stage since the engine was made, summed over threads.
    #[must_use]
    pub fn stage_times(&self) -> [(Stage, Duration); Stage::ALL.len()] {
        self.shared.stages.totals()
    }

    fn compute(&mut self, batch: &PackedBatch) -> Result<(), EngineError> {
        {
            let mut job = self.shared.job.write().unwrap_or_else(PoisonError::into_inner);
            job.batch.copy_from(batch);
            job.plan.make(&self.shared.model.architecture, batch, self.limits);
            let mut outputs = self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner);
            outputs.clear();
            outputs.resize(batch.rows() * self.shared.model.architecture.outputs(), 0.0);
            self.shared.next_group.store(0, Ordering::Relaxed);
        }
        if batch.rows() > 0 && !self.pool.run(&*self.shared, &mut self.worker) {
            self.failed = true;
            return Err(EngineError::Device("a thread of the engine panicked".to_owned()));
        }
        Ok(())
    }
}

impl Engine for CpuEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        self.shared.model.architecture.row_shape()
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        row_flops(&self.shared.model.architecture, tokens)
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn memory(&self) -> DeviceMemory {
        self.memory
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        if self.failed {
            return Err(EngineError::Device("a thread of the engine panicked earlier".to_owned()));
        }
        if self.pending.is_some() {
            return Err(EngineError::TooManyInFlight { in_flight: 1 });
        }
        let (tokens, max_batch_tokens) = (batch.tokens(), self.max_batch_tokens);
        if tokens > max_batch_tokens {
            return Err(EngineError::TooManyTokens { tokens, max_batch_tokens });
        }
        let (found, expected) = (*batch.shape(), self.shape());
        if found != expected {
            return Err(EngineError::OtherShape { found, expected });
        }
        let started = Instant::now();
        self.compute(batch)?;
        let elapsed = started.elapsed();
        let report = BatchReport {
            rows: batch.rows(),
            tokens,
            useful_flops: batch_flops(&self.shared.model.architecture, batch),
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
                outputs.extend_from_slice(&self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(report)
            }
        }
    }
}
