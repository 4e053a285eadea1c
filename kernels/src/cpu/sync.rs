//! Waiting that spins briefly and then sleeps: a barrier, and the spin that the pool shares.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Spins before a thread sleeps: some 20 µs, about as long as waking it takes. Members of a team arrive within that
/// time unless the machine is busy with other work, which then should get the processor.
const SPINS: usize = 1_000;

/// Spins until `done`, but only briefly; the caller sleeps if it is not.
pub(super) fn spin(done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if done() {
            break;
        }
        std::hint::spin_loop();
    }
}

/// A barrier; each wait states the number of threads.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicUsize,
    broken: AtomicBool,
    sleepers: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    /// Returns when `members` threads have called it.
    ///
    /// # Panics
    /// A member panicked and will never come.
    pub(super) fn wait(&self, members: usize) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == members {
            self.arrived.store(0, Ordering::Relaxed);
            let guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            drop(guard);
            self.wake.notify_all();
            return;
        }
        let passed = || self.generation.load(Ordering::Acquire) != generation || self.broken.load(Ordering::Acquire);
        spin(passed);
        let mut guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        while !passed() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the team panicked");
    }

    /// Makes the barrier as new. No thread may be waiting at it.
    pub(super) fn mend(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Release);
    }

    /// Makes every wait panic, now and later, because a member will never come.
    pub(super) fn break_up(&self) {
        let _guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.broken.store(true, Ordering::Release);
        self.wake.notify_all();
    }
}
