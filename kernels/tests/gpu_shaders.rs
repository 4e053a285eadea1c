//! naga accepts every shader variant for Metal, Vulkan and DX12, whether or not an adapter here runs it.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;

use assay_kernels::architecture::{
    Activation, Head, MlpKind, NormPlacement, Pooling, Positions, RelativePositions, Rotary,
};
use assay_kernels::gpu::layout::{Layout, Storage};
use assay_kernels::gpu::op::{Access, PipelineSpec};
use assay_kernels::gpu::pass::{candidates, pipelines};
use assay_kernels::gpu::shader::{self, Loops};
use assay_kernels::gpu::{AdapterDescription, AdapterKind, KernelFamily, ceilings};
use assay_kernels::{Architecture, Task};
use common::{Shape, architecture};
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// The oldest Metal Shading Language that the kernels are held to: macOS 12.
const METAL: (u8, u8) = (2, 4);
/// Model shapes: heads, head width, feed-forward width, and the width of embeddings if it is another one.
const SHAPES: [(usize, usize, usize, Option<usize>); 6] = [
    (12, 32, 1536, None),
    (3, 16, 100, Some(20)),
    (2, 64, 256, None),
    (12, 64, 3072, Some(128)),
    (2, 96, 768, None),
    (2, 128, 512, None),
];
const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh];

#[test]
fn every_pipeline_is_valid_for_every_backend() {
    let mut checked = 0;
    for spec in all_pipelines() {
        let (module, info) = resolved(&spec);
        for policy in [BoundsCheckPolicy::Unchecked, BoundsCheckPolicy::Restrict] {
            write_spirv(&spec, &module, &info, policy);
            write_metal(&spec, &module, &info, policy);
        }
        // naga 30 writes no cooperative matrices in HLSL, and DX12 adapters report none: the kernel is never made
        // there.
        if !spec.shader.cooperative {
            write_hlsl(&spec, &module, &info);
        }
        checked += 1;
    }
    eprintln!("{checked} pipelines");
    assert!(checked > 150);
}

#[test]
fn every_row_of_the_tables_is_part_of_some_models_pipelines_or_of_the_ceilings() {
    let made: BTreeSet<&str> = all_pipelines().iter().map(|spec| spec.shader.name).collect();
    let tables = || shader::TABLE.iter().chain(&shader::CEILINGS);
    let rows: BTreeSet<&str> = tables().map(|row| row.name).collect();
    assert_eq!(made, rows);
    assert_eq!(rows.len(), tables().count(), "two rows have one name");
}

#[test]
fn rows_and_ops_say_what_their_shaders_declare() {
    for spec in all_pipelines() {
        let module = parsed(&spec);
        let name = spec.name();
        let overrides: BTreeSet<&str> =
            module.overrides.iter().filter_map(|(_, declared)| declared.name.as_deref()).collect();
        assert_eq!(overrides, spec.shader.overrides.iter().copied().collect(), "{name}: overrides");
        let (mut immediates, mut bound) = (Vec::new(), Vec::new());
        for (_, variable) in module.global_variables.iter() {
            if let Some(binding) = &variable.binding {
                let naga::AddressSpace::Storage { access } = variable.space else { panic!("{name}: not storage") };
                let access = if access.contains(naga::StorageAccess::STORE) { Access::Write } else { Access::Read };
                bound.push((binding.binding as usize, variable.name.as_deref().unwrap(), access));
            }
            if variable.space == naga::AddressSpace::Immediate
                && let naga::TypeInner::Struct { members, .. } = &module.types[variable.ty].inner
            {
                immediates = members.iter().filter_map(|member| member.name.as_deref()).collect();
            }
        }
        assert_eq!(immediates, spec.shader.immediates, "{name}: immediates");
        for (index, declared, access) in bound {
            let binding = spec.bindings.get(index).unwrap_or_else(|| panic!("{name}: no binding {index}"));
            assert_eq!((binding.name, binding.access), (declared, access), "{name}: binding {index}");
        }
    }
}

#[test]
fn no_shader_asks_for_a_feature_that_its_row_does_not_name() {
    for spec in all_pipelines() {
        let mut allowed = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        if spec.shader.cooperative {
            allowed |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
        }
        Validator::new(ValidationFlags::all(), allowed)
            .validate(&parsed(&spec))
            .unwrap_or_else(|error| panic!("{}: {}", spec.name(), error.emit_to_string(&spec.source())));
    }
}

#[test]
fn no_loop_indexes_an_array_in_registers() {
    let mut arrays = 0;
    // One ceiling is there to find out what compilers do with loops that are left alone.
    for spec in all_pipelines().into_iter().filter(|spec| spec.shader.loops == Loops::WrittenOut) {
        let (module, info) = resolved(&spec);
        let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
        let mains = module.entry_points.iter().enumerate();
        let mains = mains.map(|(index, entry)| (&entry.function, info.get_entry_point(index)));
        for (function, info) in functions.chain(mains) {
            arrays += function.local_variables.iter().filter(|(_, local)| is_array(&module, local.ty)).count();
            for (_, expression) in function.expressions.iter() {
                // An index that is a constant is an `AccessIndex`.
                let naga::Expression::Access { base, .. } = *expression else { continue };
                let what = info[base].ty.inner_with(&module.types);
                assert!(
                    !is_in_registers(what),
                    "{}: {} indexes {what:?} by a variable: mark its loop `// unrolled`",
                    spec.name(),
                    function.name.as_deref().unwrap_or("main"),
                );
            }
        }
    }
    assert!(arrays > 100, "{arrays} arrays");
}

#[test]
fn no_kernel_has_under_64_threads_on_metal() {
    let metal = AdapterDescription {
        index: 0,
        name: "a Mac".to_owned(),
        backend: "Metal".to_owned(),
        driver: String::new(),
        kind: AdapterKind::Integrated,
        unusable: None,
        timestamps: true,
        unified_memory: true,
        native_f16: true,
        cooperative: vec!["8x8x8 f32->f32".to_owned(), "8x8x8 f16->f32".to_owned()],
        subgroup: Some(32),
        max_buffer_bytes: 1 << 30,
        workgroup_bytes: 32 << 10,
        variant: "tile",
    };
    let threads = |spec: &PipelineSpec| -> u32 { resolved(spec).0.entry_points[0].workgroup_size.iter().product() };
    let mut seen = BTreeSet::new();
    for (architecture, storage) in architectures() {
        let layout = Layout::new(&architecture, storage).unwrap();
        for spec in candidates(&architecture, &layout, &metal) {
            // Names have everything that decides the threads.
            if seen.insert(spec.name()) {
                assert!(threads(&spec) >= 64, "{} has {} threads", spec.name(), threads(&spec));
            }
        }
    }
    // Elsewhere 32 threads are a candidate.
    let other = AdapterDescription { backend: "Vulkan".to_owned(), ..metal };
    let (architecture, storage) = architectures().swap_remove(0);
    let layout = Layout::new(&architecture, storage).unwrap();
    assert!(candidates(&architecture, &layout, &other).iter().any(|spec| threads(spec) == 32));
}

#[test]
fn kernels_for_software_adapters_have_no_barriers_and_no_workgroup_memory() {
    for spec in all_pipelines().iter().filter(|spec| spec.shader.family == Some(KernelFamily::Software)) {
        assert!(!spec.source().contains("workgroupBarrier()"), "{}", spec.name());
        assert!(!spec.source().contains("var<workgroup>"), "{}", spec.name());
    }
}

fn is_array(module: &naga::Module, ty: naga::Handle<naga::Type>) -> bool {
    matches!(module.types[ty].inner, naga::TypeInner::Array { .. })
}

/// Whether a value of this type, or what it points to, is a function's own.
fn is_in_registers(ty: &naga::TypeInner) -> bool {
    match ty {
        naga::TypeInner::Pointer { space, .. } | naga::TypeInner::ValuePointer { space, .. } => {
            matches!(space, naga::AddressSpace::Function | naga::AddressSpace::Private)
        }
        _ => true,
    }
}

/// Every pipeline of models of several shapes, as classifiers and as embedders, and of the ceilings.
fn all_pipelines() -> Vec<PipelineSpec> {
    let each = |(architecture, storage)| pipelines(&architecture, &Layout::new(&architecture, storage).unwrap());
    // Models share most of their pipelines.
    let mut seen = BTreeSet::new();
    let is_new = |spec: &PipelineSpec| seen.insert((spec.source(), format!("{:?}", spec.overrides())));
    architectures().into_iter().flat_map(each).chain(ceilings::pipelines()).filter(is_new).collect()
}

fn architectures() -> Vec<(Architecture, Storage)> {
    let mut all = Vec::new();
    for storage in [Storage::F32, Storage::F16] {
        for ((heads, head_dim, intermediate, width), activation) in SHAPES.into_iter().zip(ACTIVATIONS.iter().cycle()) {
            let shape = Shape { heads, head_dim, intermediate, layers: 2, outputs: 3, task: Task::CrossEncoder };
            let mut classifier = architecture(shape);
            classifier.block.mlp.activation = *activation;
            classifier.embeddings.width = width.unwrap_or(classifier.embeddings.width);
            let embedder = Architecture { head: Head::Embedding, pooling: Pooling::Mean, ..classifier.clone() };
            // Norms before, a gate, rotary positions.
            let mut modern = Architecture { pooling: Pooling::Mean, ..classifier.clone() };
            modern.embeddings.positions = Positions::None;
            modern.block.norm_placement = NormPlacement::Before;
            modern.block.mlp.kind = MlpKind::Gated;
            modern.layers.iter_mut().for_each(|layer| layer.rotary = Some(Rotary::of_theta(10_000.0)));
            let mut relative = classifier.clone();
            relative.block.attention.relative =
                Some(RelativePositions { span: 8, max_distance: Some(512), norm: None });
            all.extend([classifier, embedder, modern, relative].map(|architecture| (architecture, storage)));
        }
    }
    all
}

fn parsed(spec: &PipelineSpec) -> naga::Module {
    let source = spec.source();
    naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{}: {}", spec.name(), e.emit_to_string(&source)))
}

fn resolved(spec: &PipelineSpec) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = parsed(spec);
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", spec.name(), error.emit_to_string(&spec.source())));
    let constants: PipelineConstants = spec.overrides().iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .unwrap_or_else(|error| panic!("{}: {error}", spec.name()));
    (module.into_owned(), info.into_owned())
}

fn policies(policy: BoundsCheckPolicy) -> BoundsCheckPolicies {
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

fn write_spirv(spec: &PipelineSpec, module: &naga::Module, info: &naga::valid::ModuleInfo, policy: BoundsCheckPolicy) {
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies: policies(policy),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
    spv::write_vec(module, info, &options, Some(&entry)).unwrap_or_else(|e| panic!("{}: SPIR-V: {e}", spec.name()));
}

fn write_metal(spec: &PipelineSpec, module: &naga::Module, info: &naga::valid::ModuleInfo, policy: BoundsCheckPolicy) {
    let options = msl::Options {
        lang_version: METAL,
        bounds_check_policies: policies(policy),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: policy != BoundsCheckPolicy::Unchecked,
        ..msl::Options::default()
    };
    let entry = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())),
        ..msl::PipelineOptions::default()
    };
    msl::write_string(module, info, &options, &entry).unwrap_or_else(|e| panic!("{}: MSL: {e}", spec.name()));
}

fn write_hlsl(spec: &PipelineSpec, module: &naga::Module, info: &naga::valid::ModuleInfo) {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        immediates_target: Some(hlsl::BindTarget { space: 1, ..hlsl::BindTarget::default() }),
        ..hlsl::Options::default()
    };
    let entry = hlsl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &entry);
    writer.write(module, info, None).unwrap_or_else(|e| panic!("{}: HLSL: {e}", spec.name()));
}
