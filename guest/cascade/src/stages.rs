//! The tenants behind the two imports, in the types of the SDK: each label has types of its own for requests and
//! answers.

use assay_guest::{Activation, Error, Hit, Request, Response, Truncation, Usage};

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
        with: { "assay:rerank/types@0.2.0": assay_bindings::generated::assay::rerank::types },
        generate_all,
    });
}

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
            let wit::Response { hits, usage } = wit::rerank(&asked)?;
            Ok(Response {
                hits: hits.into_iter().map(|hit| Hit { index: hit.index, score: hit.score }).collect(),
                usage: Usage { tokens: usage.tokens, rows: usage.rows, truncated: usage.truncated },
            })
        }
    };
}

stage!(cheap);
stage!(costly);
