//! Proves that a tenant opens only its own models: opens the model that the setting `attack` names, and fails as the
//! host does. Without the setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, Usage};

struct OpensOthers;

impl Guest for OpensOthers {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let name = request.settings.iter().find(|(name, _)| name == "attack").map(|(_, model)| model.as_str());
        let info = Model::open(name)?.info();
        Err(Error::Internal(format!("opened {} at {}", info.name, info.revision)))
    }
}

assay_bindings::export!(OpensOthers);
