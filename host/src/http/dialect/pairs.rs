//! Pairs that are scored and not ranked: text-embeddings-inference's `/predict` and vLLM's `/score`.
//!
//! The contract ranks documents for one query, so pairs become one request for each different query, and every score
//! goes back to where its pair stood.

use std::collections::HashMap;

use super::ranking::{self, Cut, ModelRule};
use super::vocabulary::Vocabulary;
use super::{Answer, Pair, Question, Serving};
use crate::http::error::{FieldError, HttpError};
use crate::http::fields::{Field, Fields, string, too_large};
use crate::json::{self, Kind};
use crate::limits::RequestLimits;
use crate::rerank::{Activation, GuestFault, Request, RerankError};

/// The names under which `/score` takes its two sides.
const SIDES: [(&str, &str); 4] =
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")];

/// Decodes a body of `/predict`: `inputs` is a pair, or a list of pairs.
pub(super) fn parse_predict(mut fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
    let asked = Asked::take(&mut fields, serving, Activation::Sigmoid)?;
    let inputs = fields.require("inputs")?;
    let mut pairs = Pairs::new(serving.limits);
    let mut single: Vec<String> = Vec::new();
    let wanted = "a pair of strings, or an array of pairs";
    let count = inputs.array(wanted, |at, value| {
        let element = || format!("inputs[{at}]");
        match Kind::of(value) {
            Kind::String if single.len() == at && at < 2 => single.push(text(value.get(), &element())?),
            Kind::Array if single.is_empty() => pairs.push_array(value.get(), &element())?,
            found => return Err(HttpError::from(FieldError::kind(element(), wanted, found))),
        }
        Ok(())
    })?;
    let single = match <[String; 2]>::try_from(single) {
        Ok([query, document]) => {
            pairs.push(&query, document)?;
            true
        }
        Err(texts) if texts.is_empty() => false,
        Err(_) => return Err(inputs.refuse("must be a pair: a query and a document").into()),
    };
    if count == 0 {
        return Err(HttpError::NoDocuments { field: "inputs" });
    }
    fields.finish(&Vocabulary::Predict.names())?;
    Ok(pairs.question(asked, single))
}

/// Decodes a body of `/score`: two sides of texts; one text on a side is paired with each of the other.
pub(super) fn parse_score(
    mut fields: Fields<'_>,
    serving: &Serving<'_>,
    model: ModelRule,
    scores: Activation,
) -> Result<Question, HttpError> {
    if let Some(asked) = fields.take("model") {
        ranking::check_model(asked, serving, model)?;
    }
    let asked = Asked::take(&mut fields, serving, scores)?;
    let sides = SIDES.into_iter().find(|(left, right)| fields.has(left) && fields.has(right));
    let (left, right) = sides.unwrap_or(SIDES[0]);
    let queries = side(fields.require(left)?, serving.limits)?;
    let documents = side(fields.require(right)?, serving.limits)?;
    let mut pairs = Pairs::new(serving.limits);
    match (queries.len(), documents.len()) {
        (0, _) => return Err(HttpError::NoDocuments { field: left }),
        (_, 0) => return Err(HttpError::NoDocuments { field: right }),
        (1, _) => documents.into_iter().try_for_each(|document| pairs.push(&queries[0], document))?,
        (some, same) if some == same => {
            queries.into_iter().zip(documents).try_for_each(|(query, document)| pairs.push(&query, document))?;
        }
        (some, others) => {
            let problem = format!("has {others} texts, and must have {some} as `{left}` does, unless that has one");
            return Err(FieldError::new(right, problem).into());
        }
    }
    fields.finish(&Vocabulary::Score.names())?;
    Ok(pairs.question(asked, false))
}

/// The score of each pair, in the order of the pairs.
///
/// # Errors
/// The guest left one out.
pub(super) fn scores(answer: &Answer<'_>) -> Result<Vec<f32>, HttpError> {
    let found: Vec<HashMap<u32, f32>> = answer
        .responses
        .iter()
        .map(|response| response.hits.iter().map(|hit| (hit.index, hit.score)).collect())
        .collect();
    let scores = answer.question.pairs.iter().enumerate().map(|(at, pair)| {
        let score = found.get(pair.request).and_then(|scores| scores.get(&pair.document));
        score.copied().ok_or_else(|| {
            let message = format!("it has no score for pair {at}, and every pair must get one");
            HttpError::Rerank(RerankError::Guest(GuestFault::BadAnswer(message)))
        })
    });
    scores.collect()
}

/// What a body asks for beside its pairs.
#[derive(Debug)]
struct Asked {
    activation: Activation,
    cut: Cut,
    settings: Vec<(String, String)>,
}

impl Asked {
    fn take(fields: &mut Fields<'_>, serving: &Serving<'_>, scores: Activation) -> Result<Self, HttpError> {
        let activation = ranking::read_activation(fields, scores)?;
        let cut = Cut::take(fields, serving)?;
        ranking::refuse_what_is_not_done(fields, serving)?;
        let settings = cut.settings(fields)?;
        Ok(Self { activation, cut, settings })
    }
}

/// Pairs on their way into requests, within the tenant's limits.
#[derive(Debug)]
struct Pairs<'a> {
    limits: &'a RequestLimits,
    requests: Vec<Request>,
    by_query: HashMap<String, usize>,
    pairs: Vec<Pair>,
    bytes: usize,
}

impl<'a> Pairs<'a> {
    fn new(limits: &'a RequestLimits) -> Self {
        Self { limits, requests: Vec::new(), by_query: HashMap::new(), pairs: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, query: &str, document: String) -> Result<(), HttpError> {
        let at = self.pairs.len();
        too_large(|| "max_documents".to_owned(), at + 1, self.limits.max_documents)?;
        for (side, text) in [("query", query), ("document", &document)] {
            too_large(|| format!("max_text_bytes of the {side} of pair {at}"), text.len(), self.limits.max_text_bytes)?;
        }
        let known = self.by_query.get(query).copied();
        self.bytes += document.len() + known.map_or(query.len(), |_| 0);
        too_large(|| "max_request_bytes".to_owned(), self.bytes, self.limits.max_request_bytes)?;
        let request = known.unwrap_or_else(|| {
            self.by_query.insert(query.to_owned(), self.requests.len());
            self.requests.push(Request { query: query.to_owned(), ..Request::default() });
            self.requests.len() - 1
        });
        let documents = &mut self.requests[request].documents;
        // No more than `max_documents`, which fits.
        self.pairs.push(Pair { request, document: documents.len() as u32 });
        documents.push(document);
        Ok(())
    }

    /// Adds a pair that is written as an array of two strings.
    fn push_array(&mut self, array: &str, element: &str) -> Result<(), HttpError> {
        let mut texts: Vec<String> = Vec::with_capacity(2);
        let walked = json::elements(array, |at, value| {
            match Kind::of(value) {
                Kind::String if at < 2 => texts.push(text(value.get(), element)?),
                Kind::String => return Err(FieldError::new(element, "must be a pair, and has more than two texts")),
                found => return Err(FieldError::kind(format!("{element}[{at}]"), "a string", found)),
            }
            Ok(())
        });
        walked.map_err(HttpError::Json)?.1?;
        match <[String; 2]>::try_from(texts) {
            Ok([query, document]) => self.push(&query, document),
            Err(_) => Err(FieldError::new(element, "must be a pair: a query and a document").into()),
        }
    }

    fn question(self, asked: Asked, single: bool) -> Question {
        let Asked { activation, cut: Cut { truncation, max_tokens, by_guest }, settings } = asked;
        let mut requests = self.requests;
        for request in &mut requests {
            (request.activation, request.truncation, request.max_tokens) = (activation, truncation, max_tokens);
        }
        Question { requests, settings, pairs: self.pairs, single, by_guest, ..Question::default() }
    }
}

/// One side of pairs: a text, or an array of texts.
fn side(field: Field<'_>, limits: &RequestLimits) -> Result<Vec<String>, HttpError> {
    if field.kind() == Kind::String {
        return Ok(vec![field.bounded_text(limits)?]);
    }
    field.texts(limits)
}

fn text(json: &str, element: &str) -> Result<String, FieldError> {
    string(json).map_err(|error| FieldError::new(element, error.to_string()))
}
