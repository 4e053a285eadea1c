//! `assay doctor`: measures this machine and every kernel on it, and says in words what it found.
//!
//! - [`subject`]: the model and the rows that are computed, and their numbers by the reference.
//! - [`processor`], [`gpu`]: each measures one device. The GPU's kernels are tuned as `assay tune` does.
//! - [`measured`]: what is measured alike on both. [`verdict`]: what bounds a time, from numbers alone.
//! - [`clock`]: the time for all this.
//! - [`bundle`]: everything found, as a file; [`page`]: the same in words.

mod bundle;
mod clock;
mod gpu;
mod measured;
mod page;
mod processor;
mod subject;
mod verdict;

use std::path::{Path, PathBuf};

use assay_kernels::gpu::adapters;

use super::engine::adapter;
use super::error::CliError;
use crate::device::{DeviceOptions, EngineChoice};
use crate::machine::Machine;
use crate::model::ModelStore;
use bundle::{Bundle, FORMAT};
use clock::Clock;
use subject::{Subject, Task};

/// Rows of the batches that are timed.
const ROWS: [usize; 4] = [1, 8, 32, 80];
const SHORT_ROWS: [usize; 2] = [1, 4];

/// Most adapters that are listed.
const MAX_ADAPTERS: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is measured beside the processor: auto a GPU where there is one, gpu a software adapter too, cpu nothing
    #[arg(long, value_enum, default_value_t)]
    engine: EngineChoice,
    /// Adapter of --engine gpu, by its number in `assay devices` or a part of its name [default: the best]
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// The model to measure with [default: the store's, or random weights if it has none]
    #[arg(long)]
    model: Option<String>,
    /// Where everything found is written
    #[arg(long, value_name = "FILE", default_value = "assay-doctor.json")]
    out: PathBuf,
    /// Fewer rows: seconds instead of a minute or two
    #[arg(long)]
    short: bool,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let options = DeviceOptions {
        choice: args.engine,
        adapter: args.adapter.as_deref().map(adapter),
        ..DeviceOptions::default()
    };
    let decision = options.decide()?;
    let subject = Subject::find(&ModelStore::new(data_dir), args.model.as_deref())?;
    say(&subject.name());
    let mut clock = Clock::start();
    let expected = match subject.reference_time() {
        Some(time) if clock.allows("checking numbers", time) => subject.expected(&subject.load()?)?,
        Some(_) => None,
        None => {
            clock.skip("checking numbers: the reference takes too long for this model".to_owned());
            None
        }
    };
    let rows: &[usize] = if args.short { &SHORT_ROWS } else { &ROWS };
    let task = Task { subject: &subject, expected: expected.as_ref(), rows };
    let mut failed = Vec::new();
    // A device that fails is a finding: the others are measured all the same.
    let mut keep =
        |what: &str, error: CliError| failed.push(format!("{what}: {}", super::table::snippet(&error.to_string())));
    let processor = processor::examine(&task, &mut clock).map_err(|error| keep("the processor", error)).ok();
    let gpu = decision.adapter.as_ref().and_then(|adapter| {
        let tune_file = DeviceOptions::tune_file(data_dir);
        std::fs::create_dir_all(data_dir)
            .map_err(|error| CliError::failed(format!("the data directory cannot be made: {error}")))
            .and_then(|()| gpu::examine(adapter, &task, &tune_file, &mut clock))
            .map_err(|error| keep("the GPU", error))
            .ok()
    });
    let auto = DeviceOptions::default().decide()?;
    let mut bundle = Bundle {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        short: args.short,
        seconds: clock.elapsed().as_secs_f64(),
        waited: clock.waited(),
        machine: Machine::detect(),
        model: subject.shape(),
        adapters: adapters().into_iter().take(MAX_ADAPTERS).collect(),
        auto: if auto.adapter.is_some() { "gpu" } else { "cpu" },
        processor,
        gpu,
        failed,
        skipped: clock.into_skipped(),
        findings: Vec::new(),
    };
    bundle.findings = page::findings(&bundle);
    bundle.write(&args.out)?;
    print!("{}", page::text(&bundle));
    eprintln!("\neverything found is in {}", args.out.display());
    eprintln!("for an issue, paste this page and attach that file: neither has a path, a text or a model's name");
    match bundle.is_healthy() {
        true => Ok(()),
        false => Err(CliError::some_failed("a device failed, or kernels compute wrong numbers: see the findings")),
    }
}

/// What is measured now, on standard error.
fn say(what: &str) {
    eprintln!("{what}");
}
