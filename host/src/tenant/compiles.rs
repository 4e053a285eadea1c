//! Counts the components that are compiled.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Components compiled since the start, in child processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CompileReading {
    /// Compiled.
    pub done: u64,
    /// Failed.
    pub failed: u64,
    /// Time that they took, the wait for a place included.
    pub seconds: f64,
}

/// Counts components that are compiled.
#[derive(Debug, Default)]
pub(super) struct Compiles(Mutex<CompileReading>);

impl Compiles {
    pub(super) fn count(&self, is_done: bool, took: Duration) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *if is_done { &mut reading.done } else { &mut reading.failed } += 1;
        reading.seconds += took.as_secs_f64();
    }

    pub(super) fn read(&self) -> CompileReading {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
