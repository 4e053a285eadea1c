//! `assay-bench overhead`: measures what each layer adds to a request.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use assay::device::EngineChoice;
use assay_bench::load::LoadSource;
use assay_bench::overhead::{OverheadOptions, measure, table};
use assay_bench::progress::Progress;
use assay_bench::scenario::{DEFAULT_SEED, LoadSection};
use assay_bench::telemetry;

use super::TargetArgs;

/// Different requests: about a second in each layer.
const DEFAULT_REQUESTS: usize = 10;

/// Rounds: enough for a confidence interval.
const DEFAULT_ROUNDS: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// JSONL of {"query": …, "documents": […]} in place of generated requests
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// Documents of a request [default: the file's, or 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Different requests
    #[arg(long, value_name = "N", default_value_t = DEFAULT_REQUESTS)]
    count: usize,
    /// Rounds over all of them
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROUNDS)]
    rounds: usize,
    /// In place of an engine, one that computes nothing: only what surrounds it is measured
    #[arg(long)]
    puppet: bool,
    /// Measure what telemetry adds to a request over HTTP instead: access log, traces
    #[arg(long)]
    telemetry: bool,
    /// Print the layers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let source = match args.requests {
        Some(path) => LoadSource::File(path),
        None => LoadSource::Generated { seed: DEFAULT_SEED, section: LoadSection::default() },
    };
    let mut target = args.target.options()?;
    if args.puppet {
        target.device.choice = EngineChoice::Puppet;
    }
    let options = OverheadOptions {
        target,
        source,
        batch: args.batch,
        requests: args.count,
        rounds: args.rounds,
        progress: Progress::Shown,
    };
    let layers = super::until_interrupted(async |stop| match args.telemetry {
        true => telemetry::measure(&options, &stop).await,
        false => measure(&options, &stop).await,
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&layers)?);
    } else {
        print!("{}", table(&layers));
        let compared = match args.telemetry {
            true => "each is compared with the first",
            false => {
                "scheduler and native tokenization are compared with the bare engine, the guest with native tokenization, HTTP with the guest"
            }
        };
        println!("\n{compared}");
    }
    Ok(ExitCode::SUCCESS)
}
