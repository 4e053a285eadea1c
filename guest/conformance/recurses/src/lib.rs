//! Proves that the stack is limited: with the setting `attack`, it calls itself without end. Without the setting, it
//! answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Request, Response, Usage};

struct Recurses;

impl Guest for Recurses {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        Err(Error::Internal(format!("came back from a depth of {}", descend(0))))
    }
}

/// Uses its argument after the call, so that the call cannot become a jump.
#[inline(never)]
#[expect(unconditional_recursion, reason = "it is the attack")]
fn descend(depth: u64) -> u64 {
    std::hint::black_box(descend(std::hint::black_box(depth + 1)) + depth)
}

assay_bindings::export!(Recurses);
