//! The engine: one model on one device, three batches in flight.
//!
//! A fault of the device (lost, out of memory, a driver's error) ends the batches in flight with an error; the next
//! submission opens the device anew and loads the model again from the weights, which the engine keeps for that purpose.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adapter::{AdapterDescription, AdapterSelection};
use super::device::{Created, GpuDevice};
use super::error::GpuError;
use super::kernel::Extent;
use super::layout::{Layout, Precision};
use super::model::DeviceModel;
use super::ops::Target;
use super::ops::attention::{self, Tile};
use super::ops::embed::Token;
use super::plan::{Arena, Extents, Plan};
use super::slots::{SLOTS, Slot};
use super::supports;
use super::tune::{self, Choices, TuneCache};
use crate::architecture::{Architecture, TokenTypes, Unsupported};
use crate::batch::{CheckedBatch, PackedBatch};
use crate::engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, RowShape, Ticket};
use crate::flops::{batch_flops, row_flops};
use crate::weights::Model;

/// Token budget where nobody says: 80 rows of 100 tokens, which fills the GPUs of today, in 120 MB of f32 activations for
/// a hidden size of 384.
pub const DEFAULT_MAX_BATCH_TOKENS: usize = 8192;
/// Workgroups that wgpu dispatches along one dimension at most.
const MAX_WORKGROUPS: usize = 65_535;

/// How to make a [`GpuEngine`].
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Which adapter to open.
    pub adapter: AdapterSelection,
    /// How numbers are stored.
    pub precision: Precision,
    /// Most tokens in one batch; raised to the model's longest row.
    pub max_batch_tokens: usize,
    /// Where kernel choices come from: timed on this device, remembered, or the defaults.
    pub tune: TuneCache,
    /// Which family of kernels; none means the adapter's own. The other is for tests.
    pub target: Option<Target>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            adapter: AdapterSelection::default(),
            precision: Precision::default(),
            max_batch_tokens: DEFAULT_MAX_BATCH_TOKENS,
            tune: TuneCache::default(),
            target: None,
        }
    }
}

/// A model on a GPU.
#[derive(Debug)]
pub struct GpuEngine {
    model: Arc<Model>,
    options: GpuOptions,
    layout: Layout,
    info: EngineInfo,
    memory: DeviceMemory,
    loaded: Option<Loaded>,
    in_flight: VecDeque<InFlight>,
    next_ticket: u64,
    scratch: Scratch,
}

/// Everything that lives on the device. Dropped as a whole after a fault.
#[derive(Debug)]
struct Loaded {
    gpu: GpuDevice,
    model: DeviceModel,
    arena: Arena,
    slots: Vec<Slot>,
    plan: Plan,
    choices: Choices,
}

#[derive(Debug)]
struct InFlight {
    ticket: u64,
    slot: Place,
    report: BatchReport,
    submitted: Instant,
    submission: Option<wgpu::SubmissionIndex>,
}

/// Where the numbers of a batch will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In this slot.
    Slot(usize),
    /// Nowhere: the batch has no rows.
    Empty,
    /// Nowhere: the device was lost with the batch.
    Lost,
}

/// Upload images, reused from batch to batch.
#[derive(Debug, Default)]
struct Scratch {
    tokens: Vec<Token>,
    tiles: Vec<Tile>,
    rows: Vec<Tile>,
}

impl GpuEngine {
    /// Opens the device and loads the model: every pipeline, bind group and buffer is made here.
    ///
    /// # Errors
    /// There is no such adapter, the model has a shape that no kernel computes, or its memory does not suffice.
    pub fn new(model: impl Into<Arc<Model>>, options: GpuOptions) -> Result<Self, GpuError> {
        let model = model.into();
        Self::supports(&model.architecture)?;
        let layout = Layout::new(&model.architecture, options.precision)?;
        let longest = model.architecture.max_tokens;
        let most = MAX_WORKGROUPS * 64 / (layout.hidden_padded / 4);
        if options.max_batch_tokens.max(longest) > most {
            return Err(GpuError::Shape { what: format!("batches of more than {most} tokens") });
        }
        let options = GpuOptions { max_batch_tokens: options.max_batch_tokens.max(longest), ..options };
        let loaded = Loaded::new(&model, &layout, &options)?;
        let info = EngineInfo {
            name: "gpu",
            device: loaded.gpu.description().to_string(),
            precision: options.precision.name(),
            threads: 0,
        };
        let memory = loaded.memory();
        Ok(Self {
            model,
            options,
            layout,
            info,
            memory,
            loaded: Some(loaded),
            in_flight: VecDeque::with_capacity(SLOTS),
            next_ticket: 0,
            scratch: Scratch::default(),
        })
    }

    /// Whether the engine computes such a model.
    ///
    /// # Errors
    /// Names a part that it lacks.
    pub fn supports(architecture: &Architecture) -> Result<(), Unsupported> {
        supports::check(architecture)
    }

    /// The adapter, while the device is there.
    #[must_use]
    pub fn adapter(&self) -> Option<&AdapterDescription> {
        self.loaded.as_ref().map(|loaded| loaded.gpu.description())
    }

    /// The kernel variants in use, while the device is there.
    #[must_use]
    pub fn choices(&self) -> Option<&Choices> {
        self.loaded.as_ref().map(|loaded| &loaded.choices)
    }

    /// What was created on the device since it was opened. Serving adds nothing to it.
    #[must_use]
    pub fn created(&self) -> Option<Created> {
        self.loaded.as_ref().map(|loaded| loaded.gpu.created())
    }

    /// Drill: gives the device up, as a driver reset would.
    pub fn provoke_device_loss(&mut self) {
        if let Some(loaded) = &self.loaded {
            loaded.gpu.destroy();
        }
    }

    /// Drill: marks the device as out of memory, as a failed allocation would.
    pub fn provoke_out_of_memory(&mut self) {
        if let Some(loaded) = &self.loaded {
            loaded.gpu.fail_out_of_memory();
        }
    }

    /// Time of each kernel of a forward pass over `batch`, in the order of the pass: name, FLOPs, bytes, and the fastest
    /// of `repeats` runs of that kernel alone. For the bench and for `assay tune`; the numbers computed are discarded.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&mut self, batch: &CheckedBatch, repeats: u32) -> Result<Vec<KernelTime>, EngineError> {
        let mut outputs = Vec::new();
        self.run(batch, &mut outputs)?;
        let extents = self.scratch.extents(batch);
        let Loaded { gpu, slots, plan, .. } = self.loaded()?;
        // The batch above was alone in flight, so it was in slot 0, whose bind groups the steps below have.
        slots[0].lend(gpu)?;
        let mut times = Vec::new();
        for (name, kernel, bind_group, work) in plan.steps(extents) {
            let time = tune::fastest(gpu, kernel, bind_group, &work, repeats)?;
            times.push(KernelTime { name, flops: work.flops, bytes: work.bytes, time });
        }
        slots[0].resume();
        Ok(times)
    }

    /// The device with the model on it, loaded anew after a fault.
    fn loaded(&mut self) -> Result<&mut Loaded, GpuError> {
        if let Some(loaded) = &self.loaded
            && let Err(fault) = loaded.gpu.check()
        {
            self.drop_device();
            // The caller learns of the fault by the batches that it took; where none was in flight, by this error.
            if !self.in_flight.iter().any(|batch| batch.slot == Place::Lost) {
                return Err(fault);
            }
        }
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => Loaded::new(&self.model, &self.layout, &self.options)?,
        };
        Ok(self.loaded.insert(loaded))
    }

    fn drop_device(&mut self) {
        self.loaded = None;
        for batch in &mut self.in_flight {
            if let Place::Slot(_) = batch.slot {
                batch.slot = Place::Lost;
            }
        }
    }
}

/// What one kernel of a forward pass takes.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Op and shape.
    pub name: String,
    /// Useful floating-point operations.
    pub flops: u64,
    /// Bytes moved, by formula.
    pub bytes: u64,
    /// The fastest run.
    pub time: Duration,
}

impl Loaded {
    fn new(weights: &Model, layout: &Layout, options: &GpuOptions) -> Result<Self, GpuError> {
        let gpu = GpuDevice::open(&options.adapter)?;
        let architecture = &weights.architecture;
        let target = options.target.unwrap_or(Target::of(&gpu));
        let choices = options.tune.choose(&gpu, target, layout, options.max_batch_tokens)?;
        let (model, arena, slots) = gpu.scoped(|| {
            let model = DeviceModel::new(&gpu, &weights.weights, layout)?;
            let arena = Arena::new(&gpu, layout, options.max_batch_tokens)?;
            let slots: Result<Vec<_>, _> =
                (0..SLOTS).map(|_| Slot::new(&gpu, options.max_batch_tokens, architecture.outputs())).collect();
            Ok((model, arena, slots?))
        })?;
        let plan = gpu.scoped(|| Plan::new(&gpu, architecture, layout, &choices, (&model, &arena, &slots)))?;
        gpu.check()?;
        Ok(Self { gpu, model, arena, slots, plan, choices })
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            weights_bytes: self.model.bytes,
            arena_bytes: self.arena.bytes,
            io_bytes: self.gpu.created().buffer_bytes - self.model.bytes - self.arena.bytes,
        }
    }

    fn submit(
        &mut self,
        slot: usize,
        scratch: &Scratch,
        extents: &Extents,
        outputs_bytes: u64,
        report: &mut BatchReport,
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        let Self { gpu, slots, plan, .. } = self;
        let place = &mut slots[slot];
        let label = Some("batch");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        place.upload(gpu, &mut encoder, (&scratch.tokens, &scratch.tiles, &scratch.rows))?;
        {
            let timestamp_writes = place.timestamp_writes();
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes });
            let totals = plan.record(&mut pass, slot, extents);
            report.dispatches = totals.dispatches;
            report.bytes_moved = totals.bytes;
        }
        place.download(&mut encoder, outputs_bytes);
        let submission = gpu.queue.submit([encoder.finish()]);
        gpu.check()?;
        Ok(submission)
    }
}

impl Engine for GpuEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        self.model.architecture.row_shape()
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        row_flops(&self.model.architecture, tokens)
    }

    fn max_batch_tokens(&self) -> usize {
        self.options.max_batch_tokens
    }

    fn max_in_flight(&self) -> usize {
        SLOTS
    }

    fn memory(&self) -> DeviceMemory {
        self.memory
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        let (found, expected) = (*batch.shape(), self.shape());
        if found != expected {
            return Err(EngineError::OtherShape { found, expected });
        }
        let (tokens, max_batch_tokens) = (batch.tokens(), self.options.max_batch_tokens);
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
            useful_flops: batch_flops(&self.model.architecture, batch),
            ..BatchReport::default()
        };
        let (mut slot, mut submission) = (Place::Empty, None);
        if batch.rows() > 0 {
            let mut scratch = std::mem::take(&mut self.scratch);
            let outputs_bytes = (batch.rows() * expected.outputs * 4) as u64;
            let free = self.free_slot();
            let submit = self.loaded().and_then(|loaded| {
                scratch.fill(batch, expected.token_types, loaded.plan.queries_per_tile);
                let extents = scratch.extents(batch);
                loaded.submit(free, &scratch, &extents, outputs_bytes, &mut report)
            });
            self.scratch = scratch;
            match submit {
                Ok(index) => (slot, submission) = (Place::Slot(free), Some(index)),
                Err(error) => {
                    self.drop_device();
                    return Err(error.into());
                }
            }
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.in_flight.push_back(InFlight { ticket, slot, report, submitted, submission });
        Ok(Ticket(ticket))
    }

    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        if self.in_flight.front().map(|batch| batch.ticket) != Some(ticket.0) {
            return Err(EngineError::WrongTicket { ticket: ticket.0 });
        }
        let Some(mut batch) = self.in_flight.pop_front() else {
            return Err(EngineError::WrongTicket { ticket: ticket.0 });
        };
        let slot = match batch.slot {
            Place::Empty => return Ok(BatchReport { elapsed: batch.submitted.elapsed(), ..batch.report }),
            Place::Lost => return Err(EngineError::Device("the device was lost with this batch".to_owned())),
            Place::Slot(slot) => slot,
        };
        let before = outputs.len();
        let outputs_bytes = (batch.report.rows * self.shape().outputs * 4) as u64;
        let finished = match &mut self.loaded {
            None => Err(GpuError::Lost("it is being opened anew".to_owned())),
            Some(loaded) => loaded.finish(slot, batch.submission.take(), outputs_bytes, outputs),
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

impl Loaded {
    fn finish(
        &mut self,
        slot: usize,
        submission_index: Option<wgpu::SubmissionIndex>,
        outputs_bytes: u64,
        outputs: &mut Vec<f32>,
    ) -> Result<Option<Duration>, GpuError> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        self.gpu.device.poll(poll).map_err(|error| GpuError::Lost(error.to_string()))?;
        self.gpu.check()?;
        self.slots[slot].finish(&self.gpu, outputs_bytes, outputs)
    }
}

impl GpuEngine {
    /// A slot that no batch in flight has; there is one, because fewer than [`SLOTS`] are in flight.
    fn free_slot(&self) -> usize {
        let taken = |slot| self.in_flight.iter().any(|batch| batch.slot == Place::Slot(slot));
        (0..SLOTS).find(|&slot| !taken(slot)).unwrap_or(0)
    }
}

impl Scratch {
    /// Lays out a batch for upload.
    fn fill(&mut self, batch: &PackedBatch, token_types: TokenTypes, queries_per_tile: u32) {
        self.tokens.clear();
        self.rows.clear();
        let mut key_start = 0;
        for (index, row) in (0..).zip(batch.iter()) {
            let keys = row.ids.len() as u32;
            self.rows.push(Tile { query_start: index, queries: 1, key_start, keys });
            for (place, &id) in (0..).zip(row.ids) {
                let token_type = token_types.index(place as usize, row.second_segment) as u32;
                self.tokens.push(Token { id, place: place << 1 | token_type });
            }
            key_start += keys;
        }
        attention::tiles(batch.offsets(), queries_per_tile, &mut self.tiles);
    }

    /// The extents of the batch that was laid out last.
    fn extents(&self, batch: &PackedBatch) -> Extents {
        let squares = batch.iter().map(|row| (row.ids.len() as u64).pow(2)).sum();
        let (tokens, rows) = (batch.tokens() as u32, batch.rows() as u32);
        Extents {
            tokens: Extent { rows: tokens, tiles: self.tiles.len() as u32, query_keys: squares },
            rows: Extent { rows, tiles: rows, query_keys: u64::from(tokens) },
        }
    }
}
