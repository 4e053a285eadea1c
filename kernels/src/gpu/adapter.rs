//! Lists the machine's adapters and what each supports, and selects one.

use std::fmt;

use serde::Serialize;

/// Features that every kernel needs: sizes are passed as immediates.
pub(super) const REQUIRED: wgpu::Features = wgpu::Features::IMMEDIATES;

/// Threads of a subgroup on Apple's GPUs.
const METAL_SUBGROUP: u32 = 32;

/// The kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Its own memory.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// A slice of a GPU, given by a hypervisor.
    Virtual,
    /// A driver that computes on the processor: used only if asked for.
    Software,
    /// The driver does not say.
    Other,
}

/// Description of an adapter, as `assay devices` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterDescription {
    /// Index in the list, for [`AdapterSelection::Index`].
    pub index: usize,
    /// The device's name, from its driver.
    pub name: String,
    /// `Metal`, `Vulkan` or `Dx12`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// What sort of device it is.
    pub kind: AdapterKind,
    /// What the kernels need and the adapter lacks.
    pub unusable: Option<String>,
    /// Reports when a pass began and ended.
    pub timestamps: bool,
    /// The processor can write and read its buffers in place.
    pub unified_memory: bool,
    /// Computes in f16 natively. (Storage in f16 needs no support.)
    pub native_f16: bool,
    /// Cooperative matrix shapes, such as `8x8x8 f16->f32`.
    pub cooperative: Vec<String>,
    /// Threads per subgroup, if the adapter fixes the number. On Metal 32, as on every Apple GPU: wgpu reports a range
    /// there. Opening the adapter asks it before anything relies on the number.
    pub subgroup: Option<u32>,
    /// Largest buffer that a kernel may bind, in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// The kernels used before tuning.
    pub variant: &'static str,
}

/// Selects an adapter.
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

/// The family of kernels for an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelFamily {
    /// Many threads, workgroup memory, barriers.
    Gpu,
    /// For a driver that computes on the processor: barriers and workgroup memory are slow there.
    Software,
}

/// Why an adapter cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// No adapter fits the selection.
    #[error("no GPU adapter {wanted}: found {}", listed(.found))]
    NotFound {
        /// What was asked for.
        wanted: AdapterSelection,
        /// The machine's adapters.
        found: Vec<AdapterDescription>,
    },
    /// The adapter lacks something that the kernels need.
    #[error("adapter {adapter} does not support {missing}: choose another adapter or the CPU engine")]
    Unusable {
        /// The adapter.
        adapter: String,
        /// What it lacks.
        missing: String,
    },
}

/// What [`auto`] decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoChoice {
    /// The GPU to use; `None` means the CPU engine.
    pub adapter: Option<AdapterDescription>,
    /// The reason, for the log.
    pub reason: String,
}

/// Every adapter of this machine, best first.
#[must_use]
pub fn adapters() -> Vec<AdapterDescription> {
    enumerate().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// The default engine: a usable real GPU if there is one, otherwise the CPU engine. Never selects a software adapter,
/// because the CPU engine is faster on the same processor.
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
/// No adapter matches, or it lacks what every kernel needs.
pub fn find(selection: &AdapterSelection) -> Result<AdapterDescription, AdapterError> {
    select(selection).map(|(_, description)| description)
}

/// Finds the adapter that `selection` names, to open it.
pub(super) fn select(selection: &AdapterSelection) -> Result<(wgpu::Adapter, AdapterDescription), AdapterError> {
    let adapters = enumerate();
    let described: Vec<_> = adapters.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect();
    let fits = |adapter: &AdapterDescription| match selection {
        AdapterSelection::Gpu => adapter.kind != AdapterKind::Software && adapter.unusable.is_none(),
        AdapterSelection::Any => adapter.unusable.is_none(),
        AdapterSelection::Index(index) => adapter.index == *index,
        AdapterSelection::Name(name) => adapter.name.to_lowercase().contains(&name.to_lowercase()),
    };
    let Some(found) = described.iter().find(|adapter| fits(adapter)).cloned() else {
        return Err(AdapterError::NotFound { wanted: selection.clone(), found: described });
    };
    if let Some(missing) = found.unusable {
        return Err(AdapterError::Unusable { adapter: found.name, missing });
    }
    Ok((adapters[found.index].clone(), found))
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::METAL | wgpu::Backends::VULKAN | wgpu::Backends::DX12,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
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
        subgroup: match info.backend {
            wgpu::Backend::Metal => Some(METAL_SUBGROUP),
            _ => (info.subgroup_min_size == info.subgroup_max_size).then_some(info.subgroup_min_size),
        },
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

impl fmt::Display for AdapterSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu => f.write_str("that is a GPU"),
            Self::Any => f.write_str("at all"),
            Self::Index(index) => write!(f, "number {index}"),
            Self::Name(name) => write!(f, "named {name:?}"),
        }
    }
}

impl AdapterDescription {
    /// Fewest threads of a workgroup that kernels may have. Apple's compiler has produced wrong loads into workgroup
    /// memory in kernels that state 32 as their most threads.
    #[must_use]
    pub fn least_threads(&self) -> u32 {
        if self.backend == "Metal" { 64 } else { 1 }
    }

    /// The family of kernels for this adapter.
    #[must_use]
    pub fn kernel_family(&self) -> KernelFamily {
        match self.kind {
            AdapterKind::Software => KernelFamily::Software,
            _ => KernelFamily::Gpu,
        }
    }
}

fn listed(adapters: &[AdapterDescription]) -> String {
    match adapters {
        [] => "none".to_owned(),
        adapters => adapters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.driver)
    }
}
