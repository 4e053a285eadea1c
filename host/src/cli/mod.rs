//! The command line: one file per command, messages on standard error, and exit codes that say whose fault it is.

// First, so that the modules after it print with its macros.
#[macro_use]
mod output;

mod arguments;
mod component;
mod config;
mod devices;
mod doctor;
mod engine;
mod error;
pub mod files;
mod formats;
mod gc;
mod guest;
mod link;
mod listening;
mod loaded;
mod logs;
mod metrics;
mod model;
mod orders;
mod pair;
mod patience;
mod ranker;
mod ready;
mod rerank;
mod run;
mod serve;
mod signals;
mod table;
mod tenant;
#[cfg(unix)]
mod top;
mod traces;
mod tune;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use etcetera::BaseStrategy;

use crate::tenant::compile;

pub use engine::EngineArgs;
pub use error::{CliError, Exit};

/// Reranks documents for a query with a cross-encoder.
///
/// Exit codes: 0 done, 2 bad input, 3 done but some requests have an error instead of an answer (--on-error skip), or
/// scores are too far from others (`model verify`, `model check`) or kernels are wrong (`doctor`), 1 anything else. Messages go to standard error.
#[derive(Debug, Parser)]
#[command(name = "assay", version, max_term_width = 100)]
pub struct Cli {
    /// Where models and compiled guests are kept [default: the user's data directory]
    #[arg(long, global = true, env = "ASSAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

/// Whether a server's file of settings has only what a server takes.
pub(crate) fn config_is_right(text: &str) -> bool {
    config::is_right(text, &Cli::command())
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rank documents for a query
    Rerank(Box<rerank::Args>),
    /// Add, list and check models
    #[command(subcommand)]
    Model(model::Command),
    /// Deploy and manage tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Begin a guest of your own, or publish one
    #[command(subcommand)]
    Guest(guest::Command),
    /// Run a component that calls tenants
    Run(Box<run::Args>),
    /// Answer tenants' requests over HTTP
    Serve(Box<serve::Args>),
    /// Ask a server on this machine whether it takes requests; exit code 1 if not
    Ready,
    /// Print all that a server on this machine counts, in Prometheus' format
    Metrics(metrics::Metrics),
    /// Show live what a server on this machine is doing
    #[cfg(unix)]
    Top(top::Args),
    /// Print the key that opens a server's metrics and dashboard over HTTP; made at first use
    OperatorKey(metrics::OperatorKey),
    /// Check a file of settings for `assay serve`
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Forget old versions, and remove unused components, compiled code, models and what broken commands left; what is
    /// less than an hour old stays, as a command may still work on it
    Gc(gc::Args),
    /// List adapters and the processor, the device that would be chosen, and the models of a running server
    Devices(devices::Args),
    /// Time the GPU engine's kernel variants and keep the fastest
    Tune(tune::Args),
    /// Measure this machine and check every kernel on it: a page of words, and a file for an issue
    Doctor(doctor::Args),
}

/// Runs the command line that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    compile::end_if_asked();
    let arguments = arguments::order(std::env::args_os().collect(), &mut Cli::command());
    let arguments = config::with_file(arguments, &Cli::command());
    match arguments.and_then(|arguments| run(Cli::parse_from(arguments))) {
        Ok(code) => code,
        Err(error) => {
            if error.exit != Exit::OutputClosed {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Carries a command out. The exit code is 0, but for that of a program that was run.
fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let done = |()| ExitCode::SUCCESS;
    match &cli.command {
        Command::Config(command) => return config::run(command, &Cli::command()).map(done),
        Command::Guest(command) => return guest::run(command).map(done),
        _ => {}
    }
    let data_dir = match cli.data_dir {
        Some(dir) => dir,
        None => etcetera::choose_base_strategy()
            .map_err(|error| CliError::bad_input(format!("{error}: name a directory with --data-dir")))?
            .data_dir()
            .join("assay"),
    };
    if matches!(
        cli.command,
        Command::Serve(_)
            | Command::Tenant(_)
            | Command::Model(_)
            | Command::Gc(_)
            | Command::OperatorKey(_)
            | Command::Run(_)
    ) {
        close_to_others();
    }
    let ended = match cli.command {
        Command::Run(args) => return run::run(*args, &data_dir),
        Command::Rerank(args) => rerank::run(*args, &data_dir),
        Command::Model(command) => model::run(command, &data_dir),
        Command::Tenant(command) => tenant::run(command, &data_dir),
        Command::Serve(args) => serve::run(&args, &data_dir),
        Command::Ready => ready::run(&data_dir),
        Command::Metrics(args) => metrics::run(&args, &data_dir),
        #[cfg(unix)]
        Command::Top(args) => top::run(&args, &data_dir),
        Command::OperatorKey(args) => metrics::print_key(&args, &data_dir),
        Command::Gc(args) => gc::run(&args, &data_dir),
        Command::Config(_) | Command::Guest(_) => Ok(()),
        Command::Devices(args) => devices::run(&args, &data_dir),
        Command::Tune(args) => tune::run(&args, &data_dir),
        Command::Doctor(args) => doctor::run(&args, &data_dir),
    };
    ended.map(done)
}

/// What the program makes in a data directory from now on is its owner's alone.
#[cfg(unix)]
fn close_to_others() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

#[cfg(not(unix))]
fn close_to_others() {}
