//! One open device: its queue, its faults, and the counters that show that serving creates nothing.
//!
//! The only file of the engine with `unsafe`: experimental features and unchecked shaders are asked for here.
#![allow(unsafe_code, reason = "unchecked shaders and experimental features; each block says why it is sound")]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::adapter::{self, AdapterDescription, AdapterSelection};
use super::error::GpuError;
use super::kernel::{Kernel, Work};

/// An open device.
#[derive(Debug)]
pub struct GpuDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    description: AdapterDescription,
    features: wgpu::Features,
    fault: FaultCell,
    pipelines: AtomicU64,
    buffer_bytes: AtomicU64,
}

/// The first thing that went wrong on a device since it was opened.
#[derive(Debug, Clone, Default)]
struct FaultCell(Arc<Mutex<Option<Fault>>>);

#[derive(Debug, Clone)]
enum Fault {
    OutOfMemory(String),
    Lost(String),
    Other(String),
}

/// Created pipelines and buffers, to show that serving adds none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Compute pipelines.
    pub pipelines: u64,
    /// Bytes of all buffers.
    pub buffer_bytes: u64,
}

impl GpuDevice {
    /// Opens the adapter that `selection` names, with every feature that some kernel can use.
    ///
    /// # Errors
    /// No adapter fits, it lacks what every kernel needs, or its driver refuses.
    pub fn open(selection: &AdapterSelection) -> Result<Self, GpuError> {
        let (adapter, description) = adapter::select(selection)?;
        let optional = wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            | wgpu::Features::SHADER_F16
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let features = adapter::REQUIRED | (optional & adapter.features());
        // SAFETY: the one experimental feature in use is the cooperative matrix, in one kernel that is validated by naga
        // and tested against float64 on every adapter where the tests find it; it reads and writes within the bounds
        // that `ops::gemm` states.
        let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("assay"),
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = block_on(request).map_err(|error| GpuError::Device(error.to_string()))?;
        let fault = FaultCell::default();
        let cell = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            cell.set(match error {
                wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory(source.to_string()),
                other => Fault::Other(other.to_string()),
            });
        }));
        let cell = fault.clone();
        device.set_device_lost_callback(move |_, message| cell.set(Fault::Lost(message)));
        let (pipelines, buffer_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { device, queue, description, features, fault, pipelines, buffer_bytes })
    }

    /// The adapter.
    #[must_use]
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// What was created on the device so far.
    #[must_use]
    pub fn created(&self) -> Created {
        Created {
            pipelines: self.pipelines.load(Ordering::Relaxed),
            buffer_bytes: self.buffer_bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether the device was opened with `feature`.
    #[must_use]
    pub fn has(&self, feature: wgpu::Features) -> bool {
        self.features.contains(feature)
    }

    /// The first fault since the device was opened, as an error. A device with a fault is to be opened anew.
    ///
    /// # Errors
    /// There was a fault.
    pub fn check(&self) -> Result<(), GpuError> {
        match self.fault.get() {
            None => Ok(()),
            Some(Fault::OutOfMemory(message)) => Err(GpuError::OutOfMemory(message)),
            Some(Fault::Lost(message)) => Err(GpuError::Lost(message)),
            Some(Fault::Other(message)) => Err(GpuError::Device(message)),
        }
    }

    /// Gives the device up, as a driver reset would.
    pub(super) fn destroy(&self) {
        self.device.destroy();
    }

    /// Marks the device as out of memory, as a failed allocation would.
    pub(super) fn fail_out_of_memory(&self) {
        self.fault.set(Fault::OutOfMemory("provoked by a drill".to_owned()));
    }

    /// Runs `make` and returns the first error that it caused on this thread.
    ///
    /// # Errors
    /// Something that `make` created is invalid, or did not fit into memory.
    pub fn scoped<T>(&self, make: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = make();
        let errors = [internal.pop(), validation.pop(), memory.pop()].map(|error| block_on_boxed(Box::pin(error)));
        match errors.into_iter().rev().flatten().next() {
            Some(error) => Err(error.into()),
            None => made,
        }
    }

    /// A buffer of `bytes`, zeroed.
    ///
    /// # Errors
    /// It is larger than a kernel may bind.
    pub fn buffer(&self, label: &'static str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        self.make_buffer(label, bytes, usage, false)
    }

    /// A buffer that holds `contents`, padded with zeros to a multiple of 16 bytes.
    ///
    /// # Errors
    /// It is larger than a kernel may bind.
    pub fn buffer_with(
        &self,
        label: &'static str,
        contents: &[u8],
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let buffer = self.make_buffer(label, (contents.len() as u64).next_multiple_of(16).max(16), usage, true)?;
        if !contents.is_empty() {
            let mut view = buffer
                .slice(..contents.len() as u64)
                .get_mapped_range_mut()
                .map_err(|error| GpuError::OutOfMemory(format!("{label}: {error}")))?;
            view.copy_from_slice(contents);
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
    ) -> Result<wgpu::Buffer, GpuError> {
        let limit = self.description.max_buffer_bytes;
        if bytes > limit {
            return Err(GpuError::TooLarge { what: label, bytes, limit });
        }
        self.buffer_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: mapped,
        }))
    }

    /// Runs one dispatch and waits for it: for tests. Serving records whole passes.
    ///
    /// # Safety
    /// Shaders run without bounds checks. Every buffer in `bind_group` is one that the kernel's op takes and reaches as
    /// far as `work` does: rows of the op's widths, up to the next multiple of its tile of rows, and tile entries that
    /// name only rows and keys in those buffers.
    ///
    /// # Errors
    /// The device failed.
    pub unsafe fn dispatch(&self, kernel: &Kernel, bind_group: &wgpu::BindGroup, work: &Work) -> Result<(), GpuError> {
        self.run_one(kernel, bind_group, work)
    }

    /// As [`dispatch`](Self::dispatch), for callers in this module that size buffers by the layout that they make ops
    /// of: part of the invariants that [`pipeline`](Self::pipeline) states.
    pub(super) fn run_one(&self, kernel: &Kernel, bind_group: &wgpu::BindGroup, work: &Work) -> Result<(), GpuError> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        work.record(kernel, bind_group, &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.queue.submit([encoder.finish()]);
        let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|error| GpuError::Lost(error.to_string()))?;
        self.check()
    }

    /// The contents of a buffer that has `COPY_SRC`: for tests and tools.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, GpuError> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("read", buffer.size(), usage)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., |_| ());
        self.queue.submit([encoder.finish()]);
        let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|error| GpuError::Lost(error.to_string()))?;
        self.check()?;
        let view = staging.slice(..).get_mapped_range().map_err(|error| GpuError::Device(error.to_string()))?;
        Ok(view.to_vec())
    }

    /// A compute pipeline of one of the crate's own shaders, without run-time checks.
    pub(super) fn pipeline(
        &self,
        label: &str,
        source: &str,
        layout: &wgpu::PipelineLayout,
        constants: &[(&str, f64)],
    ) -> wgpu::ComputePipeline {
        self.pipelines.fetch_add(1, Ordering::Relaxed);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(std::borrow::Cow::Borrowed(source)),
        };
        // SAFETY: the sources are this crate's own. Without bounds checks every index must be in bounds, and without loop
        // bounds every loop must end. Loops run to constants or to sizes that the host sets. Indices are in bounds
        // because (1) every buffer is sized at load for the token budget, rows rounded up to the GEMM's row tile, widths
        // to its column tile, and `Engine::submit` refuses batches over the budget; (2) token ids, places and segments
        // are checked by `PackedBatch::check` before upload; (3) row starts and lengths come from a `PackedBatch`, whose
        // constructors check them; (4) grids are computed from the same sizes by the ops, and threads past a grid's end
        // return or repeat the last item; (5) tuning sizes its buffers by a layout that `Layout::check` accepted, and whoever
        // else dispatches a kernel takes these on by `dispatch`'s contract. Tests poison what lies past each output and
        // check that it stays.
        let module =
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(layout),
            module: &module,
            entry_point: Some("main"),
            // Workgroup memory is written before it is read in every kernel; zeroing it costs a barrier and, in naga's
            // MSL, a loop on one thread.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}

impl FaultCell {
    /// Keeps the first fault: what follows a lost device is noise.
    fn set(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    fn get(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs a future of wgpu's to its end. On native backends they are ready at once.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

fn block_on_boxed<T>(future: std::pin::Pin<Box<dyn Future<Output = T> + '_>>) -> T {
    block_on(future)
}
