//! All that an adapter says about itself, for reports: the engine decides by the few facts in
//! [`AdapterDescription`](super::AdapterDescription).

use std::collections::BTreeMap;

use serde::Serialize;

use super::adapter::{self, AdapterError, AdapterSelection};

/// Most features that are listed: more than wgpu has.
const MAX_FEATURES: usize = 256;

/// An adapter's features and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterFacts {
    /// The vendor's number.
    pub vendor: u32,
    /// The device's number.
    pub device: u32,
    /// Fewest and most threads of a subgroup, as the driver says. [`Ceilings`](super::Ceilings) has what a kernel met.
    pub subgroup: [u32; 2],
    /// By wgpu's names.
    pub features: Vec<String>,
    /// Those that matter to kernels, by wgpu's names.
    pub limits: BTreeMap<&'static str, u64>,
}

/// What the adapter that `selection` names says about itself.
///
/// # Errors
/// No adapter matches, or it lacks what every kernel needs.
pub fn facts(selection: &AdapterSelection) -> Result<AdapterFacts, AdapterError> {
    let (adapter, _) = adapter::select(selection)?;
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let features = adapter.features().to_string();
    Ok(AdapterFacts {
        vendor: info.vendor,
        device: info.device,
        subgroup: [info.subgroup_min_size, info.subgroup_max_size],
        features: features.split('|').map(|name| name.trim().to_owned()).take(MAX_FEATURES).collect(),
        limits: BTreeMap::from([
            ("max_buffer_size", limits.max_buffer_size),
            ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
            ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage.into()),
            ("min_storage_buffer_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
            ("max_immediate_size", limits.max_immediate_size.into()),
            ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size.into()),
            ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroup_size_x", limits.max_compute_workgroup_size_x.into()),
            ("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into()),
        ]),
    })
}
