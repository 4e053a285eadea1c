//! `assay-bench history`: shows a folder of reports as one table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; folders within it are searched too
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    print!("{}", assay_bench::history::table(&assay_bench::history::read(&args.dir)?));
    Ok(ExitCode::SUCCESS)
}
