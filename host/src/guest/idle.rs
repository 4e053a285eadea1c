//! Prepared instances that wait for their tenant's next request.
//!
//! Each holds a place and memory. They make room for whoever needs it, those of the tenant with the most first, and end
//! after a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::instance::Instance;

/// How long an instance waits.
const IDLE_TIME: Duration = Duration::from_secs(300);

/// The idle instances of all guests of a runtime.
#[derive(Debug)]
pub(super) struct IdleInstances {
    most: usize,
    /// Oldest first.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    program: u64,
    tenant: Arc<str>,
    since: Instant,
    instance: Instance,
}

impl Idle {
    fn is_for(&self, program: u64, depth: usize) -> bool {
        self.program == program && self.instance.depth() <= depth
    }
}

impl IdleInstances {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), idle: Mutex::default() }
    }

    /// Keeps an instance of a program for another request of its tenant.
    pub(super) fn keep(&self, program: u64, tenant: &Arc<str>, instance: Instance) {
        let is_full = {
            let mut idle = self.lock();
            let (tenant, since) = (Arc::clone(tenant), Instant::now());
            idle.push_back(Idle { program, tenant, since, instance });
            idle.len() > self.most
        };
        if is_full {
            self.evict();
        }
    }

    /// The newest idle instance of a program, whose memory is most likely still in a cache. A call at this depth waits
    /// for places of deeper ones, so it must hold none of those itself.
    pub(super) fn take(&self, program: u64, depth: usize) -> Option<Instance> {
        let mut idle = self.lock();
        let newest = idle.iter().rposition(|idle| idle.is_for(program, depth))?;
        idle.remove(newest).map(|idle| idle.instance)
    }

    /// Idle instances of a program that a call at this depth may take.
    pub(super) fn count(&self, program: u64, depth: usize) -> usize {
        self.lock().iter().filter(|idle| idle.is_for(program, depth)).count()
    }

    /// Ends the oldest idle instance of the tenant that has the most. `false` if there is none.
    pub(super) fn evict(&self) -> bool {
        let evicted = {
            let mut idle = self.lock();
            let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
            for idle in idle.iter() {
                *counts.entry(Arc::clone(&idle.tenant)).or_default() += 1;
            }
            let most = counts.values().copied().max();
            let victim = idle.iter().position(|idle| counts.get(&idle.tenant).copied() == most);
            victim.and_then(|victim| idle.remove(victim))
        };
        // Dropped without the lock: it gives back its place, which lets another instance start.
        evicted.is_some()
    }

    /// Ends the idle instances of a program that is gone.
    pub(super) fn forget(&self, program: u64) {
        self.end(|idle| idle.program == program);
    }

    /// Ends idle instances that have waited too long.
    pub(super) fn expire(&self, now: Instant) {
        self.end(|idle| now.saturating_duration_since(idle.since) >= IDLE_TIME);
    }

    fn end(&self, ends: impl Fn(&Idle) -> bool) {
        let ended = {
            let mut idle = self.lock();
            let (ended, kept) = idle.drain(..).partition::<VecDeque<_>, _>(&ends);
            *idle = kept;
            ended
        };
        drop(ended);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Each change leaves the list consistent.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
