//! Decides whose guest computes next: start-time fair queueing over tenants, in processor time by weight, and a rate
//! for each.
//!
//! Each tenant has a virtual time: the processor time that its guests took, divided by its weight. The waiting tenant
//! with the least virtual time is next. A tenant that begins to wait starts at the queue's virtual time or its own,
//! whichever is later, so idle time does not accumulate. A tenant whose rate is spent waits until its bucket has time
//! again, whatever its virtual time.
//!
//! Knows tenants, tasks and charges; never guests, threads or clocks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tenant's share of the processor time that guests take.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuShare {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// Its part relative to other tenants whose guests compute.
    pub weight: u32,
    /// Most seconds of processor time a second, over all threads.
    pub max_rate: f64,
    /// Most processor time at once after a pause.
    pub burst: Duration,
}

impl CpuShare {
    /// A share without a limit of its own.
    #[must_use]
    pub fn unlimited(tenant: &Arc<str>, weight: u32) -> Self {
        Self { tenant: Arc::clone(tenant), weight, max_rate: f64::MAX, burst: Duration::MAX }
    }
}

/// Tenants whose guests wait for a thread, and tenants ahead of their share.
#[derive(Debug)]
pub(super) struct Turns<T> {
    tenants: HashMap<Arc<str>, Tenant<T>>,
    /// Virtual time of the tenant that had the last turn; never decreases.
    virtual_time: f64,
}

#[derive(Debug)]
struct Tenant<T> {
    weight: u32,
    /// In seconds of processor time, divided by weight.
    virtual_time: f64,
    ready: VecDeque<T>,
    /// Turns that have begun and are not charged yet.
    running: usize,
    bucket: Bucket,
}

/// Processor time that a tenant may take now. A turn is as long as it is, so the bucket may go below zero.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    burst_s: f64,
    level_s: f64,
    at: Instant,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next<T> {
    /// Run this task, and [`charge`](Turns::charge) the tenant afterwards.
    Run(Arc<str>, T),
    /// No task may run before then, unless another one becomes ready.
    Wait(Instant),
    /// No task is ready.
    Nothing,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), virtual_time: 0.0 }
    }
}

impl<T> Turns<T> {
    /// Puts a task behind its tenant's others.
    pub(super) fn enter(&mut self, share: &CpuShare, task: T, now: Instant) {
        let queue_time = self.virtual_time;
        let tenant = self.tenants.entry(Arc::clone(&share.tenant)).or_insert_with(|| Tenant {
            weight: share.weight,
            virtual_time: queue_time,
            ready: VecDeque::new(),
            running: 0,
            bucket: Bucket::full(share, now),
        });
        if tenant.ready.is_empty() && tenant.running == 0 {
            tenant.virtual_time = tenant.virtual_time.max(queue_time);
        }
        // Limits may change between requests; the newest count.
        tenant.weight = share.weight.max(1);
        (tenant.bucket.rate, tenant.bucket.burst_s) = (share.max_rate, share.burst.as_secs_f64());
        tenant.ready.push_back(task);
    }

    /// The task of the tenant whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Next<T> {
        let mut first: Option<&mut Tenant<T>> = None;
        let mut name = None;
        let mut wait: Option<Instant> = None;
        for (tenant_name, tenant) in self.tenants.iter_mut().filter(|(_, tenant)| !tenant.ready.is_empty()) {
            if let Some(at) = tenant.bucket.empty_until(now) {
                wait = Some(wait.map_or(at, |wait| wait.min(at)));
            } else if first.as_ref().is_none_or(|first| tenant.virtual_time < first.virtual_time) {
                (first, name) = (Some(tenant), Some(Arc::clone(tenant_name)));
            }
        }
        let Some((tenant, name)) = first.zip(name) else { return wait.map_or(Next::Nothing, Next::Wait) };
        let Some(task) = tenant.ready.pop_front() else { return Next::Nothing };
        tenant.running += 1;
        self.virtual_time = self.virtual_time.max(tenant.virtual_time);
        Next::Run(name, task)
    }

    /// Ends a turn, which took so much processor time.
    pub(super) fn charge(&mut self, tenant: &Arc<str>, took: Duration, now: Instant) {
        let Some(entry) = self.tenants.get_mut(tenant) else { return };
        entry.running = entry.running.saturating_sub(1);
        entry.virtual_time += took.as_secs_f64() / f64::from(entry.weight);
        entry.bucket.fill(now);
        entry.bucket.level_s -= took.as_secs_f64();
        let queue_time = self.virtual_time;
        self.tenants.retain(|_, tenant| {
            let is_idle = tenant.ready.is_empty() && tenant.running == 0;
            !is_idle || tenant.virtual_time > queue_time || tenant.bucket.level_s < tenant.bucket.burst_s
        });
    }

    /// Takes all tasks out.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.tenants.drain().flat_map(|(_, tenant)| tenant.ready).collect()
    }
}

impl Bucket {
    fn full(share: &CpuShare, now: Instant) -> Self {
        let burst_s = share.burst.as_secs_f64();
        Self { rate: share.max_rate, burst_s, level_s: burst_s, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level_s = (self.level_s + passed * self.rate).min(self.burst_s);
        self.at = self.at.max(now);
    }

    /// When there will be time again; `None` if there is now.
    fn empty_until(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        (self.level_s <= 0.0).then(|| {
            let wait_s = (-self.level_s / self.rate.max(1e-6)).clamp(1e-4, 3_600.0);
            now + Duration::from_secs_f64(wait_s)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn share(tenant: &str, weight: u32) -> CpuShare {
        CpuShare { tenant: tenant.into(), weight, max_rate: 1e6, burst: Duration::from_secs(1_000) }
    }

    /// Runs `turns` turns of a millisecond, in which every task becomes ready again at once, and counts each tenant's.
    fn counts(turns: &mut Turns<CpuShare>, number: usize, now: Instant) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for _ in 0..number {
            let Next::Run(tenant, task) = turns.next(now) else { panic!("nothing is ready") };
            *counts.entry(tenant.to_string()).or_default() += 1;
            turns.charge(&tenant, MS, now);
            turns.enter(&task.clone(), task, now);
        }
        counts
    }

    #[test]
    fn a_tenant_with_sixteen_tasks_gets_no_more_than_a_tenant_with_one() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for _ in 0..16 {
            turns.enter(&share("loud", 100), share("loud", 100), now);
        }
        turns.enter(&share("quiet", 100), share("quiet", 100), now);
        let counts = counts(&mut turns, 200, now);
        assert!(counts["loud"].abs_diff(counts["quiet"]) <= 1, "{counts:?}");
    }

    #[test]
    fn a_tenant_that_comes_back_has_the_next_turn_and_no_more_for_its_absence() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.enter(&share("loud", 100), share("loud", 100), now);
        counts(&mut turns, 1_000, now);
        turns.enter(&share("quiet", 100), share("quiet", 100), now);
        let Next::Run(first, _) = turns.next(now) else { panic!("nothing is ready") };
        // Both are at the queue's time, or the loud one is past it.
        turns.charge(&first, MS, now);
        turns.enter(&share(&first, 100), share(&first, 100), now);
        let counts = counts(&mut turns, 100, now);
        assert!(counts["loud"].abs_diff(counts["quiet"]) <= 2, "{counts:?}");
    }

    #[test]
    fn a_spent_rate_holds_a_tenant_back_until_its_bucket_fills() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let slow = CpuShare { max_rate: 0.1, burst: 10 * MS, ..share("slow", 100) };
        turns.enter(&slow, 1, now);
        turns.enter(&slow, 2, now);
        assert_eq!(turns.next(now), Next::Run("slow".into(), 1));
        turns.charge(&"slow".into(), 20 * MS, now);
        // 10 ms over, at 0.1 s a second: a tenth of a second.
        let Next::Wait(until) = turns.next(now) else { panic!("the rate is spent") };
        assert!(until >= now + 99 * MS && until <= now + 101 * MS, "{:?}", until - now);
        assert_eq!(turns.next(now + 120 * MS), Next::Run("slow".into(), 2));
    }

    proptest! {
        #[test]
        fn turns_divide_by_weight(weights in proptest::collection::vec(1_u32..20, 2..6)) {
            let (mut turns, now) = (Turns::default(), Instant::now());
            for (number, &weight) in weights.iter().enumerate() {
                let share = share(&number.to_string(), weight);
                turns.enter(&share, share.clone(), now);
            }
            let total: u32 = weights.iter().sum();
            let number = 200 * total as usize;
            let counts = counts(&mut turns, number, now);
            for (tenant, &weight) in weights.iter().enumerate() {
                let fair = 200 * weight as usize;
                prop_assert!(counts[&tenant.to_string()].abs_diff(fair) <= 1 + total as usize, "{counts:?}");
            }
        }
    }
}
