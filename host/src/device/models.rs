//! The models on a device: loaded at first use, shared by their holders, and unloaded when they have no holder and
//! another model needs the room.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use assay_kernels::{CheckedBatch, DeviceMemory, Engine, EngineInfo, Model, ReadModel, RowShape};

use super::Device;
use super::budget::NoRoom;
use super::choose::DeviceError;
use super::fair_queueing::ModelId;
use super::meter::MeterReading;
use super::queue::row_flops;
use super::score::{Account, ScoreError, Scored};
use crate::model::store::{StoredModel, TOKENIZER_FILE};
use crate::model::tokenizer::read_tokenizer;
use crate::model::{Manifest, ModelError, ModelInfo, ModelRevision};
use crate::telemetry::traces::Span;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files are damaged, or no engine computes it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device cannot compute it.
    #[error("{model} cannot be loaded: {source}")]
    Device {
        /// The model's name.
        model: String,
        /// Why.
        source: Box<DeviceError>,
    },
    /// The device's memory is too small.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl LoadError {
    fn device(model: &str, error: DeviceError) -> Self {
        Self::Device { model: model.to_owned(), source: Box::new(error) }
    }
}

/// A hold on a model on a device. The model stays loaded as long as it has a holder.
#[derive(Debug)]
pub struct LoadedModel {
    device: Arc<Device>,
    model: Arc<ResidentModel>,
}

/// A model on a device.
#[derive(Debug)]
pub(super) struct ResidentModel {
    key: ModelRevision,
    pub(super) id: ModelId,
    manifest: Manifest,
    shape: RowShape,
    row_flops: Arc<[u64]>,
    engine: EngineInfo,
    info: Arc<ModelInfo>,
    memory: DeviceMemory,
}

impl LoadedModel {
    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.model.manifest.name
    }

    /// The store's record of it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.model.manifest
    }

    /// The rows that it takes.
    #[must_use]
    pub fn shape(&self) -> &RowShape {
        &self.model.shape
    }

    /// Its longest row in tokens.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.model.info.max_tokens as usize
    }

    /// Useful floating-point operations of a row of `tokens` tokens; 0 beyond the longest row.
    #[must_use]
    pub fn row_flops(&self, tokens: usize) -> u64 {
        self.model.row_flops.get(tokens).copied().unwrap_or(0)
    }

    /// The engine that computes it.
    #[must_use]
    pub fn engine(&self) -> &EngineInfo {
        &self.model.engine
    }

    /// The bytes of its `tokenizer.json`.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<[u8]> {
        &self.model.info.tokenizer
    }

    /// The model's description for guests.
    #[must_use]
    pub fn info(&self) -> &Arc<ModelInfo> {
        &self.model.info
    }

    /// Its memory on the device.
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        self.model.memory
    }

    /// Counters of the device's work for it.
    #[must_use]
    pub fn meter(&self) -> MeterReading {
        self.device.scheduler.meter().model(self.model.id)
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Computes the rows, possibly in batches with rows of other requests and tenants. Rows that have not started by
    /// the deadline are not computed. Dropping the future removes rows that have not started from the queue at once.
    ///
    /// # Errors
    /// The queue is full (the whole request is refused), the deadline passed, the rows were checked for another model,
    /// or the device failed.
    pub async fn score(
        &self,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
    ) -> Result<Scored, ScoreError> {
        self.device.scheduler.score(self.model.id, rows, account, deadline).await
    }

    /// As [`score`](Self::score), with spans of the queue and of the device within `span`.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub async fn score_within(
        &self,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
        span: &Span,
    ) -> Result<Scored, ScoreError> {
        let (scheduler, within) = (&self.device.scheduler, (span, self.name()));
        scheduler.score_within(self.model.id, rows, account, deadline, within).await
    }
}

impl ResidentModel {
    /// Format in which numbers are stored and multiplied.
    pub(super) fn precision(&self) -> &'static str {
        self.engine.precision
    }
}

impl Drop for LoadedModel {
    fn drop(&mut self) {
        self.device.holdings().release(&self.model.key);
    }
}

impl Device {
    /// Holds the model and loads it if needed; unused models make room. Blocks while weights are read. If an
    /// automatically chosen GPU cannot compute the model, it is loaded on the processor: see [`LoadedModel::device`].
    ///
    /// # Errors
    /// The model's files are damaged, the device cannot compute it, or it does not fit beside the held models.
    pub fn load(self: &Arc<Self>, stored: &StoredModel) -> Result<Arc<LoadedModel>, LoadError> {
        match (self.load_here(stored), self.hardware.options_of_fallback()) {
            (Err(LoadError::Device { .. }), Some(options)) => {
                let failed = |error| LoadError::device(&stored.manifest.name, error);
                let processor = match self.processor.get() {
                    Some(processor) => processor,
                    None => {
                        let opened = Self::open(&options).map_err(failed)?;
                        self.processor.get_or_init(|| opened)
                    }
                };
                processor.load_here(stored)
            }
            (loaded, _) => loaded,
        }
    }

    fn load_here(self: &Arc<Self>, stored: &StoredModel) -> Result<Arc<LoadedModel>, LoadError> {
        let name = &stored.manifest.name;
        let key = stored.manifest.model_revision();
        if let Some(model) = self.hold(&key) {
            return Ok(model);
        }
        // One load at a time, so that two do not claim the same room.
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = self.hold(&key) {
            return Ok(model);
        }
        // Counts the computed need before the weights are read, and the engine's actual memory afterwards.
        let damage = |error| stored.explain(error);
        let architecture = stored.architecture().map_err(damage)?;
        let settings = stored.settings().map_err(damage)?;
        let labels = stored.labels().map_err(damage)?;
        let failed = |error| LoadError::device(name, error);
        let needed = self.hardware.memory_needed(&architecture).map_err(failed)?;
        self.make_room(name, &needed)?;
        let tokenizer: Arc<[u8]> = read_tokenizer(&stored.dir().join(TOKENIZER_FILE)).map_err(damage)?.into();
        let model = stored.load()?;
        let task = model.architecture.task();
        let engine = self.make_engine(stored, model)?;
        let row_flops = row_flops(&*engine);
        let (shape, info, memory) = (engine.shape(), engine.info().clone(), engine.memory());
        self.make_room(name, &memory)?;
        let model = Arc::new(ResidentModel {
            id: self.scheduler.add_with(engine, Arc::clone(&row_flops)),
            row_flops,
            manifest: stored.manifest.clone(),
            info: Arc::new(ModelInfo::new(&key, task, &shape, &settings, labels, tokenizer)),
            shape,
            engine: info,
            memory,
            key: key.clone(),
        });
        self.holdings().insert(key, Arc::clone(&model), memory);
        Ok(Arc::new(LoadedModel { device: Arc::clone(self), model }))
    }

    /// A model's bare engine, without queue or memory budget, for measuring.
    ///
    /// # Errors
    /// The model's files are damaged, or the device cannot compute it.
    pub fn engine(&self, stored: &StoredModel) -> Result<Box<dyn Engine>, LoadError> {
        self.make_engine(stored, stored.load()?)
    }

    fn make_engine(&self, stored: &StoredModel, model: Model) -> Result<Box<dyn Engine>, LoadError> {
        let again = stored.clone();
        // A revision's files do not change, and none is swept that a version names.
        let read: ReadModel = Box::new(move || Ok(again.load()?));
        self.hardware.engine(model, read).map_err(|error| LoadError::device(&stored.manifest.name, error))
    }

    fn hold(self: &Arc<Self>, key: &ModelRevision) -> Option<Arc<LoadedModel>> {
        let model = self.holdings().hold(key)?;
        Some(Arc::new(LoadedModel { device: Arc::clone(self), model }))
    }

    /// Unloads unused models until the new one fits.
    fn make_room(&self, name: &str, needs: &DeviceMemory) -> Result<(), NoRoom> {
        let leaving = self.holdings().make_room(name, needs, &self.budget)?;
        for model in leaving {
            self.scheduler.remove(model.id);
        }
        Ok(())
    }
}
