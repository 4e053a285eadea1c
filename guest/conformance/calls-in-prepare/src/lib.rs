//! Proves that `prepare` may call no tenant: it tries, and traps if it gets an answer, or is not told why it gets none.

use assay_bindings::{Error, Guest, Request, Response, Usage};

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
        path: ["../../../wit", "wit"],
        world: "conformance:calls-in-prepare/calls-in-prepare",
        generate_all,
    });
}

use bindings::assay::rerank::reranker as wit;
use bindings::assay::rerank::types;

struct CallsInPrepare;

impl Guest for CallsInPrepare {
    fn prepare() {
        let asked = wit::Request {
            query: "query".to_owned(),
            documents: vec!["document".to_owned()],
            top_n: None,
            max_tokens: None,
            truncation: wit::Truncation::LongestFirst,
            activation: wit::Activation::None,
            settings: Vec::new(),
        };
        match wit::rerank(&asked) {
            Err(types::Error::Internal(message)) if message.contains("prepare") => {}
            other => panic!("not refused: {other:?}"),
        }
    }

    fn rerank(_: Request) -> Result<Response, Error> {
        Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } })
    }
}

assay_bindings::export!(CallsInPrepare);
