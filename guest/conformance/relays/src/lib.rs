//! Proves what becomes of calls between tenants: it answers with what the tenant behind its import answers.
//!
//! The setting `relay` says what it does beside: `trap` or `spin` once it has the answer, `again` to ask until it is
//! refused, and then fail with that, `alone` to answer without asking. The tenant behind the import gets the other
//! settings; `next.relay` is its `relay`.

use assay_bindings::{Activation, Error, Guest, Hit, Request, Response, Truncation, Usage};

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
        world: "conformance:relays/relays",
        with: { "assay:rerank/types@0.2.0": assay_bindings::generated::assay::rerank::types },
        generate_all,
    });
}

use bindings::assay::rerank::reranker as wit;

struct Relays;

impl Guest for Relays {
    fn rerank(request: Request) -> Result<Response, Error> {
        let kind = request.settings.iter().find(|(name, _)| name == "relay").map(|(_, kind)| kind.clone());
        if kind.as_deref() == Some("alone") {
            let hits = (0..request.documents.len()).map(|index| Hit { index: index as u32, score: 0.0 }).collect();
            return Ok(Response { hits, usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let asked = asked(request);
        let response = wit::rerank(&asked)?;
        match kind.as_deref() {
            Some("trap") => panic!("as asked"),
            Some("spin") => loop {
                std::hint::spin_loop();
            },
            Some("again") => loop {
                wit::rerank(&asked)?;
            },
            _ => {}
        }
        let wit::Usage { tokens, rows, truncated } = response.usage;
        let hits = response.hits.iter().map(|hit| Hit { index: hit.index, score: hit.score }).collect();
        Ok(Response { hits, usage: Usage { tokens, rows, truncated } })
    }
}

fn asked(request: Request) -> wit::Request {
    let settings = request.settings.into_iter().filter(|(name, _)| name != "relay");
    let settings = settings.map(|(name, value)| (name.strip_prefix("next.").map(str::to_owned).unwrap_or(name), value));
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
        settings: settings.collect(),
    }
}

assay_bindings::export!(Relays);
