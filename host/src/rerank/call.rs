//! How a call of a tenant by another component fails, in the contract's words.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MAX_MESSAGE_BYTES, RerankError, cut};

/// Why a call has no answer: the cases of the contract's `error`. A fault of the tenant's guest is one of them, so that
/// it never becomes a fault of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CallError {
    /// The tenant may not use this model.
    #[error("access to model {0} is denied")]
    AccessDenied(String),
    /// There is no model of this name.
    #[error("no model {0} is loaded")]
    NotFound(String),
    /// The request is malformed.
    #[error("invalid request: {0}")]
    InvalidInput(String),
    /// A limit was exceeded; the same request will fail again.
    #[error("{limit} is limited to {allowed}, the request has {requested}")]
    TooLarge {
        /// The limit's name.
        limit: String,
        /// What was asked for.
        requested: u64,
        /// The most that is allowed.
        allowed: u64,
    },
    /// The tenant or the host has no room now.
    #[error("overloaded: try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u32,
        /// The limit of the tenant's that was reached, if it is one of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<String>,
    },
    /// The tenant or its device cannot answer now.
    #[error("unavailable: try again in {retry_after_ms} ms")]
    Unavailable {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// The request's time ran out.
    #[error("the request took longer than it may")]
    DeadlineExceeded,
    /// A fault of the tenant's guest, the host or its device.
    #[error("{0}")]
    Internal(String),
}

impl CallError {
    /// The tenant cannot answer until then.
    #[must_use]
    pub fn unavailable_for(time: Duration) -> Self {
        Self::Unavailable { retry_after_ms: milliseconds(time) }
    }
}

impl From<RerankError> for CallError {
    fn from(error: RerankError) -> Self {
        match error {
            RerankError::InvalidInput(message) => Self::InvalidInput(message),
            RerankError::TooLarge { limit, requested, allowed } => Self::TooLarge { limit, requested, allowed },
            RerankError::AccessDenied(model) => Self::AccessDenied(model),
            RerankError::ModelNotFound(model) => Self::NotFound(model),
            RerankError::Overloaded { retry_after }
            | RerankError::Deferred { is_overloaded: true, retry_after, .. } => {
                Self::Overloaded { retry_after_ms: milliseconds(retry_after), limit: None }
            }
            RerankError::TooManyRequests { limit, retry_after, .. } => {
                Self::Overloaded { retry_after_ms: milliseconds(retry_after), limit: Some(limit.to_owned()) }
            }
            RerankError::Unavailable { retry_after, .. } | RerankError::Deferred { retry_after, .. } => {
                Self::unavailable_for(retry_after)
            }
            RerankError::DeadlineExceeded { .. } | RerankError::Late { .. } => Self::DeadlineExceeded,
            RerankError::Guest(_) => Self::Internal(cut(&error.to_string(), MAX_MESSAGE_BYTES)),
            RerankError::Internal(message) => Self::Internal(message),
        }
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rerank::GuestFault;

    #[test]
    fn a_guests_trap_is_an_error_value_and_a_full_tenant_says_when_to_try_again() {
        let trap = RerankError::from(GuestFault::Trapped("unreachable".to_owned()));
        assert_eq!(CallError::from(trap), CallError::Internal("the guest failed: it trapped: unreachable".to_owned()));
        let retry_after = Duration::from_millis(250);
        let limit = Some("max_waiting_requests".to_owned());
        let full = RerankError::TooManyRequests { limit: "max_waiting_requests", allowed: 1, retry_after };
        assert_eq!(CallError::from(full), CallError::Overloaded { retry_after_ms: 250, limit });
        let failed = RerankError::Unavailable { reason: "r".to_owned(), retry_after: Duration::from_micros(1) };
        assert_eq!(CallError::from(failed), CallError::Unavailable { retry_after_ms: 1 });
    }

    #[test]
    fn an_error_crosses_a_socket_unchanged() {
        let too_large = CallError::TooLarge { limit: "max_documents".to_owned(), requested: 2, allowed: 1 };
        for error in [too_large, CallError::DeadlineExceeded, CallError::Internal("text".to_owned())] {
            let text = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<CallError>(&text).unwrap(), error, "{text}");
        }
    }
}
