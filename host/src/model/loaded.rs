//! A model on a device, ready for rows.

use std::sync::Arc;

use assay_kernels::{BertConfig, EngineInfo};

use super::check::read_tokenizer;
use super::error::ModelError;
use super::info::ModelInfo;
use super::manifest::Manifest;
use super::store::{StoredModel, TOKENIZER_FILE};
use crate::engine::{ChosenEngine, EngineOptions};
use crate::scheduler::{DEFAULT_MAX_QUEUED_TOKENS, Scheduler};

/// A model on a device. Shared by every request that uses it.
#[derive(Debug)]
pub struct LoadedModel {
    manifest: Manifest,
    config: BertConfig,
    engine: EngineInfo,
    engine_reason: String,
    info: Arc<ModelInfo>,
    scheduler: Scheduler,
}

impl LoadedModel {
    /// Reads the weights, merges the adapter, makes the engine and starts its dispatch thread.
    ///
    /// # Errors
    /// The model's files are damaged, or the engine cannot be made.
    pub fn load(model: &StoredModel, options: &EngineOptions) -> Result<Self, ModelError> {
        let weights = assay_kernels::checkpoint::load(model.dir(), model.adapter_dir().as_deref())?;
        let tokenizer: Arc<[u8]> = read_tokenizer(&model.dir().join(TOKENIZER_FILE))?.into();
        let failed = |message: String| ModelError::Engine { model: model.manifest.name.clone(), message };
        let ChosenEngine { engine, reason } = options.make(weights).map_err(|error| failed(error.to_string()))?;
        let (config, engine_info) = (engine.config().clone(), engine.info().clone());
        let scheduler =
            Scheduler::start(engine, DEFAULT_MAX_QUEUED_TOKENS).map_err(|error| failed(error.to_string()))?;
        let info = Arc::new(ModelInfo::new(&model.manifest.name, &model.manifest.revision, &config, tokenizer));
        Ok(Self {
            manifest: model.manifest.clone(),
            config,
            engine: engine_info,
            engine_reason: reason,
            info,
            scheduler,
        })
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// What the store knows of it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// What computes it.
    #[must_use]
    pub fn engine(&self) -> &EngineInfo {
        &self.engine
    }

    /// Why it is this engine.
    #[must_use]
    pub fn engine_reason(&self) -> &str {
        &self.engine_reason
    }

    /// The bytes of its `tokenizer.json`.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<[u8]> {
        &self.info.tokenizer
    }

    /// What guests may learn of it.
    #[must_use]
    pub fn info(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    /// What takes its rows.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}
