//! A forward pass bound to a device: each step with its pipeline and its bind groups.

use std::sync::Arc;

use super::arena::Arena;
use super::error::GpuError;
use super::op::{Rereads, Work};
use super::opened::{OpenDevice, Pipeline};
use super::pass::ForwardPass;
use super::slots::Slot;
use super::step::{BufferAt, BufferName, Extents, Step};
use super::uploaded::Uploaded;

/// One model's forward pass on one device.
#[derive(Debug)]
pub(super) struct BoundPass {
    pass: ForwardPass,
    /// One for each step.
    pipelines: Vec<Arc<Pipeline>>,
    /// Per step: one bind group per slot if the step reads or writes a slot, otherwise one.
    bind_groups: Vec<Vec<wgpu::BindGroup>>,
}

/// The buffers that a pass is bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoundBuffers<'a> {
    pub(super) weights: &'a Uploaded,
    pub(super) arena: &'a Arena,
    pub(super) slots: &'a [Slot],
}

/// Sums over a batch's dispatches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) dispatches: u32,
    pub(super) bytes: u64,
}

impl BoundPass {
    /// Creates the missing pipelines of all passes together, and every bind group.
    ///
    /// # Errors
    /// The driver refuses a kernel.
    pub(super) fn all(
        gpu: &OpenDevice,
        passes: Vec<ForwardPass>,
        buffers: BoundBuffers<'_>,
    ) -> Result<Vec<Self>, GpuError> {
        let specs: Vec<_> = passes.iter().flat_map(|pass| &pass.steps).map(|step| step.op.pipeline()).collect();
        let mut pipelines = gpu.pipelines(&specs)?.into_iter();
        gpu.scoped(|| {
            let bound = passes.into_iter().map(|pass| {
                let pipelines = pipelines.by_ref().take(pass.steps.len()).collect();
                let mut bound = Self { pass, pipelines, bind_groups: Vec::new() };
                bound.bind(gpu, buffers);
                bound
            });
            Ok(bound.collect())
        })
    }

    /// Binds every step to other buffers.
    pub(super) fn bind(&mut self, gpu: &OpenDevice, buffers: BoundBuffers<'_>) {
        let groups = |(step, pipeline): (&Step, &Arc<Pipeline>)| -> Vec<wgpu::BindGroup> {
            let of_slot = step.buffers.iter().any(|at| is_of_slot(at.buffer));
            let slots = if of_slot { buffers.slots } else { &buffers.slots[..1] };
            let bind = |slot| {
                let bindings = step.buffers.iter().map(|at| buffers.binding(slot, at)).collect();
                gpu.bind_in_order(pipeline, bindings)
            };
            slots.iter().map(bind).collect()
        };
        self.bind_groups = self.pass.steps.iter().zip(&self.pipelines).map(groups).collect();
    }

    /// Most queries in an entry of the attention's list.
    pub(super) fn queries_per_tile(&self) -> u32 {
        self.pass.queries_per_tile
    }

    /// Records a batch in `slot`.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, slot: usize, extents: &Extents) -> Totals {
        let mut totals = Totals::default();
        for (step, pipeline, bind_group) in self.steps(slot) {
            let work = step.work(extents);
            pipeline.record(bind_group, &work, pass);
            totals.dispatches += 1;
            totals.bytes += work.bytes;
        }
        totals
    }

    /// The steps of a batch in the first slot, for profiles.
    pub(super) fn profiled(
        &self,
        extents: Extents,
    ) -> impl Iterator<Item = (&Step, &Pipeline, &wgpu::BindGroup, Work, Rereads)> {
        self.steps(0).map(move |(step, pipeline, bind_group)| {
            (step, pipeline, bind_group, step.work(&extents), step.rereads(&extents))
        })
    }

    fn steps(&self, slot: usize) -> impl Iterator<Item = (&Step, &Pipeline, &wgpu::BindGroup)> {
        let steps = self.pass.steps.iter().zip(&self.pipelines).zip(&self.bind_groups);
        steps.map(move |((step, pipeline), groups)| (step, &**pipeline, groups.get(slot).unwrap_or(&groups[0])))
    }
}

impl BoundBuffers<'_> {
    fn binding<'b>(&'b self, slot: &'b Slot, at: &BufferAt) -> wgpu::BufferBinding<'b> {
        let mut binding = match at.buffer {
            BufferName::Tokens => slot.tokens(),
            BufferName::QueryTiles => slot.query_tiles(),
            BufferName::Rows => slot.rows(),
            BufferName::Words => slot.words(),
            BufferName::Outputs => slot.outputs(),
            BufferName::Arena(name) => self.arena.buffer(name).as_entire_buffer_binding(),
            BufferName::Weight(name) => self.weights.buffer(name).as_entire_buffer_binding(),
        };
        binding.offset += at.offset;
        binding
    }
}

fn is_of_slot(buffer: BufferName) -> bool {
    match buffer {
        BufferName::Tokens | BufferName::QueryTiles | BufferName::Rows | BufferName::Words | BufferName::Outputs => {
            true
        }
        BufferName::Arena(_) | BufferName::Weight(_) => false,
    }
}
