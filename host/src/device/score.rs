//! Inputs of the queue other than rows, and its results.

use std::sync::Arc;
use std::time::Duration;

use assay_kernels::EngineError;

use crate::limits::DEFAULT_MAX_TENANT_QUEUED_TOKENS;
use crate::telemetry::traces::Outcome;

/// Default weight of a tenant. A hundred, to leave room for smaller weights.
pub const DEFAULT_WEIGHT: u32 = 100;

/// The tenant that rows are computed for, with its share and limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The tenant's name. Requests of the same name share one share of the device, across all models.
    pub tenant: Arc<str>,
    /// The tenant's share of the device relative to other tenants with waiting rows.
    pub weight: u32,
    /// Most waiting tokens of the tenant.
    pub max_queued_tokens: usize,
}

impl Default for Account {
    fn default() -> Self {
        Self { tenant: "".into(), weight: DEFAULT_WEIGHT, max_queued_tokens: DEFAULT_MAX_TENANT_QUEUED_TOKENS }
    }
}

/// A request's outputs and times.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `[rows, outputs]`, row-major, in the order of the rows.
    pub outputs: Vec<f32>,
    /// Time with rows on the device.
    pub inference: Duration,
}

/// Why a request was not computed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// Too many tokens wait already, of the tenant or of all tenants.
    #[error("the queue is full")]
    Overloaded {
        /// When there may be room again.
        retry_after: Duration,
    },
    /// The request alone exceeds the limit.
    #[error("a request may have {allowed} tokens, this one has {requested}")]
    TooLarge {
        /// The request's tokens.
        requested: u64,
        /// The most that may wait.
        allowed: u64,
    },
    /// The request's time ran out before its rows were computed.
    #[error("the request's time ran out")]
    DeadlineExceeded,
    /// The device failed at a batch with rows of this request. A retry may succeed.
    #[error(transparent)]
    Device(#[from] DeviceFault),
}

impl ScoreError {
    /// How the rows' spans end.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Overloaded { .. } => Outcome::Refused("overloaded"),
            Self::TooLarge { .. } => Outcome::Refused("too-large"),
            Self::DeadlineExceeded => Outcome::Refused("late"),
            Self::Device(_) => Outcome::Failed("device"),
        }
    }
}

/// Why a batch failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceFault {
    /// The engine returned an error.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// The engine has a bug.
    #[error("the engine panicked")]
    Panicked,
    /// The engine returned too few outputs.
    #[error("the engine lost some of its outputs")]
    LostOutputs,
    /// The model was unloaded.
    #[error("the model is no longer loaded")]
    Unloaded,
    /// The process is ending.
    #[error("the device has shut down")]
    ShutDown,
}
