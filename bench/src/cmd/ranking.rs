//! What `quality` and `models` share: where judged queries come from, and where the report goes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use assay::cli::files::FieldArgs;
use assay_bench::quality::queries::{QuerySource, Unjudged};
use assay_bench::quality::{DEFAULT_RECALL_AT, QRELS_FILE, QualityOptions, compare};
use assay_bench::report::quality::QUALITY_FILES;
use assay_bench::report::{try_dir, write_files};
use assay_bench::table;

/// With fewer queries a bootstrap sees too little of how they differ.
const FEW_QUERIES: usize = 20;

/// The folder of runs and judgements within the report's.
const RUNS_DIR: &str = "runs";

/// The queries to rank.
#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    /// Requests in JSONL or a JSON array, {"query": …, "documents": […]} with "relevant", the indexes or ids of
    /// relevant documents, or "relevances", a grade for each document; neither with --qrels
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "queries", "documents"])]
    requests: Option<PathBuf>,
    /// A TREC run, `query-id Q0 document-id rank score tag`, whose documents are ranked again
    #[arg(long, value_name = "FILE", requires_all = ["queries", "documents", "qrels"])]
    run: Option<PathBuf>,
    /// The queries that the run names: TSV or CSV, JSONL or a JSON array, with ids and texts
    #[arg(long, value_name = "FILE", requires = "run")]
    queries: Option<PathBuf>,
    /// The documents that the run names, in the same formats
    #[arg(long, value_name = "FILE", requires = "run")]
    documents: Option<PathBuf>,
    /// Relevance judgements, `query-id 0 document-id grade`, or BEIR's `query-id document-id grade`; relevant from 1 on
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    #[command(flatten)]
    names: FieldArgs,
    /// Rank only so many first documents of each query of the run
    #[arg(long, value_name = "N", requires = "run", value_parser = at_least_one)]
    depth: Option<usize>,
    /// Rank only so many first queries, for a quick look
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_queries: Option<usize>,
}

impl QueryArgs {
    pub(super) fn source(self, unjudged: Unjudged) -> QuerySource {
        let Self { requests, run, queries, documents, qrels, names, depth, max_queries } = self;
        QuerySource { requests, run, queries, documents, qrels, names, depth, max_queries, unjudged }
    }
}

/// What the report has, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// Ranks that recall looks at
    #[arg(long, value_name = "K", default_value_t = DEFAULT_RECALL_AT, value_parser = at_least_one)]
    pub(super) recall_at: usize,
    /// The directory for the report, and for a run of each variant
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl ReportArgs {
    /// Compares, writes the report and prints its table.
    pub(super) fn compare(&self, options: &QualityOptions) -> Result<ExitCode> {
        try_dir(&self.out)?;
        let compared = super::until_interrupted(async |stop| compare(options, &stop).await)?;
        compared.report.write(&self.out)?;
        remove_runs(&self.out.join(RUNS_DIR))?;
        write_files(&self.out.join(RUNS_DIR), compared.files.iter().map(|(name, text)| (name, text)))?;
        let (header, rows) = compared.report.summary();
        print!("{}", table::markdown(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows));
        if compared.report.interrupted {
            println!("\nstopped early: the report has the queries that were ranked");
        }
        let set = &compared.report.query_set;
        if set.is_judged && set.queries < FEW_QUERIES {
            println!("\n{} queries: the intervals of fewer than {FEW_QUERIES} are too narrow to rely on", set.queries);
        }
        println!("\n{} and {RUNS_DIR}/ in {}", QUALITY_FILES.join(", "), self.out.display());
        Ok(ExitCode::SUCCESS)
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "must be a whole number from 1".to_owned())
}

/// Removes what an earlier comparison wrote into the directory of runs: beside new files it would look new.
fn remove_runs(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        let is_run = path.extension().is_some_and(|extension| extension == "run");
        if is_run || path.file_name().is_some_and(|name| name == QRELS_FILE) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_comparison_leaves_no_run_of_the_first_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1-f32.run", "2-int8.run", "qrels.txt", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_runs(dir.path()).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        remove_runs(&dir.path().join("none")).unwrap();
    }
}
