//! `assay doctor`: measures this machine and every kernel on it, and says in words what it found.
//!
//! - [`subject`]: the model and the rows that are computed, and their numbers by the reference.
//! - [`processor`], [`gpu`]: each measures one device. The GPU's kernels are tuned as `assay tune` does.
//! - [`measured`]: what is measured alike on both. [`verdict`]: what bounds a time, from numbers alone.
//! - [`clock`]: the time for all this. [`busy`]: what slowed it down.
//! - [`out`]: the file.
//! - [`bundle`]: everything found, as a file; [`page`]: the same in words.

mod bundle;
mod busy;
mod clock;
mod gpu;
mod measured;
mod out;
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
use busy::{Busy, Quota};
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
    #[arg(long, value_name = "ADAPTER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// The model to measure with [default: the store's, or random weights if it has none]
    #[arg(long)]
    model: Option<String>,
    /// Where everything found is written
    #[arg(long, value_name = "FILE", default_value = "assay-doctor.json")]
    out: PathBuf,
    /// Fewer rows: half a minute at most instead of two
    #[arg(long)]
    short: bool,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let options = DeviceOptions {
        choice: args.engine,
        adapter: args.adapter.as_deref().map(adapter),
        ..DeviceOptions::default()
    };
    // Before anything slow, so that a mistake is reported at once.
    out::check(&args.out)?;
    let decision = options.decide()?;
    let quota = Quota::detect(Path::new("/"));
    let mut clock = Clock::start(args.short);
    let subject = Subject::find(&ModelStore::new(data_dir), args.model.as_deref())?;
    say(&subject.name());
    let expected = subject.expected(&mut clock)?;
    let rows: &[usize] = if args.short { &SHORT_ROWS } else { &ROWS };
    let task = Task { subject: &subject, expected: expected.as_ref(), rows };
    let mut failed = Vec::new();
    // A device that fails is a finding: the others are measured all the same.
    let mut keep = |what: &str, error: CliError| {
        say(&format!("{what}: {error}"));
        let error = without_paths(&error.to_string(), data_dir);
        failed.push(format!("{what}: {}", super::table::snippet(&error)));
    };
    clock.keep_for_gpu(decision.adapter.is_some());
    let processor = processor::examine(&task, &mut clock).map_err(|error| keep("the processor", error)).ok();
    clock.keep_for_gpu(false);
    let started = std::time::Instant::now().checked_sub(clock.elapsed());
    let busy = || started.is_some_and(|started| Busy::since(quota, started.elapsed()).is_busy());
    let gpu = decision.adapter.as_ref().and_then(|adapter| {
        let tuning = gpu::Tuning { file: &DeviceOptions::tune_file(data_dir), is_busy: &busy };
        gpu::examine(adapter, &task, &tuning, &mut clock).map_err(|error| keep("the GPU", error)).ok()
    });
    let auto = DeviceOptions::default().decide()?;
    let mut bundle = Bundle {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        short: args.short,
        seconds: clock.elapsed().as_secs_f64(),
        busy: Busy::since(quota, clock.elapsed()),
        machine: Machine::detect(),
        model: subject.shape(),
        checked_layers: expected.as_ref().and_then(subject::Expected::stand_in_layers),
        adapters: adapters().into_iter().take(MAX_ADAPTERS).collect(),
        auto: if auto.adapter.is_some() { "gpu" } else { "cpu" },
        processor,
        gpu,
        failed,
        skipped: clock.into_skipped(),
        findings: Vec::new(),
    };
    bundle.doubt_if_busy();
    bundle.findings = page::findings(&bundle);
    print!("{}", page::text(&bundle));
    out::write(&args.out, &bundle.to_json()?)?;
    eprintln!("\neverything found is in {}", args.out.display());
    eprintln!("for an issue, paste this page and attach that file: neither has a path, a text or a model's name");
    match bundle.is_healthy() {
        true => Ok(()),
        false => Err(CliError::some_failed("a device failed, or kernels compute wrong numbers: see the findings")),
    }
}

/// An error in words that others may read: what begins like a path is left out. The whole of it is on standard error.
fn without_paths(text: &str, data_dir: &Path) -> String {
    let home = std::env::home_dir();
    let known = [Some(data_dir.to_owned()), std::env::current_dir().ok(), home].into_iter().flatten();
    // A known one may have spaces.
    let text = known.fold(text.to_owned(), |text, path| match path.to_str() {
        Some(path) if path.len() > 1 => text.replace(path, "/path"),
        _ => text,
    });
    let is_path = |word: &str| {
        let word = word.trim_start_matches(['"', '\'', '`', '(', '[', '<']);
        word.starts_with(['/', '~', '\\'])
            || word.starts_with("./")
            || word.starts_with("../")
            || word.get(1..3).is_some_and(|colon| colon == ":\\" || colon == ":/")
    };
    let words = text.split_whitespace().map(|word| match is_path(word) {
        true if word.ends_with(':') => "(a path):",
        true => "(a path)",
        false => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What is measured now, on standard error.
fn say(what: &str) {
    eprintln!("{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_others_has_no_path() {
        let scrubbed = without_paths("/my data/models/a/config.json: no such file (os error 2)", Path::new("/my data"));
        assert_eq!(scrubbed, "(a path): no such file (os error 2)");
        let scrubbed = without_paths("at `C:\\me\\f`, 12 GFLOP/s in ~/x and ../y", Path::new("/d"));
        assert_eq!(scrubbed, "at (a path) 12 GFLOP/s in (a path) and (a path)");
    }
}
