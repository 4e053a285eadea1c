//! Which failure gives which HTTP status: the one place that decides it.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::rerank::RerankError;
use crate::tenant::TenantName;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// No key, or none that is known. Which of the two is not said.
    #[error("no valid API key: send `Authorization: Bearer KEY`, made by `assay tenant key create`")]
    Unauthorized,
    /// The key is good, but its tenant could not be put in place.
    #[error("tenant {0} is not being served: see the server's log")]
    Unavailable(TenantName),
    /// The body could not be read.
    #[error("{0}")]
    Body(BytesRejection),
    /// The body is not a request.
    #[error("invalid request: {0}")]
    Json(serde_json::Error),
    /// The request failed.
    #[error(transparent)]
    Rerank(#[from] RerankError),
}

#[derive(Serialize)]
struct Message {
    message: String,
}

impl HttpError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(rejection) => rejection.status(),
            Self::Json(_) => StatusCode::BAD_REQUEST,
            Self::Rerank(error) => match error {
                RerankError::InvalidInput(_) => StatusCode::BAD_REQUEST,
                RerankError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                RerankError::AccessDenied(_) => StatusCode::FORBIDDEN,
                RerankError::ModelNotFound(_) => StatusCode::NOT_FOUND,
                RerankError::Overloaded { .. } | RerankError::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
                RerankError::DeviceFailed(_) => StatusCode::SERVICE_UNAVAILABLE,
                RerankError::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
                RerankError::Guest(_) => StatusCode::BAD_GATEWAY,
                RerankError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rerank(
                RerankError::Overloaded { retry_after } | RerankError::TooManyRequests { retry_after, .. },
            ) => Some(*retry_after),
            Self::Rerank(RerankError::DeviceFailed(_)) => Some(Duration::ZERO),
            _ => None,
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), axum::Json(Message { message: self.to_string() })).into_response();
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after() {
            // The header is in whole seconds (RFC 9110, section 10.2.3).
            let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
            headers.insert(RETRY_AFTER, u32::try_from(seconds).unwrap_or(u32::MAX).into());
        }
        if matches!(self, Self::Unauthorized) {
            headers.insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
