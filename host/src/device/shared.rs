//! State shared by callers and the dispatch thread: the queue, changes of models, and the counters.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use assay_kernels::Engine;

use super::fair_queueing::ModelId;
use super::meter::Meter;
use super::queue::Queue;

/// State shared by callers and the dispatch thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) meter: Meter,
    state: Mutex<State>,
    /// Wakes the dispatch thread.
    pub(super) wake: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// Engines to add and remove, in order.
    pub(super) changes: Vec<Change>,
    pub(super) closing: bool,
}

impl Shared {
    /// A queue without models and with this limit of waiting tokens.
    pub(super) fn new(max_queued_tokens: usize) -> Self {
        let state = State { queue: Queue::new(max_queued_tokens), changes: Vec::new(), closing: false };
        Self { meter: Meter::default(), state: Mutex::new(state), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state consistent, so a panic elsewhere does not break it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model to add or remove.
#[derive(Debug)]
pub(super) enum Change {
    Add {
        model: ModelId,
        engine: Box<dyn Engine>,
    },
    Remove {
        model: ModelId,
        /// Notified when the engine is dropped.
        dropped: mpsc::Sender<()>,
    },
}
