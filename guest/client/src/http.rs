//! One request over `wasi:http`: sends a body, and reads the answer's.

use crate::address::Server;
use crate::bindings::assay::rerank::types::Error;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
    Scheme, http_error_code,
};
use crate::bindings::wasi::io::streams::StreamError;
use crate::failure::of_transport;

/// Most bytes of an answer: 100 for each of more documents than any tenant may send.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Most bytes of one read.
const PIECE_BYTES: u64 = 64 << 10;

/// What a server answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Seconds until the request may be sent again, where the server says it.
    pub(crate) retry_after_s: Option<u32>,
    pub(crate) body: Vec<u8>,
}

/// Sends JSON, and waits for the answer.
///
/// # Errors
///
/// There is no answer, or half of one; see [`of_transport`].
pub(crate) fn post(server: &Server, body: &[u8]) -> Result<Answer, Error> {
    let failed = |code: ErrorCode| of_transport(&code, &server.shown());
    let (request, sending) = request(server, body.len())?;
    let pending = outgoing_handler::handle(request, Some(options(server))).map_err(failed)?;
    // A server that refuses a request early does not read all of it. Its answer counts, and not the failure to write.
    let _unread = send(sending, body);
    let response = wait(&pending, server)?;
    let retry_after = response.headers().get("retry-after");
    let seconds = |value: &Vec<u8>| std::str::from_utf8(value).ok()?.trim().parse().ok();
    let retry_after_s = retry_after.first().and_then(seconds);
    Ok(Answer { status: response.status(), retry_after_s, body: read(&response, server)? })
}

/// The request's head, and the body to fill.
fn request(server: &Server, body_bytes: usize) -> Result<(OutgoingRequest, OutgoingBody), Error> {
    let mut headers = vec![
        ("content-type".to_owned(), b"application/json".to_vec()),
        ("content-length".to_owned(), body_bytes.to_string().into_bytes()),
    ];
    headers.extend(server.key.as_ref().map(|key| ("authorization".to_owned(), format!("Bearer {key}").into_bytes())));
    let refused = |what: &str| Error::Internal(format!("the program's host refuses {what} of a request"));
    let headers = Fields::from_list(&headers).map_err(|error| refused(&format!("the headers ({error:?})")))?;
    let request = OutgoingRequest::new(headers);
    let scheme = match server.scheme {
        Scheme::Https => Scheme::Https,
        _ => Scheme::Http,
    };
    request.set_method(&Method::Post).map_err(|()| refused("the method"))?;
    request.set_scheme(Some(&scheme)).map_err(|()| refused("the scheme"))?;
    request.set_authority(Some(&server.authority)).map_err(|()| refused("the authority"))?;
    request.set_path_with_query(Some(&server.path)).map_err(|()| refused("the path"))?;
    let body = request.body().map_err(|()| refused("the body"))?;
    Ok((request, body))
}

fn options(server: &Server) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = Some(server.timeout_ms.saturating_mul(1_000_000));
    // A host may have no such option, and then has times of its own.
    let _ = options.set_connect_timeout(nanoseconds);
    let _ = options.set_first_byte_timeout(nanoseconds);
    let _ = options.set_between_bytes_timeout(nanoseconds);
    options
}

/// Writes the body, as fast as the host takes it.
fn send(sending: OutgoingBody, mut body: &[u8]) -> Result<(), StreamError> {
    let stream = sending.write().map_err(|()| StreamError::Closed)?;
    while !body.is_empty() {
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (piece, rest) = body.split_at(room.min(body.len()));
        stream.write(piece)?;
        body = rest;
    }
    stream.blocking_flush()?;
    // A body cannot be finished while its stream is there.
    drop(stream);
    OutgoingBody::finish(sending, None).map_err(|_| StreamError::Closed)
}

fn wait(pending: &FutureIncomingResponse, server: &Server) -> Result<IncomingResponse, Error> {
    loop {
        match pending.get() {
            None => pending.subscribe().block(),
            Some(Ok(Ok(response))) => return Ok(response),
            Some(Ok(Err(code))) => return Err(of_transport(&code, &server.shown())),
            Some(Err(())) => return Err(Error::Internal("the program's host gave the answer away".to_owned())),
        }
    }
}

/// The answer's body.
fn read(response: &IncomingResponse, server: &Server) -> Result<Vec<u8>, Error> {
    let taken = |()| Error::Internal("the program's host gave the answer's body away".to_owned());
    let incoming = response.consume().map_err(taken)?;
    // Dropped before the body that it reads.
    let stream = incoming.stream().map_err(taken)?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(PIECE_BYTES) {
            Ok(piece) if body.len() + piece.len() > MAX_ANSWER_BYTES => {
                return Err(Error::Internal(format!("the server's answer is longer than {MAX_ANSWER_BYTES} bytes")));
            }
            Ok(piece) => body.extend(piece),
            Err(StreamError::Closed) => return Ok(body),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = http_error_code(&error);
                return Err(of_transport(&code.unwrap_or(ErrorCode::HttpResponseIncomplete), &server.shown()));
            }
        }
    }
}
