//! naga accepts every shader variant for Metal, Vulkan and DX12, whether or not an adapter here runs it.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

use assay_kernels::gpu::Precision;
use assay_kernels::gpu::layout::{Layout, TILE};
use assay_kernels::gpu::shader::{Variant, variants};
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// The oldest Metal Shading Language that the kernels are held to: macOS 12.
const METAL: (u8, u8) = (2, 4);
/// Model shapes: hidden size, heads, head width, feed-forward width.
const SHAPES: [(usize, usize, usize, usize); 6] = [
    (384, 12, 32, 1536),
    (48, 3, 16, 100),
    (128, 2, 64, 256),
    (768, 12, 64, 3072),
    (192, 2, 96, 768),
    (256, 2, 128, 512),
];

#[test]
fn every_variant_is_valid_for_every_backend() {
    let mut checked = 0;
    for variant in all_variants() {
        let (module, info) = resolved(&variant);
        for policy in [BoundsCheckPolicy::Unchecked, BoundsCheckPolicy::Restrict] {
            write_spirv(&variant, &module, &info, policy);
            write_metal(&variant, &module, &info, policy);
        }
        // naga 30 writes no cooperative matrices in HLSL, and DX12 adapters report none: the variant is never made there.
        if !variant.cooperative {
            write_hlsl(&variant, &module, &info);
        }
        checked += 1;
    }
    eprintln!("{checked} variants");
    assert!(checked > 150);
}

#[test]
fn no_variant_asks_for_a_feature_that_it_does_not_state() {
    for variant in all_variants() {
        let module = naga::front::wgsl::parse_str(&variant.source).unwrap();
        let mut allowed = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        if variant.cooperative {
            allowed |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
        }
        Validator::new(ValidationFlags::all(), allowed)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}: {}", variant.name, error.emit_to_string(&variant.source)));
    }
}

#[test]
fn kernels_for_software_adapters_have_no_barriers_and_no_workgroup_memory() {
    for variant in all_variants().iter().filter(|variant| !variant.for_gpus) {
        assert!(!variant.source.contains("workgroupBarrier()"), "{}", variant.name);
        assert!(!variant.source.contains("var<workgroup>"), "{}", variant.name);
    }
}

fn all_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for precision in [Precision::F32, Precision::F16] {
        for (hidden, heads, head_dim, intermediate) in SHAPES {
            let layout = Layout {
                hidden,
                hidden_padded: hidden.next_multiple_of(TILE),
                intermediate_padded: intermediate.next_multiple_of(TILE),
                heads,
                head_dim,
                precision,
            };
            all.extend(variants(&layout, 1e-12, 3));
        }
    }
    all
}

fn resolved(variant: &Variant) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(&variant.source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name, error.emit_to_string(&variant.source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name, error.emit_to_string(&variant.source)));
    let constants: PipelineConstants =
        variant.constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.name));
    (module.into_owned(), info.into_owned())
}

fn policies(policy: BoundsCheckPolicy) -> BoundsCheckPolicies {
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

fn write_spirv(variant: &Variant, module: &naga::Module, info: &naga::valid::ModuleInfo, policy: BoundsCheckPolicy) {
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies: policies(policy),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
    spv::write_vec(module, info, &options, Some(&entry)).unwrap_or_else(|e| panic!("{}: SPIR-V: {e}", variant.name));
}

fn write_metal(variant: &Variant, module: &naga::Module, info: &naga::valid::ModuleInfo, policy: BoundsCheckPolicy) {
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
    msl::write_string(module, info, &options, &entry).unwrap_or_else(|e| panic!("{}: MSL: {e}", variant.name));
}

fn write_hlsl(variant: &Variant, module: &naga::Module, info: &naga::valid::ModuleInfo) {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        immediates_target: Some(hlsl::BindTarget { space: 1, ..hlsl::BindTarget::default() }),
        ..hlsl::Options::default()
    };
    let entry = hlsl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &entry);
    writer.write(module, info, None).unwrap_or_else(|e| panic!("{}: HLSL: {e}", variant.name));
}
