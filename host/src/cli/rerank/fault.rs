//! Faults of one request, not of the run: the next request may still be answered.

use serde::Serialize;

use crate::cli::error::CliError;
use crate::rerank::RerankError;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RequestFault {
    pub(super) kind: FaultKind,
    pub(super) message: String,
}

/// Kinds of faults, as error lines name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FaultKind {
    InvalidInput,
    TooLarge,
    GuestFailed,
    DeadlineExceeded,
}

impl RequestFault {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::InvalidInput, message: message.into() }
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::TooLarge, message: message.into() }
    }

    /// The fault of a request that failed.
    ///
    /// # Errors
    /// The failure is not the request's fault: later requests would fail too, or a retry may succeed.
    pub(super) fn of(error: RerankError) -> Result<Self, CliError> {
        let kind = match error {
            RerankError::InvalidInput(_) => FaultKind::InvalidInput,
            RerankError::TooLarge { .. } => FaultKind::TooLarge,
            RerankError::Guest(_) => FaultKind::GuestFailed,
            RerankError::DeadlineExceeded { .. } | RerankError::Late { .. } => FaultKind::DeadlineExceeded,
            RerankError::AccessDenied(_)
            | RerankError::ModelNotFound(_)
            | RerankError::Overloaded { .. }
            | RerankError::TooManyRequests { .. }
            | RerankError::Unavailable { .. }
            | RerankError::Deferred { .. }
            | RerankError::Internal(_) => return Err(error.into()),
        };
        Ok(Self { kind, message: error.to_string() })
    }
}

impl From<RequestFault> for CliError {
    fn from(fault: RequestFault) -> Self {
        match fault.kind {
            FaultKind::InvalidInput | FaultKind::TooLarge => Self::bad_input(fault.message),
            FaultKind::GuestFailed | FaultKind::DeadlineExceeded => Self::failed(fault.message),
        }
    }
}
