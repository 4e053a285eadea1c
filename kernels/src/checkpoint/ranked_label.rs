//! A classifier of several labels, made to give one number to rank by.

use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Head};
use crate::weights::{Model, Table};

/// The label to rank by, or the difference of two labels.
///
/// The difference orders documents as the probability of `label` among the two does: the softmax of two logits is the
/// sigmoid of their difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedLabel {
    /// The label, counted from 0.
    pub label: usize,
    /// The label whose logit is subtracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minus: Option<usize>,
}

/// Why a model cannot be ranked by a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// An embedding model.
    #[error("the model computes embeddings: it has no labels")]
    NoLabels,
    /// The model has fewer labels.
    #[error("there is no label {label}: the labels are 0 to {}", labels.saturating_sub(1))]
    Unknown {
        /// The label.
        label: usize,
        /// How many there are.
        labels: usize,
    },
}

impl RankedLabel {
    /// Makes an architecture that of the model that [`apply`](Self::apply) leaves.
    ///
    /// # Errors
    /// The model has no such label.
    pub fn narrow(self, architecture: &mut Architecture) -> Result<(), LabelError> {
        let Head::Classifier { labels, .. } = &mut architecture.head else { return Err(LabelError::NoLabels) };
        for label in [Some(self.label), self.minus].into_iter().flatten() {
            if label >= *labels {
                return Err(LabelError::Unknown { label, labels: *labels });
            }
        }
        *labels = 1;
        Ok(())
    }

    /// Leaves of the model's classifier what makes one logit.
    ///
    /// # Errors
    /// The model has no such label.
    pub fn apply(self, model: &mut Model) -> Result<(), LabelError> {
        self.narrow(&mut model.architecture)?;
        let Some(head) = &mut model.weights.head else { return Err(LabelError::NoLabels) };
        let classifier = &mut head.classifier;
        let row = |label: usize| classifier.weight.numbers(label * classifier.inputs..(label + 1) * classifier.inputs);
        let weight = match self.minus {
            None => row(self.label).to_vec(),
            Some(minus) => row(self.label).iter().zip(row(minus).iter()).map(|(label, minus)| label - minus).collect(),
        };
        classifier.bias = classifier.bias.as_ref().map(|bias| {
            let minus = self.minus.map_or(0.0, |minus| bias[minus]);
            vec![bias[self.label] - minus]
        });
        classifier.weight = Table::F32(weight);
        Ok(())
    }
}
