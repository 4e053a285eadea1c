//! `assay-bench compare`: compares two reports.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use assay_bench::compare::{DEFAULT_THRESHOLD_PERCENT, Verdict, compare, table};
use assay_bench::report::schema::Report;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The report before: report.json, or its directory
    before: PathBuf,
    /// The report after
    after: PathBuf,
    /// A change for the worse beyond this many percent is a regression, if its confidence interval excludes 0
    #[arg(long, value_name = "PERCENT", default_value_t = DEFAULT_THRESHOLD_PERCENT)]
    threshold: f64,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (before, after) = (Report::read(&args.before)?, Report::read(&args.after)?);
    let differences = compare(&before, &after, args.threshold)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&differences)?);
    } else {
        print!("{}", table(&differences));
        let machine = |report: &Report| format!("{}, {} cores", report.machine.cpu, report.machine.cores);
        if machine(&before) != machine(&after) {
            println!("\nthe machines differ: {} and {}", machine(&before), machine(&after));
        }
        if before.load_source != after.load_source {
            println!("\nthe loads differ: {} and {}", before.load_source, after.load_source);
        }
    }
    let regressed = differences.iter().any(|difference| difference.verdict == Verdict::Regression);
    Ok(if regressed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
