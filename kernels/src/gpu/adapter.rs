//! Which devices there are, what each supports, and which one to take.

use std::fmt;

use serde::Serialize;

use super::device::block_on;
use super::error::GpuError;

/// Features without which no kernel runs: sizes travel as immediates.
pub(super) const REQUIRED: wgpu::Features = wgpu::Features::IMMEDIATES;

/// What sort of device an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Its own memory.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// A slice of a GPU, given by a hypervisor.
    Virtual,
    /// A driver that computes on the processor: never chosen by itself.
    Software,
    /// It does not say.
    Other,
}

/// An adapter in words and numbers, as `assay devices` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterDescription {
    /// Its place in the list; [`AdapterSelection::Index`] takes it.
    pub index: usize,
    /// The device's name, by its driver.
    pub name: String,
    /// `Metal`, `Vulkan` or `Dx12`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// What sort of device it is.
    pub kind: AdapterKind,
    /// Why the kernels cannot run on it, where they cannot.
    pub unusable: Option<String>,
    /// It tells when a pass began and ended.
    pub timestamps: bool,
    /// The processor can write and read its buffers in place.
    pub unified_memory: bool,
    /// It computes in f16 natively. (Storage in f16 needs no support.)
    pub native_f16: bool,
    /// Cooperative matrix shapes, such as `8x8x8 f16->f32`.
    pub cooperative: Vec<String>,
    /// Threads that run in step, where the adapter fixes their number.
    pub subgroup: Option<u32>,
    /// Largest buffer that a kernel may bind, in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// The kernels it would get before tuning.
    pub variant: &'static str,
}

/// Which adapter to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterSelection {
    /// The best real GPU; never a software adapter.
    #[default]
    Gpu,
    /// The best adapter of any kind, software included: for development and tests.
    Any,
    /// By its [index](AdapterDescription::index).
    Index(usize),
    /// The first whose name contains this, in any case.
    Name(String),
}

/// What [`auto`] decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoChoice {
    /// The GPU to use; none means the CPU engine.
    pub adapter: Option<AdapterDescription>,
    /// Why, for the log.
    pub reason: String,
}

/// Every adapter of this machine, best first.
#[must_use]
pub fn adapters() -> Vec<AdapterDescription> {
    enumerate().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// The engine to take where nobody said which: a real GPU where there is a usable one, and the CPU engine otherwise. A
/// software adapter is never taken: the CPU engine is faster on the same processor.
#[must_use]
pub fn auto() -> AutoChoice {
    let adapters = adapters();
    let gpu = adapters.iter().find(|adapter| adapter.kind != AdapterKind::Software && adapter.unusable.is_none());
    let reason = match (gpu, adapters.first()) {
        (Some(gpu), _) => format!("{gpu} is a GPU that runs the kernels"),
        (None, Some(first)) => match &first.unusable {
            Some(why) => format!("no usable GPU: {first} {why}"),
            None => format!("no GPU: {first} computes on the processor, where the CPU engine is faster"),
        },
        (None, None) => "no GPU: the system lists no Metal, Vulkan or DX12 adapter".to_owned(),
    };
    AutoChoice { adapter: gpu.cloned(), reason }
}

/// The adapter that `selection` names.
///
/// # Errors
/// There is none, or it lacks what every kernel needs.
pub fn find(selection: &AdapterSelection) -> Result<AdapterDescription, GpuError> {
    select(selection).map(|(_, description)| description)
}

/// Finds the adapter that `selection` names, to open it.
pub(super) fn select(selection: &AdapterSelection) -> Result<(wgpu::Adapter, AdapterDescription), GpuError> {
    let adapters = enumerate();
    let described: Vec<_> = adapters.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect();
    let fits = |adapter: &AdapterDescription| match selection {
        AdapterSelection::Gpu => adapter.kind != AdapterKind::Software && adapter.unusable.is_none(),
        AdapterSelection::Any => adapter.unusable.is_none(),
        AdapterSelection::Index(index) => adapter.index == *index,
        AdapterSelection::Name(name) => adapter.name.to_lowercase().contains(&name.to_lowercase()),
    };
    let Some(found) = described.iter().find(|adapter| fits(adapter)).cloned() else {
        let wanted = match selection {
            AdapterSelection::Gpu => "that is a GPU".to_owned(),
            AdapterSelection::Any => "at all".to_owned(),
            AdapterSelection::Index(index) => format!("number {index}"),
            AdapterSelection::Name(name) => format!("named {name:?}"),
        };
        let found = described.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(GpuError::NoAdapter { wanted, found: if found.is_empty() { "none".to_owned() } else { found } });
    };
    if let Some(what) = found.unusable.clone() {
        let remedy = "choose another adapter or the CPU engine";
        return Err(GpuError::Unsupported { adapter: found.name, what, remedy });
    }
    Ok((adapters[found.index].clone(), found))
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::METAL | wgpu::Backends::VULKAN | wgpu::Backends::DX12,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(|adapter| match kind(&adapter.get_info()) {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Other => 3,
        AdapterKind::Software => 4,
    });
    adapters
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterDescription {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    let kind = kind(&info);
    let has = |feature| features.contains(feature);
    let cooperative = match has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        true => adapter
            .cooperative_matrix_properties()
            .iter()
            .map(|p| format!("{}x{}x{} {:?}->{:?}", p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type).to_lowercase())
            .collect(),
        false => Vec::new(),
    };
    AdapterDescription {
        index,
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        kind,
        unusable: (!features.contains(REQUIRED)).then(|| format!("{}", REQUIRED - features)),
        timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
        unified_memory: has(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
            && matches!(kind, AdapterKind::Integrated | AdapterKind::Software),
        native_f16: has(wgpu::Features::SHADER_F16),
        cooperative,
        subgroup: (info.subgroup_min_size == info.subgroup_max_size).then_some(info.subgroup_min_size),
        max_buffer_bytes: limits.max_buffer_size.min(limits.max_storage_buffer_binding_size),
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        variant: if kind == AdapterKind::Software { "software" } else { "tile" },
    }
}

fn kind(info: &wgpu::AdapterInfo) -> AdapterKind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        wgpu::DeviceType::Other => AdapterKind::Other,
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "other",
        })
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.driver)
    }
}
