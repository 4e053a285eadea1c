//! Proves that preparation is limited: `prepare` never returns, so the deployment must fail.

use assay_bindings::{Error, Guest, Request, Response};

struct SpinsInPrepare;

impl Guest for SpinsInPrepare {
    fn prepare() {
        loop {
            std::hint::spin_loop();
        }
    }

    fn rerank(_: Request) -> Result<Response, Error> {
        Err(Error::Internal("was never prepared".into()))
    }
}

assay_bindings::export!(SpinsInPrepare);
