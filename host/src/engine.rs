//! Which engine computes a model, and how it is set up.

use std::fmt;
use std::num::NonZeroUsize;

use assay_kernels::cpu::{CpuEngine, CpuOptions};
use assay_kernels::{BertWeights, Engine, EngineError};

/// Most tokens in one batch: enough for GEMMs to run at full speed, and short enough (a fifth of a second on two
/// processor cores) that no request waits long behind a batch that has just begun.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 2_048;

/// Which kind of engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The best that the machine has.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
        })
    }
}

/// How to make an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Which kind.
    pub choice: EngineChoice,
    /// Threads that compute; one per core where absent.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one batch.
    pub max_batch_tokens: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { choice: EngineChoice::Auto, threads: None, max_batch_tokens: DEFAULT_MAX_BATCH_TOKENS }
    }
}

impl EngineOptions {
    /// Makes the engine, which takes the weights over.
    ///
    /// # Errors
    /// The machine lacks what the engine needs.
    pub fn make(&self, weights: BertWeights) -> Result<Box<dyn Engine>, EngineError> {
        let max_batch_tokens = self.max_batch_tokens.max(weights.config.max_position_embeddings);
        let options = CpuOptions { threads: self.threads, max_batch_tokens, ..Default::default() };
        Ok(Box::new(CpuEngine::new(weights, options)?))
    }
}
