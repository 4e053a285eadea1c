//! The contract's `reranker` over HTTP: a component that any program which imports `assay:rerank/reranker` can be
//! composed with, to run on every host that has `wasi:http`.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `ASSAY_URL` | the server's address; its path stands before the server's own paths | `http://127.0.0.1:8790` |
//! | `ASSAY_KEY` | the tenant's key | none |
//! | `ASSAY_TIMEOUT_MS` | most time to connect, until an answer begins, and between two pieces of it | 300000 |
//!
//! A call is one request in llama-server's dialect, whose scores are logits. What a server fails with becomes the
//! contract's error of the same meaning, with its time or its limit.
//!
//! | module | what it does |
//! | --- | --- |
//! | `address` | the variables |
//! | `message` | the request and the answer as JSON |
//! | `failure` | statuses and failures of the transport as errors |
//! | `http` | one request over `wasi:http` |
//!
//! It keeps nothing between calls, and no error has the key in it.

mod address;
mod failure;
mod http;
mod message;

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
        world: "assay:client/client",
        generate_all,
    });
}

use bindings::assay::rerank::types::Error;
use bindings::exports::assay::rerank::reranker::{Guest, Request, Response};
use bindings::wasi::cli::environment::get_environment;

use address::Server;
use message::Question;

/// The status of an answer that has hits.
const OK: u16 = 200;

struct Client;

impl Guest for Client {
    fn rerank(request: Request) -> Result<Response, Error> {
        let server = Server::of(&get_environment())?;
        let question = match Question::of(&request)? {
            Some(question) => question,
            None => return Ok(message::nothing()),
        };
        let answer = http::post(&server, &question.body)?;
        if answer.status == OK {
            question.response(&answer.body)
        } else {
            Err(failure::of_answer(answer.status, answer.retry_after_s, &answer.body, question.body.len()))
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "wit-bindgen wrote it")]
mod exported {
    use super::Client;

    super::bindings::export!(Client with_types_in super::bindings);
}

#[cfg(not(target_arch = "wasm32"))]
const _: fn(Request) -> Result<Response, Error> = <Client as Guest>::rerank;
