//! The dashboard's page, and the stream of numbers that it draws.
//!
//! The page is the same for everybody and holds no numbers. The stream is the operator's with the operator's key, and a
//! tenant's own with one of the tenant's. It ends when its key does, and when the server is asked to stop.

use std::sync::{Arc, LazyLock};

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::error::HttpError;
use crate::dashboard::{Dashboard, Viewer};
use crate::tenant::Platform;

/// Most streams at once, of all viewers.
const MAX_STREAMS: usize = 64;

/// The page, with a word in place of the nonce of its script and style.
const PAGE: &str = include_str!("dashboard.html");

/// That word.
const NONCE: &str = "NONCE";

/// What streams of numbers need.
#[derive(Debug)]
pub(super) struct Streams {
    platform: Arc<Platform>,
    pub(super) dashboard: Arc<Dashboard>,
    room: Arc<Semaphore>,
    /// Cancelled when the server is asked to stop.
    ended: CancellationToken,
}

impl Streams {
    pub(super) fn new(platform: &Arc<Platform>) -> Self {
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        Self { platform: Arc::clone(platform), dashboard: Arc::default(), room, ended: CancellationToken::new() }
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// The numbers for whom a key is of, from now on and for the last hour, as server-sent events.
    ///
    /// # Errors
    /// The key opens nothing, or there are too many streams.
    pub(super) fn open(&self, key: Option<&str>) -> Result<Response<Answer>, HttpError> {
        let key = key.ok_or(HttpError::NotOperator)?;
        let (viewer, stop) = match self.platform.is_operator(key) {
            true => (Viewer::Operator, CancellationToken::new()),
            false => {
                let caller = self.platform.caller(key).ok_or(HttpError::NotOperator)?;
                (Viewer::Tenant(caller.tenant.into()), caller.stop)
            }
        };
        let room =
            Arc::clone(&self.room).try_acquire_owned().map_err(|_| HttpError::TooManyStreams { most: MAX_STREAMS })?;
        let (sender, receiver) = mpsc::channel(1);
        let (platform, dashboard, ended) =
            (Arc::clone(&self.platform), Arc::clone(&self.dashboard), self.ended.clone());
        let mut samples = dashboard.samples();
        let key = key.to_owned();
        tokio::spawn(async move {
            let _room = room;
            let _ = sender.send(event("history", &dashboard.history(&viewer))).await;
            let still = || viewer != Viewer::Operator || platform.is_operator(&key);
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                    changed = samples.changed() => if changed.is_err() || !still() { return },
                }
                let sample = Arc::clone(&samples.borrow_and_update());
                // A reader that is slow gets the newest sample when it is ready, and not those between.
                if let Some(sample) = sample.json(&viewer)
                    && sender.send(event("sample", &sample)).await.is_err()
                {
                    return;
                }
            }
        });
        let mut response = Response::new(Answer::streamed(receiver));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies that gather answers would hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// The page. Its script and style have a nonce of their own each time, and nothing else may run or be loaded.
pub(super) fn page() -> Response<Answer> {
    static PARTS: LazyLock<Vec<&str>> = LazyLock::new(|| PAGE.split(NONCE).collect());
    let mut random = [0; 16];
    // Without random bytes the page shows nothing that it should not: it has no text from outside.
    let _ = OsRng.try_fill_bytes(&mut random);
    let nonce = format!("{:032x}", u128::from_be_bytes(random));
    let mut response = Response::new(Answer::new(PARTS.join(&nonce).into_bytes()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Digits and quotes are always a header's value.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
