//! One opening of an adapter: its queue, faults and pipelines, and counters that show that serving creates nothing.
//!
//! The engine's only file with `unsafe`: it enables experimental features and unchecked shaders.
#![allow(unsafe_code, reason = "unchecked shaders and experimental features; each block says why it is sound")]

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::adapter::{self, AdapterDescription, AdapterSelection};
use super::error::{GpuError, Loss};
use super::op::{Access, Binding, Buffers, PipelineKey, PipelineSpec, Work};
use super::probe;

/// An open adapter. After a fault it is unusable, and [`GpuDevice`](super::GpuDevice) opens the adapter again.
#[derive(Debug)]
pub struct OpenDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    description: AdapterDescription,
    features: wgpu::Features,
    fault: Fault,
    /// Pipelines in use. Engines of equal shape share them.
    pipelines: Mutex<HashMap<PipelineKey, Weak<Pipeline>>>,
    pipelines_created: AtomicU64,
    /// Time in which they were compiled.
    compile_nanos: AtomicU64,
    buffer_bytes_created: AtomicU64,
}

/// A compute pipeline whose bindings are storage buffers of group 0.
#[derive(Debug)]
pub struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    name: String,
    bindings: &'static [Binding],
}

/// Pipelines and buffers created since the adapter was opened, to show that serving adds none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Compute pipelines.
    pub pipelines: u64,
    /// Bytes of all buffers.
    pub buffer_bytes: u64,
}

/// The first fault of an opening. Later faults only follow from it.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<OnceLock<GpuError>>);

impl OpenDevice {
    /// Opens the adapter that `selection` names, with every feature that a kernel can use.
    ///
    /// # Errors
    /// No adapter fits, it lacks what every kernel needs, or its driver refuses.
    pub fn new(selection: &AdapterSelection) -> Result<Self, GpuError> {
        let (adapter, mut description) = adapter::select(selection)?;
        let optional = wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let features = adapter::REQUIRED | (optional & adapter.features());
        // SAFETY: the one experimental feature in use is the cooperative matrix, in one kernel that is validated by
        // naga and tested against float64 on every adapter where the tests find it; it reads and writes within the
        // bounds that `ops::gemm` states.
        let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("assay"),
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        });
        let opened = pollster::block_on(request);
        let (device, queue) = opened.map_err(|source| {
            let (adapter, source) = (description.to_string(), Arc::new(source));
            GpuError::Open { adapter, source }
        })?;
        if !description.cooperative.is_empty() && probe::subgroup_size(&device, &queue) != description.subgroup {
            // The kernel's subgroups would be others than the device's.
            description.cooperative.clear();
        }
        let fault = Fault::default();
        let on_error = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| on_error.set(error.into())));
        let on_loss = fault.clone();
        device.set_device_lost_callback(move |reason, message| on_loss.set(Loss::Reported { reason, message }.into()));
        Ok(Self {
            device,
            queue,
            description,
            features,
            fault,
            pipelines: Mutex::default(),
            pipelines_created: AtomicU64::new(0),
            compile_nanos: AtomicU64::new(0),
            buffer_bytes_created: AtomicU64::new(0),
        })
    }

    /// The adapter.
    #[must_use]
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// Pipelines and buffers created so far.
    #[must_use]
    pub fn created(&self) -> Created {
        Created {
            pipelines: self.pipelines_created.load(Ordering::Relaxed),
            buffer_bytes: self.buffer_bytes_created.load(Ordering::Relaxed),
        }
    }

    /// Time that compiling pipelines has taken so far.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        Duration::from_nanos(self.compile_nanos.load(Ordering::Relaxed))
    }

    /// Whether the adapter was opened with `feature`.
    pub(super) fn has(&self, feature: wgpu::Features) -> bool {
        self.features.contains(feature)
    }

    /// The first fault since the adapter was opened, as an error.
    ///
    /// # Errors
    /// There was a fault.
    pub fn check(&self) -> Result<(), GpuError> {
        match self.fault.0.get() {
            None => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// Ends this opening with a fault. A driver may take its time to report a loss that a failed call already shows.
    pub(super) fn fail(&self, fault: GpuError) {
        self.fault.set(fault);
    }

    /// Runs `make` and returns the first error that it causes on this thread.
    ///
    /// # Errors
    /// `make` created something invalid, or the device is out of memory.
    pub(super) fn scoped<T>(&self, make: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = make();
        let errors = [internal.pop(), validation.pop(), memory.pop()].map(|error| pollster::block_on(Box::pin(error)));
        match errors.into_iter().rev().flatten().next() {
            Some(error) => Err(error.into()),
            None => made,
        }
    }

    /// The pipeline of `spec`: one already held by an engine of equal shape, or a new one.
    ///
    /// # Errors
    /// The driver refuses the shader or the layout.
    pub fn pipeline(&self, spec: &PipelineSpec) -> Result<Arc<Pipeline>, GpuError> {
        Ok(self.pipelines(std::slice::from_ref(spec))?.swap_remove(0))
    }

    /// The pipelines of `specs`, in their order: those already held by engines of equal shapes, and new ones. Drivers
    /// take a tenth of a second for one and more, so new ones are compiled on several threads.
    ///
    /// # Errors
    /// As [`pipeline`](Self::pipeline), for the first that fails.
    pub fn pipelines(&self, specs: &[PipelineSpec]) -> Result<Vec<Arc<Pipeline>>, GpuError> {
        // Held while the driver compiles, so that two concurrent loads do not compile the same pipeline twice.
        let mut held = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: HashMap<PipelineKey, Arc<Pipeline>> = HashMap::new();
        let mut missing: Vec<(PipelineKey, &PipelineSpec)> = Vec::new();
        for spec in specs {
            let key = spec.key();
            match held.get(&key).and_then(Weak::upgrade) {
                Some(pipeline) => drop(found.insert(key, pipeline)),
                None if missing.iter().any(|(other, _)| *other == key) => {}
                None => missing.push((key, spec)),
            }
        }
        if !missing.is_empty() {
            let started = Instant::now();
            let made = self.compile_all(&missing)?;
            self.compile_nanos.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
            held.retain(|_, pipeline| pipeline.strong_count() > 0);
            held.extend(made.iter().map(|(key, pipeline)| (key.clone(), Arc::downgrade(pipeline))));
            found.extend(made);
        }
        Ok(specs.iter().filter_map(|spec| found.get(&spec.key()).cloned()).collect())
    }

    fn compile_all(
        &self,
        missing: &[(PipelineKey, &PipelineSpec)],
    ) -> Result<Vec<(PipelineKey, Arc<Pipeline>)>, GpuError> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(PipelineKey, Arc<Pipeline>)>, GpuError> {
            let mut made = Vec::new();
            while let Some((key, spec)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let name = spec.name();
                let pipeline = self.scoped(|| Ok(Arc::new(self.compile(spec, name.clone()))));
                let pipeline =
                    pipeline.map_err(|source| GpuError::Kernel { kernel: name, source: Box::new(source) })?;
                made.push((key.clone(), pipeline));
            }
            Ok(made)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let made: Vec<Result<Vec<_>, GpuError>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            // A panic in a thread is one of the driver's or of this program's own, and goes on as such.
            let joined = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            std::iter::once(own).chain(joined).collect()
        });
        made.into_iter().collect::<Result<Vec<_>, _>>().map(|made| made.into_iter().flatten().collect())
    }

    /// Compiles one of the crate's own shaders, without run-time checks.
    fn compile(&self, spec: &PipelineSpec, name: String) -> Pipeline {
        self.pipelines_created.fetch_add(1, Ordering::Relaxed);
        let label = Some(name.as_str());
        let entries: Vec<_> = (0..)
            .zip(spec.bindings)
            .map(|(binding, Binding { access, .. })| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 4 * spec.shader.immediates.len() as u32,
        });
        let source = wgpu::ShaderSource::Wgsl(spec.source().into());
        let descriptor = wgpu::ShaderModuleDescriptor { label, source };
        // SAFETY: the sources are this crate's own. Without bounds checks every index must be in bounds, and
        // without loop bounds every loop must end. Loops run to constants or to sizes that the host sets. Indices
        // are in bounds because (1) every buffer is sized for the token budget, rows rounded up to the GEMM's step
        // of rows, widths to its step of columns, and `Engine::submit` refuses batches over the budget; (2) token
        // ids are checked by `PackedBatch::check` before upload, or they are tokens' places in a batch that brings
        // a row for each; rows of the other embedding tables follow from the architecture, whose tables
        // `layout::supports` checks to be long enough, as are those of rotary and relative positions, which have
        // the longest row's; (3) row starts and lengths come from a `PackedBatch`, whose constructors check them;
        // (4) grids are computed from the same sizes by the ops, and threads past a grid's end return or repeat the
        // last item; (5) tuning sizes its buffers by a layout that `layout::supports` accepted, ceilings mask their
        // indices by their buffer's size, and any other caller that dispatches a kernel takes these on by
        // `dispatch`'s contract. Tests poison what lies past each output and check that it stays.
        let module =
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            // Workgroup memory is written before it is read in every kernel; zeroing it costs a barrier and, in naga's
            // MSL, a loop on one thread.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &spec.overrides(),
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { pipeline, layout, name, bindings: spec.bindings }
    }

    /// Binds a kernel's buffers.
    ///
    /// # Panics
    /// The buffers belong to another kernel.
    #[must_use]
    pub fn bind<'a, B: Buffers<wgpu::BufferBinding<'a>>>(&self, pipeline: &Pipeline, buffers: B) -> wgpu::BindGroup {
        assert_eq!(pipeline.bindings, B::BINDINGS, "{} has other buffers", pipeline.name);
        self.bind_in_order(pipeline, buffers.in_order())
    }

    /// Binds a kernel's buffers, given in the order of its bindings.
    pub(super) fn bind_in_order(&self, pipeline: &Pipeline, buffers: Vec<wgpu::BufferBinding<'_>>) -> wgpu::BindGroup {
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(buffer) })
            .collect();
        let label = Some(pipeline.name.as_str());
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &pipeline.layout, entries: &entries })
    }

    /// A buffer of `bytes`, zeroed.
    ///
    /// # Errors
    /// The buffer is larger than a kernel may bind.
    pub fn buffer(&self, label: &'static str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        self.make_buffer(label, bytes, usage, false, "lower the token budget")
    }

    /// As [`buffer`](Self::buffer), mapped for writing.
    pub(super) fn mapped_buffer(
        &self,
        label: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        self.make_buffer(label, bytes, usage, true, "lower the token budget")
    }

    /// A buffer that holds `contents`, padded with zeros to a multiple of 16 bytes.
    ///
    /// # Errors
    /// The buffer is larger than a kernel may bind.
    pub fn buffer_with(
        &self,
        label: &'static str,
        contents: &[u8],
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        self.buffer_of_pieces(label, contents.len() as u64, std::iter::once(contents.to_vec()), usage)
    }

    /// A buffer of `bytes` bytes, padded with zeros to a multiple of 16, that holds `pieces` in order.
    ///
    /// # Errors
    /// The buffer is larger than a kernel may bind, or it cannot be mapped.
    pub(super) fn buffer_of_pieces(
        &self,
        label: &'static str,
        bytes: u64,
        pieces: impl Iterator<Item = Vec<u8>>,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let buffer = self.make_buffer(label, padded_bytes(bytes), usage, true, "use f16, or the CPU engine")?;
        if bytes > 0 {
            let range = buffer.slice(..bytes).get_mapped_range_mut();
            let mut view = range.map_err(|source| GpuError::Map { buffer: label, source })?;
            let mut at = 0;
            for piece in pieces {
                view.slice(at..at + piece.len()).copy_from_slice(&piece);
                at += piece.len();
            }
        }
        buffer.unmap();
        Ok(buffer)
    }

    fn make_buffer(
        &self,
        label: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
        remedy: &'static str,
    ) -> Result<wgpu::Buffer, GpuError> {
        let limit = self.description.max_buffer_bytes;
        if bytes > limit {
            return Err(GpuError::TooLarge { what: label, bytes, limit, remedy });
        }
        self.buffer_bytes_created.fetch_add(bytes, Ordering::Relaxed);
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: mapped,
        }))
    }

    /// Waits until the device has what was written into new buffers: wgpu keeps a copy of it until work is submitted.
    pub(super) fn take_uploads(&self) -> Result<(), GpuError> {
        self.queue.submit([]);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        self.check()
    }

    /// Runs dispatches, one after the other, and waits for them: for callers in this module that size buffers by the
    /// layout that they make ops of, which is part of the invariants that [`compile`](Self::compile) states.
    pub(super) fn run_all(&self, dispatches: &[(&Pipeline, &wgpu::BindGroup, Work)]) -> Result<(), GpuError> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (pipeline, bind_group, work) in dispatches {
                pipeline.record(bind_group, work, &mut pass);
            }
        }
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        self.check()
    }

    /// The first `bytes` bytes of a buffer that has `COPY_SRC`: a multiple of 4.
    pub(super) fn read_buffer(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>, GpuError> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("read", bytes, usage)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., |_| ());
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        self.check()?;
        let range = staging.slice(..).get_mapped_range();
        Ok(range.map_err(|source| GpuError::Map { buffer: "read", source })?.to_vec())
    }

    /// Runs one dispatch and waits for it.
    ///
    /// # Safety
    /// Shaders run without bounds checks. Every buffer in `bind_group` is one that the pipeline's op takes and reaches
    /// as far as `work` does: rows of the op's widths, up to the next multiple of its step of rows, and query tiles
    /// that name only rows and keys in those buffers.
    ///
    /// # Errors
    /// The device failed.
    #[cfg(feature = "drills")]
    pub unsafe fn dispatch(
        &self,
        pipeline: &Pipeline,
        bind_group: &wgpu::BindGroup,
        work: &Work,
    ) -> Result<(), GpuError> {
        self.run_all(&[(pipeline, bind_group, *work)])
    }

    /// The contents of a buffer that has `COPY_SRC`.
    ///
    /// # Errors
    /// The device failed.
    #[cfg(feature = "drills")]
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, GpuError> {
        self.read_buffer(buffer, buffer.size())
    }
}

/// Size of the buffer for `bytes` bytes of contents.
pub(super) fn padded_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(16).max(16)
}

impl Pipeline {
    /// Shader, storage and detail.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records a dispatch, unless it is empty.
    pub(super) fn record(&self, bind_group: &wgpu::BindGroup, work: &Work, pass: &mut wgpu::ComputePass<'_>) {
        if work.workgroups.contains(&0) {
            return;
        }
        let [x, y, z] = work.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        if !work.immediates().is_empty() {
            pass.set_immediates(0, bytemuck::cast_slice(work.immediates()));
        }
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Fault {
    /// Keeps the first fault.
    fn set(&self, fault: GpuError) {
        // An error means that an earlier fault is kept.
        let _ = self.0.set(fault);
    }
}
