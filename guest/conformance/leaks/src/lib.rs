//! Proves that handles are limited: with the setting `attack`, it opens the model without end and drops no handle.
//! Without the setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, Usage};

struct Leaks;

impl Guest for Leaks {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        loop {
            std::mem::forget(Model::open(None)?);
        }
    }
}

assay_bindings::export!(Leaks);
