//! Bounds connections: how many are open, in all and from one address, and how long each may wait.
//!
//! A connection is *waiting* until a request's head has arrived and again after its answer, and *busy* in between. Only
//! waiting connections are ever closed to make room, those first that wait longest: a caller who opens connections and
//! says nothing takes no place from one who asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::deadlines::Deadlines;
use crate::limits::TokenRate;
use crate::telemetry::{Happening, HttpCounts};

/// How often connections are looked over for those that are late.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes a second that are read for nothing: few enough that they do not keep the connections' threads from work.
const DISCARDED_BYTES_PER_S: u64 = 16 << 20;

/// Most connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// From one address, or from one IPv6 network of 64 bits.
    pub per_address: usize,
}

/// All connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    pub(super) deadlines: Deadlines,
    table: Mutex<Table>,
    /// Requests that are in work: their heads have arrived and their answers have not left.
    requests: Arc<Requests>,
    /// Signalled when a connection has closed.
    closed: Notify,
    /// Bytes of bodies that are read only so that an answer arrives.
    pub(super) discarded: TokenRate,
    counts: Arc<HttpCounts>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Connection>>,
    by_address: HashMap<IpAddr, usize>,
    next_id: u64,
}

/// Counts the requests in work.
#[derive(Debug, Default)]
struct Requests {
    count: AtomicU64,
    none: Notify,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    address: IpAddr,
    began: Instant,
    /// Milliseconds from `began` to the last change of phase, times four, and the phase.
    phase: AtomicU64,
    /// Milliseconds from `began`, and one, to the first byte that was written and not taken yet; 0 if there is none.
    writing_since: AtomicU64,
    close: Notify,
    requests: Arc<Requests>,
    counts: Arc<HttpCounts>,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Phase {
    /// No byte of a request has arrived.
    Idle = 0,
    /// A part of a head has arrived.
    Head = 1,
    /// A request is in work, or its answer is on its way.
    Busy = 2,
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) connections: Arc<Connections>,
    pub(super) connection: Arc<Connection>,
}

/// A request in work. Dropped when its answer has left, or will not.
#[derive(Debug)]
pub(super) struct InRequest(Arc<Connection>);

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All connections are busy: the next one waits in the system's own line.
    Total,
    /// All connections of the address are busy.
    Address,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, deadlines: Deadlines, counts: Arc<HttpCounts>) -> Arc<Self> {
        let (table, requests, closed) = (Mutex::default(), Arc::default(), Notify::new());
        let discarded = TokenRate::new(DISCARDED_BYTES_PER_S, DISCARDED_BYTES_PER_S, Instant::now());
        Arc::new(Self { limits, deadlines, table, requests, closed, discarded, counts, began: Instant::now() })
    }

    /// Takes a connection in. If there is no room, the connection that has waited longest is closed for it.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Slot, Full> {
        let address = network(address);
        let mut table = self.lock();
        if table.by_address.get(&address).is_some_and(|&count| count >= self.limits.per_address) {
            let Some(()) = table.evict(|connection| connection.address == address) else {
                self.counts.connection(Happening::Refused);
                return Err(Full::Address);
            };
        }
        if table.open.len() >= self.limits.total {
            table.evict(|_| true).ok_or(Full::Total)?;
        }
        let (id, began) = (table.next_id, self.began);
        table.next_id += 1;
        let connection = Arc::new(Connection {
            id,
            address,
            began,
            phase: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            close: Notify::new(),
            requests: Arc::clone(&self.requests),
            counts: Arc::clone(&self.counts),
        });
        self.counts.connection(Happening::Accepted);
        connection.enter(Phase::Idle);
        table.open.insert(id, Arc::clone(&connection));
        *table.by_address.entry(address).or_default() += 1;
        Ok(Slot { connections: Arc::clone(self), connection })
    }

    /// Closes the connection that has waited longest, if one waits: the system is out of file descriptors.
    pub(super) fn make_room(&self) {
        self.lock().evict(|_| true);
    }

    /// Completes when a connection has closed.
    pub(super) async fn one_closed(&self) {
        self.closed.notified().await;
    }

    /// Closes every connection that is late.
    pub(super) fn sweep(&self) {
        for connection in self.lock().open.values().filter(|connection| connection.is_late(&self.deadlines)) {
            connection.close.notify_one();
        }
    }

    /// Completes when no request is in work.
    pub(super) async fn no_requests(&self) {
        loop {
            let none = self.requests.none.notified();
            if self.requests.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Closes the one of some connections that has waited longest; `None` if none of them waits.
    fn evict(&mut self, of: impl Fn(&Connection) -> bool) -> Option<()> {
        let waiting = self.open.values().filter(|connection| of(connection) && connection.phase().0 != Phase::Busy);
        let oldest = Arc::clone(waiting.min_by_key(|connection| connection.phase().1)?);
        oldest.close.notify_one();
        oldest.counts.connection(Happening::Evicted);
        self.remove(&oldest);
        Some(())
    }

    fn remove(&mut self, connection: &Connection) {
        if self.open.remove(&connection.id).is_none() {
            return;
        }
        if let Some(count) = self.by_address.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&connection.address);
            }
        }
    }
}

impl Connection {
    /// Completes when the connection is to be closed at once.
    pub(super) async fn closing(&self) {
        self.close.notified().await;
    }

    /// Bytes have arrived.
    pub(super) fn read(&self) {
        if self.phase().0 == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// Bytes wait to be taken by the system.
    pub(super) fn write_begins(&self) {
        let _ = self.writing_since.compare_exchange(0, self.now_ms() + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// All bytes were taken.
    pub(super) fn write_ends(&self) {
        self.writing_since.store(0, Ordering::Relaxed);
    }

    /// A request's head has arrived.
    pub(super) fn request(self: &Arc<Self>) -> InRequest {
        self.enter(Phase::Busy);
        self.requests.count.fetch_add(1, Ordering::AcqRel);
        self.counts.connection(Happening::Begins);
        InRequest(Arc::clone(self))
    }

    /// Its answer is held back: it makes room for others like a connection that waits.
    pub(super) fn stands_by(&self) {
        self.enter(Phase::Idle);
    }

    fn is_late(&self, deadlines: &Deadlines) -> bool {
        let now_ms = self.now_ms();
        let exceeds = |since_ms: u64, most: Duration| u128::from(now_ms.saturating_sub(since_ms)) > most.as_millis();
        let late = match self.phase() {
            (Phase::Idle, since_ms) => exceeds(since_ms, deadlines.idle),
            (Phase::Head, since_ms) => exceeds(since_ms, deadlines.head),
            (Phase::Busy, _) => false,
        };
        let writing_since = self.writing_since.load(Ordering::Relaxed);
        late || (writing_since > 0 && exceeds(writing_since - 1, deadlines.write))
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(self.now_ms() << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> (Phase, u64) {
        let value = self.phase.load(Ordering::Relaxed);
        let phase = match value & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, value >> 2)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.connection);
        self.connections.counts.connection(Happening::Closed);
        self.connections.closed.notify_one();
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        let Self(connection) = self;
        connection.enter(Phase::Idle);
        connection.counts.connection(Happening::Ends);
        if connection.requests.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            connection.requests.none.notify_waiters();
        }
    }
}

/// The address that a bound counts: an IPv4 address, or an IPv6 network, which is what one subscriber is given.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use futures::FutureExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        Connections::new(ConnectionLimits { total, per_address }, Deadlines::default(), Arc::default())
    }

    fn closes(slot: &Slot) -> bool {
        slot.connection.closing().now_or_never().is_some()
    }

    #[test]
    fn a_connection_that_waits_makes_room_for_the_next_and_one_that_works_does_not() {
        let connections = connections(2, 2);
        let busy = connections.admit(HERE).unwrap();
        let request = busy.connection.request();
        let waits = connections.admit(HERE).unwrap();
        let next = connections.admit(THERE).unwrap();
        assert!(closes(&waits) && !closes(&busy) && !closes(&next));
        let other_request = next.connection.request();
        assert_eq!(connections.admit(HERE).unwrap_err(), Full::Total);
        drop(request);
        assert!(connections.admit(HERE).is_ok());
        assert!(closes(&busy));
        drop(other_request);
    }

    #[test]
    fn a_connection_whose_answer_is_held_back_makes_room() {
        let connections = connections(1, 1);
        let held = connections.admit(HERE).unwrap();
        let request = held.connection.request();
        assert_eq!(connections.admit(THERE).unwrap_err(), Full::Total);
        held.connection.stands_by();
        assert!(connections.admit(THERE).is_ok() && closes(&held));
        drop(request);
    }

    #[test]
    fn an_address_at_its_bound_loses_its_own_connections_only() {
        let connections = connections(10, 1);
        let (here, there) = (connections.admit(HERE).unwrap(), connections.admit(THERE).unwrap());
        let next = connections.admit(HERE).unwrap();
        assert!(closes(&here) && !closes(&there));
        let _request = next.connection.request();
        assert_eq!(connections.admit(HERE).unwrap_err(), Full::Address);
        drop(next);
        assert!(connections.admit(HERE).is_ok());
    }

    #[test]
    fn a_slot_is_given_back_once() {
        let connections = connections(1, 1);
        let first = connections.admit(HERE).unwrap();
        let second = connections.admit(HERE).unwrap();
        // It was taken out already, for the second.
        drop(first);
        let _request = second.connection.request();
        assert_eq!(connections.admit(THERE).unwrap_err(), Full::Total);
    }

    #[test]
    fn connections_are_counted_from_their_start_to_their_end() {
        let connections = connections(1, 1);
        let first = connections.admit(HERE).unwrap();
        let second = connections.admit(HERE).unwrap();
        let request = second.connection.request();
        assert!(connections.admit(HERE).is_err());
        let counts = connections.counts.read();
        assert_eq!((counts.accepted, counts.evicted, counts.refused), (2, 1, 1));
        assert_eq!((counts.open, counts.busy), (2, 1), "one that was asked to close is open until it has");
        drop((first, second, request));
        let counts = connections.counts.read();
        assert_eq!((counts.open, counts.busy), (0, 0));
    }

    #[test]
    fn no_requests_is_waited_for() {
        let connections = connections(1, 1);
        let slot = connections.admit(HERE).unwrap();
        let request = slot.connection.request();
        let mut none = Box::pin(connections.no_requests());
        assert!(none.as_mut().now_or_never().is_none());
        drop(request);
        assert!(none.now_or_never().is_some());
    }

    #[test]
    fn one_subscriber_is_one_address() {
        let (a, b): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2:3".parse().unwrap());
        assert_eq!(network(a.into()), network(b.into()));
        assert_eq!(network("::ffff:127.0.0.1".parse().unwrap()), HERE);
        assert_ne!(network(HERE), network(THERE));
    }
}
