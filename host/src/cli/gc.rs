//! `assay gc`: removes what no tenant needs.

use std::path::Path;

use super::error::CliError;
use super::{orders, table};
use crate::sweep::{DroppedKind, Swept};
use crate::tenant::DEFAULT_KEEP_VERSIONS;
use crate::tenant::admin::{Command, Reply};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Versions of each tenant to keep besides the current one, newest first
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEEP_VERSIONS)]
    keep: u64,
    /// Only list what would be removed
    #[arg(long)]
    dry_run: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let command = Command::CollectGarbage { keep: args.keep, dry_run: args.dry_run };
    let swept = match orders::execute(command, None, data_dir)? {
        Reply::Swept(swept) => swept,
        Reply::Refused(error) => return Err(error.into()),
        _ => return Err(orders::another_answer()),
    };
    if args.json {
        println!("{}", serde_json::to_string(&swept).map_err(|error| CliError::failed(error.to_string()))?);
    } else {
        let rows: Vec<Vec<String>> = swept
            .dropped
            .iter()
            .map(|item| {
                let size = if item.kind == DroppedKind::Version { "-".to_owned() } else { bytes(item.bytes) };
                vec![kind(item.kind).to_owned(), item.name.clone(), size]
            })
            .collect();
        if !rows.is_empty() {
            print!("{}", table::columns(&["what", "name", "size"], &rows));
        }
        eprintln!("{} {}", if args.dry_run { "would remove" } else { "removed" }, summary(&swept));
    }
    match swept.failed.first() {
        None => Ok(()),
        Some(first) => {
            let (count, path) = (swept.failed.len(), first.path.display());
            Err(CliError::failed(format!("{count} items could not be removed: {path}: {}", first.message)))
        }
    }
}

/// The amount that a sweep removed.
pub(super) fn summary(swept: &Swept) -> String {
    let count = swept.dropped.len();
    format!(
        "{count} {}, {}",
        if count == 1 { "item" } else { "items" },
        bytes(swept.dropped.iter().map(|item| item.bytes).sum())
    )
}

fn kind(kind: DroppedKind) -> &'static str {
    match kind {
        DroppedKind::Version => "version",
        DroppedKind::Component => "component",
        DroppedKind::CompiledCode => "compiled code",
        DroppedKind::ModelRevision => "model",
        DroppedKind::Leftover => "leftover",
    }
}

/// Bytes, exact below a kilobyte and to a tenth of the unit above.
fn bytes(bytes: u64) -> String {
    let (mut number, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if number < 1_000.0 {
            break;
        }
        (number, unit) = (number / 1_000.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_shown_in_a_suitable_unit() {
        let shown = [0, 999, 1_000, 84_200_000, 3_000_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "84.2 MB", "3.0 GB"]);
    }
}
