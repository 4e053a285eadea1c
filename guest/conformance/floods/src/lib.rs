//! Proves that calls of the host count as the guest's time: with the setting `attack`, it asks for copies of the
//! tokenizer without end. Without the setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, Usage};

struct Floods;

impl Guest for Floods {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        loop {
            std::hint::black_box(Model::open(None)?.tokenizer());
        }
    }
}

assay_bindings::export!(Floods);
