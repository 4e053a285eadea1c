//! Limits how many requests of a tenant run and how many wait.
//!
//! A tenant keeps its limit across deployments, so a switch to another version never doubles the requests that run. A
//! permit is a value: dropping it lets the next request run, however the request ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::rerank::RerankError;

/// Assumed run time of a request until the first has ended.
const INITIAL_HOLD: Duration = Duration::from_millis(100);

/// A limit on a tenant's running and waiting requests.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    max_running: u64,
    max_waiting: u64,
    running: u64,
    waiting: VecDeque<oneshot::Sender<Permit>>,
    /// Moving average of a request's run time, for `retry_after`.
    hold: Duration,
}

/// Permission to run one request.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Option<Arc<ConcurrencyLimit>>,
    since: std::time::Instant,
}

impl ConcurrencyLimit {
    pub(super) fn new(max_running: u64, max_waiting: u64) -> Arc<Self> {
        let waiting = VecDeque::new();
        let state = State { max_running, max_waiting, running: 0, waiting, hold: INITIAL_HOLD };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Sets other limits. Running requests continue.
    pub(super) fn set(self: &Arc<Self>, max_running: u64, max_waiting: u64) {
        let mut state = self.lock();
        (state.max_running, state.max_waiting) = (max_running, max_waiting);
        self.admit(&mut state);
    }

    /// Waits for a permit, or refuses if too many requests wait already.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Permit, RerankError> {
        let permit = {
            let mut state = self.lock();
            state.waiting.retain(|waiting| !waiting.is_closed());
            let waiting = state.waiting.len() as u64;
            let may_run = state.running < state.max_running;
            if !may_run && waiting >= state.max_waiting {
                // There is room again when all waiting requests have run.
                let rounds = (waiting + 1).div_ceil(state.max_running.max(1));
                let retry_after = state.hold * u32::try_from(rounds).unwrap_or(u32::MAX);
                let (limit, allowed) = match state.max_waiting {
                    0 => ("max_concurrent_requests", state.max_running),
                    waiting => ("max_waiting_requests", waiting),
                };
                return Err(RerankError::TooManyRequests { limit, allowed, retry_after });
            }
            let (sender, permit) = oneshot::channel();
            state.waiting.push_back(sender);
            self.admit(&mut state);
            permit
        };
        permit.await.map_err(|_| RerankError::Internal("the tenant's concurrency limit is closed".to_owned()))
    }

    /// Running and waiting requests.
    pub(super) fn occupancy(&self) -> (u64, u64) {
        let state = self.lock();
        (state.running, state.waiting.iter().filter(|waiting| !waiting.is_closed()).count() as u64)
    }

    /// Gives permits to waiting requests, oldest first, while there is room.
    fn admit(self: &Arc<Self>, state: &mut State) {
        while state.running < state.max_running {
            let Some(waiting) = state.waiting.pop_front() else { return };
            state.running += 1;
            let permit = Permit { limit: Some(Arc::clone(self)), since: std::time::Instant::now() };
            if let Err(mut unused) = waiting.send(permit) {
                // The caller has hung up. Dropping the permit unchanged would take the lock held here.
                unused.limit = None;
                state.running -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.take() {
            let mut state = limit.lock();
            state.running -= 1;
            state.hold = (state.hold * 7 + self.since.elapsed()) / 8;
            limit.admit(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn requests_run_wait_and_are_refused_in_that_order() {
        let limit = ConcurrencyLimit::new(2, 1);
        let first = limit.enter().now_or_never().unwrap().unwrap();
        let _second = limit.enter().now_or_never().unwrap().unwrap();
        let mut third = Box::pin(limit.enter());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(limit.occupancy(), (2, 1));
        let refused = limit.enter().now_or_never().unwrap().unwrap_err();
        assert!(matches!(refused, RerankError::TooManyRequests { limit: "max_waiting_requests", allowed: 1, .. }));
        drop(first);
        let _third = third.now_or_never().unwrap().unwrap();
        assert_eq!(limit.occupancy(), (2, 0));
    }

    #[test]
    fn an_abandoned_request_makes_room() {
        let limit = ConcurrencyLimit::new(1, 1);
        let first = limit.enter().now_or_never().unwrap().unwrap();
        let mut gone = Box::pin(limit.enter());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        let mut waits = Box::pin(limit.enter());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(first);
        drop(waits);
        assert_eq!(limit.occupancy(), (0, 0));
        assert!(limit.enter().now_or_never().unwrap().is_ok());
    }

    #[test]
    fn other_bounds_take_effect_at_once() {
        let limit = ConcurrencyLimit::new(1, 5);
        let _first = limit.enter().now_or_never().unwrap().unwrap();
        let mut second = Box::pin(limit.enter());
        assert!(second.as_mut().now_or_never().is_none());
        limit.set(2, 0);
        assert!(second.now_or_never().unwrap().is_ok());
    }
}
