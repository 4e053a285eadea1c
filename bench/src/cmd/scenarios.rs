//! `assay-bench scenarios`: what is built in.

use std::process::ExitCode;

use anyhow::Result;
use assay_bench::scenario::Scenario;

pub(crate) fn run() -> Result<ExitCode> {
    for scenario in Scenario::builtin()? {
        let configurations = scenario.configurations()?.len();
        println!("{:<16} {:>2} × {:>2}  {}", scenario.name, configurations, scenario.repeats, scenario.about);
    }
    println!("\nconfigurations × repeats; any of them can be written as a TOML file, see docs/performance.md");
    Ok(ExitCode::SUCCESS)
}
