//! Proves that a snapshot has no handles of the host: `prepare` keeps a model open. Its handle would mean nothing in
//! another instance, so the deployment must fail.

use assay_bindings::{Error, Guest, Model, Request, Response};

struct Holds;

impl Guest for Holds {
    fn prepare() {
        std::mem::forget(Model::open(None));
    }

    fn rerank(_: Request) -> Result<Response, Error> {
        Err(Error::Internal("was never prepared".into()))
    }
}

assay_bindings::export!(Holds);
