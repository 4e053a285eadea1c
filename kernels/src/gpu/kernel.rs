//! A compute pipeline with its one bind group, and what one dispatch of it takes.

use super::device::GpuDevice;
use super::error::GpuError;

/// What a kernel may do with a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read only.
    Read,
    /// Written, and perhaps read.
    Write,
}

/// A compute pipeline whose bindings are storage buffers of group 0, in order.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    label: String,
}

/// How to make a [`Kernel`].
#[derive(Debug)]
pub(crate) struct KernelDescriptor<'a> {
    /// Shown in debuggers and profiles.
    pub(crate) label: &'a str,
    /// The whole WGSL source, from [`shader::source`](super::shader::source).
    pub(crate) source: &'a str,
    /// Storage buffers, by binding number.
    pub(crate) bindings: &'a [Access],
    /// Bytes of immediates.
    pub(crate) immediate_bytes: u32,
    /// Override constants.
    pub(crate) constants: &'a [(&'a str, f64)],
}

/// What one dispatch takes: its sizes, its grid and its cost by formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Immediates; the first `immediate_words` are set.
    pub(crate) immediates: [u32; 8],
    /// How many immediates there are.
    pub(crate) immediate_words: usize,
    /// Workgroups in x, y and z.
    pub(crate) workgroups: [u32; 3],
    /// Useful floating-point operations, a multiply-add as two; elementwise work is left out.
    pub flops: u64,
    /// Bytes read and written, each array once.
    pub bytes: u64,
}

/// How much of a batch an op computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows of the matrices: tokens, or rows of the batch after the last layer's keys and values.
    pub rows: u32,
    /// Entries in the attention's tile list.
    pub tiles: u32,
    /// Query-key pairs: Σ queries · keys over the tiles.
    pub query_keys: u64,
}

/// One op of the forward pass: a kernel and its cost.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// Name in profiles and in the bench: op and shape.
    fn name(&self) -> String;
    /// The pipeline.
    fn kernel(&self) -> &Kernel;
    /// What a dispatch over `extent` takes.
    fn work(&self, extent: &Extent) -> Work;
}

impl Kernel {
    /// Makes the pipeline.
    ///
    /// # Errors
    /// The shader or the layout is invalid on this device.
    pub(crate) fn new(gpu: &GpuDevice, descriptor: &KernelDescriptor<'_>) -> Result<Self, GpuError> {
        let entries: Vec<_> = (0..)
            .zip(descriptor.bindings)
            .map(|(binding, &access)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: access == Access::Read },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        gpu.scoped(|| {
            let layout = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(descriptor.label),
                entries: &entries,
            });
            let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(descriptor.label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: descriptor.immediate_bytes,
            });
            let pipeline = gpu.pipeline(descriptor.label, descriptor.source, &pipeline_layout, descriptor.constants);
            Ok(Self { pipeline, layout, label: descriptor.label.to_owned() })
        })
        .map_err(|error| GpuError::Device(format!("kernel {}: {error}", descriptor.label)))
    }

    /// Binds buffers, in the order of the shader's bindings.
    #[must_use]
    pub(crate) fn bind(&self, gpu: &GpuDevice, buffers: &[wgpu::BufferBinding<'_>]) -> wgpu::BindGroup {
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&self.label),
            layout: &self.layout,
            entries: &entries,
        })
    }
}

impl Work {
    /// `immediates` has at most 8 words.
    pub(crate) fn new(immediates: &[u32], workgroups: [u32; 3], flops: u64, bytes: u64) -> Self {
        let mut words = [0; 8];
        words[..immediates.len()].copy_from_slice(immediates);
        Self { immediates: words, immediate_words: immediates.len(), workgroups, flops, bytes }
    }

    /// Records the dispatch. Nothing to do records nothing.
    pub(crate) fn record(&self, kernel: &Kernel, bind_group: &wgpu::BindGroup, pass: &mut wgpu::ComputePass<'_>) {
        if self.workgroups.contains(&0) {
            return;
        }
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(&self.immediates[..self.immediate_words]));
        pass.dispatch_workgroups(x, y, z);
    }
}
