//! What takes its turn after each batch: smaller batches on the same engine, or the same batch in another precision.

use std::num::NonZeroUsize;

use assay::device::EnginePrecision;
use assay_kernels::{CheckedBatch, CpuEngine, Engine};

use super::{Slice, milliseconds};

/// Small batches to a turn: together they last long enough to be measured beside a whole batch.
const SMALL_BATCHES: usize = 4;

/// One who takes turns with the measured batches.
pub(super) struct Rival {
    pub(super) kind: Kind,
    /// Each batch's rate divided by that of the whole batch in the same turn.
    pub(super) rates: Vec<f64>,
    pub(super) ms: Vec<f64>,
}

pub(super) enum Kind {
    /// Batches of so many rows.
    Small(NonZeroUsize, Vec<CheckedBatch>),
    /// The same batches by another engine.
    Precision(EnginePrecision, Box<CpuEngine>),
}

impl Rival {
    pub(super) fn small(rows: NonZeroUsize, batches: Vec<CheckedBatch>) -> Self {
        Self { kind: Kind::Small(rows, batches), rates: Vec::new(), ms: Vec::new() }
    }

    pub(super) fn precision(precision: EnginePrecision, engine: CpuEngine) -> Self {
        Self { kind: Kind::Precision(precision, Box::new(engine)), rates: Vec::new(), ms: Vec::new() }
    }

    /// The first batch, which is not counted.
    pub(super) fn warm_up(&mut self, engine: &mut dyn Engine, batch: &CheckedBatch) -> anyhow::Result<()> {
        let mut outputs = Vec::new();
        match &mut self.kind {
            Kind::Small(_, batches) => engine.run(&batches[0], &mut outputs)?,
            Kind::Precision(_, engine) => engine.run(batch, &mut outputs)?,
        };
        Ok(())
    }

    /// Computes after `slice`, in which `engine` computed `batch`.
    pub(super) fn take_turn(
        &mut self,
        turn: usize,
        engine: &mut dyn Engine,
        batch: &CheckedBatch,
        slice: &Slice,
    ) -> anyhow::Result<()> {
        let mut outputs = Vec::new();
        let reports = match &mut self.kind {
            Kind::Small(_, batches) => (0..SMALL_BATCHES)
                .map(|index| engine.run(&batches[(turn * SMALL_BATCHES + index) % batches.len()], &mut outputs))
                .collect::<Result<Vec<_>, _>>()?,
            Kind::Precision(_, engine) => vec![engine.run(batch, &mut outputs)?],
        };
        for report in reports {
            let gflops = report.useful_flops as f64 / report.elapsed.as_secs_f64() / 1e9;
            self.rates.push(gflops / slice.gflops());
            self.ms.push(milliseconds(report.elapsed));
        }
        Ok(())
    }
}
