//! The device: the processor or one GPU, and the models that are loaded on it.
//!
//! - [`choose`]: which device a machine gives, and why.
//! - [`models`]: the models that are loaded.
//! - [`scheduler`]: rows of many tenants' requests onto an engine.
//!
//! Knows models, rows, tokens and weights; never text, guests or limits files.

mod choose;
mod deficit_round_robin;
mod dispatch;
mod meter;
mod models;
mod queue;
mod scheduler;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ModelError;
use crate::model::store::StoredModel;

pub use choose::{ChosenEngine, Decision, DeviceError, DeviceOptions, EngineChoice, EnginePrecision};
pub use meter::{Meter, MeterReading};
pub use models::LoadedModel;
pub use scheduler::{
    Account, DEFAULT_MAX_QUEUED_TOKENS, DEFAULT_MAX_TENANT_QUEUED_TOKENS, DEFAULT_WEIGHT, Scheduler, ScoreError, Scored,
};

/// What computes, with the models that are loaded on it. Opened once per process.
#[derive(Debug)]
pub struct Device {
    options: DeviceOptions,
    loaded: Mutex<HashMap<ModelKey, Arc<LoadedModel>>>,
}

/// A model by name and exact revision: two revisions of one name are two models.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ModelKey {
    name: String,
    revision: String,
}

impl Device {
    /// Opens the device that the options choose.
    ///
    /// # Errors
    /// The options contradict each other, or the machine has no such device.
    pub fn open(options: DeviceOptions) -> Result<Arc<Self>, DeviceError> {
        options.decide()?;
        Ok(Arc::new(Self { options, loaded: Mutex::default() }))
    }

    /// The model, loaded now if it is not yet. Blocks while weights are read.
    ///
    /// # Errors
    /// The model's files are damaged, or the device cannot compute it.
    pub fn load(self: &Arc<Self>, stored: &StoredModel) -> Result<Arc<LoadedModel>, ModelError> {
        let key = ModelKey { name: stored.manifest.name.clone(), revision: stored.manifest.revision.clone() };
        let mut loaded = self.loaded();
        if let Some(model) = loaded.get(&key) {
            return Ok(Arc::clone(model));
        }
        // A model that no tenant holds any more gives its memory back before another takes some.
        loaded.retain(|_, model| Arc::strong_count(model) > 1);
        let model = Arc::new(LoadedModel::load(stored, &self.options)?);
        loaded.insert(key, Arc::clone(&model));
        Ok(model)
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<ModelKey, Arc<LoadedModel>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
