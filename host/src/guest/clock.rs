//! The epoch clock, which makes computing guests yield.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// How long a guest computes before it yields, if guests have computed little of late: seldom enough that an idle
/// program hardly wakes.
const TICK: Duration = Duration::from_millis(1);

/// The same while guests compute for long: those of others, sockets and the device wait for a core no longer than this,
/// and what a tick costs, some microseconds, does not count.
const SHORT_TICK: Duration = Duration::from_micros(250);

/// Short ticks without a guest that computes for long, until the clock is slow again.
const CALM_TICKS: u32 = 40;

/// Time between two chores.
const CHORE: Duration = Duration::from_secs(1);

/// Advances the engine's epoch until it is dropped.
#[derive(Debug)]
pub(super) struct EpochClock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where guests' threads say that a guest computes for long.
#[derive(Debug, Clone, Default)]
pub(super) struct Haste(Arc<AtomicBool>);

impl Haste {
    /// Makes the clock's ticks short for a while.
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl EpochClock {
    /// Starts the clock. It does the `chore` about every second.
    pub(super) fn start(engine: Engine, haste: Haste, chore: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("assay-epoch".to_owned()).spawn(move || {
            let (mut hurried, mut chored) = (0_u32, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(if hurried > 0 { SHORT_TICK } else { TICK });
                engine.increment_epoch();
                hurried = if haste.is_asked() { CALM_TICKS } else { hurried.saturating_sub(1) };
                if chored.elapsed() >= CHORE {
                    chored = Instant::now();
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
