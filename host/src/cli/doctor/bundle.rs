//! The doctor's findings as one value: what is written to the file, and what the page tells in words.

use std::path::Path;

use assay_kernels::gpu::AdapterDescription;
use serde::Serialize;

use super::gpu::Gpu;
use super::processor::Processor;
use super::subject::Shape;
use crate::cli::error::CliError;
use crate::durable::{self, Durability};
use crate::machine::Machine;

/// The form of the file; a change that a reader must know raises it.
pub(super) const FORMAT: u32 = 1;

/// Largest file. All lists have bounds of their own, far below.
const MAX_BYTES: usize = 1 << 20;

/// Everything found. It holds no path, no text, and no name but those of the processor, the system and the drivers.
#[derive(Debug, Serialize)]
pub(super) struct Bundle {
    pub(super) format: u32,
    pub(super) version: &'static str,
    pub(super) short: bool,
    pub(super) seconds: f64,
    /// The part of that in which the doctor waited for a processor that others had.
    pub(super) waited: Option<f64>,
    pub(super) machine: Machine,
    pub(super) model: Shape,
    /// Every adapter of the machine.
    pub(super) adapters: Vec<AdapterDescription>,
    /// What `--engine auto` takes.
    pub(super) auto: &'static str,
    pub(super) processor: Option<Processor>,
    pub(super) gpu: Option<Gpu>,
    /// What failed: a device's error.
    pub(super) failed: Vec<String>,
    /// What was left out, and why.
    pub(super) skipped: Vec<String>,
    /// The page's last part.
    pub(super) findings: Vec<String>,
}

impl Bundle {
    /// Writes the file, in place of one from before.
    pub(super) fn write(&self, path: &Path) -> Result<(), CliError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::failed(format!("the findings cannot be written as JSON: {error}")))?;
        bytes.push(b'\n');
        if bytes.len() > MAX_BYTES {
            let (bytes, most) = (bytes.len(), MAX_BYTES);
            return Err(CliError::failed(format!(
                "the findings take {bytes} bytes, and at most {most} are written: --short finds fewer"
            )));
        }
        let shown = path.display();
        durable::replace(path, &bytes, Durability::Process)
            .map_err(|error| CliError::failed(format!("{shown} cannot be written: {error}; name another --out")))
    }

    /// Whether every kernel's numbers are right and nothing failed.
    pub(super) fn is_healthy(&self) -> bool {
        self.failed.is_empty() && self.wrong().next().is_none()
    }

    /// The kernels with wrong numbers.
    pub(super) fn wrong(&self) -> impl Iterator<Item = String> + '_ {
        let processor = self.processor.iter().flat_map(|processor| &processor.numbers);
        let models = self.gpu.iter().flat_map(|gpu| gpu.precisions.iter().filter_map(|timed| timed.numbers.as_ref()));
        let wholes = processor.chain(models).filter(|checked| !checked.right);
        let candidates = self.gpu.iter().flat_map(|gpu| gpu.precisions.iter().flat_map(|timed| &timed.candidates));
        let wrong = candidates.filter(|entry| !entry.right);
        wholes
            .map(|checked| format!("{} is off by {:.1e}", checked.what, checked.error))
            .chain(wrong.map(|entry| format!("{} {} is off by {:.1e}", entry.pipeline, entry.variant, entry.error)))
    }
}
