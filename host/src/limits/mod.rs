//! The limits of a request. Each default says why it is that number.

mod rate;

use std::sync::Arc;
use std::time::Duration;

pub use rate::{RateExceeded, TokenRate};

use crate::rerank::{Request, RerankError};

/// Most documents in a request: ten times the usual number, and about a second of work on a fast device.
pub const DEFAULT_MAX_DOCUMENTS: usize = 1_000;

/// Longest query or document in bytes: several hundred times a row of 512 tokens, so a text is only refused for a part
/// that could not affect its score.
pub const DEFAULT_MAX_TEXT_BYTES: usize = 1 << 20;

/// Most bytes of all texts together: they are copied into the guest, and the default memory limit is several times as
/// much.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 16 << 20;

/// Most memory of a guest: the standard guest needs 20 MB with its vocabulary, and a few times that for the largest
/// request.
pub const DEFAULT_MAX_MEMORY_BYTES: usize = 256 << 20;

/// Most processor time of a guest in one request: the standard guest takes under a second for a thousand long
/// documents.
pub const DEFAULT_MAX_GUEST_CPU: Duration = Duration::from_secs(10);

/// Most wall-clock time of a request: a thousand documents of 512 tokens take minutes on a small processor.
pub const DEFAULT_MAX_WALL: Duration = Duration::from_secs(300);

/// Most elements of all tables of a guest together: ten times the function table of a large Rust program.
pub const DEFAULT_MAX_TABLE_ELEMENTS: usize = 20_000;

/// Most core instances of a guest: a Rust guest has three (itself and two that link it), a Python guest about ten.
pub const DEFAULT_MAX_CORE_INSTANCES: usize = 16;

/// Most that any guest may be allowed: NumPy in a Python guest has a table of more than 20,000.
pub const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Most that any guest may be allowed: a Python guest with NumPy has 34.
pub const MAX_CORE_INSTANCES: usize = 64;

/// Most bytes that a guest passes to the host in one call: the rows of a thousand documents of 512 tokens take 4 MB.
pub const DEFAULT_MAX_CALL_BYTES: usize = 16 << 20;

/// Most rows of one request: sixteen passages of each document.
pub const DEFAULT_MAX_REQUEST_ROWS: u64 = 16_384;

/// Most tokens of one request: a row of 512 tokens for each of the most documents, and a few to spare.
pub const DEFAULT_MAX_REQUEST_TOKENS: u64 = 1 << 19;

/// Most tokens of one tenant that wait for the device: all the requests that a tenant may run by default, each of the
/// largest size. So a tenant that has the device to itself waits and is not refused. A token takes four bytes.
pub const DEFAULT_MAX_TENANT_QUEUED_TOKENS: usize = 16 * DEFAULT_MAX_REQUEST_TOKENS as usize;

/// Most models that a guest has open at once: more than a tenant may use. Each takes an entry in a table of the host.
pub const DEFAULT_MAX_OPEN_MODELS: usize = 64;

/// Most requests that one instance serves: one, so that no request can see another's data.
pub const DEFAULT_MAX_REQUESTS_PER_INSTANCE: u32 = 1;

/// Most links in a row that a request may go through: a router, a cascade, and a stage that is one itself. Each depth
/// has permits of its own, and places of its own among the guests' instances.
pub const MAX_CHAIN_DEPTH: usize = 3;

/// Depths of calls: requests of callers outside, and what each link in a row leads to.
pub const CALL_DEPTHS: usize = MAX_CHAIN_DEPTH + 1;

/// The limits that one request runs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most documents.
    pub max_documents: usize,
    /// Longest query or document.
    pub max_text_bytes: usize,
    /// Most bytes of all texts together.
    pub max_request_bytes: usize,
    /// Most memory of the guest.
    pub max_memory_bytes: usize,
    /// Most elements of all tables of the guest together.
    pub max_table_elements: usize,
    /// Most core instances of the guest.
    pub max_core_instances: usize,
    /// Most bytes that the guest passes to the host in one call.
    pub max_call_bytes: usize,
    /// Most rows, over all calls.
    pub max_request_rows: u64,
    /// Most tokens, over all calls.
    pub max_request_tokens: u64,
    /// Most models that the guest has open.
    pub max_open_models: usize,
    /// Most requests that one instance serves, one after the other.
    pub max_requests_per_instance: u32,
    /// Most processor time of the guest, counted in epoch ticks.
    pub max_guest_cpu: Duration,
    /// Most wall-clock time from call to answer, with the wait for the device.
    pub max_wall: Duration,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_documents: DEFAULT_MAX_DOCUMENTS,
            max_text_bytes: DEFAULT_MAX_TEXT_BYTES,
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            max_table_elements: DEFAULT_MAX_TABLE_ELEMENTS,
            max_core_instances: DEFAULT_MAX_CORE_INSTANCES,
            max_call_bytes: DEFAULT_MAX_CALL_BYTES,
            max_request_rows: DEFAULT_MAX_REQUEST_ROWS,
            max_request_tokens: DEFAULT_MAX_REQUEST_TOKENS,
            max_open_models: DEFAULT_MAX_OPEN_MODELS,
            max_requests_per_instance: DEFAULT_MAX_REQUESTS_PER_INSTANCE,
            max_guest_cpu: DEFAULT_MAX_GUEST_CPU,
            max_wall: DEFAULT_MAX_WALL,
        }
    }
}

/// A request within its size limits, and those limits. Only [`RequestLimits::admit`] makes one, so the check runs
/// exactly once.
#[derive(Debug, Clone)]
pub struct AdmittedRequest {
    request: Request,
    limits: Arc<RequestLimits>,
}

impl AdmittedRequest {
    /// The request and the limits that it runs under.
    #[must_use]
    pub fn into_parts(self) -> (Request, Arc<RequestLimits>) {
        (self.request, self.limits)
    }
}

impl RequestLimits {
    /// Checks a request's size before anything is spent on it.
    ///
    /// # Errors
    /// [`RerankError::TooLarge`] with the exceeded limit, and the document's index if it is a document's.
    pub fn admit(self: &Arc<Self>, request: Request) -> Result<AdmittedRequest, RerankError> {
        let check = |limit: &dyn Fn() -> String, requested: usize, allowed: usize| {
            if requested <= allowed {
                return Ok(());
            }
            Err(RerankError::TooLarge { limit: limit(), requested: requested as u64, allowed: allowed as u64 })
        };
        check(&|| "max_documents".to_owned(), request.documents.len(), self.max_documents)?;
        check(&|| "max_text_bytes of the query".to_owned(), request.query.len(), self.max_text_bytes)?;
        for (index, document) in request.documents.iter().enumerate() {
            check(&|| format!("max_text_bytes of document {index}"), document.len(), self.max_text_bytes)?;
        }
        let bytes = request.query.len() + request.documents.iter().map(String::len).sum::<usize>();
        check(&|| "max_request_bytes".to_owned(), bytes, self.max_request_bytes)?;
        Ok(AdmittedRequest { request, limits: Arc::clone(self) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_limit_is_named_with_its_document() {
        let limits = RequestLimits { max_text_bytes: 3, max_documents: 2, max_request_bytes: 6, ..Default::default() };
        let limits = Arc::new(limits);
        let request = |query: &str, documents: &[&str]| Request {
            query: query.to_owned(),
            documents: documents.iter().map(|&text| text.to_owned()).collect(),
            ..Default::default()
        };
        let message = |request: Request| limits.admit(request).unwrap_err().to_string();
        for request in [request("abc", &["abc"]), request("", &[])] {
            assert_eq!(limits.admit(request.clone()).unwrap().into_parts(), (request, Arc::clone(&limits)));
        }
        assert!(message(request("abcd", &[])).contains("query is limited to 3, the request has 4"));
        assert!(message(request("", &["", "abcd"])).contains("document 1 is limited to 3"));
        assert!(message(request("", &["", "", ""])).contains("max_documents is limited to 2"));
        assert!(message(request("abc", &["abc", "a"])).contains("max_request_bytes is limited to 6"));
    }
}
