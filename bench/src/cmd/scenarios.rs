//! `assay-bench scenarios`: lists the built-in scenarios.

use std::process::ExitCode;

use anyhow::Result;
use assay_bench::scenario::Scenario;

pub(crate) fn run() -> Result<ExitCode> {
    for scenario in Scenario::builtin()? {
        let configurations = scenario.configurations()?.len();
        println!("{:<16} {:>2} × {:>2}  {}", scenario.name, configurations, scenario.repeats, scenario.about);
    }
    println!("\nconfigurations × repeats; docs/performance.md says how to write a scenario of your own");
    Ok(ExitCode::SUCCESS)
}
