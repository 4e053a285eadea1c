//! The own buffers of one batch in flight: its input, its outputs and two timestamps.
//!
//! If processor and device share memory, the processor writes inputs and reads outputs directly in the kernels'
//! buffers. Otherwise each buffer has a staging buffer, copied in the same submission before or after the pass. Either
//! way the processor's side is mapped again as soon as the batch is finished, so submitting never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::error::{GpuError, Loss};
use super::opened::OpenDevice;
use super::ops::attention::QueryTile;
use super::ops::embed::Token;

/// Batches that may be in flight: one computing, one waiting behind it, one being read.
pub(super) const SLOTS: usize = 3;

/// Every adapter accepts bindings at multiples of this offset.
const ALIGNMENT: u64 = 256;
const TIMESTAMPS_BYTES: u64 = 16;

/// Buffers of one batch in flight.
#[derive(Debug)]
pub(super) struct Slot {
    inputs: wgpu::Buffer,
    /// Staging buffer of `inputs`, if memory is not shared.
    inputs_staging: Option<wgpu::Buffer>,
    outputs: wgpu::Buffer,
    /// Staging buffer of `outputs`, if memory is not shared.
    outputs_staging: Option<wgpu::Buffer>,
    timestamps: Option<Timestamps>,
    max_batch_tokens: u64,
    inputs_mapped: Mapping,
    outputs_mapped: Mapping,
}

#[derive(Debug)]
struct Timestamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
    mapped: Mapping,
}

/// A mapping in progress, reported by wgpu's callback.
#[derive(Debug, Clone, Default)]
struct Mapping(Arc<AtomicU8>);

const PENDING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

impl Slot {
    /// Buffers for batches of up to `max_batch_tokens` tokens and as many rows, with `outputs` numbers per row.
    pub(super) fn new(gpu: &OpenDevice, max_batch_tokens: usize, outputs: usize) -> Result<Self, GpuError> {
        use wgpu::BufferUsages as U;
        let max_batch_tokens = max_batch_tokens as u64;
        let in_bytes = inputs_bytes(max_batch_tokens);
        let out_bytes = outputs_bytes(max_batch_tokens, outputs);
        let unified = gpu.description().unified_memory;
        let (inputs, inputs_staging) = if unified {
            (gpu.buffer("inputs", in_bytes, U::STORAGE | U::MAP_WRITE)?, None)
        } else {
            let staging = gpu.buffer("inputs staging", in_bytes, U::MAP_WRITE | U::COPY_SRC)?;
            (gpu.buffer("inputs", in_bytes, U::STORAGE | U::COPY_DST)?, Some(staging))
        };
        let (outputs, outputs_staging) = if unified {
            (gpu.buffer("outputs", out_bytes, U::STORAGE | U::MAP_READ)?, None)
        } else {
            let staging = gpu.buffer("outputs staging", out_bytes, U::MAP_READ | U::COPY_DST)?;
            (gpu.buffer("outputs", out_bytes, U::STORAGE | U::COPY_SRC)?, Some(staging))
        };
        let timestamps = match gpu.has(wgpu::Features::TIMESTAMP_QUERY) {
            false => None,
            true => Some(Timestamps {
                set: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: gpu.buffer("timestamps", TIMESTAMPS_BYTES, U::QUERY_RESOLVE | U::COPY_SRC)?,
                read: gpu.buffer("timestamps staging", TIMESTAMPS_BYTES, U::MAP_READ | U::COPY_DST)?,
                mapped: Mapping::default(),
            }),
        };
        let (inputs_mapped, outputs_mapped) = (Mapping::default(), Mapping::default());
        let slot = Self {
            inputs,
            inputs_staging,
            outputs,
            outputs_staging,
            timestamps,
            max_batch_tokens,
            inputs_mapped,
            outputs_mapped,
        };
        slot.map_inputs();
        Ok(slot)
    }

    /// The tokens of the batch, as a binding.
    pub(super) fn tokens(&self) -> wgpu::BufferBinding<'_> {
        self.binding(0, self.max_batch_tokens * size_of::<Token>() as u64)
    }

    /// The query tiles of the batch, as a binding.
    pub(super) fn query_tiles(&self) -> wgpu::BufferBinding<'_> {
        self.binding(query_tiles_offset(self.max_batch_tokens), self.max_batch_tokens * size_of::<QueryTile>() as u64)
    }

    /// The rows of the batch, one query tile of one query each, as a binding.
    pub(super) fn rows(&self) -> wgpu::BufferBinding<'_> {
        self.binding(rows_offset(self.max_batch_tokens), self.max_batch_tokens * size_of::<QueryTile>() as u64)
    }

    /// The outputs of the kernels, as a binding.
    pub(super) fn outputs(&self) -> wgpu::BufferBinding<'_> {
        self.outputs.as_entire_buffer_binding()
    }

    /// Writes a batch's input and records its copies to the device.
    pub(super) fn upload(
        &self,
        gpu: &OpenDevice,
        encoder: &mut wgpu::CommandEncoder,
        (tokens, query_tiles, rows): (&[Token], &[QueryTile], &[QueryTile]),
    ) -> Result<(), GpuError> {
        self.inputs_mapped.wait(gpu)?;
        let parts: [(u64, &[u8]); 3] = [
            (0, bytemuck::cast_slice(tokens)),
            (query_tiles_offset(self.max_batch_tokens), bytemuck::cast_slice(query_tiles)),
            (rows_offset(self.max_batch_tokens), bytemuck::cast_slice(rows)),
        ];
        let buffer = self.inputs_staging.as_ref().unwrap_or(&self.inputs);
        {
            let range = buffer.slice(..).get_mapped_range_mut();
            let mut view = range.map_err(|source| GpuError::Map { buffer: "inputs", source })?;
            for (offset, bytes) in parts {
                let start = offset as usize;
                view.slice(start..start + bytes.len()).copy_from_slice(bytes);
            }
        }
        buffer.unmap();
        if let Some(staging) = &self.inputs_staging {
            for (offset, bytes) in parts {
                encoder.copy_buffer_to_buffer(staging, offset, &self.inputs, offset, bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// Gives the inputs of the last batch to the kernels again, for profiles; [`resume`](Self::resume) takes them back.
    pub(super) fn lend(&self, gpu: &OpenDevice) -> Result<(), GpuError> {
        if self.inputs_staging.is_none() {
            self.inputs_mapped.wait(gpu)?;
            self.inputs.unmap();
        }
        Ok(())
    }

    /// Prepares the slot for the next batch after [`lend`](Self::lend).
    pub(super) fn resume(&mut self) {
        if self.inputs_staging.is_none() {
            self.inputs_mapped = Mapping::default();
            self.map_inputs();
        }
    }

    /// Where the pass writes its timestamps.
    pub(super) fn timestamp_writes(&self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        self.timestamps.as_ref().map(|timestamps| wgpu::ComputePassTimestampWrites {
            query_set: &timestamps.set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        })
    }

    /// Records the copies of outputs and timestamps to the processor, and requests their mapping.
    pub(super) fn download(&mut self, encoder: &mut wgpu::CommandEncoder, bytes: u64) {
        if let Some(staging) = &self.outputs_staging {
            encoder.copy_buffer_to_buffer(&self.outputs, 0, staging, 0, bytes);
        }
        self.outputs_mapped = Mapping::default();
        let buffer = self.outputs_staging.as_ref().unwrap_or(&self.outputs);
        encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Read, 0..bytes, self.outputs_mapped.callback());
        if let Some(timestamps) = &mut self.timestamps {
            encoder.resolve_query_set(&timestamps.set, 0..2, &timestamps.resolved, 0);
            encoder.copy_buffer_to_buffer(&timestamps.resolved, 0, &timestamps.read, 0, TIMESTAMPS_BYTES);
            timestamps.mapped = Mapping::default();
            let callback = timestamps.mapped.callback();
            encoder.map_buffer_on_submit(&timestamps.read, wgpu::MapMode::Read, .., callback);
        }
    }

    /// Waits for the submission, appends its numbers to `outputs`, returns the device's time and prepares the slot for
    /// the next batch.
    pub(super) fn finish(
        &mut self,
        gpu: &OpenDevice,
        bytes: u64,
        outputs: &mut Vec<f32>,
    ) -> Result<Option<Duration>, GpuError> {
        self.outputs_mapped.wait(gpu)?;
        let buffer = self.outputs_staging.as_ref().unwrap_or(&self.outputs);
        {
            let range = buffer.slice(0..bytes).get_mapped_range();
            let view = range.map_err(|source| GpuError::Map { buffer: "outputs", source })?;
            outputs.extend(view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        buffer.unmap();
        let device_time = match &self.timestamps {
            None => None,
            Some(timestamps) => Some(timestamps.read(gpu)?),
        };
        self.inputs_mapped = Mapping::default();
        self.map_inputs();
        Ok(device_time)
    }

    fn map_inputs(&self) {
        let buffer = self.inputs_staging.as_ref().unwrap_or(&self.inputs);
        buffer.map_async(wgpu::MapMode::Write, .., self.inputs_mapped.callback());
    }

    fn binding(&self, offset: u64, bytes: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.inputs, offset, size: wgpu::BufferSize::new(bytes) }
    }
}

impl Timestamps {
    fn read(&self, gpu: &OpenDevice) -> Result<Duration, GpuError> {
        self.mapped.wait(gpu)?;
        let ticks = {
            let range = self.read.slice(..).get_mapped_range();
            let view = range.map_err(|source| GpuError::Map { buffer: "timestamps", source })?;
            let at = |index: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&view[8 * index..8 * index + 8]);
                u64::from_le_bytes(bytes)
            };
            at(1).saturating_sub(at(0))
        };
        self.read.unmap();
        Ok(Duration::from_nanos((ticks as f64 * f64::from(gpu.queue.get_timestamp_period())) as u64))
    }
}

impl Mapping {
    fn callback(&self) -> impl FnOnce(Result<(), wgpu::BufferAsyncError>) + Send + 'static {
        let state = self.0.clone();
        move |result| state.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release)
    }

    /// Waits for the callback. By then the work before the mapping is done or lost.
    fn wait(&self, gpu: &OpenDevice) -> Result<(), GpuError> {
        if self.0.load(Ordering::Acquire) == PENDING {
            gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        }
        match self.0.load(Ordering::Acquire) {
            MAPPED => Ok(()),
            _ => Err(Loss::Unmapped.into()),
        }
    }
}

fn query_tiles_offset(max_batch_tokens: u64) -> u64 {
    (max_batch_tokens * size_of::<Token>() as u64).next_multiple_of(ALIGNMENT)
}

fn rows_offset(max_batch_tokens: u64) -> u64 {
    query_tiles_offset(max_batch_tokens)
        + (max_batch_tokens * size_of::<QueryTile>() as u64).next_multiple_of(ALIGNMENT)
}

fn inputs_bytes(max_batch_tokens: u64) -> u64 {
    rows_offset(max_batch_tokens) + (max_batch_tokens * size_of::<QueryTile>() as u64).next_multiple_of(ALIGNMENT)
}

fn outputs_bytes(max_batch_tokens: u64, outputs: usize) -> u64 {
    (max_batch_tokens * outputs as u64 * 4).next_multiple_of(16)
}

/// Bytes of all slots of a model whose rows have `outputs` numbers.
pub(super) fn bytes(gpu: &OpenDevice, max_batch_tokens: usize, outputs: usize) -> u64 {
    let max_batch_tokens = max_batch_tokens as u64;
    let batch = inputs_bytes(max_batch_tokens) + outputs_bytes(max_batch_tokens, outputs);
    let twins = if gpu.description().unified_memory { 1 } else { 2 };
    let timestamps = if gpu.has(wgpu::Features::TIMESTAMP_QUERY) { 2 * TIMESTAMPS_BYTES } else { 0 };
    SLOTS as u64 * (twins * batch + timestamps)
}
