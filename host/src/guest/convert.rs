//! Converts between the contract's types and the host's own, in both directions, and checks answers.

use std::time::Duration;

use super::bindings::assay::rerank::types::Error;
use super::bindings::exports::assay::rerank::reranker as wit;
use super::inference::{Deferral, Late, Used};
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

/// Most time that a guest may have its caller wait before the next try.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// A guest's error as the host's. A guest passes on what it was told, most often: then the error says whose it is.
pub(super) fn error(error: Error, limits: &RequestLimits, used: Used) -> RerankError {
    let cut = |text: String| cut(&text, MAX_MESSAGE_BYTES);
    match error {
        Error::AccessDenied(model) => RerankError::AccessDenied(cut(model)),
        Error::NotFound(model) => RerankError::ModelNotFound(cut(model)),
        Error::InvalidInput(message) => RerankError::InvalidInput(cut(message)),
        Error::TooLarge(exceeded) => {
            let limit = cut(exceeded.limit);
            RerankError::TooLarge { limit, requested: exceeded.requested, allowed: exceeded.allowed }
        }
        Error::Overloaded(milliseconds) => deferred(true, milliseconds, used.deferral),
        Error::Unavailable(milliseconds) => deferred(false, milliseconds, used.deferral),
        Error::DeadlineExceeded => match used.late {
            Some(Late::Request) => RerankError::DeadlineExceeded { limit: limits.max_wall },
            Some(Late::Callee(tenant)) => RerankError::Late { callee: Some(tenant) },
            None => RerankError::Late { callee: None },
        },
        Error::Internal(message) if used.callee_failed => GuestFault::Callee(cut(message)).into(),
        Error::Internal(message) => GuestFault::Reported(cut(message)).into(),
    }
}

/// What a guest that has its caller try again was told itself.
fn deferred(is_overloaded: bool, milliseconds: u32, told: Option<Deferral>) -> RerankError {
    let retry_after = Duration::from_millis(milliseconds.into()).min(MAX_RETRY_AFTER);
    match told {
        // One built for 0.1.0 is told that the host is overloaded: its contract has no other word.
        Some(Deferral::Device(fault)) => {
            RerankError::Unavailable { reason: format!("the device failed: {fault}"), retry_after }
        }
        Some(Deferral::Queue) if is_overloaded => RerankError::Overloaded { retry_after },
        Some(Deferral::Rate(allowed)) if is_overloaded => {
            RerankError::TooManyRequests { limit: "max_tokens_per_s", allowed, retry_after }
        }
        Some(Deferral::Callee(callee)) => RerankError::Deferred { callee: Some(callee), is_overloaded, retry_after },
        Some(Deferral::Queue | Deferral::Rate(_)) | None => {
            RerankError::Deferred { callee: None, is_overloaded, retry_after }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rerank::BusyCallee;

    /// What a caller is told that gets this of a guest, which was told to try again for that reason.
    fn told(error: Error, deferral: Option<Deferral>) -> RerankError {
        super::error(error, &RequestLimits::default(), Used { deferral, ..Used::default() })
    }

    #[test]
    fn whose_fault_it_is_that_a_request_must_be_tried_again_does_not_depend_on_what_the_guest_says() {
        let retry_after = Duration::from_millis(250);
        assert_eq!(told(Error::Overloaded(250), Some(Deferral::Queue)), RerankError::Overloaded { retry_after });
        let failed = RerankError::Unavailable { reason: "the device failed: lost".to_owned(), retry_after };
        assert_eq!(told(Error::Overloaded(250), Some(Deferral::Device("lost".to_owned()))), failed);
        assert_eq!(told(Error::Unavailable(250), Some(Deferral::Device("lost".to_owned()))), failed);
        let limit = "max_tokens_per_s";
        let rate = RerankError::TooManyRequests { limit, allowed: 7, retry_after };
        assert_eq!(told(Error::Overloaded(250), Some(Deferral::Rate(7))), rate);
        // What a guest claims without having been told so is its own word.
        for (error, is_overloaded) in [(Error::Overloaded(250), true), (Error::Unavailable(250), false)] {
            let own = RerankError::Deferred { callee: None, is_overloaded, retry_after };
            assert_eq!(told(error, None), own);
        }
        assert_eq!(told(Error::Internal("lost".to_owned()), None), GuestFault::Reported("lost".to_owned()).into());
    }

    #[test]
    fn a_callee_that_cannot_answer_is_named() {
        let callee = BusyCallee { tenant: "news".into(), limit: None };
        let error = told(Error::Unavailable(1_000), Some(Deferral::Callee(callee)));
        assert_eq!(error.to_string(), "tenant news, which the guest calls, cannot answer now: try again in 1000 ms");
        assert_eq!(error.limit(), None);
    }
}
