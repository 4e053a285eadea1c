//! Models on the device, loaded when a tenant first needs one and shared by all tenants that do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::EngineOptions;
use crate::model::store::StoredModel;
use crate::model::{LoadedModel, ModelError, ModelRevision};

/// Loaded models, by name and revision.
#[derive(Debug)]
pub(super) struct Shelf {
    engine: EngineOptions,
    loaded: Mutex<HashMap<ModelRevision, Arc<LoadedModel>>>,
}

impl Shelf {
    pub(super) fn new(engine: EngineOptions) -> Self {
        Self { engine, loaded: Mutex::new(HashMap::new()) }
    }

    /// A model, loaded now if it is not yet.
    pub(super) fn get(&self, stored: &StoredModel) -> Result<Arc<LoadedModel>, ModelError> {
        let revision = stored.manifest.model_revision();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(&revision) {
            return Ok(Arc::clone(model));
        }
        // A model that no tenant holds any more gives its memory back before another takes some.
        loaded.retain(|_, model| Arc::strong_count(model) > 1);
        let model = Arc::new(LoadedModel::load(stored, &self.engine)?);
        loaded.insert(revision, Arc::clone(&model));
        Ok(model)
    }
}
