//! A guest that joins a first stage's ranking with the model's: by their ranks, or by their weighted scores.
//!
//! Settings, beside those of the SDK:
//!
//! | setting | meaning | default |
//! | --- | --- | --- |
//! | `first-stage` | the first stage's score of each document, divided by `\|`; empty for one that it did not find | the documents' order is its ranking |
//! | `fusion` | `rrf`: reciprocal rank fusion; `weights`: scores, each stage's from 0 for its worst to 1 for its best | `rrf` |
//! | `first-weight` | the first stage's weight, from 0 to 1; the model has the rest | 0.5 |
//! | `rrf-k` | how little the first ranks count more than the next: from 0 | 60 |
//!
//! Scores lie between 0 and 1, which only a document gets that both stages have first. They are no logits, so the
//! request's activation changes nothing.

mod fusion;

use assay_guest::{
    Error, Guest, Inference, Options, Request, Response, Scorer, Settings, invalid, prepare, rank, wanted,
};

use fusion::{Fusion, Method};

/// The settings that this guest has of its own.
const SETTINGS: [&str; 4] = ["first-stage", "fusion", "first-weight", "rrf-k"];

/// Where the difference between ranks is mild (Cormack, Clarke and Büttcher, SIGIR 2009).
const DEFAULT_RRF_K: f64 = 60.0;

/// Beyond it, ranks count alike.
const MAX_RRF_K: f64 = 1e6;

const DEFAULT_FIRST_WEIGHT: f64 = 0.5;

/// How a request's two rankings become one.
#[derive(Debug, PartialEq)]
struct Joining {
    /// The first stage's scores, in the order of the documents; `None` for one that it did not find.
    first: Vec<Option<f64>>,
    fusion: Fusion,
}

impl Joining {
    /// As a request's settings say.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the setting, if one is not known or has a value that it cannot have.
    fn of(request: &Request) -> Result<Self, Error> {
        let settings = Settings::of(request, &SETTINGS)?;
        let [first_stage, fusion, first_weight, rrf_k] = SETTINGS;
        let documents = request.documents.len();
        let given = settings.of_documents(first_stage, documents)?;
        let k = settings.number(rrf_k, 0.0..=MAX_RRF_K)?.unwrap_or(DEFAULT_RRF_K);
        let methods = [("rrf", Method::ReciprocalRanks { k }), ("weights", Method::Scores)];
        let method = settings.choice(fusion, &methods)?.unwrap_or(methods[0].1);
        let first = match (given, method) {
            (Some(given), _) => scores(&given)?,
            (None, Method::ReciprocalRanks { .. }) => (0..documents).map(|place| Some(-(place as f64))).collect(),
            (None, Method::Scores) => {
                return Err(Error::InvalidInput(format!("{fusion} by weights needs the setting {first_stage}")));
            }
        };
        let first_weight = settings.number(first_weight, 0.0..=1.0)?.unwrap_or(DEFAULT_FIRST_WEIGHT);
        Ok(Self { first, fusion: Fusion { method, first_weight } })
    }
}

fn scores(given: &[Option<&str>]) -> Result<Vec<Option<f64>>, Error> {
    let score = |(index, value): (usize, &Option<&str>)| match value.map(str::parse::<f64>) {
        None => Ok(None),
        // So that no difference of two is infinite.
        Some(Ok(score)) if score.abs() <= f64::from(f32::MAX) => Ok(Some(score)),
        Some(_) => {
            let wanted = format!("a number, or nothing, for document {index}");
            Err(invalid(SETTINGS[0], value.unwrap_or_default(), &wanted))
        }
    };
    given.iter().enumerate().map(score).collect()
}

/// Scores every document, and ranks by both stages.
///
/// # Errors
///
/// As [`Scorer::score`].
fn answer<M: Inference>(
    scorer: &Scorer<M>,
    request: &Request,
    options: &Options,
    joining: &Joining,
) -> Result<Response, Error> {
    let scores = scorer.score(&request.query, wanted(request), options)?;
    let second: Vec<Option<f64>> = scores.logits.iter().map(|&logit| Some(f64::from(logit))).collect();
    let joined = joining.fusion.join(&joining.first, &second);
    Ok(Response { hits: rank(&joined, request.top_n), usage: scores.usage })
}

struct Hybrid;

impl Guest for Hybrid {
    fn prepare() {
        prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        let (joining, options) = (Joining::of(&request)?, Options::of(&request)?);
        answer(&Scorer::open(None)?, &request, &options, &joining)
    }
}

assay_guest::export!(Hybrid);

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::{Activation, Truncation};

    fn joining(documents: usize, settings: &[(&str, &str)]) -> Result<Joining, Error> {
        Joining::of(&Request {
            query: String::new(),
            documents: vec![String::new(); documents],
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
    }

    #[test]
    fn without_scores_the_documents_order_is_the_first_ranking() {
        let fusion = Fusion { method: Method::ReciprocalRanks { k: 60.0 }, first_weight: 0.5 };
        assert_eq!(joining(2, &[]).unwrap(), Joining { first: vec![Some(0.0), Some(-1.0)], fusion });
    }

    #[test]
    fn settings_say_how_stages_are_joined_and_a_wrong_one_is_refused_by_name() {
        let settings = [("first-stage", "12.5||-1e3"), ("fusion", "weights"), ("first-weight", "0.25")];
        let fusion = Fusion { method: Method::Scores, first_weight: 0.25 };
        assert_eq!(joining(3, &settings).unwrap(), Joining { first: vec![Some(12.5), None, Some(-1e3)], fusion });
        let refused = |settings: &[(&str, &str)], parts: &[&str]| {
            let Err(Error::InvalidInput(message)) = joining(2, settings) else { panic!("{settings:?} is accepted") };
            for part in parts {
                assert!(message.contains(part), "no {part:?} in {message}");
            }
        };
        refused(&[("first-stage", "1|2|3")], &["first-stage", "2 values"]);
        refused(&[("first-stage", "1|inf")], &["first-stage", "document 1", "inf"]);
        refused(&[("fusion", "weights")], &["weights needs", "first-stage"]);
        refused(&[("fusion", "sum")], &["fusion", "rrf or weights"]);
        refused(&[("first-weight", "1.1")], &["first-weight", "from 0 to 1"]);
        refused(&[("rrf-k", "-1")], &["rrf-k", "from 0 to 1000000"]);
        refused(&[("rrf_k", "1")], &["no setting \"rrf_k\""]);
    }
}
