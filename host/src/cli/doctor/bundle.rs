//! The doctor's findings as one value: what is written to the file, and what the page tells in words.

use assay_kernels::gpu::AdapterDescription;
use serde::Serialize;

use super::busy::Busy;
use super::gpu::Gpu;
use super::processor::Processor;
use super::subject::Shape;
use super::verdict::Verdict;
use crate::cli::error::CliError;
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
    /// Whether other programs or a quota made rates lower.
    pub(super) busy: Busy,
    pub(super) machine: Machine,
    pub(super) model: Shape,
    /// Layers of the model of random weights whose numbers were checked, if the model's own would take too long.
    pub(super) checked_layers: Option<usize>,
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
    /// The file.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, CliError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::failed(format!("the findings cannot be written as JSON: {error}")))?;
        bytes.push(b'\n');
        if bytes.len() > MAX_BYTES {
            let (bytes, most) = (bytes.len(), MAX_BYTES);
            return Err(CliError::failed(format!(
                "the findings take {bytes} bytes, and at most {most} are written: --short finds fewer"
            )));
        }
        Ok(bytes)
    }

    /// Says of each verdict of a busy machine that it is unreliable, unless a bound explains the time all the same.
    pub(super) fn doubt_if_busy(&mut self) {
        if self.busy.is_busy() {
            self.verdicts().for_each(Verdict::doubt);
        }
    }

    fn verdicts(&mut self) -> impl Iterator<Item = &mut Verdict> {
        let processor = self.processor.iter_mut().flat_map(|processor| &mut processor.precisions);
        let on_processor = processor.flat_map(|timed| {
            let passes = timed.passes.iter_mut().filter_map(|pass| pass.verdict.as_mut());
            passes.chain(timed.stages.iter_mut().filter_map(|stage| stage.verdict.as_mut()))
        });
        let gpu = self.gpu.iter_mut().flat_map(|gpu| &mut gpu.precisions);
        let on_gpu = gpu.flat_map(|timed| {
            let passes = timed.passes.iter_mut().filter_map(|pass| pass.verdict.as_mut());
            passes.chain(timed.kernels.iter_mut().filter_map(|kernel| kernel.verdict.as_mut()))
        });
        on_processor.chain(on_gpu)
    }

    /// How many kernels' numbers were checked.
    pub(super) fn checked(&self) -> usize {
        let processor = self.processor.as_ref().map_or(0, |processor| processor.numbers.len());
        let of_gpu = |timed: &super::gpu::Timed| timed.candidates.len() + usize::from(timed.numbers.is_some());
        processor + self.gpu.iter().flat_map(|gpu| &gpu.precisions).map(of_gpu).sum::<usize>()
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
