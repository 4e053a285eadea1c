//! `assay-bench run`: runs a scenario and writes its report.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use assay_bench::progress::Progress;
use assay_bench::report::{REPORT_FILES, try_dir};
use assay_bench::run::RunOptions;
use assay_bench::scenario::Scenario;

use super::TargetArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A built-in scenario (see `assay-bench scenarios`), or a TOML file
    scenario: String,
    /// The directory for the report
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// JSONL of {"query": …, "documents": […]} in place of generated requests
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// Repeats of each configuration [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Most requests of each tenant in a repeat, for a quick look
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: Option<u32>,
    /// Seed of generated requests and of random arrivals [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let mut scenario = Scenario::find(&args.scenario)?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    let options = RunOptions {
        target: args.target.options()?,
        requests: args.requests,
        repeats: args.repeats,
        max_requests: args.max_requests,
        progress: Progress::Shown,
    };
    try_dir(&args.out)?;
    let report = super::until_interrupted(async |stop| assay_bench::run::run(&scenario, &options, &stop).await)?;
    report.write(&args.out)?;
    for configuration in &report.configurations {
        let Some(repeat) = configuration.shown() else { continue };
        println!(
            "{}: {:.1} pairs/s, latency {:.1} ms on average, {:.1} P50, {:.1} P99, {} errors",
            configuration.name,
            repeat.throughput.average,
            repeat.latency_ms.avg,
            repeat.latency_ms.p50,
            repeat.latency_ms.p99,
            repeat.errors.values().sum::<u64>()
        );
    }
    if report.interrupted {
        println!("stopped early: the report has the part that was run");
    }
    println!("{} in {}", REPORT_FILES.join(", "), args.out.display());
    Ok(ExitCode::SUCCESS)
}
