//! Where spans go, and how many requests have some. What cannot be right is refused before anything starts.

use std::str::FromStr;

use ureq::http::Uri;

/// The port that collectors have for OTLP over HTTP; the one for gRPC is 4317.
const HTTP_PORT: u16 = 4_318;

/// The path of traces below a collector's address, over HTTP.
const HTTP_PATH: &str = "/v1/traces";

/// What to send, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceOptions {
    /// The collector.
    pub endpoint: Endpoint,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// The part of requests that have spans, of those whose callers do not decide it.
    pub sample: SampleRatio,
}

/// The form of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protocol buffers in the bodies of HTTP requests.
    Http,
}

/// A collector's address: `http://` or `https://`, a host, and maybe a port and a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint(Uri);

/// A text is no collector's address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It is no URL of HTTP.
    #[error("write http:// or https:// and a host, such as http://127.0.0.1:4317")]
    Form,
    /// It holds a name and a password, which would be shown with it.
    #[error("an address must not hold credentials: put them into OTEL_EXPORTER_OTLP_HEADERS")]
    Credentials,
    /// It has a part that no collector takes.
    #[error("an address has no part after a question mark")]
    Query,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::Form)?;
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(EndpointError::Form);
        };
        match (authority.as_str().contains('@'), authority.host().is_empty(), uri.query()) {
            (true, ..) => Err(EndpointError::Credentials),
            (_, true, _) => Err(EndpointError::Form),
            (.., Some(_)) => Err(EndpointError::Query),
            (false, false, None) => Ok(Self(uri)),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Endpoint {
    /// The protocol that the port stands for.
    #[must_use]
    pub fn usual_protocol(&self) -> Protocol {
        if self.0.port_u16() == Some(HTTP_PORT) { Protocol::Http } else { Protocol::Grpc }
    }

    /// Where spans go. Over HTTP the path of traces is added unless it is there.
    pub(super) fn url(&self, protocol: Protocol) -> String {
        let (url, path) = (self.0.to_string(), self.0.path().trim_end_matches('/'));
        match protocol {
            Protocol::Http if !path.ends_with(HTTP_PATH) => format!("{}{HTTP_PATH}", url.trim_end_matches('/')),
            Protocol::Http | Protocol::Grpc => url,
        }
    }
}

/// A part of requests, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRatio(f64);

/// A text is no part of something.
#[derive(Debug, thiserror::Error)]
#[error("write a number from 0 (none, unless a caller asks for it) to 1 (every request), such as 0.01")]
pub struct SampleRatioError;

impl FromStr for SampleRatio {
    type Err = SampleRatioError;

    fn from_str(text: &str) -> Result<Self, SampleRatioError> {
        let ratio: f64 = text.trim().parse().map_err(|_| SampleRatioError)?;
        if (0.0..=1.0).contains(&ratio) { Ok(Self(ratio)) } else { Err(SampleRatioError) }
    }
}

impl SampleRatio {
    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_have_a_path_of_their_own_over_http_and_none_over_grpc() {
        for (text, http) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://example.org/otlp", "https://example.org/otlp/v1/traces"),
            ("https://example.org/otlp/v1/traces", "https://example.org/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().url(Protocol::Http), http, "{text}");
        }
        let grpc: Endpoint = "http://127.0.0.1:4317".parse().unwrap();
        assert_eq!(grpc.url(Protocol::Grpc).trim_end_matches('/'), "http://127.0.0.1:4317");
    }

    #[test]
    fn the_port_decides_the_protocol() {
        for (text, protocol) in
            [("http://a:4317", Protocol::Grpc), ("http://a:4318", Protocol::Http), ("https://a", Protocol::Grpc)]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().usual_protocol(), protocol, "{text}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_right_is_refused() {
        for (text, error) in [
            ("", EndpointError::Form),
            ("collector:4317", EndpointError::Form),
            ("grpc://collector", EndpointError::Form),
            ("http://", EndpointError::Form),
            ("/v1/traces", EndpointError::Form),
            ("http://name:word@collector", EndpointError::Credentials),
            ("http://collector/?key=word", EndpointError::Query),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_between_none_and_all() {
        for (text, ratio) in [("0", 0.0), ("0.01", 0.01), ("1", 1.0), (" 1.0 ", 1.0)] {
            assert_eq!(text.parse::<SampleRatio>().unwrap().get(), ratio);
        }
        for text in ["", "-0.1", "1.1", "10%", "NaN", "inf"] {
            assert!(text.parse::<SampleRatio>().is_err(), "{text}");
        }
    }
}
