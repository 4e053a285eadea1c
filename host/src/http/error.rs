//! Why a request got no answer, and which status that is: the one place that decides it. How the body says it is the
//! dialect's.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use crate::json::{Kind, TextError};
use crate::rerank::{MAX_MESSAGE_BYTES, RerankError, cut};
use crate::tenant::TenantName;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// No key, or none that is known. Which of the two is not said.
    #[error("no valid API key: send `Authorization: Bearer KEY`, made by `assay tenant key create`")]
    Unauthorized,
    /// No key of the operator's.
    #[error("this needs the operator's key: send `Authorization: Bearer KEY`; `assay operator-key` prints it")]
    NotOperator,
    /// The dashboard is shown too often already.
    #[error("the dashboard is shown {most} times, the most: close one, or try again later")]
    TooManyStreams {
        /// The most at once.
        most: usize,
    },
    /// The key is good, but its tenant is still being loaded.
    #[error("the tenant is starting: try again in a second")]
    Starting,
    /// The key is good, but its tenant could not be loaded.
    #[error("tenant {tenant} is not being served: `assay tenant show {tenant}` tells its operator why")]
    Unavailable {
        /// The tenant.
        tenant: TenantName,
        /// Why it was not loaded.
        reason: Arc<str>,
    },
    /// The caller needs no key, but the model could not be loaded.
    #[error(
        "no model answers callers without a key: the server's log says why none could be loaded; once that is mended, start the server again"
    )]
    NoModel,
    /// The server is about to end.
    #[error("the server is shutting down: try another one, or again later")]
    Draining,
    /// Nothing is served at this path.
    #[error("nothing is served at {path}: {served}")]
    NotFound {
        /// The path, cut to a length that fits a message.
        path: String,
        /// What is served, and where.
        served: String,
    },
    /// The path is served for another method.
    #[error("{path} takes {allowed}, not {method}")]
    Method {
        /// The path.
        path: &'static str,
        /// The request's method.
        method: String,
        /// The methods that it takes.
        allowed: &'static str,
    },
    /// The body is compressed.
    #[error("content-encoding {0:?} is not supported: send the body as it is")]
    Encoding(String),
    /// The body is larger than the tenant's texts may be as JSON.
    #[error("max_request_bytes allows bodies of {allowed} bytes, this one has {}", requested.map_or("more".to_owned(), |bytes| bytes.to_string()))]
    BodyTooLarge {
        /// The body's length, where the request says it.
        requested: Option<u64>,
        /// The most that the tenant may send.
        allowed: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive: {arrived} bytes came, then none for {} s, or too few in {} s", gap.as_secs(), total.as_secs())]
    BodyTimeout {
        /// Bytes that arrived.
        arrived: usize,
        /// Most time between two pieces.
        gap: Duration,
        /// Most time for all.
        total: Duration,
    },
    /// The connection failed within the body.
    #[error("the body ended early: {0}")]
    BodyCut(#[source] hyper::Error),
    /// The body is not UTF-8.
    #[error("the body is not JSON: {0}")]
    Text(#[from] TextError),
    /// The body is JSON of another kind.
    #[error("the body must be a JSON object, and is {0}")]
    NoObject(Kind),
    /// The body is not JSON.
    #[error("the body is not a JSON object: {0}")]
    Json(#[source] serde_json::Error),
    /// A field has a value that it cannot have.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// There is nothing to rank.
    #[error("`{field}` must hold at least one document")]
    NoDocuments {
        /// The field that is empty.
        field: &'static str,
    },
    /// Another model was asked for.
    #[error("model {asked:?} is not what this key is served by: ask for {serves:?}, or for none")]
    Model {
        /// The model that was asked for.
        asked: String,
        /// The model that there is.
        serves: String,
    },
    /// The request failed.
    #[error(transparent)]
    Rerank(#[from] RerankError),
    /// The answer cannot be written.
    #[error("the answer cannot be written: {0}")]
    Answer(#[source] serde_json::Error),
    /// Code of the host's own panicked.
    #[error("the server failed at this request")]
    Panicked,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub(super) struct FieldError {
    /// The field, with the position of the element that is at fault: `documents[3]`.
    pub(super) field: String,
    /// What is wrong with it, and what it may be.
    pub(super) problem: String,
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The field holds the wrong kind of value.
    pub(super) fn kind(field: impl Into<String>, wanted: &str, found: Kind) -> Self {
        Self::new(field, format!("must be {wanted}, and is {found}"))
    }
}

impl HttpError {
    /// What callers are told: all of it that fits a message.
    pub(super) fn message(&self) -> String {
        cut(&self.to_string(), MAX_MESSAGE_BYTES)
    }

    /// The status, where the dialect has no other one for it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized | Self::NotOperator => StatusCode::UNAUTHORIZED,
            Self::Starting | Self::Unavailable { .. } | Self::NoModel | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooManyStreams { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound { .. } | Self::Model { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyCut(_) | Self::Text(_) | Self::Json(_) | Self::NoObject(_) => StatusCode::BAD_REQUEST,
            Self::Field(_) | Self::NoDocuments { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Answer(_) | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Rerank(error) => match error {
                RerankError::InvalidInput(_) => StatusCode::UNPROCESSABLE_ENTITY,
                RerankError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                RerankError::AccessDenied(_) => StatusCode::FORBIDDEN,
                RerankError::ModelNotFound(_) => StatusCode::NOT_FOUND,
                RerankError::Overloaded { .. } | RerankError::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
                RerankError::Deferred { is_overloaded: true, .. } => StatusCode::TOO_MANY_REQUESTS,
                RerankError::Unavailable { .. } | RerankError::Deferred { .. } => StatusCode::SERVICE_UNAVAILABLE,
                RerankError::DeadlineExceeded { .. } | RerankError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
                RerankError::Guest(_) => StatusCode::BAD_GATEWAY,
                RerankError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// When to try again, for errors that may go away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rerank(
                RerankError::Overloaded { retry_after }
                | RerankError::TooManyRequests { retry_after, .. }
                | RerankError::Unavailable { retry_after, .. }
                | RerankError::Deferred { retry_after, .. },
            ) => Some(*retry_after),
            Self::Starting => Some(Duration::from_secs(1)),
            Self::Draining | Self::TooManyStreams { .. } => Some(Duration::from_secs(5)),
            // Until an operator has looked at it.
            Self::Unavailable { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// The kind of failure in a word, for the log and the counters.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unauthorized | Self::NotOperator => "no-key",
            Self::Starting => "starting",
            Self::Unavailable { .. } | Self::NoModel => "tenant-failed",
            Self::Draining => "draining",
            Self::NotFound { .. } | Self::Method { .. } => "no-route",
            Self::BodyTimeout { .. } | Self::BodyCut(_) => "body-incomplete",
            Self::BodyTooLarge { .. } | Self::TooManyStreams { .. } => "limit",
            Self::Encoding(_)
            | Self::Text(_)
            | Self::NoObject(_)
            | Self::Json(_)
            | Self::Field(_)
            | Self::NoDocuments { .. }
            | Self::Model { .. } => "invalid-input",
            Self::Answer(_) | Self::Panicked => "host",
            Self::Rerank(error) => match error {
                RerankError::InvalidInput(_) => "invalid-input",
                RerankError::AccessDenied(_) | RerankError::ModelNotFound(_) => "model",
                RerankError::TooLarge { .. }
                | RerankError::TooManyRequests { .. }
                | RerankError::Overloaded { .. }
                | RerankError::DeadlineExceeded { .. } => "limit",
                RerankError::Guest(_)
                | RerankError::Deferred { callee: None, .. }
                | RerankError::Late { callee: None } => "guest",
                RerankError::Deferred { callee: Some(_), .. } | RerankError::Late { callee: Some(_) } => "callee",
                RerankError::Unavailable { .. } => "device",
                RerankError::Internal(_) => "host",
            },
        }
    }

    /// The limit that was met, if it was one.
    pub(super) fn limit(&self) -> Option<&'static str> {
        match self {
            Self::BodyTooLarge { .. } => Some("max_request_bytes"),
            Self::Rerank(error) => error.limit(),
            _ => None,
        }
    }

    /// The field that is at fault, where it is one.
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Self::Field(error) => Some(&error.field),
            Self::NoDocuments { field } => Some(field),
            Self::Model { .. } => Some("model"),
            _ => None,
        }
    }
}
