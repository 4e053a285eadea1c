//! `assay-bench`: measures, and compares with what it measured.

mod engine;
mod pairs;
mod peers;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures an engine against the matrix product that it could at best be.
    Engine(engine::Args),
    /// Measures the CPU engine beside Python's ways to run the same model.
    Peers(peers::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Engine(args) => engine::run(&args),
        Command::Peers(args) => peers::run(&args),
    }
}
