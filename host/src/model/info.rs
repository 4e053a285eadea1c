//! A model's description for guests: enough to prepare for it without a device.

use std::sync::Arc;

use assay_kernels::checkpoint::RankedLabel;
use assay_kernels::{RowShape, Task};
use serde::{Deserialize, Serialize};

use super::manifest::ModelRevision;
use super::settings::{DefaultScores, ModelSettings};

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
    /// The names of the classifier's labels, by number, also if one was chosen; the host's business.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The label that was chosen when the model was added; the host's business.
    #[serde(default)]
    pub label: Option<RankedLabel>,
    /// How scores are given if a request does not say; the host's business.
    #[serde(default)]
    pub scores: Option<DefaultScores>,
    /// Text before every query; the host's business.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Whether texts that are too long lose their beginning, if a request does not say; the host's business.
    #[serde(default)]
    pub is_cut_left: bool,
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

impl From<Task> for ModelTask {
    fn from(task: Task) -> Self {
        match task {
            Task::CrossEncoder => Self::CrossEncoder,
            Task::Embedding => Self::Embedding,
        }
    }
}

impl ModelInfo {
    /// Whether each request must name a label to rank by.
    #[must_use]
    pub fn has_open_label(&self) -> bool {
        self.task == ModelTask::CrossEncoder && self.outputs > 1
    }

    /// The description of a model of this shape.
    #[must_use]
    pub fn new(
        revision: &ModelRevision,
        task: Task,
        shape: &RowShape,
        settings: &ModelSettings,
        labels: Vec<String>,
        tokenizer: Arc<[u8]>,
    ) -> Self {
        // The store refuses dimensions that do not fit 32 bits.
        let narrow = |dimension: usize| u32::try_from(dimension).unwrap_or(u32::MAX);
        Self {
            name: revision.name.clone(),
            revision: revision.revision.clone(),
            task: task.into(),
            max_tokens: narrow(shape.max_tokens).min(settings.max_tokens.unwrap_or(u32::MAX)),
            vocabulary_size: narrow(shape.vocab_size),
            outputs: narrow(shape.outputs),
            labels,
            label: settings.label,
            scores: settings.scores,
            prompt: settings.prompt.clone(),
            is_cut_left: settings.is_cut_left,
            tokenizer,
        }
    }

    /// The names of what it computes for a row, in order; what transformers calls a label without a name.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        let name = |label: usize| {
            let name = self.labels.get(label).filter(|name| !name.is_empty());
            name.cloned().unwrap_or_else(|| format!("LABEL_{label}"))
        };
        match self.label {
            Some(RankedLabel { label, .. }) => vec![name(label)],
            None => (0..self.outputs as usize).map(name).collect(),
        }
    }

    /// The name of the label that scores are of: the one that a request asks for by number or name, or the only one.
    #[must_use]
    pub fn label_name(&self, asked: Option<&str>) -> String {
        let names = self.output_names();
        match asked {
            Some(asked) => {
                asked.parse().ok().and_then(|label: usize| names.get(label).cloned()).unwrap_or(asked.to_owned())
            }
            None => names.into_iter().next().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_its_own_name_or_that_of_transformers() {
        let info = |outputs: u32, label: Option<RankedLabel>| ModelInfo {
            name: "m".to_owned(),
            revision: String::new(),
            task: ModelTask::CrossEncoder,
            max_tokens: 8,
            vocabulary_size: 8,
            outputs,
            labels: vec!["irrelevant".to_owned(), String::new()],
            label,
            scores: None,
            prompt: None,
            is_cut_left: false,
            tokenizer: Arc::default(),
        };
        let two = info(2, None);
        assert_eq!(two.output_names(), ["irrelevant", "LABEL_1"]);
        assert_eq!(
            (two.label_name(Some("1")), two.label_name(Some("irrelevant"))),
            ("LABEL_1".into(), "irrelevant".into())
        );
        let chosen = info(1, Some(RankedLabel { label: 1, minus: Some(0) }));
        assert_eq!(
            (chosen.output_names(), chosen.label_name(None)),
            (vec!["LABEL_1".to_owned()], "LABEL_1".to_owned())
        );
    }
}
