//! A guest for embedding models: ranks documents by the cosine of their vectors and the query's.
//!
//! Deploy it with an embedding model, which pools the texts as its files say: `assay tenant deploy NAME embedder.wasm
//! --model MODEL`. Settings, beside those of the SDK (but for `label`, since a vector has none):
//!
//! | setting | meaning | default |
//! | --- | --- | --- |
//! | `query-prefix` | what stands before the query, as in the model's training: `query: ` | nothing |
//! | `document-prefix` | what stands before each document: `passage: ` | nothing |
//!
//! Scores are cosines, from -1 to 1. Where the request asks for numbers between 0 and 1, they are (1 + cosine) / 2: the
//! sigmoid of a cosine would put all of them near 0.6.

use assay_guest::{
    Activation, Error, Guest, Inference, Options, Prefixes, Request, Response, Scorer, Settings, prepare, rank, wanted,
};

/// The settings that this guest has of its own.
const SETTINGS: [&str; 2] = ["query-prefix", "document-prefix"];

/// Scores every document, and ranks them.
///
/// # Errors
///
/// As [`Scorer::cosines`].
fn answer<M: Inference>(
    scorer: &Scorer<M>,
    request: &Request,
    options: &Options,
    prefixes: Prefixes<'_>,
) -> Result<Response, Error> {
    let scores = scorer.cosines(&request.query, wanted(request), options, prefixes)?;
    let mut hits = rank(&scores.logits, request.top_n);
    for hit in &mut hits {
        hit.score = activated(hit.score, request.activation);
    }
    Ok(Response { hits, usage: scores.usage })
}

fn activated(cosine: f32, activation: Activation) -> f32 {
    match activation {
        Activation::None => cosine,
        Activation::Sigmoid => (1.0 + cosine) / 2.0,
    }
}

fn prefixes(request: &Request) -> Result<Prefixes<'_>, Error> {
    let settings = Settings::of(request, &SETTINGS)?;
    let [query, document] = SETTINGS.map(|name| settings.text(name).unwrap_or_default());
    Ok(Prefixes { query, document })
}

struct Embedder;

impl Guest for Embedder {
    fn prepare() {
        prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        let (prefixes, options) = (prefixes(&request)?, Options::of(&request)?);
        answer(&Scorer::open(None)?, &request, &options, prefixes)
    }
}

assay_guest::export!(Embedder);

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::Truncation;

    #[test]
    fn scores_between_0_and_1_keep_the_cosines_order() {
        let scores = [-1.0, 0.0, 0.5, 1.0].map(|cosine| activated(cosine, Activation::Sigmoid));
        assert_eq!(scores, [0.0, 0.5, 0.75, 1.0]);
        assert_eq!(activated(-0.25, Activation::None), -0.25);
    }

    #[test]
    fn prefixes_are_taken_as_they_are_and_other_settings_are_refused() {
        let request = |name: &str| Request {
            query: String::new(),
            documents: Vec::new(),
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: vec![(name.to_owned(), "query: ".to_owned())],
        };
        assert_eq!(prefixes(&request("query-prefix")).unwrap(), Prefixes { query: "query: ", document: "" });
        assert!(prefixes(&request("prefix")).is_err());
    }
}
