//! The own buffers of one batch in flight: its input, its outputs and two timestamps.
//!
//! If processor and device share memory, the processor writes inputs and reads outputs directly in the kernels'
//! buffers. Otherwise each buffer has a staging buffer, copied in the same submission before or after the pass. Either
//! way the processor's side is mapped by the submission itself: once a batch is finished its slot can be written, and
//! nothing waits for the batches behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::error::{GpuError, Loss};
use super::host_words::HostWords;
use super::layout::{Layout, WordTable};
use super::opened::OpenDevice;
use super::ops::attention::QueryTile;
use super::ops::embed::Token;
use super::scratch::Scratch;
use super::timing;

/// Batches that may be in flight: one computing, one waiting behind it, one being read.
pub(super) const SLOTS: usize = 3;

/// One batch in so many is timed by the device: resolving timestamps takes it some tens of microseconds.
const TIMED_EVERY: u64 = 16;
/// A callback that has not come so long after its submission never will.
const PATIENCE: Duration = Duration::from_secs(10);
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
    /// Whether the batch in flight is timed.
    timed: bool,
    sizes: SlotSizes,
    inputs_mapped: Mapping,
    outputs_mapped: Mapping,
}

/// What the buffers of a slot are sized by.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotSizes {
    /// Most tokens in a batch, and most rows.
    max_batch_tokens: u64,
    /// Numbers that a row of a batch gives.
    outputs: u64,
    /// Bytes of a row of the word table, which each token brings; 0 if the table is on the device.
    word_bytes: u64,
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
    /// Buffers for batches of such sizes.
    pub(super) fn new(gpu: &OpenDevice, sizes: SlotSizes) -> Result<Self, GpuError> {
        use wgpu::BufferUsages as U;
        let (in_bytes, out_bytes) = (sizes.inputs_bytes(), sizes.outputs_bytes());
        let unified = gpu.description().unified_memory;
        let (inputs, inputs_staging) = if unified {
            (gpu.mapped_buffer("inputs", in_bytes, U::STORAGE | U::MAP_WRITE)?, None)
        } else {
            let staging = gpu.mapped_buffer("inputs staging", in_bytes, U::MAP_WRITE | U::COPY_SRC)?;
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
        Ok(Self {
            inputs,
            inputs_staging,
            outputs,
            outputs_staging,
            timestamps,
            timed: false,
            sizes,
            inputs_mapped: Mapping::done(),
            outputs_mapped: Mapping::default(),
        })
    }

    /// The tokens of the batch, as a binding.
    pub(super) fn tokens(&self) -> wgpu::BufferBinding<'_> {
        self.binding(0, self.sizes.max_batch_tokens * size_of::<Token>() as u64)
    }

    /// The query tiles of the batch, as a binding.
    pub(super) fn query_tiles(&self) -> wgpu::BufferBinding<'_> {
        self.binding(self.sizes.query_tiles_offset(), self.sizes.max_batch_tokens * size_of::<QueryTile>() as u64)
    }

    /// The rows of the batch, one query tile of one query each, as a binding.
    pub(super) fn rows(&self) -> wgpu::BufferBinding<'_> {
        self.binding(self.sizes.rows_offset(), self.sizes.max_batch_tokens * size_of::<QueryTile>() as u64)
    }

    /// The rows of the word table that the batch brings, as a binding; only if the table is not on the device.
    pub(super) fn words(&self) -> wgpu::BufferBinding<'_> {
        self.binding(self.sizes.words_offset(), self.sizes.max_batch_tokens * self.sizes.word_bytes)
    }

    /// The outputs of the kernels, as a binding.
    pub(super) fn outputs(&self) -> wgpu::BufferBinding<'_> {
        self.outputs.as_entire_buffer_binding()
    }

    /// Whether the processor can write a batch's input now.
    #[cfg(feature = "drills")]
    pub(super) fn is_writable(&self) -> bool {
        self.inputs_mapped.0.load(Ordering::Acquire) == MAPPED
    }

    /// Writes a batch's input and records its copies to the device.
    pub(super) fn upload(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        scratch: &Scratch,
        words: Option<(&HostWords, &[u32])>,
    ) -> Result<(), GpuError> {
        self.inputs_mapped.check()?;
        let parts: [(u64, &[u8]); 3] = [
            (0, bytemuck::cast_slice(&scratch.tokens)),
            (self.sizes.query_tiles_offset(), bytemuck::cast_slice(&scratch.query_tiles)),
            (self.sizes.rows_offset(), bytemuck::cast_slice(&scratch.rows)),
        ];
        let words_offset = self.sizes.words_offset();
        let word_bytes = words.map_or(0, |(_, ids)| ids.len() as u64 * self.sizes.word_bytes);
        let buffer = self.inputs_staging.as_ref().unwrap_or(&self.inputs);
        {
            let range = buffer.slice(..).get_mapped_range_mut();
            let mut view = range.map_err(|source| GpuError::Map { buffer: "inputs", source })?;
            for (offset, bytes) in parts {
                let start = offset as usize;
                view.slice(start..start + bytes.len()).copy_from_slice(bytes);
            }
            if let Some((words, ids)) = words {
                let mut at = words_offset as usize;
                words.gather(ids, |row| {
                    view.slice(at..at + row.len()).copy_from_slice(row);
                    at += row.len();
                });
            }
        }
        buffer.unmap();
        if let Some(staging) = &self.inputs_staging {
            let parts = parts.map(|(offset, bytes)| (offset, bytes.len() as u64));
            for (offset, bytes) in parts.into_iter().chain([(words_offset, word_bytes)]).filter(|part| part.1 > 0) {
                encoder.copy_buffer_to_buffer(staging, offset, &self.inputs, offset, bytes);
            }
        }
        Ok(())
    }

    /// Gives the inputs of the last batch to the kernels again, for profiles; [`resume`](Self::resume) takes them back.
    pub(super) fn lend(&self) {
        if self.inputs_staging.is_none() {
            self.inputs.unmap();
        }
    }

    /// Prepares the slot for the next batch after [`lend`](Self::lend).
    pub(super) fn resume(&mut self, gpu: &OpenDevice) -> Result<(), GpuError> {
        if self.inputs_staging.is_none() {
            self.inputs_mapped = Mapping::default();
            self.inputs.map_async(wgpu::MapMode::Write, .., self.inputs_mapped.callback());
            gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        }
        self.inputs_mapped.check()
    }

    /// Decides whether the device times the model's batch of this number.
    pub(super) fn set_timed(&mut self, number: u64) {
        self.timed = self.timestamps.is_some() && number.is_multiple_of(TIMED_EVERY);
    }

    /// Where the pass writes its timestamps, if the batch is timed.
    pub(super) fn timestamp_writes(&self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        self.timestamps.as_ref().filter(|_| self.timed).map(|timestamps| wgpu::ComputePassTimestampWrites {
            query_set: &timestamps.set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        })
    }

    /// Records the copies of outputs and timestamps to the processor, and requests that all of the processor's side is
    /// mapped when the submission is done.
    pub(super) fn download(&mut self, encoder: &mut wgpu::CommandEncoder, bytes: u64) {
        if let Some(staging) = &self.outputs_staging {
            encoder.copy_buffer_to_buffer(&self.outputs, 0, staging, 0, bytes);
        }
        self.outputs_mapped = Mapping::default();
        let buffer = self.outputs_staging.as_ref().unwrap_or(&self.outputs);
        encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Read, 0..bytes, self.outputs_mapped.callback());
        self.inputs_mapped = Mapping::default();
        let buffer = self.inputs_staging.as_ref().unwrap_or(&self.inputs);
        encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Write, .., self.inputs_mapped.callback());
        if let Some(timestamps) = self.timestamps.as_mut().filter(|_| self.timed) {
            encoder.resolve_query_set(&timestamps.set, 0..2, &timestamps.resolved, 0);
            encoder.copy_buffer_to_buffer(&timestamps.resolved, 0, &timestamps.read, 0, TIMESTAMPS_BYTES);
            timestamps.mapped = Mapping::default();
            let callback = timestamps.mapped.callback();
            encoder.map_buffer_on_submit(&timestamps.read, wgpu::MapMode::Read, .., callback);
        }
    }

    /// After the submission: appends its numbers to `outputs` and returns the device's time, if the batch was timed.
    pub(super) fn finish(
        &mut self,
        gpu: &OpenDevice,
        bytes: u64,
        outputs: &mut Vec<f32>,
    ) -> Result<Option<Duration>, GpuError> {
        self.outputs_mapped.check()?;
        let buffer = self.outputs_staging.as_ref().unwrap_or(&self.outputs);
        {
            let range = buffer.slice(0..bytes).get_mapped_range();
            let view = range.map_err(|source| GpuError::Map { buffer: "outputs", source })?;
            outputs.extend(view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        buffer.unmap();
        match self.timestamps.as_ref().filter(|_| self.timed) {
            None => Ok(None),
            Some(timestamps) => Ok(Some(timestamps.read(gpu)?)),
        }
    }

    fn binding(&self, offset: u64, bytes: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.inputs, offset, size: wgpu::BufferSize::new(bytes) }
    }
}

impl Timestamps {
    fn read(&self, gpu: &OpenDevice) -> Result<Duration, GpuError> {
        self.mapped.check()?;
        let time = {
            let range = self.read.slice(..).get_mapped_range();
            let view = range.map_err(|source| GpuError::Map { buffer: "timestamps", source })?;
            timing::between(&view, gpu.queue.get_timestamp_period())
        };
        self.read.unmap();
        Ok(time)
    }
}

impl Mapping {
    fn callback(&self) -> impl FnOnce(Result<(), wgpu::BufferAsyncError>) + Send + 'static {
        let state = self.0.clone();
        move |result| state.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release)
    }

    /// A buffer that is mapped from its creation on.
    fn done() -> Self {
        Self(Arc::new(AtomicU8::new(MAPPED)))
    }

    /// After the submission: waits for the callback. It has come by then, or another thread is about to call it.
    fn check(&self) -> Result<(), GpuError> {
        let started = Instant::now();
        while self.0.load(Ordering::Acquire) == PENDING && started.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        match self.0.load(Ordering::Acquire) {
            MAPPED => Ok(()),
            _ => Err(Loss::Unmapped.into()),
        }
    }
}

impl SlotSizes {
    /// Those of a model's batches: `outputs` numbers a row.
    pub(super) fn new(layout: &Layout, max_batch_tokens: usize, outputs: usize) -> Self {
        let word_bytes = match layout.word_table {
            WordTable::OnDevice => 0,
            WordTable::OnHost => layout.embeddings.width * layout.storage.bytes(),
        };
        let [max_batch_tokens, outputs, word_bytes] = [max_batch_tokens, outputs, word_bytes].map(|size| size as u64);
        Self { max_batch_tokens, outputs, word_bytes }
    }

    fn query_tiles_offset(&self) -> u64 {
        (self.max_batch_tokens * size_of::<Token>() as u64).next_multiple_of(ALIGNMENT)
    }

    fn rows_offset(&self) -> u64 {
        self.query_tiles_offset() + self.query_tiles_bytes()
    }

    fn words_offset(&self) -> u64 {
        self.rows_offset() + self.query_tiles_bytes()
    }

    fn query_tiles_bytes(&self) -> u64 {
        (self.max_batch_tokens * size_of::<QueryTile>() as u64).next_multiple_of(ALIGNMENT)
    }

    fn inputs_bytes(&self) -> u64 {
        self.words_offset() + (self.max_batch_tokens * self.word_bytes).next_multiple_of(ALIGNMENT)
    }

    fn outputs_bytes(&self) -> u64 {
        (self.max_batch_tokens * self.outputs * 4).next_multiple_of(16)
    }

    /// Bytes of all slots of a model.
    pub(super) fn all_bytes(&self, gpu: &OpenDevice) -> u64 {
        let twins = if gpu.description().unified_memory { 1 } else { 2 };
        let timestamps = if gpu.has(wgpu::Features::TIMESTAMP_QUERY) { 2 * TIMESTAMPS_BYTES } else { 0 };
        SLOTS as u64 * (twins * (self.inputs_bytes() + self.outputs_bytes()) + timestamps)
    }
}
