//! Reading a request's body: at most so many bytes, in at most so much time.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_ENCODING;
use tokio::time::{sleep, timeout};

use super::deadlines::Deadlines;
use super::error::HttpError;
use super::fields::quoted;
use crate::rerank::RerankError;

/// Fails for a body that is not worth reading: compressed, or longer than it may be by its own account.
pub(super) fn check(headers: &HeaderMap, body: &Incoming, allowed: usize) -> Result<(), HttpError> {
    let encodings = headers.get_all(CONTENT_ENCODING).iter();
    if let Some(encoding) = encodings
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .find(|it| !it.trim().is_empty() && !it.trim().eq_ignore_ascii_case("identity"))
    {
        return Err(HttpError::Encoding(quoted(&encoding)));
    }
    match body.size_hint().lower() {
        length if length > allowed as u64 => Err(HttpError::BodyTooLarge { requested: Some(length), allowed }),
        _ => Ok(()),
    }
}

/// Reads a body of at most `allowed` bytes. `hold` reserves memory for bytes before they are kept, and says how long to
/// wait before the next ones.
pub(super) async fn read(
    mut body: Incoming,
    allowed: usize,
    deadlines: &Deadlines,
    mut hold: impl FnMut(usize) -> Result<Duration, RerankError>,
) -> Result<Vec<u8>, HttpError> {
    // A length that was announced is reserved in one piece, which costs nothing until bytes come.
    let mut bytes = Vec::with_capacity(usize::try_from(body.size_hint().lower()).unwrap_or(0).min(allowed));
    let all = async {
        loop {
            let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let Ok(frame) = timeout(deadlines.body_gap, next).await else { return None };
            match frame {
                None => return Some(Ok(())),
                Some(Err(error)) => return Some(Err(HttpError::BodyCut(error))),
                Some(Ok(frame)) => {
                    // Trailers say nothing that is of use here.
                    let Some(data) = frame.data_ref() else { continue };
                    if bytes.len() + data.len() > allowed {
                        return Some(Err(HttpError::BodyTooLarge { requested: None, allowed }));
                    }
                    let wait = match hold(data.len()) {
                        Ok(wait) => wait,
                        Err(error) => return Some(Err(error.into())),
                    };
                    bytes.extend_from_slice(data);
                    if !wait.is_zero() {
                        sleep(wait).await;
                    }
                }
            }
        }
    };
    match timeout(deadlines.body, all).await {
        Ok(Some(read)) => read.map(|()| bytes),
        Ok(None) | Err(_) => {
            let Deadlines { body_gap: gap, body: total, .. } = *deadlines;
            Err(HttpError::BodyTimeout { arrived: bytes.len(), gap, total })
        }
    }
}
