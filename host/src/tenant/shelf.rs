//! Models on the device, loaded when a tenant first needs one and shared by all tenants that do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::EngineOptions;
use crate::model::{LoadedModel, ModelError, ModelStore};

/// Loaded models, by name.
#[derive(Debug)]
pub(super) struct Shelf {
    store: ModelStore,
    engine: EngineOptions,
    loaded: Mutex<HashMap<String, Arc<LoadedModel>>>,
}

impl Shelf {
    pub(super) fn new(store: ModelStore, engine: EngineOptions) -> Self {
        Self { store, engine, loaded: Mutex::new(HashMap::new()) }
    }

    /// A model, loaded now if it is not yet, or if the store has another revision of it by now; `None` is the store's
    /// default.
    pub(super) fn get(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, ModelError> {
        let stored = self.store.open(name)?;
        let manifest = &stored.manifest;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(&manifest.name).filter(|model| model.manifest().revision == manifest.revision) {
            return Ok(Arc::clone(model));
        }
        // A model that no tenant holds any more gives its memory back before another takes some.
        loaded.retain(|_, model| Arc::strong_count(model) > 1);
        let model = Arc::new(LoadedModel::load(&stored, &self.engine)?);
        loaded.insert(manifest.name.clone(), Arc::clone(&model));
        Ok(model)
    }
}
