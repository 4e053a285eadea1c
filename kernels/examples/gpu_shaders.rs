//! What `cargo xtask gpu-report` asks of this crate: every GPU shader as a file, and a compiler's statistics of one.
//!
//! `gpu_shaders list DIR` writes the variants that GPUs run for the widths of MiniLM-L6 into a folder, and prints a line
//! for each: name, file, override constants, separated by tabs.
//!
//! `gpu_shaders compile FILE [NAME=VALUE]…` has the Vulkan driver at hand compile one and prints that driver's statistics:
//! registers, spills, threads in flight, instructions. It creates a pipeline and runs nothing, so a stand-in device will
//! do. The report starts it through another system's loader.
#![allow(unsafe_code, reason = "plain Vulkan object creation, which ash exposes as unsafe")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ash::vk;
use assay_kernels::gpu::Precision;
use assay_kernels::gpu::layout::Layout;
use assay_kernels::gpu::shader::variants;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

/// LayerNorm's epsilon and the number of labels of the variants that are listed: neither changes what a compiler does.
const EPS: f64 = 1e-12;
const OUTPUTS: usize = 1;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["list", dir] => list(Path::new(dir)),
        ["compile", file, constants @ ..] => {
            compile(Path::new(file), &constants.iter().map(|text| constant(text)).collect::<Result<Vec<_>>>()?)
        }
        _ => bail!("usage: gpu_shaders list DIR | gpu_shaders compile FILE [NAME=VALUE]…"),
    }
}

fn list(dir: &Path) -> Result<()> {
    for precision in [Precision::F32, Precision::F16] {
        let layout =
            Layout { hidden: 384, hidden_padded: 384, intermediate_padded: 1536, heads: 12, head_dim: 32, precision };
        for variant in variants(&layout, EPS, OUTPUTS) {
            // Cooperative matrices are in neither compiler; kernels for software adapters never reach these GPUs.
            if variant.for_gpus && !variant.cooperative {
                let file = dir.join(variant.name.replace([' ', '/'], "_")).with_extension("wgsl");
                std::fs::write(&file, &variant.source).with_context(|| format!("write {}", file.display()))?;
                let constants: Vec<String> =
                    variant.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
                println!("{}\t{}\t{}", variant.name, file.display(), constants.join(" "));
            }
        }
    }
    Ok(())
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

impl Shader {
    fn new(source: &str, constants: &[(String, f64)]) -> Result<Self> {
        let module = naga::front::wgsl::parse_str(source).map_err(|e| anyhow!(e.emit_to_string(source)))?;
        let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
            .validate(&module)
            .map_err(|e| anyhow!(e.emit_to_string(source)))?;
        let constants = constants.iter().cloned().collect();
        let entry = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)?;
        // As the engine asks wgpu to compile: no run-time checks, no zeroed workgroup memory.
        let policy = BoundsCheckPolicy::Unchecked;
        let options = spv::Options {
            lang_version: (1, 3),
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            bounds_check_policies: BoundsCheckPolicies {
                index: policy,
                buffer: policy,
                image_load: policy,
                binding_array: policy,
            },
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
