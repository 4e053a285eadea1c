//! What callers and the dispatch thread share: the queue, the models that come and go, and the counters.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use assay_kernels::Engine;

use super::fair_queueing::ModelId;
use super::meter::Meter;
use super::queue::Queue;

/// What callers and the dispatch thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) meter: Meter,
    state: Mutex<State>,
    /// Something is to be done.
    pub(super) wake: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// Engines that come and go, in order.
    pub(super) changes: Vec<Change>,
    pub(super) closing: bool,
}

impl Shared {
    /// A queue without models, in which at most so many tokens wait.
    pub(super) fn new(max_queued_tokens: usize) -> Self {
        let state = State { queue: Queue::new(max_queued_tokens), changes: Vec::new(), closing: false };
        Self { meter: Meter::default(), state: Mutex::new(state), wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in small steps that leave it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model that comes or goes.
#[derive(Debug)]
pub(super) enum Change {
    Add {
        model: ModelId,
        engine: Box<dyn Engine>,
    },
    Remove {
        model: ModelId,
        /// Told when the engine is dropped.
        dropped: mpsc::Sender<()>,
    },
}
