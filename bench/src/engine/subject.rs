//! What `assay-bench engine` measures: an engine, and the most that its device computes at that moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use assay::device::{DeviceOptions, EnginePrecision};
use assay_kernels::cpu::InstructionSet;
use assay_kernels::gpu::{
    self, AdapterDescription, AdapterKind, AdapterSelection, GpuDevice, GpuEngine, GpuOptions, TuneCache,
};
use assay_kernels::{CheckedBatch, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Model, Precision};
use candle_core::{Device, Tensor};

/// Shape of the ceiling's product: tokens, hidden size, intermediate size.
const CEILING_SHAPE: (usize, usize, usize) = (3000, 384, 1536);

/// Runs of each kernel of which the fastest counts.
const PROFILE_REPEATS: u32 = 3;

/// The engine that is measured, with the ceilings of its device.
pub(super) enum Subject {
    Cpu(Box<CpuEngine>, Processor),
    Gpu(Box<GpuEngine>, Arc<GpuDevice>),
}

/// What one slice of time allowed, in 10⁹ operations a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ceilings {
    /// Multiply-adds on registers.
    pub(super) registers: f64,
    /// candle-core's matrix product, in f32; only of a processor.
    pub(super) gemm: Option<f64>,
}

/// The ceilings of a processor: its registers, and candle-core's matrix product.
pub(super) struct Processor {
    device: Arc<CpuDevice>,
    precision: Precision,
    a: Tensor,
    b: Tensor,
}

impl Subject {
    pub(super) fn new(
        weights: Model,
        options: &DeviceOptions,
        adapter: Option<AdapterDescription>,
        instruction_set: Option<InstructionSet>,
    ) -> anyhow::Result<Self> {
        let (m, k, n) = CEILING_SHAPE;
        match (adapter, options.precision.gpu(), options.precision.cpu()) {
            (Some(adapter), Some(precision), _) => {
                let software = adapter.kind == AdapterKind::Software;
                let device = GpuDevice::open(&AdapterSelection::Index(adapter.index))?;
                // Timed at each load: what is measured is the engine at its best. A software adapter takes too long.
                let tune = if software { TuneCache::Defaults } else { TuneCache::Memory };
                let options = GpuOptions { precision, tune, ..GpuOptions::default() };
                let engine = Box::new(GpuEngine::load(&device, weights, &options)?);
                Ok(Self::Gpu(engine, device))
            }
            (_, _, Some(precision)) => {
                let threads = options.threads;
                let device = CpuDevice::new(CpuDeviceOptions { threads, instruction_set })?;
                let options = CpuOptions { precision, ..CpuOptions::default() };
                let engine = Box::new(CpuEngine::load(&device, weights, options)?);
                let a = Tensor::rand(-1f32, 1f32, (m, k), &Device::Cpu)?;
                let b = Tensor::rand(-1f32, 1f32, (k, n), &Device::Cpu)?;
                Ok(Self::Cpu(engine, Processor { device, precision, a, b }))
            }
            (_, _, None) => bail!("no engine here computes in {}", options.precision),
        }
    }

    pub(super) fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Self::Cpu(engine, _) => engine.as_mut(),
            Self::Gpu(engine, _) => engine.as_mut(),
        }
    }

    /// An engine of another precision on the same processor.
    pub(super) fn another(&self, weights: Model, precision: EnginePrecision) -> anyhow::Result<CpuEngine> {
        let Self::Cpu(_, Processor { device, .. }) = self else {
            bail!("--also is of the processor's engine: leave it out, or choose --engine cpu");
        };
        let Some(precision) = precision.cpu() else { bail!("the processor's engine does not compute in {precision}") };
        Ok(CpuEngine::load(device, weights, CpuOptions { precision, ..CpuOptions::default() })?)
    }

    /// The instruction that is repeated on registers.
    pub(super) fn instruction(&self) -> anyhow::Result<&'static str> {
        match self {
            Self::Cpu(_, Processor { device, precision, .. }) => Ok(device.peak(*precision)?.instruction),
            Self::Gpu(..) => Ok("multiply-add"),
        }
    }

    /// Measured now.
    pub(super) fn ceilings(&self) -> anyhow::Result<Ceilings> {
        match self {
            Self::Cpu(_, Processor { device, precision, a, b }) => {
                let registers = device.peak(*precision)?.gops;
                let (m, k, n) = CEILING_SHAPE;
                let started = Instant::now();
                a.matmul(b)?;
                let gemm = (2 * m * k * n) as f64 / started.elapsed().as_secs_f64() / 1e9;
                Ok(Ceilings { registers, gemm: Some(gemm) })
            }
            Self::Gpu(_, device) => Ok(Ceilings { registers: gpu::ceiling(device)? / 1e9, gemm: None }),
        }
    }

    /// Time in each part of the forward pass so far.
    pub(super) fn stages(&self) -> Vec<(String, Duration)> {
        match self {
            Self::Cpu(engine, _) => {
                engine.stage_times().iter().map(|&(stage, time)| (stage.name().to_owned(), time)).collect()
            }
            Self::Gpu(..) => Vec::new(),
        }
    }

    /// Time of each kernel in one batch, equal ones together; nothing on the processor.
    pub(super) fn kernels(&mut self, batch: &CheckedBatch) -> anyhow::Result<Vec<(String, Duration)>> {
        let Self::Gpu(engine, _) = self else { return Ok(Vec::new()) };
        let mut kernels: Vec<(String, Duration)> = Vec::new();
        for kernel in engine.profile(batch, PROFILE_REPEATS)? {
            match kernels.iter_mut().find(|(name, _)| *name == kernel.name) {
                Some((_, time)) => *time += kernel.time,
                None => kernels.push((kernel.name, kernel.time)),
            }
        }
        Ok(kernels)
    }
}
