//! A body becomes a question, a tenant is asked, and its answer is written in the caller's dialect. What takes long is
//! done off the threads of the connections, in the tenant's turns among the guests.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use super::answer::{self, Answer};
use super::dialect::{self, Choice, Dialect, Question, Serving};
use super::error::{FieldError, HttpError};
use super::fields::Fields;
use super::record::Record;
use crate::rerank::{self, Request, SETTING_LABEL, Timings};
use crate::tenant::{Admission, LiveTenant};

/// Bodies beyond this are decoded on another thread: what can be decoded in a tenth of a millisecond costs less than
/// handing it over.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// Answers with more hits than this are written on another thread, and so are those that give back more than
/// [`MAX_INLINE_BYTES`] of documents.
const MAX_INLINE_HITS: usize = 512;

/// A body that was decoded.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) dialect: &'static dyn Dialect,
    body: String,
    question: Question,
    pub(super) documents: usize,
    /// Of the texts, as often as each is sent to the guest.
    characters: usize,
}

impl Decoded {
    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        let texts = |request: &Request| request.query.len() + request.documents.iter().map(String::len).sum::<usize>();
        let settings = self.question.settings.iter().map(|(name, value)| name.len() + value.len());
        self.body.len() + self.question.requests.iter().map(texts).sum::<usize>() + settings.sum::<usize>()
    }
}

/// Decodes a body, off the threads of the connections if it is large, and in the tenant's turns among the guests.
pub(super) async fn decode(
    bytes: Vec<u8>,
    choice: Choice,
    tenant: &Arc<LiveTenant>,
) -> Result<Decoded, (Option<&'static dyn Dialect>, HttpError)> {
    if bytes.len() <= MAX_INLINE_BYTES {
        return decode_here(bytes, choice, tenant);
    }
    let decoder = Arc::clone(tenant);
    let decoded = tenant.work(move || decode_here(bytes, choice, &decoder)).await;
    decoded.unwrap_or(Err((None, HttpError::Panicked)))
}

fn decode_here(
    bytes: Vec<u8>,
    choice: Choice,
    tenant: &LiveTenant,
) -> Result<Decoded, (Option<&'static dyn Dialect>, HttpError)> {
    let known = choice.known();
    let body = crate::json::decode(bytes).map_err(|error| (known, error.into()))?;
    let fields = Fields::of(&body).map_err(|error| (known, error))?;
    let dialect = choice.dialect(&fields);
    let model = tenant.model();
    let (limits, scores) = (tenant.limits(), tenant.default_scores());
    let serving = Serving { model: &model.name, max_tokens: model.max_tokens, scores, limits };
    let question = dialect.parse(fields, &serving).map_err(|error| (Some(dialect), error))?;
    // Unless documents are given back, nothing of the body is needed any more.
    let body = if question.shown.is_empty() { String::new() } else { body };
    let (mut documents, mut characters) = (0, 0);
    for request in &question.requests {
        documents += request.documents.len();
        characters += request.query.chars().count();
        characters += request.documents.iter().map(|document| document.chars().count()).sum::<usize>();
    }
    Ok(Decoded { dialect, body, question, documents, characters })
}

/// Asks the tenant, and writes its answer.
pub(super) async fn ask(
    admission: &mut Admission,
    tenant: &LiveTenant,
    Decoded { dialect, body, mut question, documents, characters }: Decoded,
    record: &mut Record,
) -> Result<Response<Answer>, HttpError> {
    for asked in &question.by_guest {
        if !admission.honours(asked.setting).await? {
            let problem = format!("is not supported by this tenant's guest, which has no setting {}", asked.setting);
            return Err(FieldError::new(asked.field, problem).into());
        }
    }
    let mut responses = Vec::with_capacity(question.requests.len());
    for mut request in std::mem::take(&mut question.requests) {
        request.settings.clone_from(&question.settings);
        let response = admission.rerank(request).await?;
        record.ranked(&response);
        responses.push(response);
    }
    let asked = question.settings.iter().find(|(name, _)| name == SETTING_LABEL).map(|(_, label)| label.as_str());
    let (model, label) = (tenant.model().name.clone(), tenant.model().label_name(asked));
    let hits: usize = responses.iter().map(|response| response.hits.len()).sum();
    let is_small = body.len() <= MAX_INLINE_BYTES && hits <= MAX_INLINE_HITS;
    let write = move || {
        let answer = dialect::Answer {
            question: &question,
            body: &body,
            responses: &responses,
            model: &model,
            label: &label,
            documents,
        };
        let mut response = answer::json(StatusCode::OK, dialect.reply(&answer)?);
        let headers = response.headers_mut();
        measures(&responses, headers);
        headers.insert("x-compute-characters", HeaderValue::from(characters));
        headers.insert("x-truncated-documents", HeaderValue::from(answer.truncated()));
        if let Ok(model) = HeaderValue::try_from(&model) {
            headers.insert("x-model", model);
        }
        Ok(response)
    };
    match is_small {
        true => write(),
        false => tenant.work(write).await.unwrap_or(Err(HttpError::Panicked)),
    }
}

/// Where the request's time went, in the headers that text-embeddings-inference introduced: tokens, and milliseconds.
/// The guest's time is called tokenization there.
fn measures(responses: &[rerank::Response], headers: &mut HeaderMap) {
    let sum =
        |part: fn(&Timings) -> Duration| responses.iter().map(|response| part(&response.timings)).sum::<Duration>();
    let times = [
        ("x-total-time", sum(|timings| timings.total)),
        ("x-tokenization-time", sum(|timings| timings.guest)),
        ("x-queue-time", sum(|timings| timings.queue)),
        ("x-inference-time", sum(|timings| timings.inference)),
    ];
    let tokens: u64 = responses.iter().map(|response| response.usage.tokens).sum();
    headers.insert("x-compute-tokens", HeaderValue::from(tokens));
    for (name, time) in times {
        // Digits and a point are always a header's value.
        if let Ok(value) = HeaderValue::try_from(format!("{:.3}", time.as_secs_f64() * 1e3)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
