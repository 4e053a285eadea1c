//! What was decided about a model when it was added, kept with its revision in `settings.json`.
//!
//! The file is there only if something was decided, so that a model whose files leave nothing open has the revision of
//! its files alone.

use std::path::{Path, PathBuf};

use assay_kernels::checkpoint::{CheckpointError, LabelError, RankedLabel};
use assay_kernels::{Architecture, Model};
use serde::{Deserialize, Serialize};

use super::error::ModelError;
use crate::durable::read_own;

/// Most bytes of the settings.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// The settings' file in a revision's directory.
pub(super) const SETTINGS_FILE: &str = "settings.json";

/// How a model is used, beyond its own files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Longest row in tokens, if shorter than the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How scores are given if a request does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<DefaultScores>,
    /// Text before every query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Whether texts that are too long lose their beginning, if a request does not say.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_cut_left: bool,
    /// The label to rank by, of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<RankedLabel>,
    /// How `tokenizer.json` was changed to tokenise as `transformers` does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokenizer_changes: Vec<String>,
    /// What people should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How scores are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultScores {
    /// The logit.
    Raw,
    /// Its sigmoid.
    Sigmoid,
}

impl DefaultScores {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Sigmoid => "sigmoid",
        }
    }
}

impl ModelSettings {
    /// Reads the settings of a revision that has the file.
    pub(super) fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(SETTINGS_FILE);
        let bytes = read_own(&path, MAX_SETTINGS_BYTES).map_err(ModelError::io(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| ModelError::Settings { path, error })
    }

    /// The file's contents; `None` if nothing was decided.
    pub(super) fn to_file(&self) -> Option<Vec<u8>> {
        // Plain fields: writing them as JSON cannot fail.
        (*self != Self::default()).then(|| serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    /// Makes an architecture that of the model that [`apply`](Self::apply) leaves.
    pub(super) fn narrow(&self, dir: &Path, architecture: &mut Architecture) -> Result<(), ModelError> {
        self.label.map_or(Ok(()), |label| label.narrow(architecture)).map_err(|error| refused(dir, error))
    }

    /// Leaves of a model what is computed.
    pub(super) fn apply(&self, dir: &Path, model: &mut Model) -> Result<(), ModelError> {
        self.label.map_or(Ok(()), |label| label.apply(model)).map_err(|error| refused(dir, error))
    }
}

fn refused(dir: &Path, source: LabelError) -> ModelError {
    let path: PathBuf = dir.join(assay_kernels::checkpoint::CONFIG_FILE);
    CheckpointError::Label { path, source }.into()
}
