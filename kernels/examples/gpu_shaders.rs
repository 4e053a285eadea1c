//! What `cargo xtask gpu-report` and `msl-check` ask of this crate: every GPU shader as a file, the forward pass that
//! runs them, and a compiler's statistics of one shader.
//!
//! `gpu_shaders list DIR` writes the shaders that GPUs run for a model of MiniLM-L6's shape, also with a gate and
//! rotary positions, into a folder, and prints lines of fields separated by tabs:
//!
//! ```text
//! batch     rows   tokens of each
//! pipeline  name   file   override constants
//! step      pass   part   pipeline   threads   FLOPs     one dispatch of a forward pass over that batch
//! ```
//!
//! A pass is one choice of kernel variants; every variant is in one of them. Cooperative matrices, which neither compiler
//! knows, are in steps and not in pipelines.
//!
//! `gpu_shaders compile FILE [NAME=VALUE]…` has the Vulkan driver at hand compile one and prints that driver's
//! statistics: registers, spills, threads in flight, instructions. It creates a pipeline and runs nothing, so a
//! stand-in device will do. The report starts it through another system's loader.
//!
//! `gpu_shaders metal DIR` writes the shaders that a Mac may run, for models of several shapes, as naga writes them for
//! Metal, and prints lines of `name <tab> file`. Shaders that differ only in the widths of matrices are written once.
#![allow(unsafe_code, reason = "plain Vulkan object creation, which ash exposes as unsafe")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ash::vk;
use assay_kernels::architecture::{
    Activation, Head, MlpKind, NormPlacement, Pooling, Positions, RelativePositions, Rotary,
};
use assay_kernels::gpu::KernelFamily;
use assay_kernels::gpu::choices::Choices;
use assay_kernels::gpu::layout::{Layout, Storage};
use assay_kernels::gpu::op::{Extent, PipelineSpec};
use assay_kernels::gpu::pass::{ForwardPass, pipelines};
use assay_kernels::gpu::step::Extents;
use assay_kernels::{Architecture, families};
use naga::back::{msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

/// The batch of the forward pass: rows of this many tokens each.
const ROWS: u32 = 80;
const ROW_TOKENS: u32 = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["list", dir] => list(Path::new(dir)),
        ["metal", dir] => metal(Path::new(dir)),
        ["compile", file, constants @ ..] => {
            compile(Path::new(file), &constants.iter().map(|text| constant(text)).collect::<Result<Vec<_>>>()?)
        }
        _ => bail!("usage: gpu_shaders list DIR | gpu_shaders metal DIR | gpu_shaders compile FILE [NAME=VALUE]…"),
    }
}

fn list(dir: &Path) -> Result<()> {
    println!("batch\t{ROWS}\t{ROW_TOKENS}");
    let classifier = families::stand_in_architecture();
    let embedder = Architecture { head: Head::Embedding, pooling: Pooling::Mean, ..classifier.clone() };
    let mut modern = classifier.clone();
    modern.block.mlp.kind = MlpKind::Gated;
    modern.embeddings.positions = Positions::None;
    modern.layers.iter_mut().for_each(|layer| layer.rotary = Some(Rotary::of_theta(10_000.0)));
    for storage in [Storage::F32, Storage::F16] {
        let mut listed = BTreeMap::new();
        for architecture in [&classifier, &embedder, &modern] {
            for spec in pipelines(architecture, &Layout::new(architecture, storage)?) {
                // Cooperative matrices are in neither compiler; kernels for software adapters never reach these GPUs.
                if spec.shader.family != Some(KernelFamily::Software) && !spec.shader.cooperative && is_listed(&spec) {
                    // Where a name is of two shapes, the classifier is the one that has the name.
                    listed.entry(spec.name()).or_insert(spec);
                }
            }
        }
        for (name, spec) in listed {
            let file = dir.join(name.replace([' ', '/'], "_")).with_extension("wgsl");
            std::fs::write(&file, spec.source()).with_context(|| format!("write {}", file.display()))?;
            let constants = spec.overrides().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            println!("pipeline\t{name}\t{}\t{}", file.display(), constants.join(" "));
        }
        list_passes(&classifier, storage)?;
    }
    Ok(())
}

/// Tiles of one shape each are listed for every GEMM, the other tiles only for the widest: the rest would differ from
/// it as the first ones do.
fn is_listed(spec: &PipelineSpec) -> bool {
    let usual = |tile: &str| tile.bytes().all(|byte| byte.is_ascii_digit());
    let tile = spec.detail.split_once("tile").map(|(_, tile)| tile);
    tile.is_none_or(usual) || spec.detail.contains("gelu ")
}

fn metal(dir: &Path) -> Result<()> {
    let mut written = BTreeMap::new();
    for storage in [Storage::F32, Storage::F16] {
        for architecture in metal_architectures()? {
            for spec in pipelines(&architecture, &Layout::new(&architecture, storage)?) {
                // Matrices have names, and the stand-in for Metal's library has none of them.
                if spec.shader.family == Some(KernelFamily::Software) || spec.shader.cooperative {
                    continue;
                }
                let sizes = |(name, _): &(&str, f64)| !matches!(*name, "K" | "N" | "HIDDEN4" | "STRIDE4");
                let same = spec.overrides().into_iter().filter(sizes).map(|(name, value)| (name, value.to_bits()));
                let key = (spec.source(), same.collect::<Vec<_>>());
                written.entry(key).or_insert(spec);
            }
        }
    }
    for (index, spec) in written.into_values().enumerate() {
        let file = dir.join(format!("{index}.metal"));
        std::fs::write(&file, metal_source(&spec)?).with_context(|| format!("write {}", file.display()))?;
        println!("{}\t{}", spec.name(), file.display());
    }
    Ok(())
}

/// Models that together run every kernel, with heads of 32, 64 and 128 numbers.
fn metal_architectures() -> Result<Vec<Architecture>> {
    let classifier = families::stand_in_architecture();
    let embedder = Architecture { head: Head::Embedding, pooling: Pooling::Mean, ..classifier.clone() };
    let of_heads = |heads, head_dim| {
        let mut architecture = classifier.clone();
        architecture.block.attention.heads = heads;
        architecture.block.attention.kv_heads = heads;
        architecture.block.attention.head_dim = head_dim;
        architecture
    };
    let mut modern = of_heads(6, 64);
    modern.embeddings.positions = Positions::None;
    modern.block.norm_placement = NormPlacement::Before;
    modern.block.mlp.kind = MlpKind::Gated;
    modern.block.mlp.activation = Activation::Silu;
    modern.layers.iter_mut().for_each(|layer| layer.rotary = Some(Rotary::of_theta(10_000.0)));
    let mut relative = of_heads(6, 64);
    relative.block.attention.relative = Some(RelativePositions { span: 8, max_distance: Some(512), norm: None });
    Ok(vec![classifier.clone(), embedder, modern, relative, of_heads(3, 128)])
}

/// What naga writes for Metal, as the engine asks wgpu to: no run-time checks, no zeroed workgroup memory.
fn metal_source(spec: &PipelineSpec) -> Result<String> {
    let constants = spec.overrides().into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>();
    let (module, info) = resolved(&spec.source(), &constants)?;
    let options = msl::Options {
        // The oldest that the kernels are held to: macOS 12.
        lang_version: (2, 4),
        bounds_check_policies: unchecked(),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..msl::Options::default()
    };
    let entry = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())),
        ..msl::PipelineOptions::default()
    };
    let written = msl::write_string(&module, &info, &options, &entry);
    Ok(written.with_context(|| format!("{}: MSL", spec.name()))?.0)
}

fn unchecked() -> BoundsCheckPolicies {
    let policy = BoundsCheckPolicy::Unchecked;
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

fn list_passes(architecture: &Architecture, storage: Storage) -> Result<()> {
    let layout = Layout::new(architecture, storage)?;
    let choices = Choices::all(&layout).into_iter().filter(|choices| choices.family == KernelFamily::Gpu);
    for (index, choices) in choices.enumerate() {
        let tokens = ROWS * ROW_TOKENS;
        let query_tiles = ROWS * ROW_TOKENS.div_ceil(choices.attention_queries);
        let extents = Extents {
            tokens: Extent { rows: tokens, query_tiles, query_keys: u64::from(tokens * ROW_TOKENS) },
            rows: Extent { rows: ROWS, query_tiles: ROWS, query_keys: u64::from(tokens) },
        };
        for step in ForwardPass::new(architecture, &layout, &choices).steps {
            let spec = step.op.pipeline();
            let work = step.work(&extents);
            let threads = u64::from(workgroup_threads(&spec)?) * work.workgroups.map(u64::from).iter().product::<u64>();
            println!("step\t{} {index}\t{}\t{}\t{threads}\t{}", storage.name(), step.part, spec.name(), work.flops);
        }
    }
    Ok(())
}

/// Threads of one workgroup.
fn workgroup_threads(spec: &PipelineSpec) -> Result<u32> {
    let constants = spec.overrides().into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>();
    let (module, _) = resolved(&spec.source(), &constants)?;
    ensure!(module.entry_points.len() == 1, "{} has other than one entry point", spec.name());
    Ok(module.entry_points[0].workgroup_size.iter().product())
}

/// Compiles the compute entry point `main` of the WGSL file and prints a `name: value` line per statistic.
fn compile(file: &Path, constants: &[(String, f64)]) -> Result<()> {
    let source = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let shader = Shader::new(&source, constants)?;
    for (name, value) in shader.statistics()? {
        println!("{name}: {value}");
    }
    Ok(())
}

fn constant(text: &str) -> Result<(String, f64)> {
    let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.parse().with_context(|| format!("not a number: {text}"))?))
}

struct Shader {
    code: Vec<u32>,
    bindings: u32,
    immediate_bytes: u32,
}

/// The module with its constants in place.
fn resolved(source: &str, constants: &[(String, f64)]) -> Result<(naga::Module, naga::valid::ModuleInfo)> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| anyhow!(e.emit_to_string(source)))?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .validate(&module)
        .map_err(|e| anyhow!(e.emit_to_string(source)))?;
    let constants = constants.iter().cloned().collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)?;
    Ok((module.into_owned(), info.into_owned()))
}

impl Shader {
    fn new(source: &str, constants: &[(String, f64)]) -> Result<Self> {
        let (module, info) = resolved(source, constants)?;
        // As the engine asks wgpu to compile: no run-time checks, no zeroed workgroup memory.
        let options = spv::Options {
            lang_version: (1, 3),
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            bounds_check_policies: unchecked(),
            ..spv::Options::default()
        };
        let pipeline =
            spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
        let code = spv::write_vec(&module, &info, &options, Some(&pipeline))?;
        let variables = || module.global_variables.iter().map(|(_, variable)| variable);
        let bindings = variables().filter(|variable| variable.binding.is_some()).count() as u32;
        let immediate_bytes = variables()
            .filter(|variable| variable.space == naga::AddressSpace::Immediate)
            .map(|variable| module.types[variable.ty].inner.size(module.to_ctx()))
            .sum();
        Ok(Self { code, bindings, immediate_bytes })
    }

    fn statistics(&self) -> Result<BTreeMap<String, u64>> {
        // SAFETY: objects are created in the documented order from live parents and valid structures, nothing is run,
        // and nothing is destroyed: the process ends right after.
        unsafe {
            let vulkan = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = vulkan.create_instance(&create, None)?;
            let physical = *instance.enumerate_physical_devices()?.first().context("no Vulkan device")?;
            let device = open(&instance, physical)?;
            let pipeline = self.pipeline(&device)?;
            let executable = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            let ask = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
            let statistics = executable.get_pipeline_executable_statistics(&ask)?;
            Ok(statistics
                .iter()
                .map(|statistic| {
                    let value = match statistic.format {
                        vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => statistic.value.f64 as u64,
                        _ => statistic.value.u64,
                    };
                    (CStr::from_ptr(statistic.name.as_ptr()).to_string_lossy().into_owned(), value)
                })
                .collect())
        }
    }

    /// # Safety
    /// `device` is live.
    unsafe fn pipeline(&self, device: &ash::Device) -> Result<vk::Pipeline> {
        let bindings: Vec<_> = (0..self.bindings)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let ranges =
            [vk::PushConstantRange::default().stage_flags(vk::ShaderStageFlags::COMPUTE).size(self.immediate_bytes)];
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is live, by this function's contract, and every structure outlives its call.
        unsafe {
            let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&self.code), None)?;
            let sets = [device.create_descriptor_set_layout(&set, None)?];
            let layout = device.create_pipeline_layout(
                &vk::PipelineLayoutCreateInfo::default().set_layouts(&sets).push_constant_ranges(&ranges),
                None,
            )?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let create = vk::ComputePipelineCreateInfo::default()
                .stage(stage)
                .layout(layout)
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
            let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None);
            Ok(pipelines.map_err(|(_, error)| error)?[0])
        }
    }
}

/// # Safety
/// `physical` is a device of the live `instance`.
unsafe fn open(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<ash::Device> {
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&priorities)];
    let extensions = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
    let mut statistics =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut f12 = vk::PhysicalDeviceVulkan12Features::default().shader_float16(true).vulkan_memory_model(true);
    let mut f11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut statistics)
        .push_next(&mut f12)
        .push_next(&mut f11);
    // SAFETY: the instance is live and the physical device its own, by this function's contract.
    Ok(unsafe { instance.create_device(physical, &create, None)? })
}
