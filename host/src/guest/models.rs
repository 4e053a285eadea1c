//! The models that a guest may open, and those that are open.

use std::sync::Arc;

use crate::device::{Device, LoadedModel};
use crate::model::ModelInfo;

/// The models that a guest may open.
#[derive(Debug, Clone)]
pub struct Models {
    /// The model of `open(none)`.
    pub default: Arc<LoadedModel>,
    /// More models, opened by name.
    pub others: Vec<Arc<LoadedModel>>,
    /// The error for any other name.
    pub unlisted: Unlisted,
}

/// The error for a model that is not among a guest's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// There is no such model. For a guest that shares the host with no other tenant.
    NotFound,
    /// It may not be used, whether it exists or not.
    Denied,
}

impl Models {
    /// One model and no other.
    #[must_use]
    pub fn only(model: Arc<LoadedModel>) -> Self {
        Self { default: model, others: Vec::new(), unlisted: Unlisted::NotFound }
    }

    /// All of them, the default one first.
    fn all(&self) -> impl Iterator<Item = &Arc<LoadedModel>> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// The devices that they are loaded on: one, or two where the processor has what an automatically chosen GPU lacks.
    #[must_use]
    pub fn devices(&self) -> Vec<&Arc<Device>> {
        let mut devices: Vec<&Arc<Device>> = Vec::new();
        for device in self.all().map(|model| model.device()) {
            if !devices.iter().any(|known| Arc::ptr_eq(known, device)) {
                devices.push(device);
            }
        }
        devices
    }

    /// The default model, or the one with this name.
    pub(super) fn open(&self, name: Option<&str>) -> Option<OpenModel> {
        let Some(name) = name else { return Some(OpenModel::from(&self.default)) };
        self.all().find(|model| model.name() == name).map(OpenModel::from)
    }
}

/// A model that a guest has opened.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenModel {
    pub(super) info: Arc<ModelInfo>,
    /// Absent in `prepare`, where nothing is computed.
    pub(super) loaded: Option<Arc<LoadedModel>>,
}

impl From<&Arc<LoadedModel>> for OpenModel {
    fn from(model: &Arc<LoadedModel>) -> Self {
        Self { info: Arc::clone(model.info()), loaded: Some(Arc::clone(model)) }
    }
}
