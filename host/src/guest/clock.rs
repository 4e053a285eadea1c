//! The epoch clock, which makes computing guests yield.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How often a running guest yields: often enough that guests of others do not notice how long one computes, seldom
/// enough that a tick's few microseconds do not count.
const EPOCH_TICK: Duration = Duration::from_millis(1);

/// Ticks between two chores.
const CHORE_TICKS: u32 = 1_000;

/// Advances the engine's epoch until it is dropped.
#[derive(Debug)]
pub(super) struct EpochClock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EpochClock {
    /// Starts the clock. It does the `chore` about every second.
    pub(super) fn start(engine: Engine, chore: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("assay-epoch".to_owned()).spawn(move || {
            let mut ticks = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(EPOCH_TICK);
                engine.increment_epoch();
                ticks = (ticks + 1) % CHORE_TICKS;
                if ticks == 0 {
                    chore();
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EpochClock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread only counts and does not panic.
            let _ = thread.join();
        }
    }
}
