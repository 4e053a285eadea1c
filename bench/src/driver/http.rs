//! A running service over HTTP: `POST /v1/rerank` in Cohere's shape, with a bearer key.
//!
//! Stages are read from the headers that text-embeddings-inference introduced (`x-queue-time`, `x-inference-time`,
//! `x-tokenization-time`, in milliseconds), if the service sends them.

use std::time::Duration;

use anyhow::{Context, Result};
use assay::rerank::Request;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

use super::{Driver, Failure, Reply, Stages};

/// A service, and one client for all connections to it.
#[derive(Debug)]
pub struct HttpDriver {
    client: reqwest::Client,
    url: reqwest::Url,
    /// By tenant; the last one is used for the rest.
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    query: &'a str,
    documents: &'a [String],
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<serde::de::IgnoredAny>,
    usage: Option<UsageBody>,
}

#[derive(Deserialize)]
struct UsageBody {
    total_tokens: Option<u64>,
}

impl HttpDriver {
    /// A client of the service at `base_url`; tenant n uses key n, or the last one.
    ///
    /// # Errors
    /// The URL is malformed, or there is no network.
    pub fn new(base_url: &str, keys: Vec<String>) -> Result<Self> {
        let base = base_url.trim_end_matches('/');
        let url =
            reqwest::Url::parse(&format!("{base}/v1/rerank")).with_context(|| format!("{base_url} is not a URL"))?;
        // Without a proxy, which would be measured too.
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { client, url, keys })
    }

    async fn send(&self, tenant: usize, request: &Request) -> Result<Reply, Failure> {
        let body = Body { query: &request.query, documents: &request.documents };
        let mut call = self.client.post(self.url.clone()).json(&body);
        if let Some(key) = self.keys.get(tenant).or(self.keys.last()) {
            call = call.bearer_auth(key);
        }
        let response = call.send().await.map_err(|error| transport(&error))?;
        let status = response.status();
        if !status.is_success() {
            let message = response.text().await.unwrap_or_default();
            return Err(Failure { kind: kind(status), message });
        }
        let headers = response.headers().clone();
        let answer: Answer = response.json().await.map_err(|error| transport(&error))?;
        let counted =
            answer.usage.and_then(|usage| usage.total_tokens).or_else(|| number(&headers, "x-compute-tokens"));
        Ok(Reply { pairs: answer.results.len() as u64, tokens: counted, stages: stages(&headers) })
    }
}

impl Driver for HttpDriver {
    fn call<'a>(&'a self, tenant: usize, request: &'a Request) -> BoxFuture<'a, Result<Reply, Failure>> {
        self.send(tenant, request).boxed()
    }
}

fn kind(status: StatusCode) -> String {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "overloaded".to_owned(),
        status => format!("HTTP {}", status.as_u16()),
    }
}

fn transport(error: &reqwest::Error) -> Failure {
    let kind = if error.is_decode() {
        "malformed answer"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "connection lost"
    };
    Failure { kind: kind.to_owned(), message: error.to_string() }
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn stages(headers: &HeaderMap) -> Option<Stages> {
    let time = |name| {
        let ms: f64 = number(headers, name)?;
        Duration::try_from_secs_f64(ms / 1e3).ok()
    };
    let (queue, inference) = (time("x-queue-time")?, time("x-inference-time")?);
    let guest = match (time("x-tokenization-time"), time("x-total-time")) {
        (Some(guest), _) => guest,
        (None, total) => total?.saturating_sub(queue + inference),
    };
    Some(Stages { guest, queue, inference })
}
