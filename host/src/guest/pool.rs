//! What all guests together may hold: places for instances, and bytes of memory.
//!
//! Each tenant is guaranteed one place and the memory of one instance, so no set of others can keep it from starting a
//! request.
//!
//! A guest that calls another tenant holds its place while it waits for the callee's. So each depth of calls has places
//! of its own, and one who holds a place waits only for a place of the next depth: those of the deepest wait for
//! nothing and end, then those above them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::room::{Refused, Room};
use crate::limits::CALL_DEPTHS;
use crate::rerank::RerankError;

/// Memory that each tenant is guaranteed: more than an instance of the standard guest takes with a vocabulary of thirty
/// thousand words.
pub(super) const GUARANTEED_BYTES: u64 = 32 << 20;

/// When to retry if memory is short: requests that hold it take about so long.
const MEMORY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Places for requests of callers outside, and for calls at each depth: fewer the deeper they are, as most chains are
/// short.
pub(super) fn places_by_depth(requests: u32) -> [u32; CALL_DEPTHS] {
    std::array::from_fn(|depth| if depth == 0 { requests } else { (requests >> (depth + 1)).max(1) })
}

/// Places and memory for all guests of a runtime.
pub(super) struct Pool {
    state: Mutex<State>,
    /// Ends something that holds a place and memory for no request. `false` if nothing does.
    make_room: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    /// By depth.
    places: [Room; CALL_DEPTHS],
    memory: Room,
    /// Those who wait for a place, oldest first.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    tenant: Arc<str>,
    depth: usize,
    sender: oneshot::Sender<Place>,
}

/// Room for one instance. Dropping it lets another start.
#[derive(Debug)]
pub(super) struct Place {
    /// Absent in a place that was never handed out.
    pool: Option<Arc<Pool>>,
    tenant: Arc<str>,
    depth: usize,
}

/// Memory that a tenant holds. Dropping it gives all of it back.
#[derive(Debug)]
pub struct HeldMemory {
    pool: Arc<Pool>,
    tenant: Arc<str>,
    bytes: u64,
    /// The most that the tenant may hold.
    most: u64,
}

/// A tenant's guarantees, until this is dropped.
#[derive(Debug)]
pub struct Membership {
    pool: Arc<Pool>,
    tenant: Arc<str>,
    depths: usize,
}

/// Memory was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoMemory {
    limit: &'static str,
    allowed: u64,
}

impl From<NoMemory> for RerankError {
    fn from(NoMemory { limit, allowed }: NoMemory) -> Self {
        Self::TooManyRequests { limit, allowed, retry_after: MEMORY_RETRY_AFTER }
    }
}

impl Pool {
    pub(super) fn new(
        places: [u32; CALL_DEPTHS],
        memory_bytes: u64,
        make_room: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let places = places.map(|places| Room::new(places.into(), 1));
        let memory = Room::new(memory_bytes, GUARANTEED_BYTES);
        let state = Mutex::new(State { places, memory, waiting: VecDeque::new() });
        Arc::new(Self { state, make_room: Box::new(make_room) })
    }

    /// Guarantees a tenant its place and memory, and a place at each depth of calls if other tenants may call it.
    pub(super) fn join(self: &Arc<Self>, tenant: &Arc<str>, is_called: bool) -> Membership {
        let depths = if is_called { CALL_DEPTHS } else { 1 };
        let mut state = self.lock();
        state.places[..depths].iter_mut().for_each(|places| places.join(tenant));
        state.memory.join(tenant);
        Membership { pool: Arc::clone(self), tenant: Arc::clone(tenant), depths }
    }

    /// Waits for a place of this depth.
    pub(super) async fn place(self: &Arc<Self>, tenant: &Arc<str>, depth: usize) -> Result<Place, RerankError> {
        loop {
            if let Some(place) = self.try_place(tenant, depth) {
                return Ok(place);
            }
            if !(self.make_room)() {
                break;
            }
        }
        let place = {
            let mut state = self.lock();
            let (sender, place) = oneshot::channel();
            state.waiting.push_back(Waiting { tenant: Arc::clone(tenant), depth, sender });
            state.hand_out(self);
            place
        };
        place.await.map_err(|_| RerankError::Internal("the guest runtime has shut down".to_owned()))
    }

    /// A place of this depth if there is one now.
    pub(super) fn try_place(self: &Arc<Self>, tenant: &Arc<str>, depth: usize) -> Option<Place> {
        let mut state = self.lock();
        let nobody_waits = !state.waiting.iter().any(|waiting| waiting.depth == depth);
        let is_free = nobody_waits && state.places.get_mut(depth)?.take(tenant, 1, u64::MAX).is_ok();
        is_free.then(|| Place { pool: Some(Arc::clone(self)), tenant: Arc::clone(tenant), depth })
    }

    /// Memory for a tenant that may hold at most `most` bytes, to begin with none.
    pub(super) fn memory(self: &Arc<Self>, tenant: &Arc<str>, most: u64) -> HeldMemory {
        HeldMemory { pool: Arc::clone(self), tenant: Arc::clone(tenant), bytes: 0, most }
    }

    /// Bytes that a tenant's guests and waiting texts hold.
    pub(super) fn memory_of(&self, tenant: &str) -> u64 {
        self.lock().memory.taken_by(tenant)
    }

    /// Places that are taken, and all.
    pub(super) fn places(&self) -> (u64, u64) {
        let places = &self.lock().places;
        (places.iter().map(Room::taken).sum(), places.iter().map(Room::total).sum())
    }

    /// Bytes that are taken, and all.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let memory = &self.lock().memory;
        (memory.taken(), memory.total())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives places to those who wait and may have one, oldest first.
    fn hand_out(&mut self, pool: &Arc<Pool>) {
        let mut number = 0;
        while let Some(Waiting { tenant, depth, sender }) = self.waiting.get(number) {
            let depth = *depth;
            if sender.is_closed() {
                self.waiting.remove(number);
            } else if self.places[depth].take(tenant, 1, u64::MAX).is_err() {
                number += 1;
            } else if let Some(Waiting { tenant, sender, .. }) = self.waiting.remove(number) {
                let place = Place { pool: Some(Arc::clone(pool)), tenant: Arc::clone(&tenant), depth };
                if let Err(mut unused) = sender.send(place) {
                    // Its caller has just gone. Dropping the place unchanged would take the lock that is held here.
                    unused.pool = None;
                    self.places[depth].give(&tenant, 1);
                }
            }
        }
    }
}

impl Place {
    /// The depth of calls that it is for.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut state = pool.lock();
            state.places[self.depth].give(&self.tenant, 1);
            state.hand_out(&pool);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.places[..self.depths].iter_mut().for_each(|places| places.leave(&self.tenant));
        state.memory.leave(&self.tenant);
        state.hand_out(&self.pool);
    }
}

impl HeldMemory {
    /// Takes more for the host itself.
    ///
    /// # Errors
    /// [`RerankError::TooManyRequests`] with the limit that leaves no room, or [`RerankError::TooLarge`] if it never does.
    pub fn take(&mut self, bytes: u64) -> Result<(), RerankError> {
        let requested = self.bytes.saturating_add(bytes);
        self.grow(bytes).map_err(|refused| match refused {
            NoMemory { limit, allowed } if requested > allowed => {
                RerankError::TooLarge { limit: limit.to_owned(), requested, allowed }
            }
            refused => refused.into(),
        })
    }

    /// Takes more.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), NoMemory> {
        loop {
            let (taken, total) = {
                let mut state = self.pool.lock();
                (state.memory.take(&self.tenant, bytes, self.most), state.memory.total())
            };
            match taken {
                Ok(()) => {
                    self.bytes += bytes;
                    return Ok(());
                }
                Err(Refused::Tenant) => {
                    return Err(NoMemory { limit: "max_guest_memory_bytes", allowed: self.most });
                }
                Err(Refused::Total) if (self.pool.make_room)() => {}
                Err(Refused::Total) => return Err(NoMemory { limit: "--guest-memory", allowed: total }),
            }
        }
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        let given = self.bytes.saturating_sub(bytes);
        self.pool.lock().memory.give(&self.tenant, given);
        self.bytes -= given;
    }

    /// Sets another bound for the tenant.
    pub(super) fn set_most(&mut self, most: u64) {
        self.most = most;
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.pool.lock().memory.give(&self.tenant, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn names() -> (Arc<str>, Arc<str>) {
        ("loud".into(), "quiet".into())
    }

    #[test]
    fn a_tenant_can_start_a_request_whatever_others_hold() {
        let (loud, quiet) = names();
        let pool = Pool::new([4; CALL_DEPTHS], 8 * GUARANTEED_BYTES, || false);
        let _members = [pool.join(&loud, true), pool.join(&quiet, true)];
        for depth in 0..CALL_DEPTHS {
            a_place_is_kept_for(&pool, &loud, &quiet, depth);
        }
        // Callers that no tenant may call have no part of the deeper places.
        let (pool, alone) = (Pool::new([4; CALL_DEPTHS], 8 * GUARANTEED_BYTES, || false), Arc::from("alone"));
        let _members = [pool.join(&loud, false), pool.join(&alone, true)];
        assert_eq!(std::iter::from_fn(|| pool.try_place(&alone, 1)).take(9).collect::<Vec<_>>().len(), 4);
    }

    fn a_place_is_kept_for(pool: &Arc<Pool>, loud: &Arc<str>, quiet: &Arc<str>, depth: usize) {
        let taken: Vec<Place> = std::iter::from_fn(|| pool.try_place(loud, depth)).collect();
        assert_eq!(taken.len(), 3);
        // Others of the loud tenant wait, and do not keep the quiet one waiting.
        let mut next = Box::pin(pool.place(loud, depth));
        assert!(next.as_mut().now_or_never().is_none());
        let first = pool.place(quiet, depth).now_or_never();
        assert!(first.is_some_and(|place| place.is_ok()));
        drop(taken);
        assert!(next.now_or_never().is_some_and(|place| place.is_ok()));
    }

    #[test]
    fn memory_that_does_not_fit_is_refused_with_its_limits_name() {
        let (loud, quiet) = names();
        let pool = Pool::new([4; CALL_DEPTHS], 4 * GUARANTEED_BYTES, || false);
        let _members = [pool.join(&loud, false), pool.join(&quiet, false)];
        let mut own = pool.memory(&loud, 2 * GUARANTEED_BYTES);
        assert_eq!(own.grow(2 * GUARANTEED_BYTES), Ok(()));
        assert_eq!(own.grow(1).unwrap_err().limit, "max_guest_memory_bytes");
        own.set_most(u64::MAX);
        assert_eq!(own.grow(GUARANTEED_BYTES), Ok(()));
        assert_eq!(own.grow(1).unwrap_err().limit, "--guest-memory");
        assert_eq!(pool.memory(&quiet, u64::MAX).grow(GUARANTEED_BYTES), Ok(()));
        own.shrink_to(1);
        assert_eq!(pool.memory_of("loud"), 1);
        drop(own);
        assert_eq!((pool.memory_of("loud"), pool.memory_of("quiet")), (0, 0));
    }
}
