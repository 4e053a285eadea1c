//! Pages of other origins that may call the service from a browser (the Fetch standard's CORS protocol).

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::answer::Answer;

/// How long a browser need not ask again.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// Most bytes of the names of headers that a page wants to send.
const MAX_REQUEST_HEADERS: usize = 1 << 10;

/// What a page may send if it does not say what it wants to.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");

/// What a page may read of an answer beside its body.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "retry-after, x-compute-characters, x-compute-tokens, x-inference-time, x-model, x-queue-time, x-request-id, \
     x-tokenization-time, x-total-time, x-truncated-documents",
);

/// The origins whose pages may call. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<HeaderValue>,
    is_open: bool,
}

/// A text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin: write scheme://host or scheme://host:port without a path, or * for all")]
pub struct OriginError(String);

impl Cors {
    /// Pages of these origins, such as `https://search.example.org`; `*` is every origin.
    ///
    /// # Errors
    /// One is not an origin.
    pub fn new(origins: &[String]) -> Result<Self, OriginError> {
        let mut cors = Self::default();
        for origin in origins {
            if origin == "*" {
                cors.is_open = true;
                continue;
            }
            let wrong = || OriginError(origin.clone());
            let (scheme, host) = origin.split_once("://").ok_or_else(wrong)?;
            let is_origin = !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
            let value = HeaderValue::from_str(&origin.to_ascii_lowercase()).map_err(|_| wrong())?;
            cors.origins.push(is_origin.then_some(value).ok_or_else(wrong)?);
        }
        Ok(cors)
    }

    fn is_empty(&self) -> bool {
        !self.is_open && self.origins.is_empty()
    }

    /// What a page of this origin is told about being allowed.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let is_known = || self.origins.iter().any(|known| origin.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
        match self.is_open {
            true => Some(HeaderValue::from_static("*")),
            false => is_known().then(|| origin.clone()),
        }
    }

    /// The answer to a browser's question whether a page may send a request; `None` if the request is none.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Answer>> {
        let asks = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.is_empty() {
            return None;
        }
        let mut response = Response::new(Answer::new(Vec::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.allowed(headers).is_some() {
            let answer = response.headers_mut();
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            // Client libraries send headers of their own; none of them is more than text here.
            let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|asked| asked.len() <= MAX_REQUEST_HEADERS);
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(REQUEST_HEADERS));
            answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
        }
        Some(response)
    }

    /// Marks an answer as readable by the page that asked, if its origin is allowed.
    pub(super) fn mark(&self, origin: Option<HeaderValue>, response: &mut Response<Answer>) {
        if self.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        // A cache must not give one origin's answer to another.
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }

    /// The value for [`mark`](Self::mark), from the request's head.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.is_empty() { None } else { self.allowed(headers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_are_taken() {
        let new = |origin: &str| Cors::new(&[origin.to_owned()]);
        for good in ["*", "https://search.example.org", "http://localhost:3000"] {
            assert!(new(good).is_ok(), "{good}");
        }
        for bad in ["", "example.org", "https://example.org/", "https://", "https://a b"] {
            assert_eq!(new(bad), Err(OriginError(bad.to_owned())));
        }
    }

    #[test]
    fn a_page_is_allowed_by_its_origin() {
        let cors = Cors::new(&["https://search.example.org".to_owned()]).unwrap();
        let allowed = |origin: &'static str| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            cors.origin(&headers)
        };
        assert_eq!(allowed("https://search.example.org").unwrap(), "https://search.example.org");
        assert_eq!(allowed("https://other.example.org"), None);
        assert_eq!(Cors::default().origin(&HeaderMap::new()), None);
    }
}
