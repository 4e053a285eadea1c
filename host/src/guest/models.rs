//! The models that a guest may open, and those that it has opened.

use std::sync::Arc;

use crate::model::{LoadedModel, ModelInfo};

/// The models that a guest may open.
#[derive(Debug, Clone)]
pub struct Models {
    /// What `open(none)` gives.
    pub default: Arc<LoadedModel>,
    /// What may be opened by name besides.
    pub others: Vec<Arc<LoadedModel>>,
    /// What a guest is told of a name that is none of these.
    pub unlisted: Unlisted,
}

/// What a guest is told of a model that is not among its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// That there is none: there is no other tenant whose model it could be.
    NotFound,
    /// That it may not use it, whether or not the host has it.
    Denied,
}

impl Models {
    /// One model and no other.
    #[must_use]
    pub fn only(model: Arc<LoadedModel>) -> Self {
        Self { default: model, others: Vec::new(), unlisted: Unlisted::NotFound }
    }

    /// The default model, or the one with this name.
    pub(super) fn open(&self, name: Option<&str>) -> Option<OpenModel> {
        let Some(name) = name else { return Some(OpenModel::from(&self.default)) };
        let mut known = std::iter::once(&self.default).chain(&self.others);
        known.find(|model| model.name() == name).map(OpenModel::from)
    }
}

/// A model that a guest has opened.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenModel {
    pub(super) info: Arc<ModelInfo>,
    /// Absent while a guest is being prepared: nothing is computed then.
    pub(super) loaded: Option<Arc<LoadedModel>>,
}

impl From<&Arc<LoadedModel>> for OpenModel {
    fn from(model: &Arc<LoadedModel>) -> Self {
        Self { info: Arc::clone(model.info()), loaded: Some(Arc::clone(model)) }
    }
}
