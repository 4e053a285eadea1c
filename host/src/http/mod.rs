//! The HTTP service, as small as it can be: `POST /v1/rerank` in Cohere's shape with a bearer key, and `GET /health`.
//!
//! The only module that knows HTTP. The key picks the tenant; everything else is the tenant's. Dropping a connection
//! drops its request, which takes its rows out of the queue.

mod body;
mod error;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use body::{RerankBody, RerankReply};
use error::HttpError;

use crate::rerank::{Response, Timings};
use crate::tenant::Platform;

/// Largest body: the largest request of the default limits, with room for JSON's escapes.
pub const DEFAULT_MAX_BODY_BYTES: usize = 2 * crate::limits::DEFAULT_MAX_REQUEST_BYTES;

/// Serves until `stop` completes, then ends the requests that are in work and returns.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    listener: TcpListener,
    platform: Arc<Platform>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(platform)).with_graceful_shutdown(stop).await
}

fn router(platform: Arc<Platform>) -> Router {
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/v1/rerank", post(rerank))
        .layer(DefaultBodyLimit::max(DEFAULT_MAX_BODY_BYTES))
        .with_state(platform)
}

async fn rerank(
    State(platform): State<Arc<Platform>>,
    headers: HeaderMap,
    body: Result<axum::body::Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<(HeaderMap, axum::Json<RerankReply>), HttpError> {
    // Who is asking comes first: nothing of a stranger's body is read as JSON.
    let name = bearer(&headers).and_then(|key| platform.tenant_of_key(key)).ok_or(HttpError::Unauthorized)?;
    let tenant = platform.tenant(&name).ok_or(HttpError::Unavailable(name))?;
    let body = RerankBody::parse(&body.map_err(HttpError::Body)?).map_err(HttpError::Json)?;
    let (request, shown) = body.into_request();
    let response = tenant.rerank(request).await?;
    Ok((measures(&response), axum::Json(RerankReply::new(response, &shown))))
}

/// Where the request's time went, in the headers that text-embeddings-inference introduced: tokens, and milliseconds. The
/// guest's time is called tokenization there.
fn measures(response: &Response) -> HeaderMap {
    let Timings { guest, queue, inference, total } = response.timings;
    let times = [
        ("x-total-time", total),
        ("x-tokenization-time", guest),
        ("x-queue-time", queue),
        ("x-inference-time", inference),
    ];
    let mut headers = HeaderMap::with_capacity(times.len() + 1);
    headers.insert("x-compute-tokens", HeaderValue::from(response.usage.tokens));
    for (name, time) in times {
        // Digits and a point are always a header's value.
        if let Ok(value) = HeaderValue::try_from(format!("{:.3}", time.as_secs_f64() * 1e3)) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The key in `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
