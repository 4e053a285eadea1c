//! Calls of a tenant over the admin socket: how a program on this machine reaches the tenants of a running server.
//!
//! A connection carries one call: a line that opens it, the request as JSON, and the answer as JSON. Who may open the
//! socket may write the data directory, so a call needs no key. For the rest it is a request as any other: it waits for
//! the tenant's permit before its body is read, and runs under the tenant's limits. A connection that closes cancels it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::client::SOCKET_FILE;
use super::live::{Admission, LiveTenant};
use super::serving::{START_RETRY_AFTER, answering};
use super::{Platform, TenantName};
use crate::guest::{CallTerms, Reranks};
use crate::rerank::{CallError, Request, RerankError, Response};

/// Bytes of JSON for one byte of text, at most: `\u0000`.
const BYTES_PER_TEXT_BYTE: usize = 6;

/// Room for what is around the texts.
const BODY_OVERHEAD_BYTES: usize = 1 << 20;

/// Most time for a request to arrive once it is read.
const MAX_BODY_TIME: Duration = Duration::from_secs(10);

/// Longest answer: a million hits.
const MAX_ANSWER_BYTES: u64 = 128 << 20;

/// The line that opens a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Opening {
    call: TenantName,
    /// Bytes of the request that follows the line.
    request_bytes: usize,
}

/// A tenant of the server that runs on a data directory.
#[derive(Debug)]
pub struct ServedTenant {
    socket: PathBuf,
    name: TenantName,
}

impl ServedTenant {
    /// The tenant `name` of the server that runs on `data_dir`. It connects anew for each call.
    #[must_use]
    pub fn new(data_dir: &std::path::Path, name: TenantName) -> Self {
        Self { socket: data_dir.join(SOCKET_FILE), name }
    }

    async fn call(&self, request: &Request) -> io::Result<Result<Response, CallError>> {
        let body = serde_json::to_vec(request)?;
        let mut opening = serde_json::to_vec(&Opening { call: self.name.clone(), request_bytes: body.len() })?;
        opening.push(b'\n');
        let (reader, mut writer) = UnixStream::connect(&self.socket).await?.into_split();
        // A refusal may come before the server has read all. It is read even if writing fails.
        let sent = async { writer.write_all(&opening).await.and(writer.write_all(&body).await) }.await;
        let mut line = String::new();
        BufReader::new(reader.take(MAX_ANSWER_BYTES)).read_line(&mut line).await?;
        if line.is_empty() {
            sent?;
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Reranks for ServedTenant {
    // Programs are bounded by nothing but the tenant's own limits.
    fn ask(self: Arc<Self>, request: Request, _terms: CallTerms) -> BoxFuture<'static, Result<Response, CallError>> {
        // The server is stopping or starts again.
        let gone = |_| Err(CallError::unavailable_for(START_RETRY_AFTER));
        Box::pin(async move { self.call(&request).await.unwrap_or_else(gone) })
    }
}

/// Counts the calls in work, so that a server that is asked to stop answers them first.
#[derive(Debug, Default)]
pub struct CallsInWork {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    in_work: usize,
    is_stopping: bool,
}

/// A call in work, until it is dropped.
#[derive(Debug)]
pub(super) struct InWork(Arc<CallsInWork>);

impl CallsInWork {
    /// Takes a call in, or says that the server is stopping.
    pub(super) fn begin(self: &Arc<Self>) -> Result<InWork, CallError> {
        let mut is_stopping = false;
        self.state.send_modify(|state| {
            is_stopping = state.is_stopping;
            state.in_work += usize::from(!is_stopping);
        });
        match is_stopping {
            false => Ok(InWork(Arc::clone(self))),
            true => Err(CallError::unavailable_for(START_RETRY_AFTER)),
        }
    }

    /// Refuses calls from now on, and waits until those in work are answered.
    pub async fn drain(&self) {
        self.state.send_modify(|state| state.is_stopping = true);
        // The sender is this value's own.
        let _ = self.state.subscribe().wait_for(|state| state.in_work == 0).await;
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.in_work = state.in_work.saturating_sub(1));
    }
}

/// Answers a call. `None` if its caller has gone.
pub(super) async fn answer<R: AsyncRead + Unpin>(
    opening: Opening,
    reader: &mut BufReader<Take<R>>,
    platform: &Platform,
) -> Option<Result<Response, CallError>> {
    let Opening { call: name, request_bytes } = opening;
    let tenant = match answering(platform.activity(&name)) {
        Ok(tenant) => tenant,
        Err(error) => return Some(Err(error)),
    };
    let allowed = tenant.limits().max_request_bytes.saturating_mul(BYTES_PER_TEXT_BYTE);
    let allowed = allowed.saturating_add(BODY_OVERHEAD_BYTES);
    if request_bytes > allowed {
        let (requested, allowed) = (request_bytes as u64, allowed as u64);
        return Some(Err(CallError::TooLarge { limit: "max_request_bytes".to_owned(), requested, allowed }));
    }
    // A byte more than the request has: it never comes, and the end of the connection is seen.
    let more = request_bytes.saturating_sub(reader.buffer().len()) as u64 + 1;
    reader.get_mut().set_limit(more);
    let (mut admission, request) = match admit(&tenant, request_bytes, reader).await {
        Ok(admitted) => admitted?,
        Err(error) => return Some(Err(error.into())),
    };
    tokio::select! {
        answer = admission.rerank(request) => Some(answer.map_err(CallError::from)),
        _ = reader.read_u8() => None,
    }
}

/// Waits for the tenant's permit, and reads the request. `None` if it does not come.
async fn admit<R: AsyncRead + Unpin>(
    tenant: &Arc<LiveTenant>,
    request_bytes: usize,
    reader: &mut BufReader<Take<R>>,
) -> Result<Option<(Admission, Request)>, RerankError> {
    let mut admission = tenant.admit().await?;
    // Decoding takes at most twice as much again.
    admission.hold(request_bytes.saturating_mul(3))?;
    let mut body = vec![0; request_bytes];
    match tokio::time::timeout(MAX_BODY_TIME, reader.read_exact(&mut body)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Ok(None),
    }
    let decoded = tenant.work(move || serde_json::from_slice::<Request>(&body)).await;
    let decoded = decoded.ok_or_else(|| RerankError::Internal("decoding the request panicked".to_owned()))?;
    let request = decoded.map_err(|error| {
        let error = RerankError::InvalidInput(format!("the request is not what this server reads: {error}"));
        admission.refuse(&error);
        error
    })?;
    admission.hold_only(request.text_bytes());
    Ok(Some((admission, request)))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_stopping_server_waits_for_calls_in_work_and_takes_no_others() {
        let calls = Arc::<CallsInWork>::default();
        let (first, second) = (calls.begin().unwrap(), calls.begin().unwrap());
        let mut drained = Box::pin(calls.drain());
        drop(first);
        assert!(drained.as_mut().now_or_never().is_none());
        assert_eq!(calls.begin().unwrap_err(), CallError::Unavailable { retry_after_ms: 1_000 });
        drop(second);
        assert!(drained.now_or_never().is_some());
    }
}
