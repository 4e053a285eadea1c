//! A guest's calls of other tenants: what each is made under, and what of it counts for the guest's own request.
//!
//! The callee is charged for what it computes, as for any request. Its tokens and its processor time count against its
//! caller's request too: the limits of a tenant bound a request together with its calls. A callee gets what its caller
//! has left of both and of its time. A guest waits for one callee at a time.

use std::sync::Arc;
use std::time::Duration;

use super::inference::{Budget, Deferral, Inference, Late, Purpose};
use super::instance::{StoreData, millis, time_left};
use super::link::{CallTerms, Link};
use super::outgoing::Calls;
use crate::limits::MAX_CHAIN_DEPTH;
use crate::rerank::{BusyCallee, CallError, Request, Response};

/// What a request has left when its guest calls a tenant.
#[derive(Debug, Clone, Copy)]
struct Left {
    used_tokens: u64,
    max_tokens: u64,
    used_cpu: Duration,
    max_cpu: Duration,
}

impl Calls for StoreData {
    async fn call(&mut self, label: Option<&str>, request: Request) -> Result<Response, CallError> {
        let (used_cpu, max_cpu) = (self.spent_cpu(), self.max_cpu());
        let (link, terms, left) = self.inference.outgoing(label, used_cpu, max_cpu)?;
        let callee = link.tenant();
        let answer = link.ask(request, terms).await;
        self.inference.came_back(callee, &answer);
        answer.map_err(|error| left.in_callers_terms(error))
    }
}

impl Inference {
    /// The tenant behind an import, and what a call of it is made under.
    fn outgoing(
        &self,
        label: Option<&str>,
        used_cpu: Duration,
        max_cpu: Duration,
    ) -> Result<(Link, CallTerms, Left), CallError> {
        let Purpose::Request(budget) = &self.purpose else {
            return Err(CallError::Internal("no tenant can be called in prepare".to_owned()));
        };
        let Budget { links, depth, deadline, max_tokens, meter, span, .. } = &**budget;
        let link = links.get(label)?;
        let depth = depth + 1;
        if depth > MAX_CHAIN_DEPTH {
            return Err(too_large("max_chain_depth", depth as u64, MAX_CHAIN_DEPTH as u64));
        }
        let (used_tokens, max_tokens) = (self.tokens(), *max_tokens);
        let left = Left { used_tokens, max_tokens, used_cpu, max_cpu };
        let (tokens_left, cpu_left) = (max_tokens.saturating_sub(used_tokens), max_cpu.saturating_sub(used_cpu));
        if cpu_left.is_zero() {
            return Err(too_large("max_guest_cpu_ms", millis(used_cpu), millis(max_cpu)));
        }
        let terms = CallTerms {
            depth,
            deadline: Some(*deadline),
            max_tokens: Some(tokens_left),
            max_cpu: Some(cpu_left),
            meter: meter.begin_call(),
            span: span.clone(),
            is_trial: false,
        };
        Ok((link, terms, left))
    }

    /// Takes in what a call cost, and where its time went.
    fn came_back(&mut self, tenant: Arc<str>, answer: &Result<Response, CallError>) {
        let Purpose::Request(budget) = &self.purpose else { return };
        budget.meter.end_call();
        match answer {
            Ok(response) => {
                self.used.queue += response.timings.queue;
                self.used.inference += response.timings.inference;
            }
            Err(CallError::Internal(_)) => self.used.callee_failed = true,
            Err(CallError::Overloaded { limit, .. }) => {
                self.used.deferral = Some(Deferral::Callee(BusyCallee { tenant, limit: limit.clone() }));
            }
            Err(CallError::Unavailable { .. }) => {
                self.used.deferral = Some(Deferral::Callee(BusyCallee { tenant, limit: None }));
            }
            // A callee has no more time than its caller.
            Err(CallError::DeadlineExceeded) if time_left(budget.deadline).is_zero() => {
                self.used.late = Some(Late::Request);
            }
            Err(CallError::DeadlineExceeded) => self.used.late = Some(Late::Callee(tenant)),
            Err(_) => {}
        }
    }
}

impl Left {
    /// A callee that met a bound of its caller's is told of it as if it were its own. The caller is told of its own.
    fn in_callers_terms(self, error: CallError) -> CallError {
        match error {
            CallError::TooLarge { limit, requested, allowed }
                if limit.starts_with("max_request_tokens")
                    && allowed == self.max_tokens.saturating_sub(self.used_tokens) =>
            {
                too_large("max_request_tokens", self.used_tokens.saturating_add(requested), self.max_tokens)
            }
            CallError::TooLarge { limit, requested, .. } if limit.starts_with("max_guest_cpu_ms") => {
                too_large("max_guest_cpu_ms", millis(self.used_cpu).saturating_add(requested), millis(self.max_cpu))
            }
            other => other,
        }
    }
}

fn too_large(limit: &str, requested: u64, allowed: u64) -> CallError {
    CallError::TooLarge { limit: limit.to_owned(), requested, allowed }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
