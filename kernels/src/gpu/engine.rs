//! The engine: one model on a GPU, three batches in flight.
//!
//! Several engines share a [`GpuDevice`]: its queue, its pipelines where shapes agree, and its arena. What an engine
//! holds of its own: the weights on the device and the buffers of its batches in flight. After a fault of the device it
//! loads the model again, from its files or from a copy that it keeps.
//!
//! One file, though long: loading, submitting and recovering share the engine's private state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adapter::KernelFamily;
use super::arena::{Arena, ArenaSizes};
use super::bound::{BoundBuffers, BoundPass};
use super::choices::{BySize, Choices, Size};
use super::device::GpuDevice;
use super::error::{GpuError, Loss};
use super::host_words::HostWords;
use super::layout::{Layout, Storage, WordTable, supports};
use super::op::Rereads;
use super::opened::OpenDevice;
use super::origin::{ModelToLoad, Origin};
use super::pass::ForwardPass;
use super::sample::Subject;
use super::scratch::Scratch;
use super::slots::{SLOTS, Slot, SlotSizes};
use super::step::Extents;
use super::timing::Stopwatch;
use super::tune::TuneCache;
use super::uploaded::{self, Uploaded};
use crate::architecture::{Architecture, RowShape, Unsupported};
use crate::batch::CheckedBatch;
use crate::engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Precision, Ticket};
use crate::flops::{batch_flops, row_flops};
use crate::weights::{Model, ReadModel};

/// Default token budget: 80 rows of 100 tokens, which fills the GPUs of today, in 120 MB of f32 activations for a
/// hidden size of 384.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 8192;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// How numbers are stored: f32 or f16.
    pub precision: Precision,
    /// Most tokens in one batch; raised to the model's longest row.
    pub max_batch_tokens: usize,
    /// Source of the kernel choices: timed on this device, cached, or the defaults.
    pub tune: TuneCache,
    /// Kernel family; `None` means the adapter's own. The other family is slower and computes the same.
    pub family: Option<KernelFamily>,
    /// Largest word table on the device, in bytes, if that is less than the device takes in one buffer. A larger one
    /// stays in the processor's memory, and each batch brings the rows of its tokens: the numbers are the same.
    pub max_table_bytes: u64,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            max_batch_tokens: DEFAULT_MAX_BATCH_TOKENS,
            tune: TuneCache::default(),
            family: None,
            max_table_bytes: u64::MAX,
        }
    }
}

/// A model on a GPU.
#[derive(Debug)]
pub struct GpuEngine {
    device: Arc<GpuDevice>,
    architecture: Arc<Architecture>,
    origin: Origin,
    layout: Layout,
    max_batch_tokens: usize,
    choices: BySize<Choices>,
    compiled: Compiled,
    info: EngineInfo,
    memory: DeviceMemory,
    loaded: Option<Loaded>,
    in_flight: VecDeque<InFlight>,
    next_ticket: u64,
    scratch: Scratch,
}

/// The model's state on the device. Dropped as a whole after a fault.
#[derive(Debug)]
struct Loaded {
    gpu: Arc<OpenDevice>,
    weights: Uploaded,
    arena: Arc<Arena>,
    slots: Vec<Slot>,
    passes: Passes,
}

/// The passes for each size of batch: one where the choices are the same.
#[derive(Debug)]
struct Passes {
    small: Option<BoundPass>,
    large: BoundPass,
}

/// What loading a model had the driver compile. Pipelines that another model brought are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Pipelines.
    pub pipelines: u64,
    /// Time from the first to the last, on several threads.
    pub time: Duration,
}

#[derive(Debug)]
struct InFlight {
    ticket: u64,
    held: Held,
    report: BatchReport,
    submitted: Instant,
    submission: Option<wgpu::SubmissionIndex>,
}

/// Where the outputs of a batch in flight will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// In this slot.
    InSlot(usize),
    /// Nowhere: the batch has no rows.
    Empty,
    /// Nowhere: the device was lost with the batch.
    Lost,
}

impl GpuEngine {
    /// Whether the engine can compute a model of this architecture, on any adapter.
    ///
    /// # Errors
    /// Names the first missing part and what is supported instead.
    pub fn supports(architecture: &Architecture) -> Result<(), Unsupported> {
        supports(architecture)
    }

    /// [`memory`](Engine::memory) of a model on `device`, by formula, without uploading anything. A word table in the
    /// processor's memory is counted in f32; it takes half if it is stored in 16 bits.
    ///
    /// # Errors
    /// The engine lacks a part of the model or the precision, or the token budget exceeds one dispatch.
    pub fn memory_needed(
        device: &GpuDevice,
        architecture: &Architecture,
        options: &GpuOptions,
    ) -> Result<DeviceMemory, GpuError> {
        let gpu = device.opened()?;
        let layout = layout(&gpu, architecture, options)?;
        let max_batch_tokens = batch_tokens(architecture, &layout, options)?;
        Ok(DeviceMemory {
            weights_bytes: uploaded::bytes(architecture, &layout),
            arena_bytes: ArenaSizes::new(&layout, max_batch_tokens).total(),
            io_bytes: SlotSizes::new(&layout, max_batch_tokens, architecture.outputs()).all_bytes(&gpu),
            host_bytes: uploaded::host_bytes(architecture, &layout),
        })
    }

    /// Loads a model onto the device: uploads its weights and creates missing pipelines, every bind group and every
    /// buffer. The engine keeps `model` in the processor's memory, for a fault of the device.
    ///
    /// # Errors
    /// The engine lacks a part of the model or the precision, the token budget exceeds one dispatch, or the device is
    /// out of memory.
    ///
    /// # Panics
    /// The weights do not fit the architecture.
    pub fn load(device: &Arc<GpuDevice>, model: impl Into<Arc<Model>>, options: &GpuOptions) -> Result<Self, GpuError> {
        let model = model.into();
        Self::load_from(device, Origin::Kept(Arc::clone(&model)), ModelToLoad::Kept(model), options)
    }

    /// As [`load`](Self::load), without a copy in the processor's memory: each layer is freed when it is on the device.
    /// Only a word table that the device cannot bind stays. After a fault of the device, `read` gives the same model again.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Panics
    /// As [`load`](Self::load).
    pub fn load_from_files(
        device: &Arc<GpuDevice>,
        model: Model,
        read: ReadModel,
        options: &GpuOptions,
    ) -> Result<Self, GpuError> {
        Self::load_from(device, Origin::Read(read), ModelToLoad::Read(Box::new(model)), options)
    }

    fn load_from(
        device: &Arc<GpuDevice>,
        origin: Origin,
        model: ModelToLoad,
        options: &GpuOptions,
    ) -> Result<Self, GpuError> {
        let architecture = Arc::new(model.architecture.clone());
        let memory = Self::memory_needed(device, &architecture, options)?;
        let gpu = device.opened()?;
        let layout = layout(&gpu, &architecture, options)?;
        let max_batch_tokens = batch_tokens(&architecture, &layout, options)?;
        let family = options.family.unwrap_or(gpu.description().kernel_family());
        let subject = Subject { architecture: &architecture, layout: &layout, family, max_batch_tokens };
        let choices = options.tune.choose(&gpu, subject)?;
        let info = EngineInfo {
            name: "gpu",
            device: gpu.description().to_string(),
            precision: options.precision.name(),
            threads: 0,
        };
        let mut engine = Self {
            device: Arc::clone(device),
            architecture,
            origin,
            layout,
            max_batch_tokens,
            choices,
            compiled: Compiled::default(),
            info,
            memory,
            loaded: None,
            in_flight: VecDeque::with_capacity(SLOTS),
            next_ticket: 0,
            scratch: Scratch::default(),
        };
        let (pipelines, time) = (gpu.created().pipelines, gpu.compile_time());
        let loaded = engine.load_on(&gpu, model)?;
        engine.memory.host_bytes = loaded.weights.words().map_or(0, HostWords::bytes);
        engine.loaded = Some(loaded);
        engine.compiled = Compiled { pipelines: gpu.created().pipelines - pipelines, time: gpu.compile_time() - time };
        Ok(engine)
    }

    /// The kernel variants in use.
    #[must_use]
    pub fn choices(&self) -> &BySize<Choices> {
        &self.choices
    }

    /// What loading the model compiled.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        self.compiled
    }

    /// Where the model's word table is.
    #[must_use]
    pub fn word_table(&self) -> WordTable {
        self.layout.word_table
    }

    /// The device that the model is on.
    #[must_use]
    pub fn device(&self) -> &Arc<GpuDevice> {
        &self.device
    }

    /// Time of each kernel of a forward pass over `batch`, in the order of the pass: name, FLOPs, bytes, and the
    /// fastest of `repeats` measurements of that kernel alone. The numbers computed are discarded.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&mut self, batch: &CheckedBatch, repeats: u32) -> Result<Vec<KernelTime>, EngineError> {
        let mut outputs = Vec::new();
        self.run(batch, &mut outputs)?;
        let extents = self.scratch.extents(batch);
        let Loaded { gpu, slots, passes, .. } = self.current()?;
        let pass = passes.of(Size::of(batch.tokens()));
        // Only the batch above was in flight, so it used slot 0; the steps below bind the same slot.
        slots[0].lend();
        let stopwatch = Stopwatch::new(gpu)?;
        let mut times = Vec::new();
        for (step, pipeline, bind_group, work, rereads) in pass.profiled(extents) {
            let time = stopwatch.one(pipeline, bind_group, &work, repeats)?;
            let (name, pipeline) = (step.op.name(), pipeline.name().to_owned());
            times.push(KernelTime {
                part: step.part,
                name,
                pipeline,
                flops: work.flops,
                bytes: work.bytes,
                rereads,
                time,
            });
        }
        slots[0].resume(gpu)?;
        Ok(times)
    }

    fn load_on(&self, gpu: &Arc<OpenDevice>, model: ModelToLoad) -> Result<Loaded, GpuError> {
        self.upload(Arc::clone(gpu), model).inspect_err(|error| {
            if error.ends_opening() {
                gpu.fail(error.clone());
            }
        })
    }

    fn upload(&self, gpu: Arc<OpenDevice>, model: ModelToLoad) -> Result<Loaded, GpuError> {
        let architecture = &self.architecture;
        let weights = gpu.scoped(|| Uploaded::new(&gpu, model, &self.layout))?;
        let sizes = SlotSizes::new(&self.layout, self.max_batch_tokens, architecture.outputs());
        let slot = |_| Slot::new(&gpu, sizes);
        let slots = gpu.scoped(|| (0..SLOTS).map(slot).collect::<Result<Vec<_>, _>>())?;
        let arena = self.device.arena(&gpu, ArenaSizes::new(&self.layout, self.max_batch_tokens))?;
        let BySize { small, large } = &self.choices;
        let pass = |choices| ForwardPass::new(architecture, &self.layout, choices);
        let passes = std::iter::once(large).chain((small != large).then_some(small)).map(pass).collect();
        let buffers = BoundBuffers { weights: &weights, arena: &arena, slots: &slots };
        let mut passes = BoundPass::all(&gpu, passes, buffers)?;
        let passes = Passes { large: passes.swap_remove(0), small: passes.pop() };
        gpu.check()?;
        Ok(Loaded { gpu, weights, arena, slots, passes })
    }

    /// The model on the device: reloaded after a fault, and bound to a newer arena if there is one.
    fn current(&mut self) -> Result<&mut Loaded, GpuError> {
        if let Some(loaded) = &self.loaded
            && let Err(fault) = loaded.gpu.check()
        {
            let is_news = self.device.is_current(&loaded.gpu);
            self.drop_device();
            // The caller learns of the fault by the batches that it took. If none was in flight, and no other engine
            // has met the fault, it learns by this error.
            if is_news && !self.in_flight.iter().any(|batch| batch.held == Held::Lost) {
                return Err(fault);
            }
        }
        let mut loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => {
                let gpu = self.device.opened()?;
                self.load_on(&gpu, self.origin.model(&self.architecture)?)?
            }
        };
        let arena = self.device.newest_arena(&loaded.arena);
        if !Arc::ptr_eq(&arena, &loaded.arena) {
            loaded.arena = arena;
            let buffers = BoundBuffers { weights: &loaded.weights, arena: &loaded.arena, slots: &loaded.slots };
            for pass in loaded.passes.small.iter_mut().chain([&mut loaded.passes.large]) {
                pass.bind(&loaded.gpu, buffers);
            }
        }
        Ok(self.loaded.insert(loaded))
    }

    fn drop_device(&mut self) {
        self.loaded = None;
        for batch in &mut self.in_flight {
            if let Held::InSlot(_) = batch.held {
                batch.held = Held::Lost;
            }
        }
    }

    /// A slot that no batch in flight uses. There is one, because fewer than [`SLOTS`] are in flight.
    fn free_slot(&self) -> usize {
        let taken = |slot| self.in_flight.iter().any(|batch| batch.held == Held::InSlot(slot));
        (0..SLOTS).find(|&slot| !taken(slot)).unwrap_or(0)
    }

    /// The slot of the next batch, for [`super::drills`].
    #[cfg(feature = "drills")]
    pub(super) fn next_slot(&self) -> Option<&Slot> {
        self.loaded.as_ref()?.slots.get(self.free_slot())
    }

    /// The opening that [`super::drills`] act on.
    #[cfg(feature = "drills")]
    pub(super) fn opened(&self) -> Option<&OpenDevice> {
        self.loaded.as_ref().map(|loaded| &*loaded.gpu)
    }
}

/// The layout of a model, with its word table where the device can bind it.
fn layout(gpu: &OpenDevice, architecture: &Architecture, options: &GpuOptions) -> Result<Layout, GpuError> {
    let layout = Layout::new(architecture, Storage::try_from(options.precision)?)?;
    let most = options.max_table_bytes.min(gpu.description().max_buffer_bytes);
    Ok(layout.with_tables_up_to(architecture, most))
}

/// The token budget of a model: at least its longest row.
fn batch_tokens(architecture: &Architecture, layout: &Layout, options: &GpuOptions) -> Result<usize, GpuError> {
    let (tokens, limit) = (options.max_batch_tokens.max(architecture.max_tokens), layout.max_batch_tokens());
    if tokens > limit {
        return Err(GpuError::BatchTooLong { tokens, limit });
    }
    Ok(tokens)
}

/// Cost of one kernel of a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// The part of the forward pass; all layers have the same parts.
    pub part: &'static str,
    /// Op and shape.
    pub name: String,
    /// Its pipeline's name.
    pub pipeline: String,
    /// Useful floating-point operations.
    pub flops: u64,
    /// Bytes moved, by formula.
    pub bytes: u64,
    /// What its threads read beyond that.
    pub rereads: Rereads,
    /// The fastest measurement.
    pub time: Duration,
}

impl Passes {
    fn of(&self, size: Size) -> &BoundPass {
        match size {
            Size::Small => self.small.as_ref().unwrap_or(&self.large),
            Size::Large => &self.large,
        }
    }
}

impl Loaded {
    fn submit(
        &mut self,
        (slot, number): (usize, u64),
        (batch, scratch): (&CheckedBatch, &Scratch),
        extents: &Extents,
        outputs_bytes: u64,
        report: &mut BatchReport,
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        let Self { gpu, weights, slots, passes, .. } = self;
        let bound = passes.of(Size::of(report.tokens));
        let place = &mut slots[slot];
        place.set_timed(number);
        let label = Some("batch");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        place.upload(&mut encoder, scratch, weights.words().map(|words| (words, batch.ids())))?;
        {
            let timestamp_writes = place.timestamp_writes();
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes });
            let totals = bound.record(&mut pass, slot, extents);
            report.dispatches = totals.dispatches;
            report.bytes_moved = totals.bytes;
        }
        place.download(&mut encoder, outputs_bytes);
        let submission = gpu.queue.submit([encoder.finish()]);
        gpu.check()?;
        Ok(submission)
    }

    fn finish(
        &mut self,
        slot: usize,
        submission_index: Option<wgpu::SubmissionIndex>,
        outputs_bytes: u64,
        outputs: &mut Vec<f32>,
    ) -> Result<Option<Duration>, GpuError> {
        self.gpu.device.poll(wgpu::PollType::Wait { submission_index, timeout: None })?;
        self.gpu.check()?;
        self.slots[slot].finish(&self.gpu, outputs_bytes, outputs)
    }
}

impl Engine for GpuEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        self.architecture.row_shape()
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        row_flops(&self.architecture, tokens)
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn max_in_flight(&self) -> usize {
        SLOTS
    }

    /// Weights and batches in flight are the engine's own. The arena is the device's: an engine says what it needs of
    /// it, and [`GpuDevice::arena_bytes`] what the device holds for all.
    fn memory(&self) -> DeviceMemory {
        self.memory
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        let (found, expected) = (*batch.shape(), self.shape());
        if found != expected {
            return Err(EngineError::OtherShape { found, expected });
        }
        let (tokens, max_batch_tokens) = (batch.tokens(), self.max_batch_tokens);
        if tokens > max_batch_tokens {
            return Err(EngineError::TooManyTokens { tokens, max_batch_tokens });
        }
        if self.in_flight.len() == SLOTS {
            return Err(EngineError::TooManyInFlight { in_flight: SLOTS });
        }
        let submitted = Instant::now();
        let mut report = BatchReport {
            rows: batch.rows(),
            tokens,
            useful_flops: batch_flops(&self.architecture, batch),
            ..BatchReport::default()
        };
        let (mut held, mut submission) = (Held::Empty, None);
        if batch.rows() > 0 {
            let mut scratch = std::mem::take(&mut self.scratch);
            let outputs_bytes = (batch.rows() * expected.outputs * 4) as u64;
            let (place, architecture) = ((self.free_slot(), self.next_ticket), Arc::clone(&self.architecture));
            let word_table = self.layout.word_table;
            let submit = self.current().and_then(|loaded| {
                let queries_per_tile = loaded.passes.of(Size::of(tokens)).queries_per_tile();
                scratch.fill(&architecture, word_table, batch, queries_per_tile);
                let extents = scratch.extents(batch);
                let submitted = loaded.submit(place, (batch, &scratch), &extents, outputs_bytes, &mut report);
                submitted.inspect_err(|error| loaded.gpu.fail(error.clone()))
            });
            self.scratch = scratch;
            match submit {
                Ok(index) => (held, submission) = (Held::InSlot(place.0), Some(index)),
                Err(error) => {
                    self.drop_device();
                    return Err(error.into());
                }
            }
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.in_flight.push_back(InFlight { ticket, held, report, submitted, submission });
        Ok(Ticket(ticket))
    }

    fn wait(&mut self, ticket: &Ticket, at_most: Duration) -> bool {
        let batch = self.in_flight.iter().find(|batch| batch.ticket == ticket.0);
        let submission = batch.and_then(|batch| batch.submission.clone());
        let (Some(submission), Some(loaded)) = (submission, &self.loaded) else { return true };
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(at_most) };
        // `finish` meets every other error again, and reports it.
        !matches!(loaded.gpu.device.poll(wait), Err(wgpu::PollError::Timeout))
    }

    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        if self.in_flight.front().map(|batch| batch.ticket) != Some(ticket.0) {
            return Err(EngineError::WrongTicket { ticket: ticket.0 });
        }
        let Some(mut batch) = self.in_flight.pop_front() else {
            return Err(EngineError::WrongTicket { ticket: ticket.0 });
        };
        let slot = match batch.held {
            Held::Empty => return Ok(BatchReport { elapsed: batch.submitted.elapsed(), ..batch.report }),
            Held::Lost => return Err(GpuError::from(Loss::WithBatch).into()),
            Held::InSlot(slot) => slot,
        };
        let before = outputs.len();
        let outputs_bytes = (batch.report.rows * self.shape().outputs * 4) as u64;
        let finished = match &mut self.loaded {
            None => Err(Loss::WithBatch.into()),
            Some(loaded) => {
                let finished = loaded.finish(slot, batch.submission.take(), outputs_bytes, outputs);
                finished.inspect_err(|error| loaded.gpu.fail(error.clone()))
            }
        };
        match finished {
            Ok(device_time) => Ok(BatchReport { elapsed: batch.submitted.elapsed(), device_time, ..batch.report }),
            Err(error) => {
                outputs.truncate(before);
                self.drop_device();
                Err(error.into())
            }
        }
    }
}
