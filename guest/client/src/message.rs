//! The request and the answer as JSON, in llama-server's dialect: scores are logits unless asked otherwise, an empty
//! query is ranked, and no model is named.
//!
//! What that dialect cannot say is answered here or refused: a request without documents, or for no hits, needs no
//! server; `document-only` has no field.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::bindings::assay::rerank::types::Error;
use crate::bindings::exports::assay::rerank::reranker::{Activation, Hit, Request, Response, Truncation, Usage};

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Question {
    /// What is sent.
    pub(crate) body: Vec<u8>,
    /// Documents that may be hit.
    documents: u32,
}

#[derive(Serialize)]
struct Body<'a> {
    query: &'a str,
    documents: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate_prompt_tokens: Option<u32>,
    truncate: bool,
    raw_scores: bool,
    #[serde(serialize_with = "as_object", skip_serializing_if = "<[_]>::is_empty")]
    settings: &'a [(String, String)],
}

#[derive(Deserialize)]
struct Reply {
    results: Vec<Ranked>,
    usage: Counted,
}

#[derive(Deserialize)]
struct Ranked {
    index: u32,
    relevance_score: f32,
}

#[derive(Deserialize)]
struct Counted {
    total_tokens: u64,
    truncated_documents: u64,
}

impl Question {
    /// The request as a body; `None` if its answer is [`nothing`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if HTTP has no word for what it asks.
    pub(crate) fn of(request: &Request) -> Result<Option<Self>, Error> {
        let truncate = match request.truncation {
            Truncation::None => false,
            Truncation::LongestFirst => true,
            Truncation::DocumentOnly => {
                let message = "truncation document-only cannot be asked for over HTTP: take longest-first or none";
                return Err(Error::InvalidInput(message.to_owned()));
            }
        };
        let is_empty = request.documents.is_empty() || request.top_n == Some(0);
        if is_empty && request.settings.is_empty() {
            return Ok(None);
        }
        // Settings are checked even for an empty answer, so the server is asked about a document that costs little.
        let (probe, none) = ([String::new()], is_empty);
        let body = Body {
            query: if none { "" } else { &request.query },
            documents: if none { &probe } else { &request.documents },
            top_n: if none { None } else { request.top_n },
            truncate_prompt_tokens: request.max_tokens,
            truncate,
            raw_scores: matches!(request.activation, Activation::None),
            settings: &request.settings,
        };
        let body = serde_json::to_vec(&body).map_err(|error| Error::Internal(format!("no JSON: {error}")))?;
        let documents = if none { 0 } else { request.documents.len() as u32 };
        Ok(Some(Self { body, documents }))
    }

    /// The answer of a server.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if it is none for this question.
    pub(crate) fn response(&self, body: &[u8]) -> Result<Response, Error> {
        let bad = |what: String| Error::Internal(format!("the server's answer cannot be read: {what}"));
        let reply: Reply = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        let mut response = nothing();
        if self.documents == 0 {
            return Ok(response);
        }
        for Ranked { index, relevance_score } in reply.results {
            if index >= self.documents {
                return Err(bad(format!("a hit for document {index} of {}", self.documents)));
            }
            response.hits.push(Hit { index, score: relevance_score });
        }
        response.usage = Usage {
            tokens: reply.usage.total_tokens,
            // HTTP does not tell it. Most guests make a row of each document.
            rows: self.documents,
            truncated: u32::try_from(reply.usage.truncated_documents).unwrap_or(u32::MAX),
        };
        Ok(response)
    }
}

/// An answer without hits.
pub(crate) fn nothing() -> Response {
    Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } }
}

/// Settings as an object, which has each name once: of one that is given twice, the last counts, as for guests.
fn as_object<S: Serializer>(settings: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(None)?;
    for (at, (name, value)) in settings.iter().enumerate() {
        if !settings[at + 1..].iter().any(|(later, _)| later == name) {
            object.serialize_entry(name, value)?;
        }
    }
    object.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            query: "q \"1\"".to_owned(),
            documents: vec!["a".to_owned(), "b\n".to_owned()],
            top_n: None,
            max_tokens: None,
            truncation: Truncation::LongestFirst,
            activation: Activation::None,
            settings: Vec::new(),
        }
    }

    fn body(request: &Request) -> String {
        String::from_utf8(Question::of(request).unwrap().unwrap().body).unwrap()
    }

    #[test]
    fn every_field_of_a_request_is_said() {
        assert_eq!(
            body(&request()),
            r#"{"query":"q \"1\"","documents":["a","b\n"],"truncate":true,"raw_scores":true}"#
        );
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let settings = vec![setting("a", "1"), setting("b", "2"), setting("a", "3")];
        let (truncation, activation) = (Truncation::None, Activation::Sigmoid);
        let all = Request { top_n: Some(1), max_tokens: Some(64), truncation, activation, settings, ..request() };
        let expected = concat!(
            r#"{"query":"q \"1\"","documents":["a","b\n"],"top_n":1,"truncate_prompt_tokens":64,"truncate":false,"#,
            r#""raw_scores":false,"settings":{"b":"2","a":"3"}}"#
        );
        assert_eq!(body(&all), expected);
    }

    #[test]
    fn what_http_has_no_word_for_is_answered_here_or_refused() {
        assert!(Question::of(&Request { documents: Vec::new(), ..request() }).unwrap().is_none());
        assert!(Question::of(&Request { top_n: Some(0), ..request() }).unwrap().is_none());
        let document_only = Request { truncation: Truncation::DocumentOnly, ..request() };
        assert!(
            matches!(Question::of(&document_only), Err(Error::InvalidInput(message)) if message.contains("document-only"))
        );
        // Settings are checked by the guest, at the cost of an empty document.
        let settings = vec![("a".to_owned(), "1".to_owned())];
        let probe = Question::of(&Request { top_n: Some(0), settings, ..request() }).unwrap().unwrap();
        let sent = String::from_utf8(probe.body.clone()).unwrap();
        assert!(sent.starts_with(r#"{"query":"","documents":[""],"truncate""#), "{sent}");
        let answer =
            br#"{"results":[{"index":0,"relevance_score":1}],"usage":{"total_tokens":3,"truncated_documents":0}}"#;
        assert!(probe.response(answer).unwrap().hits.is_empty());
    }

    #[test]
    fn an_answer_has_the_scores_bit_by_bit() {
        let question = Question::of(&request()).unwrap().unwrap();
        let answer =
            br#"{"model":"m","object":"list","usage":{"prompt_tokens":9,"total_tokens":9,"truncated_documents":1},
            "results":[{"index":1,"relevance_score":4.300238},{"index":0,"relevance_score":-1.1754944e-38}]}"#;
        let response = question.response(answer).unwrap();
        let hits: Vec<(u32, u32)> = response.hits.iter().map(|hit| (hit.index, hit.score.to_bits())).collect();
        assert_eq!(hits, [(1, 4.300238_f32.to_bits()), (0, (-1.175_494_4e-38_f32).to_bits())]);
        assert_eq!((response.usage.tokens, response.usage.rows, response.usage.truncated), (9, 2, 1));
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let question = Question::of(&request()).unwrap().unwrap();
        let beyond =
            br#"{"results":[{"index":2,"relevance_score":1}],"usage":{"total_tokens":3,"truncated_documents":0}}"#;
        for (answer, part) in [(&beyond[..], "document 2 of 2"), (b"<html>", "line 1"), (b"{}", "results")] {
            let Err(Error::Internal(message)) = question.response(answer) else { panic!("{answer:?} is accepted") };
            assert!(message.contains(part), "{message}");
        }
    }
}
