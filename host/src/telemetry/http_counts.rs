//! Counts what happens on a server's ports. Written by the HTTP service; kept here so that what reports on a server
//! need not know HTTP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Counters of a server's ports.
#[derive(Debug, Default)]
pub struct HttpCounts {
    /// By dialect and status. Both have few values.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    open: AtomicU64,
    busy: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
}

/// A reading of [`HttpCounts`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReading {
    /// Requests by dialect, or `-` before one is known, and status.
    pub requests: Vec<(String, u16, u64)>,
    /// Connections open now.
    pub open: u64,
    /// Connections with a request in work now.
    pub busy: u64,
    /// Connections taken.
    pub accepted: u64,
    /// Connections refused because their address has too many.
    pub refused: u64,
    /// Connections without a request that were closed to make room.
    pub evicted: u64,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It is taken.
    Accepted,
    /// It is refused.
    Refused,
    /// It is closed to make room.
    Evicted,
    /// It has closed.
    Closed,
    /// A request's head has arrived.
    Begins,
    /// The request's answer has left.
    Ends,
}

impl HttpCounts {
    /// Counts a request that has ended.
    pub fn request(&self, dialect: &'static str, status: u16) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((dialect, status)).or_default() += 1;
    }

    /// Counts what happens to a connection.
    pub fn connection(&self, happening: Happening) {
        let add = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let sub = |counter: &AtomicU64| {
            counter.fetch_sub(1, Ordering::Relaxed);
        };
        match happening {
            Happening::Accepted => {
                add(&self.accepted);
                add(&self.open);
            }
            Happening::Refused => add(&self.refused),
            Happening::Evicted => add(&self.evicted),
            Happening::Closed => sub(&self.open),
            Happening::Begins => add(&self.busy),
            Happening::Ends => sub(&self.busy),
        }
    }

    /// The counters now.
    #[must_use]
    pub fn read(&self) -> HttpReading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = requests.iter().map(|(&(dialect, status), &count)| (dialect.to_owned(), status, count));
        HttpReading {
            requests: requests.collect(),
            open: load(&self.open),
            busy: load(&self.busy),
            accepted: load(&self.accepted),
            refused: load(&self.refused),
            evicted: load(&self.evicted),
        }
    }
}
