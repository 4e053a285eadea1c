//! Proves that a trap affects no other guest: every `rerank` traps.

use assay_bindings::{Error, Guest, Request, Response};

struct Traps;

impl Guest for Traps {
    fn rerank(_: Request) -> Result<Response, Error> {
        panic!("this guest always traps")
    }
}

assay_bindings::export!(Traps);
