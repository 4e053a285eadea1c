//! Errors where the dialect is not known, because nothing of the body is read: one body in which clients of every
//! dialect find their message.

use serde_json::json;

use crate::http::error::HttpError;

/// An error's body for clients of any dialect.
pub(in crate::http) fn error(error: &HttpError) -> serde_json::Value {
    let message = error.message();
    // Cohere's clients read `message`, Jina's `detail`, text-embeddings-inference's the other two.
    json!({ "message": message, "detail": message, "error": message, "error_type": error_type(error) })
}

fn error_type(error: &HttpError) -> &'static str {
    match error {
        HttpError::Unauthorized => "Unauthorized",
        HttpError::Starting | HttpError::Unavailable { .. } | HttpError::NoModel | HttpError::Draining => "Unhealthy",
        HttpError::Rerank(_) if error.retry_after().is_some() => "Overloaded",
        HttpError::NotFound { .. } | HttpError::Method { .. } => "NotFound",
        _ => "Validation",
    }
}
