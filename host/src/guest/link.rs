//! The tenant behind a component's import of `reranker`.

use std::sync::Arc;

use crate::rerank::{CallError, Request, Reranks, Response};

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

    /// Asks the tenant. A fault of its guest or the host says whose it is: a caller may have several.
    pub(super) async fn ask(self, request: Request) -> Result<Response, CallError> {
        self.answers.ask(request).await.map_err(|error| match error {
            CallError::Internal(message) => CallError::Internal(format!("tenant {}: {message}", self.tenant)),
            other => other,
        })
    }
}
