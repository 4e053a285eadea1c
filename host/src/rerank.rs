//! The words of a request and of its answer: what enters at the edge and leaves again, free of wire formats.

mod call;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::call::CallError;

// The names are the SDK's, so that host and guests cannot differ.
pub use assay_guest::{
    SETTING_LABEL, SETTING_MAX_DOCUMENT_TOKENS, SETTING_MAX_QUERY_TOKENS, SETTING_TRUNCATION_DIRECTION,
};

/// What to do with a pair that is longer than the longest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Truncation {
    /// Fail and say which document.
    None,
    /// Cut the longer of query and document, token by token, until the pair fits.
    #[default]
    LongestFirst,
    /// Cut the document only.
    DocumentOnly,
}

/// What to do with the model's logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activation {
    /// Return the logit.
    #[default]
    None,
    /// Return 1 / (1 + exp(−logit)).
    Sigmoid,
}

/// One query and the documents to rank for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Request {
    /// The text to rank the documents for.
    pub query: String,
    /// The candidate documents.
    pub documents: Vec<String>,
    /// Most hits to return; all where absent.
    pub top_n: Option<u32>,
    /// Longest row in tokens; the model's own maximum where absent.
    pub max_tokens: Option<u32>,
    /// What to do with pairs that do not fit.
    pub truncation: Truncation,
    /// What to do with the model's logit.
    pub activation: Activation,
    /// Free settings for the tenant's own logic.
    pub settings: Vec<(String, String)>,
}

impl Request {
    /// Bytes of its texts and settings.
    #[must_use]
    pub(crate) fn text_bytes(&self) -> usize {
        let settings = self.settings.iter().map(|(name, value)| name.len() + value.len());
        self.query.len() + self.documents.iter().map(String::len).sum::<usize>() + settings.sum::<usize>()
    }
}

/// One document's place in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Position in [`Request::documents`].
    pub index: u32,
    /// The pair's score; finite, larger is better.
    pub score: f32,
}

/// What a request cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Useful tokens sent to the model.
    pub tokens: u64,
    /// Rows sent to the model.
    pub rows: u32,
    /// Rows that were cut to fit.
    pub truncated: u32,
}

/// Where a request's time went. The parts add up to the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// In the guest and around it: instantiation, tokenising, ranking, copies.
    pub guest: Duration,
    /// Rows waiting for the device, and their numbers for the guest to go on.
    pub queue: Duration,
    /// Rows on the device.
    pub inference: Duration,
    /// From the call to the answer.
    pub total: Duration,
}

/// Most bytes of a message to a caller, and of what is kept of a guest's.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// A text without what is beyond `most` bytes; an ellipsis says where something is missing.
#[must_use]
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.len() <= most {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(most)]),
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Response {
    /// As the guest ranked them: indexes are below the number of documents and appear once each.
    pub hits: Vec<Hit>,
    /// What the request cost, as the guest counted it.
    pub usage: Usage,
    /// Where its time went.
    pub timings: Timings,
}

/// Why a request has no answer. Which variant it is tells whose fault it is: the caller's, a quota's, the guest's, the
/// host's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RerankError {
    /// The caller's: the request is malformed.
    #[error("invalid request: {0}")]
    InvalidInput(String),
    /// The caller's: a limit was exceeded, and the same request will fail again.
    #[error("{limit} is limited to {allowed}, the request has {requested}")]
    TooLarge {
        /// The limit's name.
        limit: String,
        /// What was asked for.
        requested: u64,
        /// The most that is allowed.
        allowed: u64,
    },
    /// The tenant may not use the model.
    #[error("access to model {0} is denied")]
    AccessDenied(String),
    /// There is no such model.
    #[error("no model {0} is loaded")]
    ModelNotFound(String),
    /// The queue is full: try again later.
    #[error("the host is overloaded: try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has reached a limit that leaves room again: try again later.
    #[error("{limit} is limited to {allowed}: try again in {} ms", retry_after.as_millis())]
    TooManyRequests {
        /// The limit's name.
        limit: &'static str,
        /// The most that is allowed.
        allowed: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The device failed at a batch with rows of this request, or the guest needs what is not there now. The engine goes
    /// on: try again.
    #[error("{reason}: try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// What is not there.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The guest has its caller try again: a tenant that it calls cannot answer now, or it says so of itself.
    #[error("{}: try again in {} ms", deferred_by(callee.as_ref(), *is_overloaded), retry_after.as_millis())]
    Deferred {
        /// The tenant that cannot answer, if the guest called one.
        callee: Option<BusyCallee>,
        /// Whether it is for want of room.
        is_overloaded: bool,
        /// When to try again.
        retry_after: Duration,
    },
    /// A tenant that the guest calls had no answer in the time that it may take, or the guest says so of itself.
    #[error("{}", late_by(callee.as_deref()))]
    Late {
        /// The tenant, if the guest called one.
        callee: Option<Arc<str>>,
    },
    /// The request's wall-clock time ran out.
    #[error("the request took longer than its limit of {} ms", limit.as_millis())]
    DeadlineExceeded {
        /// The limit.
        limit: Duration,
    },
    /// The guest's fault.
    #[error("the guest failed: {0}")]
    Guest(#[from] GuestFault),
    /// The host's or its device's fault.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A tenant that a guest called and that cannot answer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyCallee {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The limit of its own that it has reached, if that is why.
    pub limit: Option<String>,
}

fn deferred_by(callee: Option<&BusyCallee>, is_overloaded: bool) -> String {
    let who = callee.map_or("the guest says that it".to_owned(), |BusyCallee { tenant, limit }| {
        let limit = limit.as_ref().map_or(String::new(), |limit| format!(" (its limit {limit})"));
        format!("tenant {tenant}, which the guest calls{limit},")
    });
    format!("{who} {}", if is_overloaded { "is overloaded" } else { "cannot answer now" })
}

fn late_by(callee: Option<&str>) -> String {
    callee.map_or("the guest says that its time is over".to_owned(), |tenant| {
        format!("tenant {tenant}, which the guest calls, took longer than its limit max_wall_ms allows")
    })
}

/// Names of the limits that a request can meet, as the limits file and the options call them, and `queue` for the room
/// that all tenants' rows have. What is counted by limit has one of these names, whatever a guest says.
pub const LIMIT_NAMES: [&str; 21] = [
    "--guest-memory",
    "burst_tokens",
    "max_call_bytes",
    "max_chain_depth",
    "max_concurrent_requests",
    "max_core_instances",
    "max_documents",
    "max_guest_cpu_ms",
    "max_guest_memory_bytes",
    "max_memory_bytes",
    "max_open_models",
    "max_queued_tokens",
    "max_request_bytes",
    "max_request_rows",
    "max_request_tokens",
    "max_table_elements",
    "max_text_bytes",
    "max_tokens_per_s",
    "max_waiting_requests",
    "max_wall_ms",
    "queue",
];

/// Kinds of faults of a guest, as [`GuestFault::kind`] names them.
pub const FAULT_KINDS: [&str; 10] = [
    "bad-answer",
    "call-bytes",
    "callee",
    "core-instances",
    "cpu-time",
    "left-open",
    "memory",
    "reported",
    "table-elements",
    "trap",
];

impl RerankError {
    /// The limit that was met, by one of [`LIMIT_NAMES`]; `None` if it was none, or none of these.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        let known = |limit: &str| {
            // A message may go on after the name: which text was too long.
            let name = limit.split(' ').next().unwrap_or_default();
            LIMIT_NAMES.iter().find(|known| **known == name).copied()
        };
        match self {
            Self::TooLarge { limit, .. } => known(limit),
            Self::TooManyRequests { limit, .. } => known(limit),
            Self::Overloaded { .. } => Some("queue"),
            Self::DeadlineExceeded { .. } => Some("max_wall_ms"),
            Self::Guest(fault) => fault.limit(),
            _ => None,
        }
    }
}

/// What a guest did wrong. Its instance is gone; the next request gets a fresh one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// It trapped.
    #[error("it trapped: {0}")]
    Trapped(String),
    /// It asked for more memory than it may have, and trapped over it.
    #[error("it asked for {requested_bytes} bytes of memory, its limit is {limit_bytes}")]
    Memory {
        /// The size that it wanted its memory to have.
        requested_bytes: u64,
        /// The most that it may have.
        limit_bytes: u64,
    },
    /// It handed the host more bytes in one call than it may.
    #[error("it handed the host more than its limit of {limit_bytes} bytes in one call")]
    CallBytes {
        /// The most that it may.
        limit_bytes: u64,
    },
    /// It asked for more table elements than it may have, and trapped over it.
    #[error("it asked for {requested} table elements, its limit is {allowed}")]
    TableElements {
        /// How many it wanted to have.
        requested: u64,
        /// The most that it may have.
        allowed: u64,
    },
    /// It consists of more core instances than it may.
    #[error("it consists of more core instances than max_core_instances, which is {allowed}")]
    CoreInstances {
        /// The most that it may have.
        allowed: u64,
    },
    /// It holds resources of the host where it may not.
    #[error("it left {0} models open after prepare, and none may be")]
    LeftOpen(usize),
    /// It computed for longer than it may.
    #[error("it computed for longer than its limit of {} ms", limit.as_millis())]
    CpuTime {
        /// The limit.
        limit: Duration,
    },
    /// It answered nonsense.
    #[error("its answer makes no sense: {0}")]
    BadAnswer(String),
    /// A tenant that it calls failed, and it has no answer without. The text names the tenant.
    #[error("it calls another tenant, which failed: {0}")]
    Callee(String),
    /// It says that it failed, by the contract's `internal`.
    #[error("it says: {0}")]
    Reported(String),
}

impl GuestFault {
    /// The kind of fault in a word that is the same for every guest.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trapped(_) => "trap",
            Self::Memory { .. } => "memory",
            Self::CallBytes { .. } => "call-bytes",
            Self::TableElements { .. } => "table-elements",
            Self::CoreInstances { .. } => "core-instances",
            Self::LeftOpen(_) => "left-open",
            Self::CpuTime { .. } => "cpu-time",
            Self::BadAnswer(_) => "bad-answer",
            Self::Callee(_) => "callee",
            Self::Reported(_) => "reported",
        }
    }

    /// The limit that the guest met, if that was its fault.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Memory { .. } => Some("max_memory_bytes"),
            Self::CallBytes { .. } => Some("max_call_bytes"),
            Self::TableElements { .. } => Some("max_table_elements"),
            Self::CoreInstances { .. } => Some("max_core_instances"),
            Self::CpuTime { .. } => Some("max_guest_cpu_ms"),
            Self::Trapped(_) | Self::LeftOpen(_) | Self::BadAnswer(_) | Self::Callee(_) | Self::Reported(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_by_its_key_whatever_a_guest_says() {
        let too_large = |limit: &str| RerankError::TooLarge { limit: limit.to_owned(), requested: 2, allowed: 1 };
        assert_eq!(too_large("max_text_bytes of document 3").limit(), Some("max_text_bytes"));
        assert_eq!(too_large("the text that a caller sent").limit(), None);
        let retry_after = Duration::ZERO;
        assert_eq!(RerankError::Overloaded { retry_after }.limit(), Some("queue"));
        let spent = GuestFault::CpuTime { limit: Duration::ZERO };
        assert_eq!((spent.kind(), RerankError::from(spent.clone()).limit()), ("cpu-time", Some("max_guest_cpu_ms")));
        assert!(FAULT_KINDS.contains(&spent.kind()));
    }
}
