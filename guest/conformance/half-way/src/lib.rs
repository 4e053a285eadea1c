//! Proves that a trap half-way affects only its own request: with the setting `attack`, it runs a row and then traps.
//! Without the setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, TokenRows, Usage};

struct HalfWay;

impl Guest for HalfWay {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let rows = TokenRows { ids: vec![0; 3], offsets: vec![0, 3], second_segment: vec![1] };
        let numbers = Model::open(None)?.run(&rows)?;
        panic!("has {} numbers and gives up", numbers.len())
    }
}

assay_bindings::export!(HalfWay);
