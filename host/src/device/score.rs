//! What callers hand to the queue beside rows, and what they get back.

use std::sync::Arc;
use std::time::Duration;

use assay_kernels::EngineError;

use crate::limits::DEFAULT_MAX_TENANT_QUEUED_TOKENS;

/// A tenant's share of the device where nothing else is said. A hundred, so that there is room for less.
pub const DEFAULT_WEIGHT: u32 = 100;

/// For whom rows are computed, and what that tenant is entitled to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The tenant's name: requests of the same name have one share of the device together, whatever their models.
    pub tenant: Arc<str>,
    /// The tenant's share of the device against that of the others which have rows waiting.
    pub weight: u32,
    /// Most tokens of the tenant's that wait.
    pub max_queued_tokens: usize,
}

impl Default for Account {
    fn default() -> Self {
        Self { tenant: "".into(), weight: DEFAULT_WEIGHT, max_queued_tokens: DEFAULT_MAX_TENANT_QUEUED_TOKENS }
    }
}

/// A request's numbers and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `[rows, outputs]`, row-major, in the order of the rows.
    pub outputs: Vec<f32>,
    /// While rows were on the device.
    pub inference: Duration,
}

/// Why a request was not computed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// Too many tokens wait already, of the tenant's or of all.
    #[error("the queue is full")]
    Overloaded {
        /// When there may be room again.
        retry_after: Duration,
    },
    /// The request alone is more than may wait.
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
    /// The device failed at a batch with rows of this request. It goes on: trying again is sensible.
    #[error(transparent)]
    Device(#[from] DeviceFault),
}

/// How the device failed a batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceFault {
    /// The engine says how.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// The engine has a bug.
    #[error("the engine panicked")]
    Panicked,
    /// The engine computed fewer numbers than the batch has.
    #[error("the engine lost some of its outputs")]
    LostOutputs,
    /// The model was taken off the device.
    #[error("the model is no longer loaded")]
    Unloaded,
    /// The device is going down with the process.
    #[error("the device has shut down")]
    ShutDown,
}
