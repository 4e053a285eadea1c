//! The processor as a device: its threads and their buffers, shared by the engines of all models on it.
//!
//! Engines compute one batch at a time, so two models never use more threads than one does. The buffers grow when a
//! larger model is loaded or a longer row comes, and never shrink.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::cores::Cores;
use super::pool::{Pool, Work};
use super::simd::{InstructionSet, Isa};
use super::worker::{Arena, Needs, Worker};
use crate::engine::EngineError;

/// How a [`CpuDevice`] is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDeviceOptions {
    /// Compute threads, including the caller's; `None` means one for each [performance core](Cores::threads).
    pub threads: Option<NonZeroUsize>,
    /// The instruction set to use; `None` means the processor's best.
    pub instruction_set: Option<InstructionSet>,
}

/// The processor: compute threads and their buffers.
#[derive(Debug)]
pub struct CpuDevice {
    isa: Isa,
    instruction_set: InstructionSet,
    threads: usize,
    arena: Arc<Arena>,
    pool: Mutex<Pool<Worker>>,
}

impl CpuDevice {
    /// Starts the threads.
    ///
    /// # Errors
    /// This processor does not have the instruction set, or a thread cannot be started.
    pub fn new(options: CpuDeviceOptions) -> Result<Arc<Self>, EngineError> {
        let instruction_set = options.instruction_set.unwrap_or_else(InstructionSet::detect);
        let isa = Isa::new(instruction_set)
            .ok_or_else(|| EngineError::Device(format!("this processor does not have {}", instruction_set.name())))?;
        let threads = options.threads.unwrap_or_else(|| Cores::detect().threads()).get();
        let others = (1..threads).map(Worker::new).collect();
        let pool = Pool::start(Worker::new(0), others)
            .map_err(|error| EngineError::Device(format!("cannot start {threads} threads: {error}")))?;
        let arena = Arc::new(Arena::new(threads));
        Ok(Arc::new(Self { isa, instruction_set, threads, arena, pool: Mutex::new(pool) }))
    }

    /// Compute threads, including the caller's.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set that kernels are compiled for.
    #[must_use]
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// Bytes in all threads' buffers now.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.arena.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Runs `work` on every thread once earlier work is done; false if a thread panicked.
    pub(super) fn run(&self, work: Arc<dyn Work<Worker>>) -> bool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).run(work)
    }

    /// Grows every thread's buffers to what a model needs.
    pub(super) fn reserve(&self, needs: Needs) -> bool {
        self.run(Arc::new(Reserve { needs, arena: Arc::clone(&self.arena) }))
    }
}

struct Reserve {
    needs: Needs,
    arena: Arc<Arena>,
}

impl Work<Worker> for Reserve {
    fn run(&self, worker: &mut Worker) {
        worker.fit(&self.needs, &self.arena);
    }
}
