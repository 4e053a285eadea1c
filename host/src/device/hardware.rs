//! The processor or GPU that was opened, and engines on it.

use std::sync::Arc;

use assay_kernels::cpu::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions};
use assay_kernels::gpu::{AdapterDescription, AdapterSelection, GpuDevice, GpuEngine};
use assay_kernels::{DeviceMemory, Engine, Model};

use super::choose::{Decision, DeviceError, DeviceOptions};
use crate::model::store::StoredModel;

/// The processor's threads or one GPU.
#[derive(Debug)]
pub(super) struct Hardware {
    options: DeviceOptions,
    decision: Decision,
    opened: Opened,
}

/// What all models share.
#[derive(Debug)]
enum Opened {
    /// The processor's threads.
    Cpu(Arc<CpuDevice>),
    /// One GPU.
    Gpu(Arc<GpuDevice>),
}

impl Hardware {
    pub(super) fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        let decision = options.decide()?;
        let opened = match &decision.adapter {
            Some(adapter) => Opened::Gpu(GpuDevice::open(&AdapterSelection::Index(adapter.index))?),
            None => {
                let options = CpuDeviceOptions { threads: options.threads, ..CpuDeviceOptions::default() };
                Opened::Cpu(CpuDevice::new(options)?)
            }
        };
        Ok(Self { options: options.clone(), decision, opened })
    }

    /// The GPU's adapter; none on the processor.
    pub(super) fn adapter(&self) -> Option<&AdapterDescription> {
        self.decision.adapter.as_ref()
    }

    /// Why it is this one.
    pub(super) fn reason(&self) -> &str {
        &self.decision.reason
    }

    /// `cpu` or `gpu`.
    pub(super) fn engine_name(&self) -> &'static str {
        if self.adapter().is_some() { "gpu" } else { "cpu" }
    }

    /// The processor and its instruction set, or the adapter, its backend and its driver.
    pub(super) fn description(&self) -> String {
        match &self.opened {
            Opened::Gpu(device) => device.description().to_string(),
            Opened::Cpu(device) => format!("{} ({})", std::env::consts::ARCH, device.instruction_set().name()),
        }
    }

    /// Threads that compute; 0 where the processor only waits.
    pub(super) fn threads(&self) -> usize {
        match &self.opened {
            Opened::Gpu(_) => 0,
            Opened::Cpu(device) => device.threads(),
        }
    }

    /// What a model will take, before it is read.
    pub(super) fn memory_needed(&self, stored: &StoredModel) -> DeviceMemory {
        let weights = stored.manifest.files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        DeviceMemory { weights_bytes: weights.map(|(_, file)| file.bytes).sum(), ..DeviceMemory::default() }
    }

    /// Makes a model's engine, which takes the weights over.
    pub(super) fn engine(&self, model: Model) -> Result<Box<dyn Engine>, DeviceError> {
        let (options, decision) = (&self.options, &self.decision);
        let no_gpu = || DeviceError::NoGpu { precision: options.precision, reason: decision.reason.clone() };
        match (&self.opened, &decision.adapter) {
            (Opened::Gpu(device), Some(adapter)) => {
                let precision = options.precision.gpu().ok_or_else(no_gpu)?;
                Ok(Box::new(GpuEngine::load(device, model, &options.gpu_options(adapter, precision))?))
            }
            (Opened::Cpu(device), _) => {
                let precision = options.precision.cpu().ok_or_else(no_gpu)?;
                let max_batch_tokens = options.max_batch_tokens.unwrap_or_else(|| options.processor_batch_tokens());
                Ok(Box::new(CpuEngine::load(device, model, CpuOptions { max_batch_tokens, precision })?))
            }
            (Opened::Gpu(_), None) => Err(no_gpu()),
        }
    }
}
