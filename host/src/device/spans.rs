//! The spans of the queue and the device: one for the time that a request's rows wait, one for their time on the device,
//! and one for each batch. A batch is a trace of its own, linked with the rows' spans in both directions.
//!
//! Only requests that are sampled have a [`Visit`]; without one nothing here runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::traces::{Field, Link, MAX_LINKS, Outcome, Span, Told};

use super::score::ScoreError;

/// A sampled request's rows, from the queue to their scores. Shared by the caller who waits and the dispatch thread.
#[derive(Debug)]
pub(super) struct Visit {
    /// The span of their time on the device, made ahead so that batches can be linked to it.
    inference: Span,
    queue: Span,
    model: Arc<str>,
    rows: usize,
    tokens: usize,
    asked: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first of the rows left the queue.
    on_device: Option<Instant>,
    batches: Vec<Link>,
}

/// Records a visit's spans when the caller has its scores, or waits no more.
#[derive(Debug)]
pub(super) struct Visiting {
    visit: Arc<Visit>,
    outcome: Outcome,
}

/// A batch with rows of sampled requests.
#[derive(Debug)]
pub(super) struct BatchSpan {
    span: Span,
    model: Arc<str>,
    began: Instant,
    links: Vec<Link>,
    requests: usize,
}

/// What is told of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchFacts {
    pub(super) rows: usize,
    pub(super) tokens: usize,
    pub(super) tenants: usize,
    pub(super) took: Option<Duration>,
}

impl Visiting {
    /// Rows of a model, asked for now within the request's span.
    pub(super) fn new(within: &Span, model: &str, (rows, tokens): (usize, usize)) -> Self {
        let (queue, inference) = (within.child(), within.child());
        let (asked, state) = (Instant::now(), Mutex::default());
        let visit = Arc::new(Visit { inference, queue, model: model.into(), rows, tokens, asked, state });
        // What is dropped before its end was cancelled.
        Self { visit, outcome: Outcome::Refused("cancelled") }
    }

    pub(super) fn visit(&self) -> Arc<Visit> {
        Arc::clone(&self.visit)
    }

    pub(super) fn ended<T>(&mut self, result: &Result<T, ScoreError>) {
        self.outcome = match result {
            Ok(_) => Outcome::Done,
            Err(error) => error.outcome(),
        };
    }
}

impl Drop for Visiting {
    fn drop(&mut self) {
        let Visit { inference, queue, model, rows, tokens, asked, state } = &*self.visit;
        let State { on_device, batches } = std::mem::take(&mut *state.lock().unwrap_or_else(PoisonError::into_inner));
        let now = Instant::now();
        let fields = || {
            let (rows, tokens) = (number(*rows), number(*tokens));
            let model = Field::new("assay.model", Arc::clone(model));
            vec![model, Field::new("assay.rows", rows), Field::new("assay.tokens", tokens)]
        };
        let waited = if on_device.is_some() { Outcome::Done } else { self.outcome };
        let ended = on_device.unwrap_or(now);
        queue.end(Told { ended, fields: fields(), outcome: waited, ..Told::now("queue", *asked) });
        if let Some(began) = on_device {
            let told = Told { ended: now, fields: fields(), links: batches, ..Told::now("inference", began) };
            inference.end(Told { outcome: self.outcome, ..told });
        }
    }
}

impl BatchSpan {
    /// Notes that a batch made now has rows of a visit.
    pub(super) fn add(batch: &mut Option<Self>, visit: &Visit, now: Instant) {
        let batch = batch.get_or_insert_with(|| {
            let (span, model) = (visit.inference.apart(), Arc::clone(&visit.model));
            Self { span, model, began: now, links: Vec::new(), requests: 0 }
        });
        batch.requests += 1;
        batch.links.push(visit.inference.link());
        let mut state = visit.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.on_device.get_or_insert(now);
        if state.batches.len() < MAX_LINKS {
            state.batches.push(batch.span.link());
        }
    }

    /// Records that the batch has left the device.
    pub(super) fn end(&self, facts: BatchFacts, outcome: Outcome) {
        let BatchFacts { rows, tokens, tenants, took } = facts;
        let mut fields = vec![
            Field::new("assay.model", Arc::clone(&self.model)),
            Field::new("assay.rows", number(rows)),
            Field::new("assay.tokens", number(tokens)),
            Field::new("assay.tenants", number(tenants)),
            Field::new("assay.sampled_requests", number(self.requests)),
        ];
        fields.extend(took.map(|took| Field::new("assay.device_seconds", took.as_secs_f64())));
        let links = self.links.clone();
        self.span.end(Told { fields, links, outcome, ..Told::now("batch", self.began) });
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::{Protocol, TraceOptions, Tracer};

    #[test]
    fn a_batch_is_linked_with_each_sampled_request_in_it_once_a_request() {
        // Nothing listens there.
        let (endpoint, sample) = ("http://127.0.0.1:9".parse().unwrap(), "1".parse().unwrap());
        let tracer = Tracer::start(&TraceOptions { endpoint, protocol: Protocol::Http, sample }).unwrap();
        let visits = [(); 3].map(|()| Visiting::new(&tracer.request(None).unwrap(), "tiny/one", (2, 9)));
        let (mut batch, now) = (None, Instant::now());
        for visiting in &visits {
            BatchSpan::add(&mut batch, &visiting.visit(), now);
        }
        let batch = batch.unwrap();
        assert_eq!(batch.links, visits.each_ref().map(|visiting| visiting.visit.inference.link()));
        for visiting in &visits {
            let state = visiting.visit.state.lock().unwrap();
            assert_eq!((state.batches.as_slice(), state.on_device), ([batch.span.link()].as_slice(), Some(now)));
        }
        let mut second = None;
        BatchSpan::add(&mut second, &visits[0].visit(), now + Duration::from_secs(1));
        let state = visits[0].visit.state.lock().unwrap();
        assert_eq!((state.batches.len(), state.on_device), (2, Some(now)), "a request may be in several batches");
    }
}
