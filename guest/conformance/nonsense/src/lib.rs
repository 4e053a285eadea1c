//! Proves that answers are checked: the setting `attack` names a wrong answer, one of `wrong-index`, `twice`, `nan`,
//! `infinite` and `million`. Without the setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Hit, Request, Response, Usage};

struct Nonsense;

impl Guest for Nonsense {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let kind = request.settings.iter().find(|(name, _)| name == "attack").map_or("", |(_, kind)| kind.as_str());
        let documents = request.documents.len() as u32;
        let hit = |index, score| Hit { index, score };
        let hits = match kind {
            "wrong-index" => vec![hit(documents, 1.0)],
            "twice" => vec![hit(0, 1.0), hit(0, 0.5)],
            "nan" => vec![hit(0, f32::NAN)],
            "infinite" => vec![hit(0, f32::INFINITY)],
            "million" => (0..1_000_000).map(|_| hit(0, 1.0)).collect(),
            _ => return Err(Error::Internal(format!("no nonsense is called {kind:?}"))),
        };
        Ok(Response { hits, usage: Usage { tokens: 0, rows: 0, truncated: 0 } })
    }
}

assay_bindings::export!(Nonsense);
