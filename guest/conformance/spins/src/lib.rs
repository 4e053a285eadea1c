//! Proves that processor time is limited: `rerank` never returns and never calls the host, so only an interruption from
//! outside can end it.

use assay_bindings::{Error, Guest, Request, Response};

struct Spins;

impl Guest for Spins {
    fn rerank(_: Request) -> Result<Response, Error> {
        loop {
            std::hint::spin_loop();
        }
    }
}

assay_bindings::export!(Spins);
