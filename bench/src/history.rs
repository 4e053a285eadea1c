//! A folder of reports as one table, oldest first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::report::schema::Report;

/// Levels of folders below the named one that are searched: a folder for each run, and one for a group of runs.
const MAX_DEPTH: usize = 2;

/// Every report in a folder and in the folders within it, oldest first. Ignores other JSON files.
///
/// # Errors
/// The folder cannot be read, or has no report.
pub fn read(dir: &Path) -> Result<Vec<(PathBuf, Report)>> {
    let mut files = Vec::new();
    collect(dir, MAX_DEPTH, &mut files)?;
    let mut reports: Vec<(PathBuf, Report)> =
        files.into_iter().filter_map(|file| Report::read(&file).ok().map(|report| (file, report))).collect();
    ensure!(!reports.is_empty(), "{} has no report.json of assay-bench", dir.display());
    // Timestamps as text sort by time.
    reports.sort_by(|left, right| left.1.timestamp.cmp(&right.1.timestamp));
    Ok(reports)
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(())
}

/// One row for each configuration of each report.
#[must_use]
pub fn table(reports: &[(PathBuf, Report)]) -> String {
    let mut rows = Vec::new();
    for (_, report) in reports {
        for configuration in &report.configurations {
            let Some(repeat) = configuration.shown() else { continue };
            rows.push(vec![
                report.timestamp.clone(),
                report.machine.commit.clone().unwrap_or_else(|| "-".to_owned()),
                report.scenario.clone(),
                configuration.name.clone(),
                report.target.engine.clone(),
                format!("{:.1}", repeat.throughput.average),
                format!("{:.1}", repeat.latency_ms.p50),
                format!("{:.1}", repeat.latency_ms.p99),
                format!("{:.1}", repeat.work.gflop_per_s),
                repeat.errors.values().sum::<u64>().to_string(),
                if report.interrupted { "stopped early".to_owned() } else { String::new() },
            ]);
        }
    }
    let header =
        ["when", "commit", "scenario", "config", "engine", "pairs/s", "P50 ms", "P99 ms", "GFLOP/s", "errors", "note"];
    crate::table::markdown(&header, &rows)
}
