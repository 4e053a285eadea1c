//! What a span is, and when it is recorded.
//!
//! A [`Span`] is a place in a trace, made when something begins; [`Span::end`] records it. Only what is sampled has one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents,
    SpanLinks, SpanProcessor,
};

use super::export::{self, Sent, TracerError};
use super::options::TraceOptions;
use super::{MAX_LINKS, parent};

/// A fact about a span: a name and a number, or a fixed or checked word.
pub use opentelemetry::KeyValue as Field;

/// Time for the spans that wait when the server stops.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Decides which requests have spans, and takes them.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    sent: Arc<Sent>,
}

impl Tracer {
    /// Starts the thread that sends spans. The collector need not be there.
    ///
    /// # Errors
    /// The system gives no threads, or a variable of OpenTelemetry's has a value that the exporter does not take.
    pub fn start(options: &TraceOptions) -> Result<Arc<Self>, TracerError> {
        let sent = Arc::<Sent>::default();
        let processor = export::start(options, &sent)?;
        let scope = InstrumentationScope::builder("assay").with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::TraceIdRatioBased(options.sample.get());
        Ok(Arc::new(Self { processor, sampler, ids: RandomIdGenerator::default(), scope, sent }))
    }

    /// The span of a request that begins now; `None` if it is not sampled. A caller that names its own span decides
    /// that, others leave it to chance.
    #[must_use]
    pub fn request(self: &Arc<Self>, traceparent: Option<&[u8]>) -> Option<Span> {
        let clock = Clock { at: Instant::now(), time: SystemTime::now() };
        let span = |trace, parent, parent_is_remote| Span {
            tracer: Arc::clone(self),
            trace,
            id: self.ids.new_span_id(),
            parent,
            parent_is_remote,
            clock,
        };
        match traceparent.and_then(parent::parse) {
            Some(parent) => parent.is_sampled.then(|| span(parent.trace, parent.span, true)),
            None => {
                let trace = self.ids.new_trace_id();
                self.samples(trace).then(|| span(trace, SpanId::INVALID, false))
            }
        }
    }

    fn samples(&self, trace: TraceId) -> bool {
        let decided = self.sampler.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        decided.decision == SamplingDecision::RecordAndSample
    }

    /// Sends what waits, within a few seconds. Spans that end later are lost.
    pub fn finish(&self) {
        // The exporter has told of what it could not send.
        let _ = self.processor.shutdown_with_timeout(FLUSH_TIME);
    }
}

/// The system's time at a moment, so that all spans of a trace are told by one clock.
#[derive(Debug, Clone, Copy)]
struct Clock {
    at: Instant,
    time: SystemTime,
}

impl Clock {
    fn time(self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.at) {
            Some(later) => self.time + later,
            None => self.time - (self.at - moment),
        }
    }
}

/// A place in a trace that is sampled.
#[derive(Debug, Clone)]
pub struct Span {
    tracer: Arc<Tracer>,
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    parent_is_remote: bool,
    clock: Clock,
}

/// A span that another one is linked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    trace: TraceId,
    span: SpanId,
}

/// Where a span's work came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A caller's request.
    Server,
    /// The program itself.
    Internal,
}

/// How a span ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Well.
    #[default]
    Done,
    /// As it should, without an answer: the request was refused, for this reason.
    Refused(&'static str),
    /// The server's fault, of this kind.
    Failed(&'static str),
}

/// What is told of a span when it ends.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Where its work came from.
    pub kind: Kind,
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Facts about it.
    pub fields: Vec<Field>,
    /// Spans of other traces that it belongs with, of which the first [`MAX_LINKS`] are told.
    pub links: Vec<Link>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Told {
    /// Internal work that ends now, without facts.
    #[must_use]
    pub fn now(name: &'static str, began: Instant) -> Self {
        let (fields, links) = (Vec::new(), Vec::new());
        Self {
            name: name.into(),
            kind: Kind::Internal,
            began,
            ended: Instant::now(),
            fields,
            links,
            outcome: Outcome::Done,
        }
    }
}

impl Span {
    /// A span within this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let id = self.tracer.ids.new_span_id();
        Self { tracer: Arc::clone(&self.tracer), id, parent: self.id, parent_is_remote: false, ..*self }
    }

    /// A span of a trace of its own, for work that is done for several requests.
    #[must_use]
    pub fn apart(&self) -> Self {
        let (trace, id) = (self.tracer.ids.new_trace_id(), self.tracer.ids.new_span_id());
        let tracer = Arc::clone(&self.tracer);
        Self { tracer, trace, id, parent: SpanId::INVALID, parent_is_remote: false, clock: self.clock }
    }

    /// The trace, as logs and collectors write it.
    #[must_use]
    pub fn trace_id(&self) -> impl std::fmt::Display + use<> {
        self.trace
    }

    /// This span, for another one to be linked to.
    #[must_use]
    pub fn link(&self) -> Link {
        Link { trace: self.trace, span: self.id }
    }

    /// Records the span. If too many wait to be sent already, it is lost.
    pub fn end(&self, told: Told) {
        let Told { name, kind, began, ended, mut fields, links, outcome } = told;
        let status = match outcome {
            Outcome::Done => Status::Unset,
            Outcome::Refused(why) => {
                fields.push(Field::new("error.type", why));
                Status::Unset
            }
            Outcome::Failed(why) => {
                fields.push(Field::new("error.type", why));
                Status::error(why)
            }
        };
        self.tracer.sent.given();
        self.tracer.processor.on_end(SpanData {
            span_context: context(self.trace, self.id),
            parent_span_id: self.parent,
            parent_span_is_remote: self.parent_is_remote,
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Internal => SpanKind::Internal,
            },
            name,
            start_time: self.clock.time(began),
            end_time: self.clock.time(ended),
            attributes: fields,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: span_links(&links),
            status,
            instrumentation_scope: self.tracer.scope.clone(),
        });
    }
}

fn context(trace: TraceId, span: SpanId) -> SpanContext {
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn span_links(links: &[Link]) -> SpanLinks {
    let mut told = SpanLinks::default();
    let first = links.iter().take(MAX_LINKS);
    told.links =
        first.map(|link| opentelemetry::trace::Link::new(context(link.trace, link.span), Vec::new(), 0)).collect();
    told.dropped_count = u32::try_from(links.len().saturating_sub(MAX_LINKS)).unwrap_or(u32::MAX);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: &str) -> Arc<Tracer> {
        // Nothing listens there.
        let (endpoint, sample) = ("http://127.0.0.1:9".parse().unwrap(), sample.parse().unwrap());
        Tracer::start(&TraceOptions { endpoint, protocol: super::super::Protocol::Http, sample }).unwrap()
    }

    fn parent(flags: &str) -> String {
        format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
    }

    #[test]
    fn the_caller_decides_whether_its_request_is_sampled() {
        let (all, none) = (tracer("1"), tracer("0"));
        let span = none.request(Some(parent("01").as_bytes())).unwrap();
        assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(all.request(Some(parent("00").as_bytes())).is_none());
        assert!(all.request(None).is_some() && none.request(None).is_none());
        let (first, second) = (all.request(Some(b"nonsense")).unwrap(), all.request(None).unwrap());
        assert_ne!(first.trace_id().to_string(), second.trace_id().to_string());
    }

    #[test]
    fn about_the_wanted_part_of_requests_is_sampled() {
        let tracer = tracer("0.25");
        let sampled = (0..4_000).filter(|_| tracer.request(None).is_some()).count();
        assert!((800..1_200).contains(&sampled), "{sampled} of 4000");
    }

    #[test]
    fn a_child_is_in_its_parents_trace_and_a_span_apart_is_not() {
        let span = tracer("1").request(None).unwrap();
        let (child, apart) = (span.child(), span.apart());
        assert_eq!((child.trace, child.parent), (span.trace, span.id));
        assert!(apart.trace != span.trace && apart.parent == SpanId::INVALID && apart.id != span.id);
    }

    #[test]
    fn times_are_told_by_one_clock() {
        let clock = Clock { at: Instant::now(), time: SystemTime::UNIX_EPOCH + Duration::from_secs(100) };
        let ms = Duration::from_millis(3);
        assert_eq!(clock.time(clock.at + ms), clock.time + ms);
        assert_eq!(clock.time(clock.at - ms), clock.time - ms);
    }

    #[test]
    fn links_have_a_bound_and_what_is_beyond_it_is_counted() {
        let link = tracer("1").request(None).unwrap().link();
        let told = span_links(&vec![link; MAX_LINKS + 5]);
        assert_eq!((told.links.len(), told.dropped_count), (MAX_LINKS, 5));
    }
}
