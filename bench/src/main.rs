//! `assay-bench`: measures, and compares with what it measured.

mod cmd;
mod engine;
mod pairs;
mod peers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Drives guests through the host as production does, and reports what it measured.
///
/// Exit codes: 0 done, 1 `compare` found a regression, 2 anything else that failed.
#[derive(Debug, Parser)]
#[command(name = "assay-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario and write report.md, report.json and report.html
    Run(cmd::run::Args),
    /// List the built-in scenarios
    Scenarios,
    /// Compare two reports; exit code 1 for a regression
    Compare(cmd::compare::Args),
    /// Show a folder of reports as one table
    History(cmd::history::Args),
    /// Measure what each layer adds to a request: scheduler, tokenising, sandbox, HTTP
    Overhead(cmd::overhead::Args),
    /// Measure ranking quality from relevance judgements, of several variants beside their speed
    Quality(Box<cmd::quality::Args>),
    /// Compare models by ranking quality, speed and memory in one table
    Models(Box<cmd::models::Args>),
    /// Measure an engine against the most that its device computes
    Engine(engine::Args),
    /// Measure the CPU engine beside Python programs that run the same model; run it in the repository
    Peers(peers::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => cmd::run::run(args),
        Command::Scenarios => cmd::scenarios::run(),
        Command::Compare(args) => cmd::compare::run(&args),
        Command::History(args) => cmd::history::run(&args),
        Command::Overhead(args) => cmd::overhead::run(args),
        Command::Quality(args) => cmd::quality::run(*args),
        Command::Models(args) => cmd::models::run(*args),
        Command::Engine(args) => engine::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Peers(args) => peers::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
