//! The tenants behind a component's imports of `reranker`, and what a call runs under.
//!
//! Knows no tenant: what answers is behind [`Reranks`]. Never decides which tenant an import leads to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::meter::CallMeter;
use crate::rerank::{CallError, Request, Response};
use crate::telemetry::traces::Span;

/// What answers requests: a tenant of this process, or one of a running server.
pub trait Reranks: std::fmt::Debug + Send + Sync {
    /// Answers a request within the tenant's limits and these terms. Dropping the future cancels the request and gives
    /// everything back.
    fn ask(self: Arc<Self>, request: Request, terms: CallTerms) -> BoxFuture<'static, Result<Response, CallError>>;
}

/// What a call of a guest runs under, beside its own tenant's limits: what its caller leaves it.
#[derive(Debug, Clone, Default)]
pub struct CallTerms {
    /// Links that led to it: 0 for a caller over HTTP and for a program.
    pub depth: usize,
    /// When its caller's own time ends.
    pub deadline: Option<Instant>,
    /// Tokens that its caller has left.
    pub max_tokens: Option<u64>,
    /// Processor time that its caller has left.
    pub max_cpu: Option<Duration>,
    /// What it costs, counted while it runs.
    pub meter: Arc<CallMeter>,
    /// The span that its spans are within, if it is sampled.
    pub span: Option<Span>,
    /// Whether the host tries the guest with texts of its own: what the guest prints last is told then if it traps.
    pub is_trial: bool,
}

/// The label of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(unreachable_pub, reason = "the generated bindings name it")]
pub struct Label(pub(super) Arc<str>);

/// The tenant behind an import.
#[derive(Debug, Clone)]
pub struct Link {
    tenant: Arc<str>,
    answers: Arc<dyn Reranks>,
}

impl Link {
    /// A tenant, with the name by which errors call it.
    pub fn new(tenant: &str, answers: Arc<dyn Reranks>) -> Self {
        Self { tenant: tenant.into(), answers }
    }

    /// The tenant's name.
    pub(super) fn tenant(&self) -> Arc<str> {
        Arc::clone(&self.tenant)
    }

    /// Asks the tenant. A fault of its guest or the host says whose it is: a caller may have several.
    pub(super) async fn ask(self, request: Request, terms: CallTerms) -> Result<Response, CallError> {
        self.answers.ask(request, terms).await.map_err(|error| match error {
            CallError::Internal(message) => CallError::Internal(format!("tenant {}: {message}", self.tenant)),
            other => other,
        })
    }
}

/// The tenants behind a component's imports, each with its import's label; `None` is the import without one.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<[(Option<String>, Link)]>);

impl FromIterator<(Option<String>, Link)> for Links {
    fn from_iter<I: IntoIterator<Item = (Option<String>, Link)>>(links: I) -> Self {
        Self(links.into_iter().collect())
    }
}

impl Links {
    /// The tenant behind an import.
    ///
    /// # Errors
    /// There is none: [`CallError::Internal`] says what to do.
    pub(super) fn get(&self, label: Option<&str>) -> Result<Link, CallError> {
        let found = self.0.iter().find(|(known, _)| known.as_deref() == label);
        found.map(|(_, link)| link.clone()).ok_or_else(|| {
            let import = label.map_or("the import without a label".to_owned(), |label| format!("the import {label}"));
            CallError::Internal(format!("no tenant is behind {import}: a deployment names it with --link"))
        })
    }
}
