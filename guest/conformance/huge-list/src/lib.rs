//! Proves that a call's bytes are limited: with the setting `attack`, it sends rows of 64 MB. Without the setting, it
//! answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, TokenRows, Usage};

struct HugeList;

impl Guest for HugeList {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let ids = vec![0; 16 << 20];
        let offsets = vec![0, 1];
        Model::open(None)?.run(&TokenRows { ids, offsets, second_segment: vec![1] })?;
        Err(Error::Internal("the host took 64 MB".into()))
    }
}

assay_bindings::export!(HugeList);
