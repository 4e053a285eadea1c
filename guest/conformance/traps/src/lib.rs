//! Proves that a trap in one guest reaches nobody else: every `rerank` traps.

use assay_bindings::{Error, Guest, Request, Response};

struct Traps;

impl Guest for Traps {
    fn rerank(_: Request) -> Result<Response, Error> {
        panic!("this guest always traps")
    }
}

assay_bindings::export!(Traps);
