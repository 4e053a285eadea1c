//! Why there is no answer, in the contract's words: from a server's status and message, or from the transport.
//!
//! The status says which case it is. The figures (a limit, a time in milliseconds) are in the message, whose wording is
//! that of the host's errors; without them a case keeps what the header tells, or a default.

use serde_json::Value;

use crate::bindings::assay::rerank::types::{Error, Exceeded};
use crate::bindings::wasi::http::types::ErrorCode;

/// When to try again where nothing says it: as long as a server takes to start.
const DEFAULT_RETRY_MS: u32 = 1_000;

/// Most bytes of a message that is no server's of ours.
const MAX_FOREIGN_BYTES: usize = 300;

/// The error of an answer with another status than 200, to a request of `sent` bytes.
pub(crate) fn of_answer(status: u16, retry_after_s: Option<u32>, body: &[u8], sent: usize) -> Error {
    let message = message(body);
    let retry_ms = || {
        let from_header = || retry_after_s.map(|seconds| seconds.saturating_mul(1_000));
        retry_ms(&message).or_else(from_header).unwrap_or(DEFAULT_RETRY_MS)
    };
    let other = || Error::Internal(format!("the server answers with status {status}: {message}"));
    match status {
        400 | 422 => Error::InvalidInput(without("invalid request: ", &message).to_owned()),
        403 => between(&message, "access to model ", " is denied").map_or_else(other, Error::AccessDenied),
        404 => between(&message, "no model ", " is loaded").map_or_else(other, Error::NotFound),
        413 => Error::TooLarge(exceeded(&message, sent)),
        429 => Error::Overloaded(retry_ms()),
        // The body did not arrive in time, or the server does not take it now.
        408 | 503 => Error::Unavailable(retry_ms()),
        504 => Error::DeadlineExceeded,
        401 => Error::Internal(format!("the server refuses the variable ASSAY_KEY: {message}")),
        500 if message.starts_with("internal error: ") => {
            Error::Internal(without("internal error: ", &message).to_owned())
        }
        // Of these the message says whose fault it is, such as a guest's.
        500 | 502 => Error::Internal(message.clone()),
        _ => other(),
    }
}

/// The error of a request that got no answer, or half of one.
pub(crate) fn of_transport(code: &ErrorCode, server: &str) -> Error {
    match code {
        ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout => Error::DeadlineExceeded,
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTerminated
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::HttpResponseIncomplete => Error::Unavailable(DEFAULT_RETRY_MS),
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            Error::Internal(format!("the program's host does not allow requests to {server}: allow them there"))
        }
        other => Error::Internal(format!("{server} cannot be asked: {other:?}")),
    }
}

/// What a server says: its dialect's message, or the beginning of what is none of ours.
fn message(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = [&json["error"]["message"], &json["message"], &json["error"]].into_iter().find_map(Value::as_str);
    said.map_or_else(
        || {
            let text = String::from_utf8_lossy(&body[..body.len().min(MAX_FOREIGN_BYTES)]);
            text.trim().to_owned()
        },
        str::to_owned,
    )
}

/// The time of "…: try again in 250 ms".
fn retry_ms(message: &str) -> Option<u32> {
    let (_, time) = message.rsplit_once("try again in ")?;
    // A time that does not fit is the longest that does.
    Some(u32::try_from(time.strip_suffix(" ms")?.parse::<u64>().ok()?).unwrap_or(u32::MAX))
}

/// The limit of "max_documents is limited to 2, the request has 3", and of a body that was refused before it was read.
fn exceeded(message: &str, sent: usize) -> Exceeded {
    let of_request = || {
        let (limit, rest) = message.split_once(" is limited to ")?;
        let (allowed, requested) = rest.split_once(", the request has ")?;
        let (requested, allowed) = (requested.parse().ok()?, allowed.parse().ok()?);
        Some(Exceeded { limit: limit.to_owned(), requested, allowed })
    };
    let of_body = || {
        let (limit, rest) = message.split_once(" allows bodies of ")?;
        let (allowed, _) = rest.split_once(" bytes")?;
        Some(Exceeded { limit: limit.to_owned(), requested: sent as u64, allowed: allowed.parse().ok()? })
    };
    // A proxy's own limit: it does not say how much it allows.
    let of_others = || Exceeded { limit: message.to_owned(), requested: sent as u64, allowed: 0 };
    of_request().or_else(of_body).unwrap_or_else(of_others)
}

fn without<'a>(prefix: &str, message: &'a str) -> &'a str {
    message.strip_prefix(prefix).unwrap_or(message)
}

fn between(message: &str, before: &str, after: &str) -> Option<String> {
    Some(message.strip_prefix(before)?.strip_suffix(after)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a server of ours that says this, in the words of `host/src/rerank.rs` and `host/src/http/error.rs`.
    fn said(status: u16, message: &str) -> String {
        let body = serde_json::json!({ "error": { "code": status, "message": message, "type": "t" } }).to_string();
        format!("{:?}", of_answer(status, Some(9), body.as_bytes(), 1234))
    }

    #[test]
    fn each_error_of_a_server_is_the_contracts_of_the_same_meaning() {
        for (status, message, expected) in [
            (400, "invalid request: document 1: too long", Error::InvalidInput("document 1: too long".to_owned())),
            (
                400,
                "`top_n` must be at least 1, and is 0",
                Error::InvalidInput("`top_n` must be at least 1, and is 0".to_owned()),
            ),
            (403, "access to model a/b is denied", Error::AccessDenied("a/b".to_owned())),
            (404, "no model a/b is loaded", Error::NotFound("a/b".to_owned())),
            (429, "the host is overloaded: try again in 250 ms", Error::Overloaded(250)),
            (429, "max_tokens_per_s is limited to 1: try again in 4500 ms", Error::Overloaded(4500)),
            (503, "the device failed: try again in 99999999999 ms", Error::Unavailable(u32::MAX)),
            (503, "the server is shutting down: try another one, or again later", Error::Unavailable(9000)),
            (504, "the request took longer than its limit of 10 ms", Error::DeadlineExceeded),
            (
                502,
                "the guest failed: it trapped: unreachable",
                Error::Internal("the guest failed: it trapped: unreachable".to_owned()),
            ),
            (500, "internal error: lost", Error::Internal("lost".to_owned())),
        ] {
            assert_eq!(said(status, message), format!("{expected:?}"));
        }
    }

    #[test]
    fn a_limit_keeps_its_name_and_its_figures() {
        let limit = |limit: &str, requested: u64, allowed: u64| {
            format!("{:?}", Error::TooLarge(Exceeded { limit: limit.to_owned(), requested, allowed }))
        };
        assert_eq!(said(413, "max_documents is limited to 2, the request has 3"), limit("max_documents", 3, 2));
        let of_one = "max_text_bytes of document 1 is limited to 10, the request has 11";
        assert_eq!(said(413, of_one), limit("max_text_bytes of document 1", 11, 10));
        for told in ["1234", "more"] {
            let body = format!("max_request_bytes allows bodies of 100 bytes, this one has {told}");
            assert_eq!(said(413, &body), limit("max_request_bytes", 1234, 100));
        }
        assert_eq!(said(413, "too big"), limit("too big", 1234, 0));
    }

    #[test]
    fn what_is_no_server_of_ours_is_told_in_short() {
        let page = "<html>".repeat(100);
        let Error::Internal(message) = of_answer(418, None, page.as_bytes(), 0) else { panic!() };
        assert!(message.starts_with("the server answers with status 418: <html>") && message.len() < 400, "{message}");
        assert!(matches!(of_answer(429, None, b"", 0), Error::Overloaded(1000)));
        assert!(matches!(of_answer(429, Some(2), b"slow down", 0), Error::Overloaded(2000)));
        assert!(matches!(of_answer(404, None, b"no such page", 0), Error::Internal(_)));
        let plain = br#"{"message":"no valid API key","detail":"d","error":"e","error_type":"Unauthorized"}"#;
        assert!(
            matches!(of_answer(401, None, plain, 0), Error::Internal(said) if said.contains("ASSAY_KEY: no valid"))
        );
    }

    #[test]
    fn a_server_that_is_not_there_is_unavailable_and_a_host_that_denies_says_what_to_do() {
        let of = |code: ErrorCode| of_transport(&code, "http://a");
        assert!(matches!(of(ErrorCode::ConnectionRefused), Error::Unavailable(1000)));
        assert!(matches!(of(ErrorCode::HttpResponseTimeout), Error::DeadlineExceeded));
        assert!(matches!(of(ErrorCode::HttpRequestDenied), Error::Internal(said) if said.contains("allow them")));
        assert!(matches!(of(ErrorCode::TlsCertificateError), Error::Internal(said) if said.contains("TlsCertificate")));
    }
}
