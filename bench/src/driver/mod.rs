//! What requests are sent to: the host as a library, in this process, or a running service over HTTP.

mod http;
mod in_process;
mod loopback;

use std::time::Duration;

use assay::rerank::Request;
use futures::future::BoxFuture;

pub use http::HttpDriver;
pub use in_process::{InProcessDriver, InProcessOptions, Started, TenantSetup};
pub use loopback::{Loopback, Observed};

/// What requests are sent to.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Sends a request as the tenant with this number in the configuration, and waits for its answer. Dropping the
    /// future cancels the request.
    fn call<'a>(&'a self, tenant: usize, request: &'a Request) -> BoxFuture<'a, Result<Reply, Failure>>;

    /// What the device has done so far, as far as the driver can see. Called ten times a second.
    fn gauge(&self) -> Gauge {
        Gauge::default()
    }
}

/// An answer without its scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    /// Pairs that were scored and came back.
    pub pairs: u64,
    /// Useful tokens by the other side's count.
    pub tokens: Option<u64>,
    /// Where the time went, by the other side's clocks.
    pub stages: Option<Stages>,
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// In the guest and around it: instance, tokenising, ranking, copies.
    pub guest: Duration,
    /// Rows waiting for the device.
    pub queue: Duration,
    /// Rows on the device.
    pub inference: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A short name that all failures of one kind share; they are counted by it.
    pub kind: String,
    /// What happened this time.
    pub message: String,
}

/// Totals up to now; absent if the driver cannot see them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauge {
    /// Memory that models take on the device.
    pub device_memory_bytes: Option<u64>,
    /// Time with a batch on the device.
    pub device_busy: Option<Duration>,
    /// Batches computed.
    pub batches: Option<u64>,
    /// Useful tokens computed.
    pub tokens: Option<u64>,
    /// Tokens that wait for the device now.
    pub waiting_tokens: Option<u64>,
    /// Device time of each tenant's rows, in the order of the configuration; empty if the driver cannot see it.
    pub device_time_by_tenant: Vec<Duration>,
}
