//! A tenant's limits: a TOML file with optional keys and defaults for a shared machine.
//!
//! `docs/limits.toml` documents every key at its default. The names here are those of the file and of the errors.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TenantName;
use crate::device::{Account, DEFAULT_WEIGHT};
use crate::guest::{CpuShare, Payer};
use crate::limits as defaults;
use crate::limits::{RequestLimits, TokenRate};

/// Largest limits file: a hundred times one with every key and a long list of models.
pub const MAX_LIMITS_BYTES: usize = 256 << 10;

/// Most running requests of a tenant: enough to keep batches full, and an eighth of all instances.
const DEFAULT_MAX_CONCURRENT_REQUESTS: u64 = 16;

/// Most requests that wait to run.
const DEFAULT_MAX_WAITING_REQUESTS: u64 = 64;

/// Most tokens a second: more than one device computes, so that without a limits file the weights divide the device.
const DEFAULT_MAX_TOKENS_PER_S: u64 = 10_000_000;

/// Most tokens in a burst: as many as may wait for the device, because tokens are charged when they begin to wait.
const DEFAULT_BURST_TOKENS: u64 = defaults::DEFAULT_MAX_TENANT_QUEUED_TOKENS as u64;

/// Most processor time a second: more than a machine has, so that without a limits file the weights divide it.
const DEFAULT_MAX_GUEST_CPU_MS_PER_S: u64 = 1_000_000;

/// Most processor time in a burst: as much as a second's.
const DEFAULT_BURST_GUEST_CPU_MS: u64 = DEFAULT_MAX_GUEST_CPU_MS_PER_S;

/// Most memory of a tenant's guests: room for the most requests at once, each with a thousand documents of 400 words.
const DEFAULT_MAX_GUEST_MEMORY_BYTES: u64 = 1 << 30;

/// A tenant's limits: part of a version, and immutable like it. A record may have limits that a later program knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantLimits {
    /// Share of the device, and of the processor time of guests, relative to other tenants that wait for it.
    pub weight: u64,
    /// Models that the guest may open by name besides its default.
    pub models: Vec<String>,
    /// Tenants whose guests may call this one.
    pub callers: Vec<TenantName>,
    /// Requests that run at once.
    pub max_concurrent_requests: u64,
    /// Requests that wait to run.
    pub max_waiting_requests: u64,
    /// Tokens a second.
    pub max_tokens_per_s: u64,
    /// Tokens in a burst.
    pub burst_tokens: u64,
    /// Tokens that wait for the device.
    pub max_queued_tokens: u64,
    /// Documents of a request.
    pub max_documents: u64,
    /// Bytes of the query, and of each document.
    pub max_text_bytes: u64,
    /// Bytes of all texts of a request.
    pub max_request_bytes: u64,
    /// Rows that a request runs.
    pub max_request_rows: u64,
    /// Tokens that a request runs.
    pub max_request_tokens: u64,
    /// Milliseconds of wall-clock time of a request.
    pub max_wall_ms: u64,
    /// Milliseconds of processor time of the guest in a request.
    pub max_guest_cpu_ms: u64,
    /// Milliseconds of processor time a second, of all guests together.
    pub max_guest_cpu_ms_per_s: u64,
    /// Milliseconds of processor time at once after a pause, of all guests together.
    pub burst_guest_cpu_ms: u64,
    /// Bytes of the guest's memory.
    pub max_memory_bytes: u64,
    /// Bytes of the memory of all guests together, and of the texts that wait for them.
    pub max_guest_memory_bytes: u64,
    /// Elements of the guest's tables.
    pub max_table_elements: u64,
    /// Core instances that the guest is made of.
    pub max_core_instances: u64,
    /// Bytes that the guest passes to the host in one call.
    pub max_call_bytes: u64,
    /// Models that the guest holds open.
    pub max_open_models: u64,
    /// Requests that one instance serves in turn.
    pub max_requests_per_instance: u64,
}

impl Default for TenantLimits {
    fn default() -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            weight: u64::from(DEFAULT_WEIGHT),
            models: Vec::new(),
            callers: Vec::new(),
            max_concurrent_requests: DEFAULT_MAX_CONCURRENT_REQUESTS,
            max_waiting_requests: DEFAULT_MAX_WAITING_REQUESTS,
            max_tokens_per_s: DEFAULT_MAX_TOKENS_PER_S,
            burst_tokens: DEFAULT_BURST_TOKENS,
            max_queued_tokens: defaults::DEFAULT_MAX_TENANT_QUEUED_TOKENS as u64,
            max_documents: defaults::DEFAULT_MAX_DOCUMENTS as u64,
            max_text_bytes: defaults::DEFAULT_MAX_TEXT_BYTES as u64,
            max_request_bytes: defaults::DEFAULT_MAX_REQUEST_BYTES as u64,
            max_request_rows: defaults::DEFAULT_MAX_REQUEST_ROWS,
            max_request_tokens: defaults::DEFAULT_MAX_REQUEST_TOKENS,
            max_wall_ms: millis(defaults::DEFAULT_MAX_WALL),
            max_guest_cpu_ms: millis(defaults::DEFAULT_MAX_GUEST_CPU),
            max_guest_cpu_ms_per_s: DEFAULT_MAX_GUEST_CPU_MS_PER_S,
            burst_guest_cpu_ms: DEFAULT_BURST_GUEST_CPU_MS,
            max_memory_bytes: defaults::DEFAULT_MAX_MEMORY_BYTES as u64,
            max_guest_memory_bytes: DEFAULT_MAX_GUEST_MEMORY_BYTES,
            max_table_elements: defaults::DEFAULT_MAX_TABLE_ELEMENTS as u64,
            max_core_instances: defaults::DEFAULT_MAX_CORE_INSTANCES as u64,
            max_call_bytes: defaults::DEFAULT_MAX_CALL_BYTES as u64,
            max_open_models: defaults::DEFAULT_MAX_OPEN_MODELS as u64,
            max_requests_per_instance: u64::from(defaults::DEFAULT_MAX_REQUESTS_PER_INSTANCE),
        }
    }
}

/// Why a text is not a limits file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Larger than [`MAX_LIMITS_BYTES`].
    #[error("has {bytes} bytes, a limits file may have {MAX_LIMITS_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Not TOML, or not of these keys.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A key that is no limit.
    #[error("unknown field `{key}`: docs/limits.toml has all that there are")]
    Unknown {
        /// The key.
        key: String,
    },
    /// A caller that is named more than once.
    #[error("callers has {name} twice: name each caller once")]
    CallerTwice {
        /// The caller.
        name: TenantName,
    },
    /// A number out of range.
    #[error("{limit} is {value}, but must be between {least} and {most}")]
    Range {
        /// The limit.
        limit: &'static str,
        /// The file's value.
        value: u64,
        /// The least allowed value.
        least: u64,
        /// The largest allowed value.
        most: u64,
    },
}

impl TenantLimits {
    /// Reads a limits file.
    ///
    /// # Errors
    /// A key or value is wrong; the error names it and the allowed values.
    pub fn parse(text: &str) -> Result<Self, LimitsError> {
        if text.len() > MAX_LIMITS_BYTES {
            return Err(LimitsError::TooLarge { bytes: text.len() as u64 });
        }
        let limits: Self = toml::from_str(text)?;
        let table: toml::Table = toml::from_str(text)?;
        let known = limits.ranges().map(|(limit, ..)| limit);
        let is_list = |key: &str| ["models", "callers"].contains(&key);
        if let Some(key) = table.keys().find(|&key| !is_list(key) && !known.contains(&key.as_str())) {
            return Err(LimitsError::Unknown { key: key.clone() });
        }
        limits.check()?;
        Ok(limits)
    }

    /// Whether every number is in its range, and every caller is named once. Limits that came from elsewhere than [`parse`](Self::parse) are checked
    /// before they are used.
    ///
    /// # Errors
    /// The error names what is wrong, and the allowed values of a number.
    pub fn check(&self) -> Result<(), LimitsError> {
        for (limit, value, range) in self.ranges() {
            if !range.contains(&value) {
                let (least, most) = (*range.start(), *range.end());
                return Err(LimitsError::Range { limit, value, least, most });
            }
        }
        let twice = |(at, name): (usize, &TenantName)| self.callers[..at].contains(name).then(|| name.clone());
        match self.callers.iter().enumerate().find_map(twice) {
            Some(name) => Err(LimitsError::CallerTwice { name }),
            None => Ok(()),
        }
    }

    /// Writes a limits file that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Numbers and strings only, which TOML can always represent.
        toml::to_string(self).unwrap_or_default()
    }

    /// Every number: its name, its value and the allowed range.
    #[must_use]
    pub fn ranges(&self) -> [(&'static str, u64, RangeInclusive<u64>); 22] {
        const GIB: u64 = 1 << 30;
        [
            ("weight", self.weight, 1..=1_000),
            ("max_concurrent_requests", self.max_concurrent_requests, 1..=10_000),
            ("max_waiting_requests", self.max_waiting_requests, 0..=100_000),
            ("max_tokens_per_s", self.max_tokens_per_s, 1..=1_000_000_000),
            ("burst_tokens", self.burst_tokens, 1..=1_000_000_000),
            ("max_queued_tokens", self.max_queued_tokens, 1..=1_000_000_000),
            ("max_documents", self.max_documents, 1..=100_000),
            ("max_text_bytes", self.max_text_bytes, 1..=GIB),
            ("max_request_bytes", self.max_request_bytes, 1..=GIB),
            ("max_request_rows", self.max_request_rows, 1..=1_000_000),
            ("max_request_tokens", self.max_request_tokens, 1..=1_000_000_000),
            ("max_wall_ms", self.max_wall_ms, 1..=3_600_000),
            ("max_guest_cpu_ms", self.max_guest_cpu_ms, 1..=3_600_000),
            ("max_guest_cpu_ms_per_s", self.max_guest_cpu_ms_per_s, 1..=1_000_000),
            ("burst_guest_cpu_ms", self.burst_guest_cpu_ms, 1..=3_600_000),
            ("max_guest_memory_bytes", self.max_guest_memory_bytes, 65_536..=1_024 * GIB),
            // The pool's slots have this size.
            ("max_memory_bytes", self.max_memory_bytes, 65_536..=defaults::DEFAULT_MAX_MEMORY_BYTES as u64),
            ("max_table_elements", self.max_table_elements, 0..=defaults::MAX_TABLE_ELEMENTS as u64),
            ("max_core_instances", self.max_core_instances, 1..=defaults::MAX_CORE_INSTANCES as u64),
            ("max_call_bytes", self.max_call_bytes, 1_024..=GIB),
            ("max_open_models", self.max_open_models, 1..=1_024),
            ("max_requests_per_instance", self.max_requests_per_instance, 1..=1_000_000),
        ]
    }

    /// The limits of one request.
    #[must_use]
    pub fn request(&self) -> RequestLimits {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        RequestLimits {
            max_documents: size(self.max_documents),
            max_text_bytes: size(self.max_text_bytes),
            max_request_bytes: size(self.max_request_bytes),
            max_memory_bytes: size(self.max_memory_bytes),
            max_table_elements: size(self.max_table_elements),
            max_core_instances: size(self.max_core_instances),
            max_call_bytes: size(self.max_call_bytes),
            max_request_rows: self.max_request_rows,
            max_request_tokens: self.max_request_tokens,
            max_open_models: size(self.max_open_models),
            max_requests_per_instance: narrow(self.max_requests_per_instance),
            max_guest_cpu: Duration::from_millis(self.max_guest_cpu_ms),
            max_wall: Duration::from_millis(self.max_wall_ms),
        }
    }

    /// What the tenant's requests are charged to, with its rate of tokens.
    #[must_use]
    pub fn payer(&self, tenant: &str, rate: Option<Arc<TokenRate>>) -> Payer {
        let tenant: Arc<str> = Arc::from(tenant);
        let max_queued_tokens = usize::try_from(self.max_queued_tokens).unwrap_or(usize::MAX);
        let cpu = CpuShare {
            tenant: Arc::clone(&tenant),
            weight: narrow(self.weight),
            max_rate: self.max_guest_cpu_ms_per_s as f64 / 1e3,
            burst: Duration::from_millis(self.burst_guest_cpu_ms),
        };
        Payer {
            account: Account { tenant, weight: narrow(self.weight), max_queued_tokens },
            cpu: Arc::new(cpu),
            max_guest_memory_bytes: self.max_guest_memory_bytes,
            rate,
        }
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_holds_every_key_at_its_default() {
        let text = include_str!("../../../docs/limits.toml");
        assert_eq!(TenantLimits::parse(text).unwrap(), TenantLimits::default());
        for (limit, ..) in TenantLimits::default().ranges() {
            assert!(text.lines().any(|line| line.starts_with(&format!("{limit} ="))), "{limit} is not documented");
        }
    }

    #[test]
    fn the_defaults_leave_room_for_every_request_that_they_allow() {
        let limits = TenantLimits::default();
        let longest_row_tokens = 512;
        assert!(limits.max_request_tokens >= limits.max_documents * longest_row_tokens);
        assert!(limits.max_request_rows >= limits.max_documents);
        assert!(limits.max_queued_tokens >= limits.max_concurrent_requests * limits.max_request_tokens);
        assert!(limits.burst_tokens >= limits.max_queued_tokens);
    }

    #[test]
    fn limits_survive_writing_and_reading() {
        let callers = vec!["acme-7".parse().unwrap()];
        let limits = TenantLimits { weight: 7, models: vec!["a/b".to_owned()], callers, ..Default::default() };
        assert_eq!(TenantLimits::parse(&limits.to_toml()), Ok(limits));
        assert_eq!(TenantLimits::parse(""), Ok(TenantLimits::default()));
    }

    #[test]
    fn a_wrong_key_or_number_is_named() {
        let message = |text: &str| TenantLimits::parse(text).unwrap_err().to_string();
        assert!(message("max_dokuments = 3").contains("max_dokuments"));
        assert_eq!(message("weight = 0"), "weight is 0, but must be between 1 and 1000");
        assert!(message("weight = -1").contains("-1"));
        assert!(message("weight = \"heavy\"").contains("weight"));
        assert_eq!(message("callers = [\"a\", \"b\", \"a\"]"), "callers has a twice: name each caller once");
        assert!(message("callers = [\"No Body\"]").contains("\"No Body\" is not a tenant's name"));
        assert!(message(&" ".repeat(MAX_LIMITS_BYTES + 1)).contains("bytes"));
        assert!(TenantLimits::default().ranges().iter().all(|(_, value, range)| range.contains(value)));
    }
}
