//! Converts between the contract's types and the host's own, in both directions, and checks answers.

use std::time::Duration;

use super::bindings::assay::rerank::types::Error;
use super::bindings::exports::assay::rerank::reranker as wit;
use crate::limits::RequestLimits;
use crate::rerank::{
    Activation, GuestFault, Hit, MAX_MESSAGE_BYTES, Request, RerankError, Response, Timings, Truncation, Usage, cut,
};

pub(super) fn request(request: Request) -> wit::Request {
    wit::Request {
        query: request.query,
        documents: request.documents,
        top_n: request.top_n,
        max_tokens: request.max_tokens,
        truncation: match request.truncation {
            Truncation::None => wit::Truncation::None,
            Truncation::LongestFirst => wit::Truncation::LongestFirst,
            Truncation::DocumentOnly => wit::Truncation::DocumentOnly,
        },
        activation: match request.activation {
            Activation::None => wit::Activation::None,
            Activation::Sigmoid => wit::Activation::Sigmoid,
        },
        settings: request.settings,
    }
}

/// A guest's answer, if it makes sense for the request.
pub(super) fn response(response: &wit::Response, documents: usize, top_n: Option<u32>) -> Result<Response, GuestFault> {
    let bad = |message: String| Err(GuestFault::BadAnswer(message));
    let most = top_n.map_or(documents, |top_n| documents.min(top_n as usize));
    if response.hits.len() > most {
        return bad(format!("{} hits, but at most {most} were requested", response.hits.len()));
    }
    let mut seen = vec![false; documents];
    for hit in &response.hits {
        match seen.get_mut(hit.index as usize) {
            None => return bad(format!("a hit for document {} of {documents}", hit.index)),
            Some(true) => return bad(format!("two hits for document {}", hit.index)),
            Some(seen) => *seen = true,
        }
        if !hit.score.is_finite() {
            return bad(format!("document {} has the score {}", hit.index, hit.score));
        }
    }
    Ok(Response {
        hits: response.hits.iter().map(|hit| Hit { index: hit.index, score: hit.score }).collect(),
        usage: Usage { tokens: response.usage.tokens, rows: response.usage.rows, truncated: response.usage.truncated },
        timings: Timings::default(),
    })
}

/// A guest's error as the host's.
pub(super) fn error(error: Error, limits: &RequestLimits) -> RerankError {
    let cut = |text: String| cut(&text, MAX_MESSAGE_BYTES);
    match error {
        Error::AccessDenied(model) => RerankError::AccessDenied(cut(model)),
        Error::NotFound(model) => RerankError::ModelNotFound(cut(model)),
        Error::InvalidInput(message) => RerankError::InvalidInput(cut(message)),
        Error::TooLarge(exceeded) => {
            let limit = cut(exceeded.limit);
            RerankError::TooLarge { limit, requested: exceeded.requested, allowed: exceeded.allowed }
        }
        Error::Overloaded(milliseconds) => {
            RerankError::Overloaded { retry_after: Duration::from_millis(milliseconds.into()) }
        }
        Error::Unavailable(milliseconds) => {
            let retry_after = Duration::from_millis(milliseconds.into());
            RerankError::Unavailable { reason: "what the guest needs is not available".to_owned(), retry_after }
        }
        Error::DeadlineExceeded => RerankError::DeadlineExceeded { limit: limits.max_wall },
        Error::Internal(message) => RerankError::Internal(cut(message)),
    }
}
