//! Answers: their bodies, headers and status. A body is sent in pieces, within a time, and holds its tenant's permit
//! while much of it is left.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::connections::InRequest;
use super::dialect::{Dialect, plain};
use super::error::HttpError;
use crate::tenant::Admission;

/// Bytes handed to the connection at once.
const PIECE_BYTES: usize = 64 << 10;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    bytes: Bytes,
    /// When the last byte must have left. Set when the answer begins to leave.
    deadline: Option<Instant>,
    /// The tenant's permit, while more than one piece is left. It bounds the memory that slow callers take: by the
    /// number of requests that their tenant may run.
    admission: Option<Admission>,
    /// Marks the connection as busy.
    in_request: Option<InRequest>,
    /// Pieces that come later, without an end that is known.
    stream: Option<mpsc::Receiver<Bytes>>,
}

/// The caller reads too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read in time")]
pub(super) struct TooSlow;

impl Answer {
    pub(super) fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), deadline: None, admission: None, in_request: None, stream: None }
    }

    /// An answer that goes on for as long as pieces come.
    pub(super) fn streamed(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { stream: Some(pieces), ..Self::new(Bytes::new()) }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps the tenant's permit for as long as the answer is large.
    pub(super) fn holding(mut self, admission: Admission) -> Self {
        self.admission = (self.bytes.len() > PIECE_BYTES).then_some(admission);
        self
    }

    /// Lets the answer leave, in so much time; its connection is busy until then.
    pub(super) fn leaving(&mut self, time: Duration, in_request: InRequest) {
        (self.deadline, self.in_request) = (Some(Instant::now() + time), Some(in_request));
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if let Some(pieces) = &mut self.stream {
            // A reader that takes none is found by the connection's own deadline.
            return pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))));
        }
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Poll::Ready(Some(Err(TooSlow)));
        }
        let length = self.bytes.len().min(PIECE_BYTES);
        let piece = self.bytes.split_to(length);
        if self.admission.is_none() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // Copied, so that the connection does not keep the whole answer for a piece of it.
        let piece = Bytes::copy_from_slice(&piece);
        if self.bytes.len() <= PIECE_BYTES {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
            self.admission = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer of text.
pub(super) fn text(text: String, content_type: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::new(text.into_bytes()));
    set(response.headers_mut(), CONTENT_TYPE, content_type);
    response
}

/// A page, which may load what the policy says.
pub(super) fn html(page: String, policy: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::new(page.into_bytes()));
    set(response.headers_mut(), CONTENT_TYPE, "text/html; charset=utf-8");
    set(response.headers_mut(), CONTENT_SECURITY_POLICY, policy);
    response
}

/// What becomes of the connection after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It takes the next request.
    Stays,
    /// It is closed, because the body was not read to its end.
    Closes,
}

/// An error in the words of a dialect, or for all of them.
pub(super) fn error(
    error: &HttpError,
    dialect: Option<&'static dyn Dialect>,
    afterwards: Afterwards,
) -> Response<Answer> {
    let (status, body) = match dialect {
        Some(dialect) => (dialect.status(error), dialect.error(error)),
        None => (error.status(), plain::error(error)),
    };
    let mut response = json(status, body.to_string().into_bytes());
    let headers = response.headers_mut();
    if let Some(retry_after) = error.retry_after() {
        // The header is in whole seconds (RFC 9110, section 10.2.3).
        let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
        headers.insert(RETRY_AFTER, u32::try_from(seconds).unwrap_or(u32::MAX).into());
    }
    match error {
        HttpError::Unauthorized | HttpError::NotOperator => set(headers, WWW_AUTHENTICATE, "Bearer"),
        HttpError::Method { allowed, .. } => set(headers, ALLOW, allowed),
        _ => {}
    }
    if afterwards == Afterwards::Closes {
        set(headers, CONNECTION, "close");
    }
    response
}

fn set(headers: &mut hyper::HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
