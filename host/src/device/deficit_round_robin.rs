//! Whose row goes next: deficit round robin in tokens, by weight, over tenants; and over the requests of a tenant in
//! equal parts.
//!
//! Each tenant that has rows waiting gets a turn in which it may spend a quantum of tokens in proportion to its weight;
//! what is left over of it is kept for the next turn, and forfeited once nothing waits (M. Shreedhar and G. Varghese,
//! "Efficient Fair Queueing Using Deficit Round Robin", SIGCOMM 1995). Knows tenants, requests and token counts; never
//! rows, threads or clocks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Tokens that the heaviest of the waiting tenants may spend in one turn: one of the longest rows of common models, so
/// that even a small batch holds rows of several tenants.
const TURN_TOKENS: i64 = 512;

/// Tokens that one request may spend before the tenant's next request has its turn: a short request is served in one
/// go, and never waits for the whole of a long one.
const REQUEST_TURN_TOKENS: i64 = 2_048;

/// Credit is counted in this part of a token, so that light tenants beside heavy ones lose nothing to rounding.
const CREDIT_PER_TOKEN: i64 = 1 << 16;

/// A request's number, given by the queue.
pub(super) type RequestId = u64;

/// Tenants with waiting rows, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct DeficitRoundRobin {
    backlogs: HashMap<Arc<str>, Backlog>,
    /// Each tenant that has a backlog, once; the front one has its turn.
    order: VecDeque<Arc<str>>,
}

/// One tenant's waiting requests.
#[derive(Debug)]
struct Backlog {
    weight: u32,
    /// What the tenant may still spend, in parts of a token.
    credit: i64,
    turn: Turn,
    requests: VecDeque<RequestId>,
    /// What the front request may still spend in its turn, in tokens.
    request_credit: i64,
}

/// Whether the front tenant was given its quantum yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ahead,
    Begun,
}

/// What became of the front request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// It has further rows.
    More,
    /// That was its last row.
    Last,
}

impl DeficitRoundRobin {
    /// Puts a request at the end of its tenant's backlog.
    pub(super) fn enter(&mut self, tenant: &Arc<str>, weight: u32, request: RequestId) {
        let backlog = self.backlogs.entry(Arc::clone(tenant)).or_insert_with(|| {
            self.order.push_back(Arc::clone(tenant));
            let requests = VecDeque::new();
            Backlog { weight, credit: 0, turn: Turn::Ahead, requests, request_credit: REQUEST_TURN_TOKENS }
        });
        // A tenant's weight may change between two requests; the newest counts.
        backlog.weight = weight.max(1);
        backlog.requests.push_back(request);
    }

    /// Takes a request out, wherever it stands.
    pub(super) fn leave(&mut self, tenant: &Arc<str>, request: RequestId) {
        let Some(backlog) = self.backlogs.get_mut(tenant) else { return };
        if backlog.requests.front() == Some(&request) {
            backlog.request_credit = REQUEST_TURN_TOKENS;
        }
        backlog.requests.retain(|&waiting| waiting != request);
        if backlog.requests.is_empty() {
            self.backlogs.remove(tenant);
            self.order.retain(|waiting| waiting != tenant);
        }
    }

    /// The request whose row goes next, given what each request's next row costs; `None` where nothing waits. The same
    /// until [`spend`](Self::spend) or [`leave`](Self::leave) is called.
    pub(super) fn front(&mut self, next_row_tokens: impl Fn(RequestId) -> usize) -> Option<RequestId> {
        loop {
            let tenant = self.order.front()?;
            if self.backlogs.get(tenant)?.turn == Turn::Ahead {
                // Once a turn, not once a row: it looks at every tenant that waits.
                let quantum_per_weight = self.quantum_per_weight()?;
                let backlog = self.backlogs.get_mut(tenant)?;
                backlog.turn = Turn::Begun;
                backlog.credit += i64::from(backlog.weight) * quantum_per_weight;
            }
            let backlog = self.backlogs.get_mut(tenant)?;
            let request = *backlog.requests.front()?;
            let cost = credit(next_row_tokens(request));
            // A tenant that is alone waits for nobody, so there is nothing to save up for.
            if cost <= backlog.credit || self.order.len() == 1 {
                return Some(request);
            }
            backlog.turn = Turn::Ahead;
            self.order.rotate_left(1);
        }
    }

    /// Charges the front request for a row that was taken.
    pub(super) fn spend(&mut self, tokens: usize, spent: Spent) {
        let Some(tenant) = self.order.front().cloned() else { return };
        let Some(backlog) = self.backlogs.get_mut(&tenant) else { return };
        backlog.credit = (backlog.credit - credit(tokens)).max(0);
        backlog.request_credit -= i64::try_from(tokens).unwrap_or(i64::MAX);
        if spent == Spent::Last {
            backlog.requests.pop_front();
            backlog.request_credit = REQUEST_TURN_TOKENS;
        } else if backlog.request_credit <= 0 {
            backlog.requests.rotate_left(1);
            backlog.request_credit = REQUEST_TURN_TOKENS;
        }
        if backlog.requests.is_empty() {
            self.backlogs.remove(&tenant);
            self.order.pop_front();
        }
    }

    /// The part of the device that a tenant of this weight gets while what waits now waits, between 0 and 1.
    pub(super) fn share(&self, tenant: &Arc<str>, weight: u32) -> f64 {
        let others = self.backlogs.iter().filter(|(other, _)| *other != tenant);
        let others: u64 = others.map(|(_, backlog)| u64::from(backlog.weight)).sum();
        f64::from(weight.max(1)) / (f64::from(weight.max(1)) + others as f64)
    }

    /// Credit for each unit of weight, such that the heaviest waiting tenant gets [`TURN_TOKENS`]: the number of turns
    /// that a row takes then depends on the ratio of the weights only.
    fn quantum_per_weight(&self) -> Option<i64> {
        let heaviest = self.backlogs.values().map(|backlog| backlog.weight).max()?;
        Some((TURN_TOKENS * CREDIT_PER_TOKEN / i64::from(heaviest)).max(1))
    }
}

fn credit(tokens: usize) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(CREDIT_PER_TOKEN)
}
