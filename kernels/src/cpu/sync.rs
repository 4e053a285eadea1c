//! Where threads meet: a barrier that spins for a moment and then sleeps.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Turns of the loop before a thread sleeps: some 20 µs, about what waking a sleeper takes. Members of a team arrive
/// within that of each other unless the machine is busy with something else, and then the processor is better left to
/// it.
const SPINS: usize = 1_000;

/// A barrier for a number of threads that is given with each wait.
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
        for _ in 0..SPINS {
            if passed() {
                break;
            }
            std::hint::spin_loop();
        }
        let mut guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        while !passed() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the team panicked");
    }

    /// Lets everyone who waits, now or later, panic: a member will never come.
    pub(super) fn break_up(&self) {
        let _guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.broken.store(true, Ordering::Release);
        self.wake.notify_all();
    }
}
