//! Asks a device what its driver does not say: how many threads a subgroup has in a kernel of ours.
//!
//! wgpu reports a range for Metal. Cooperative matrices need the number, and a wrong one would give wrong sums.

/// Threads of the probe's workgroup: those of the cooperative GEMM where a subgroup has 32.
const SHADER: &str = "\
@group(0) @binding(0) var<storage, read_write> sizes: array<u32>;
@compute @workgroup_size(128)
fn main(@builtin(subgroup_size) size: u32, @builtin(local_invocation_index) lane: u32) {
    sizes[lane] = size;
}
";
const THREADS: u64 = 128;

/// Threads of a subgroup, if all threads of a workgroup say the same; `None` too if the device cannot be asked.
pub(super) fn subgroup_size(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<u32> {
    if !device.features().contains(wgpu::Features::SUBGROUP) {
        return None;
    }
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let sizes = ask(device, queue);
    if pollster::block_on(Box::pin(scope.pop())).is_some() {
        return None;
    }
    let sizes = sizes?;
    let first = *sizes.first()?;
    sizes.iter().all(|&size| size == first).then_some(first)
}

fn ask(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Vec<u32>> {
    use wgpu::BufferUsages as U;
    let label = Some("subgroup size");
    let module = device
        .create_shader_module(wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(SHADER.into()) });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label, size: 4 * THREADS, usage, mapped_at_creation: false })
    };
    let (sizes, read) = (buffer(U::STORAGE | U::COPY_SRC), buffer(U::MAP_READ | U::COPY_DST));
    let layout = pipeline.get_bind_group_layout(0);
    let entries = [wgpu::BindGroupEntry { binding: 0, resource: sizes.as_entire_binding() }];
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&sizes, 0, &read, 0, 4 * THREADS);
    encoder.map_buffer_on_submit(&read, wgpu::MapMode::Read, .., |_| ());
    queue.submit([encoder.finish()]);
    device.poll(wgpu::PollType::wait_indefinitely()).ok()?;
    let range = read.slice(..).get_mapped_range().ok()?;
    Some(range.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
