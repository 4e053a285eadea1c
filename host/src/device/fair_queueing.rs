//! Decides whose rows are next: start-time fair queueing over tenants, in device time by weight, across all models.
//!
//! Each tenant has a virtual time: the device time charged to it, divided by its weight. The tenant with the least
//! virtual time leads the next batch and picks the model, taking its models in turn. The batch is then filled with rows
//! of that model, always from the tenant with the least virtual time (P. Goyal, H. Vin and H. Cheng, "Start-time Fair
//! Queueing", SIGCOMM 1996).
//!
//! Two rules follow from a batch having one model:
//!
//! - A tenant may run ahead of those that wait for other models, by at most one full batch. Without this, batches of a
//!   costly model would never be full. Without a bound, a tenant could join every batch that others lead.
//! - A tenant's advance is remembered after its last request is answered. A tenant that enters begins at the queue's
//!   virtual time or its own, whichever is later, so idle time does not accumulate.
//!
//! Knows tenants, models, requests, tokens and charges; never rows, threads or clocks.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// Tokens that one request may use before the next request of its tenant and model has its turn. A short request is
/// served at once and does not wait for all of a long one.
const REQUEST_TURN_TOKENS: i64 = 2_048;

/// A request's number, assigned by the queue.
pub(super) type RequestId = u64;

/// A loaded model's number, assigned by the queue and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub(super) u64);

/// Tenants with waiting rows, and tenants ahead of their share.
#[derive(Debug, Default)]
pub(super) struct FairQueueing {
    tenants: HashMap<Arc<str>, Tenant>,
    /// Virtual time of the tenant that led the last batch; never decreases.
    virtual_time: f64,
    /// Counts arrivals, to break ties.
    entries: u64,
}

#[derive(Debug)]
struct Tenant {
    weight: u32,
    /// In seconds of device time, divided by weight.
    virtual_time: f64,
    /// When it began to wait, as an arrival number.
    entered: u64,
    /// One per model with waiting rows; the front one is next.
    backlogs: VecDeque<Backlog>,
}

/// One tenant's waiting requests for one model.
#[derive(Debug)]
struct Backlog {
    model: ModelId,
    requests: VecDeque<RequestId>,
    /// Tokens left in the front request's turn.
    turn_tokens: i64,
}

/// The leader of the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    /// The batch's model.
    pub(super) model: ModelId,
    weight: u32,
}

/// A batch being filled.
#[derive(Debug)]
pub(super) struct Filling {
    lead: Lead,
    /// Most seconds of device time by which the leader may run ahead of tenants that wait for other models.
    max_advance_s: f64,
    /// Least virtual time of the tenants that wait only for other models; infinite if there are none.
    held_back: f64,
    /// Tenants with rows of the model, least virtual time on top.
    candidates: BinaryHeap<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    tenant: Arc<str>,
    virtual_time: f64,
    entered: u64,
}

/// State of the front request after a row was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// It has more rows.
    More,
    /// That was its last row.
    Last,
}

impl FairQueueing {
    /// Puts a request at the end of its tenant's backlog for the model.
    pub(super) fn enter(&mut self, tenant: &Arc<str>, weight: u32, model: ModelId, request: RequestId) {
        let (now, entered) = (self.virtual_time, self.entries);
        let tenant = self.tenants.entry(Arc::clone(tenant)).or_insert_with(|| Tenant {
            weight,
            virtual_time: now,
            entered,
            backlogs: VecDeque::new(),
        });
        if tenant.backlogs.is_empty() {
            self.entries += 1;
            tenant.entered = entered;
            tenant.virtual_time = tenant.virtual_time.max(now);
        }
        // A tenant's weight may change between requests; the newest counts.
        tenant.weight = weight.max(1);
        match tenant.backlog(model) {
            Some(backlog) => backlog.requests.push_back(request),
            None => tenant.backlogs.push_back(Backlog {
                model,
                requests: VecDeque::from([request]),
                turn_tokens: REQUEST_TURN_TOKENS,
            }),
        }
    }

    /// Removes a request from any position.
    pub(super) fn leave(&mut self, tenant: &Arc<str>, model: ModelId, request: RequestId) {
        let Some(tenant) = self.tenants.get_mut(tenant) else { return };
        let Some(backlog) = tenant.backlog(model) else { return };
        if backlog.requests.front() == Some(&request) {
            backlog.turn_tokens = REQUEST_TURN_TOKENS;
        }
        backlog.requests.retain(|&waiting| waiting != request);
        tenant.backlogs.retain(|backlog| !backlog.requests.is_empty());
    }

    /// Makes the tenant with the least virtual time leader of the next batch and moves on to the next of its models.
    /// `None` if nothing waits.
    pub(super) fn lead(&mut self) -> Option<Lead> {
        let waiting = self.tenants.values_mut().filter(|tenant| !tenant.backlogs.is_empty());
        let leader = waiting.min_by(|a, b| a.order().partial_cmp(&b.order()).unwrap_or(Ordering::Equal))?;
        let lead = Lead { model: leader.backlogs.front()?.model, weight: leader.weight };
        leader.backlogs.rotate_left(1);
        self.virtual_time = self.virtual_time.max(leader.virtual_time);
        let now = self.virtual_time;
        self.tenants.retain(|_, tenant| !tenant.backlogs.is_empty() || tenant.virtual_time > now);
        Some(lead)
    }

    /// Begins to fill the batch. The leader may run ahead of tenants that wait for other models by `max_advance_s`
    /// seconds of device time, lighter tenants by less.
    pub(super) fn fill(&self, lead: Lead, max_advance_s: f64) -> Filling {
        let (mut candidates, mut held_back) = (BinaryHeap::new(), f64::INFINITY);
        for (name, tenant) in self.tenants.iter().filter(|(_, tenant)| !tenant.backlogs.is_empty()) {
            if tenant.backlogs.iter().any(|backlog| backlog.model == lead.model) {
                candidates.push(tenant.candidate(name));
            } else {
                held_back = held_back.min(tenant.virtual_time);
            }
        }
        // Above zero, so that the leader gets rows even if they cost nothing.
        Filling { lead, max_advance_s: max_advance_s.max(f64::MIN_POSITIVE), held_back, candidates }
    }

    /// The request whose row is next in the batch; `None` if no row may join. Does not change until
    /// [`charge`](Self::charge) or [`leave`](Self::leave) is called.
    pub(super) fn next(&mut self, filling: &mut Filling) -> Option<RequestId> {
        while let Some(Candidate { tenant, .. }) = filling.candidates.peek() {
            let tenant = self.tenants.get_mut(tenant);
            if let Some(tenant) = tenant.filter(|tenant| !tenant.backlogs.is_empty()) {
                let max_advance = filling.max_advance_s / f64::from(tenant.weight.max(filling.lead.weight));
                let may_run_ahead = tenant.virtual_time - filling.held_back < max_advance;
                match tenant.backlog(filling.lead.model) {
                    Some(backlog) if may_run_ahead => return backlog.requests.front().copied(),
                    Some(_) => {}
                    // It waits for other models from now on.
                    None => filling.held_back = filling.held_back.min(tenant.virtual_time),
                }
            }
            filling.candidates.pop();
        }
        None
    }

    /// Charges the tenant of the request from [`next`](Self::next) for one row taken.
    pub(super) fn charge(&mut self, filling: &mut Filling, tokens: usize, device_s: f64, spent: Spent) {
        let Some(mut candidate) = filling.candidates.pop() else { return };
        let Some(tenant) = self.tenants.get_mut(&candidate.tenant) else { return };
        tenant.virtual_time += device_s / f64::from(tenant.weight);
        if let Some(backlog) = tenant.backlog(filling.lead.model) {
            backlog.turn_tokens -= i64::try_from(tokens).unwrap_or(i64::MAX);
            if spent == Spent::Last {
                backlog.requests.pop_front();
                backlog.turn_tokens = REQUEST_TURN_TOKENS;
            } else if backlog.turn_tokens <= 0 {
                backlog.requests.rotate_left(1);
                backlog.turn_tokens = REQUEST_TURN_TOKENS;
            }
            tenant.backlogs.retain(|backlog| !backlog.requests.is_empty());
        }
        candidate.virtual_time = tenant.virtual_time;
        filling.candidates.push(candidate);
    }

    /// Corrects a tenant's charge by seconds of device time, after its rows took more or less than estimated.
    pub(super) fn correct(&mut self, tenant: &Arc<str>, device_s: f64) {
        // A tenant without an entry has no waiting rows and no advance: it would enter at the queue's time anyway.
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.virtual_time += device_s / f64::from(tenant.weight);
        }
    }

    /// The share of the device that a tenant of this weight gets beside the tenants that wait now, between 0 and 1.
    pub(super) fn share(&self, tenant: &Arc<str>, weight: u32) -> f64 {
        let others = self.tenants.iter().filter(|(other, state)| *other != tenant && !state.backlogs.is_empty());
        let others: u64 = others.map(|(_, tenant)| u64::from(tenant.weight)).sum();
        f64::from(weight.max(1)) / (f64::from(weight.max(1)) + others as f64)
    }
}

impl Tenant {
    fn backlog(&mut self, model: ModelId) -> Option<&mut Backlog> {
        self.backlogs.iter_mut().find(|backlog| backlog.model == model)
    }

    fn order(&self) -> (f64, u64) {
        (self.virtual_time, self.entered)
    }

    fn candidate(&self, name: &Arc<str>) -> Candidate {
        Candidate { tenant: Arc::clone(name), virtual_time: self.virtual_time, entered: self.entered }
    }
}

/// The tenant with the least virtual time is the greatest, because a heap has the greatest on top.
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.virtual_time.total_cmp(&self.virtual_time).then(other.entered.cmp(&self.entered))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
