//! Running one command after the other, saying which.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Says what comes next.
pub(crate) fn say(what: &str) {
    eprintln!("\n== {what}");
}

/// Cargo in a directory.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{:?}", command.get_program());
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("{shown} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}
