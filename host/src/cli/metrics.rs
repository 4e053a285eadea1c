//! `assay metrics` and `assay operator-key`: a server's counters for scripts, and the key that opens them over HTTP.

use std::path::Path;

use super::error::CliError;
use super::orders;
use crate::metrics;
use crate::tenant::admin::{Command, Reply};

#[derive(Debug, clap::Args)]
pub(super) struct Metrics {
    /// JSON, with everything that the server counts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct OperatorKey {
    /// Make another key first; the old one opens nothing any more
    #[arg(long)]
    renew: bool,
}

/// Prints the counters of the server on the data directory.
pub(super) fn run(args: &Metrics, data_dir: &Path) -> Result<(), CliError> {
    let Some(snapshot) = orders::server_snapshot(data_dir)? else {
        return Err(CliError::failed(format!("no server runs on {}", data_dir.display())));
    };
    if args.json {
        println!("{}", serde_json::to_string(&snapshot).map_err(|error| CliError::failed(error.to_string()))?);
    } else {
        print!("{}", metrics::text(snapshot).map_err(|error| CliError::failed(error.to_string()))?);
    }
    Ok(())
}

/// Prints the operator's key of the data directory.
pub(super) fn print_key(args: &OperatorKey, data_dir: &Path) -> Result<(), CliError> {
    match orders::execute(Command::OperatorKey { renew: args.renew }, None, data_dir)? {
        Reply::OperatorKey { secret } => {
            println!("{secret}");
            Ok(())
        }
        Reply::Refused(error) => Err(error.into()),
        _ => Err(orders::another_answer()),
    }
}
