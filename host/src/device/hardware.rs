//! The opened processor or GPU, and engines on it.

use std::sync::Arc;

use assay_kernels::cpu::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions};
use assay_kernels::gpu::{AdapterDescription, AdapterSelection, GpuDevice, GpuEngine, GpuOptions};
use assay_kernels::{Architecture, DeviceMemory, Engine, Model, ReadModel};

use super::choose::{Decision, DeviceError, DeviceOptions, EngineChoice};
use super::opened::Opened;
use super::puppet::Puppet;

/// The processor's threads or one GPU.
#[derive(Debug)]
pub(super) struct Hardware {
    options: DeviceOptions,
    decision: Decision,
    opened: Box<dyn Opened>,
}

#[derive(Debug)]
struct Processor {
    device: Arc<CpuDevice>,
    options: CpuOptions,
}

#[derive(Debug)]
struct Gpu {
    device: Arc<GpuDevice>,
    options: GpuOptions,
}

impl Hardware {
    pub(super) fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        let decision = options.decide()?;
        let no_gpu = || DeviceError::NoGpu { precision: options.precision, reason: decision.reason.clone() };
        let opened: Box<dyn Opened> = match &decision.adapter {
            Some(adapter) => {
                let precision = options.precision.gpu().ok_or_else(no_gpu)?;
                let device = GpuDevice::open(&AdapterSelection::Index(adapter.index))?;
                Box::new(Gpu { device, options: options.gpu_options(adapter, precision) })
            }
            None if options.choice == EngineChoice::Puppet => Box::new(Puppet),
            None => {
                let precision = options.precision.cpu().ok_or_else(no_gpu)?;
                let max_batch_tokens = options.max_batch_tokens.unwrap_or_else(|| options.processor_batch_tokens());
                let device = CpuDeviceOptions { threads: options.threads, ..CpuDeviceOptions::default() };
                let device = CpuDevice::new(device)?;
                Box::new(Processor { device, options: CpuOptions { max_batch_tokens, precision } })
            }
        };
        Ok(Self { options: options.clone(), decision, opened })
    }

    /// The GPU's adapter; `None` on the processor.
    pub(super) fn adapter(&self) -> Option<&AdapterDescription> {
        self.decision.adapter.as_ref()
    }

    /// Why this device was chosen.
    pub(super) fn reason(&self) -> &str {
        &self.decision.reason
    }

    /// How to open the processor for models that this GPU cannot compute; `None` if the GPU was chosen explicitly.
    pub(super) fn options_of_fallback(&self) -> Option<DeviceOptions> {
        let automatic = self.options.choice == EngineChoice::Auto && self.adapter().is_some();
        let options = DeviceOptions { choice: EngineChoice::Cpu, ..self.options.clone() };
        (automatic && self.options.precision.cpu().is_some()).then_some(options)
    }

    /// `cpu` or `gpu`.
    pub(super) fn engine_name(&self) -> &'static str {
        self.opened.name()
    }

    /// The processor and its instruction set, or the adapter, its backend and its driver.
    pub(super) fn description(&self) -> String {
        self.opened.description()
    }

    /// Compute threads; 0 if the processor only waits.
    pub(super) fn threads(&self) -> usize {
        self.opened.threads()
    }

    /// Memory that a model will take, computed without reading its weights.
    pub(super) fn memory_needed(&self, architecture: &Architecture) -> Result<DeviceMemory, DeviceError> {
        self.opened.memory_needed(architecture)
    }

    /// Makes an engine for a model and moves the weights into it. After a fault of the device, an engine loads the model
    /// again with `read`.
    pub(super) fn engine(&self, model: Model, read: ReadModel) -> Result<Box<dyn Engine>, DeviceError> {
        self.opened.engine(model, read)
    }
}

impl Opened for Processor {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        format!("{} ({})", std::env::consts::ARCH, self.device.instruction_set().name())
    }

    fn threads(&self) -> usize {
        self.device.threads()
    }

    fn memory_needed(&self, architecture: &Architecture) -> Result<DeviceMemory, DeviceError> {
        Ok(CpuEngine::memory_needed(&self.device, architecture, &self.options)?)
    }

    fn engine(&self, model: Model, _: ReadModel) -> Result<Box<dyn Engine>, DeviceError> {
        Ok(Box::new(CpuEngine::load(&self.device, model, self.options)?))
    }
}

impl Opened for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn description(&self) -> String {
        self.device.description().to_string()
    }

    fn threads(&self) -> usize {
        0
    }

    fn memory_needed(&self, architecture: &Architecture) -> Result<DeviceMemory, DeviceError> {
        Ok(GpuEngine::memory_needed(&self.device, architecture, &self.options)?)
    }

    fn engine(&self, model: Model, read: ReadModel) -> Result<Box<dyn Engine>, DeviceError> {
        Ok(Box::new(GpuEngine::load_from_files(&self.device, model, read, &self.options)?))
    }
}
