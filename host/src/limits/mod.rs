//! Every bound on a request, in one place. Each default says why it is that number.

mod rate;

use std::time::Duration;

pub use rate::{RateExceeded, TokenRate};

use crate::rerank::{Request, RerankError};

/// Most documents in a request: ten times what rerankers are usually asked for, and still a second or so of work on a
/// fast device.
pub const DEFAULT_MAX_DOCUMENTS: usize = 1_000;

/// Longest query or document in bytes: several hundred times what a row of 512 tokens holds, so nothing that could
/// matter to the score is refused.
pub const DEFAULT_MAX_TEXT_BYTES: usize = 1 << 20;

/// Most bytes of all texts together: bounds what is copied into a guest, and leaves a guest of the default memory
/// limit several times as much to work in.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 16 << 20;

/// Most memory of a guest: the standard guest needs 20 MB with its vocabulary loaded, and the largest request as much
/// again a few times over.
pub const DEFAULT_MAX_MEMORY_BYTES: usize = 256 << 20;

/// Most processor time of a guest in one request: a thousand long documents take the standard guest under a second.
pub const DEFAULT_MAX_GUEST_CPU: Duration = Duration::from_secs(10);

/// Most wall-clock time of a request: a thousand documents of 512 tokens take minutes on a small processor.
pub const DEFAULT_MAX_WALL: Duration = Duration::from_secs(300);

/// Most elements of all of a guest's tables together: ten times what a large Rust program's function table has.
pub const DEFAULT_MAX_TABLE_ELEMENTS: usize = 20_000;

/// Most core instances that a guest is made of: a Rust guest has three (itself and two that link it), a Python guest
/// about ten.
pub const DEFAULT_MAX_CORE_INSTANCES: usize = 16;

/// Most bytes that a guest hands the host in one call: the rows of a thousand documents of 512 tokens take 4 MB.
pub const DEFAULT_MAX_CALL_BYTES: usize = 16 << 20;

/// Most rows that one request runs: each document cut into several passages, and no more.
pub const DEFAULT_MAX_REQUEST_ROWS: u64 = 16_384;

/// Most tokens of one tenant that wait for the device: half a minute of work on two processor cores, thousands of pairs.
pub const DEFAULT_MAX_TENANT_QUEUED_TOKENS: usize = 1 << 18;

/// Most tokens that one request runs: four hundred of the longest rows, and what may wait of one tenant at once.
pub const DEFAULT_MAX_REQUEST_TOKENS: u64 = DEFAULT_MAX_TENANT_QUEUED_TOKENS as u64;

/// Most models that a guest holds open at once: it has no use for more than it may run, and every open one is an entry
/// in the host's table.
pub const DEFAULT_MAX_OPEN_MODELS: usize = 64;

/// Most requests that one instance serves. One: nothing of a request is there for the next to see.
pub const DEFAULT_MAX_REQUESTS_PER_INSTANCE: u32 = 1;

/// The bounds that one request runs under.
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
    /// Most elements of the guest's tables, all together.
    pub max_table_elements: usize,
    /// Most core instances that the guest is made of.
    pub max_core_instances: usize,
    /// Most bytes that the guest hands the host in one call.
    pub max_call_bytes: usize,
    /// Most rows that the guest runs, over all calls.
    pub max_request_rows: u64,
    /// Most tokens that the guest runs, over all calls.
    pub max_request_tokens: u64,
    /// Most models that the guest holds open.
    pub max_open_models: usize,
    /// Most requests that one instance serves, one after the other.
    pub max_requests_per_instance: u32,
    /// Most processor time of the guest, counted in ticks of the epoch.
    pub max_guest_cpu: Duration,
    /// Most wall-clock time from call to answer, waiting for the device included.
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

impl RequestLimits {
    /// Checks a request before anything is spent on it.
    ///
    /// # Errors
    /// [`RerankError::TooLarge`] with the limit that is exceeded; for a document, its index is in the limit's name.
    pub fn admit(&self, request: &Request) -> Result<(), RerankError> {
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
        check(&|| "max_request_bytes".to_owned(), bytes, self.max_request_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_exceeded_is_named_with_its_document() {
        let limits = RequestLimits { max_text_bytes: 3, max_documents: 2, max_request_bytes: 6, ..Default::default() };
        let request = |query: &str, documents: &[&str]| Request {
            query: query.to_owned(),
            documents: documents.iter().map(|&text| text.to_owned()).collect(),
            ..Default::default()
        };
        let message = |request: &Request| limits.admit(request).unwrap_err().to_string();
        assert_eq!(limits.admit(&request("abc", &["abc"])), Ok(()));
        assert_eq!(limits.admit(&request("", &[])), Ok(()));
        assert!(message(&request("abcd", &[])).contains("query is limited to 3, the request has 4"));
        assert!(message(&request("", &["", "abcd"])).contains("document 1 is limited to 3"));
        assert!(message(&request("", &["", "", ""])).contains("max_documents is limited to 2"));
        assert!(message(&request("abc", &["abc", "a"])).contains("max_request_bytes is limited to 6"));
    }
}
