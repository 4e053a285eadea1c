//! The tenants behind the two imports, in the types of the SDK: each label has types of its own.

use assay_guest::{Activation, Error, Exceeded, Hit, Request, Response, Truncation, Usage};

#[allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "wit-bindgen wrote it"
)]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit", "wit"],
        world: "assay:cascade/cascade",
        generate_all,
    });
}

use bindings::assay::rerank::types;

/// A function that asks the tenant behind a label.
macro_rules! stage {
    ($label:ident) => {
        pub(crate) fn $label(request: Request) -> Result<Response, Error> {
            use bindings::$label as wit;

            let asked = wit::Request {
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
            };
            let wit::Response { hits, usage } = wit::rerank(&asked).map_err(error)?;
            Ok(Response {
                hits: hits.into_iter().map(|hit| Hit { index: hit.index, score: hit.score }).collect(),
                usage: Usage { tokens: usage.tokens, rows: usage.rows, truncated: usage.truncated },
            })
        }
    };
}

stage!(cheap);
stage!(costly);

fn error(error: types::Error) -> Error {
    match error {
        types::Error::AccessDenied(model) => Error::AccessDenied(model),
        types::Error::NotFound(model) => Error::NotFound(model),
        types::Error::InvalidInput(message) => Error::InvalidInput(message),
        types::Error::TooLarge(types::Exceeded { limit, requested, allowed }) => {
            Error::TooLarge(Exceeded { limit, requested, allowed })
        }
        types::Error::Overloaded(milliseconds) => Error::Overloaded(milliseconds),
        types::Error::Unavailable(milliseconds) => Error::Unavailable(milliseconds),
        types::Error::DeadlineExceeded => Error::DeadlineExceeded,
        types::Error::Internal(message) => Error::Internal(message),
    }
}
