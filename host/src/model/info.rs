//! A model's description for guests: enough to prepare for it without a device.

use std::sync::Arc;

use assay_kernels::{RowShape, Task};
use serde::{Deserialize, Serialize};

/// A model's description and tokenizer, as a guest sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The name under which the host knows the model.
    pub name: String,
    /// Content hash of the model's files, in lower-case hexadecimal.
    pub revision: String,
    /// What it computes for a row.
    pub task: ModelTask,
    /// Longest row in tokens.
    pub max_tokens: u32,
    /// Token ids are below this.
    pub vocabulary_size: u32,
    /// Numbers per row.
    pub outputs: u32,
    /// The bytes of `tokenizer.json`. Not serialised: too large, and already a file.
    #[serde(skip)]
    pub tokenizer: Arc<[u8]>,
}

/// What a model computes for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelTask {
    /// One logit per label of the pair.
    CrossEncoder,
    /// One vector per row.
    Embedding,
}

impl ModelInfo {
    /// The description of a model of this shape.
    #[must_use]
    pub fn new(name: &str, revision: &str, task: Task, shape: &RowShape, tokenizer: Arc<[u8]>) -> Self {
        // The store refuses dimensions that do not fit 32 bits.
        let narrow = |dimension: usize| u32::try_from(dimension).unwrap_or(u32::MAX);
        Self {
            name: name.to_owned(),
            revision: revision.to_owned(),
            task: match task {
                Task::CrossEncoder => ModelTask::CrossEncoder,
                Task::Embedding => ModelTask::Embedding,
            },
            max_tokens: narrow(shape.max_tokens),
            vocabulary_size: narrow(shape.vocab_size),
            outputs: narrow(shape.outputs),
            tokenizer,
        }
    }
}
