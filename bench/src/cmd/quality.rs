//! `assay-bench quality`: compares rankings with relevance judgements, beside speed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use assay::cli::EngineArgs;
use assay::cli::files::FieldArgs;
use assay_bench::progress::Progress;
use assay_bench::quality::queries::QuerySource;
use assay_bench::quality::variant::Variant;
use assay_bench::quality::{DEFAULT_RECALL_AT, QualityOptions, compare};
use assay_bench::report::quality::QUALITY_FILES;
use assay_bench::report::write_files;
use assay_bench::table;

/// Variants unless told otherwise: what the fastest precision costs.
const DEFAULT_VARIANTS: [&str; 2] = ["f32:precision=f32", "int8:precision=int8"];

/// With fewer queries a bootstrap sees too little of how they differ.
const FEW_QUERIES: usize = 20;

/// The folder of runs and judgements within the report's.
const RUNS_DIR: &str = "runs";

/// Measures ranking quality from relevance judgements, of several models, precisions, guests or policies side by side,
/// and their speed.
///
/// Queries come from --requests with relevances, or from a TREC --run with --queries, --documents and --qrels.
/// docs/quality.md has the formats, the measures and an example.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
    /// What to compare, the baseline first: keys are model, engine, precision, guest, max-tokens, truncation,
    /// setting.NAME, and rescore=VARIANT@N, which has an earlier variant rank the first N again
    #[arg(long = "variant", value_name = "NAME:KEY=VALUE,…", default_values = DEFAULT_VARIANTS)]
    variants: Vec<Variant>,
    /// Ranks that recall looks at
    #[arg(long, value_name = "K", default_value_t = DEFAULT_RECALL_AT, value_parser = at_least_one)]
    recall_at: usize,
    /// The directory for the report, and for a run of each variant
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where models and compiled guests are kept [default: the user's data directory]
    #[arg(long, env = "ASSAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The model of variants that name none [default: the store's default]
    #[arg(long)]
    model: Option<String>,
    /// The guest of variants that name none, in place of the standard one
    #[arg(long, value_name = "COMPONENT.wasm")]
    guest: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "must be a whole number from 1".to_owned())
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let data_dir = super::data_dir(args.data_dir)?;
    let options = QualityOptions {
        device: args.engine.options(&data_dir)?,
        data_dir,
        model: args.model,
        guest: args.guest,
        source: QuerySource {
            requests: args.requests,
            run: args.run,
            queries: args.queries,
            documents: args.documents,
            qrels: args.qrels,
            names: args.names,
            depth: args.depth,
            max_queries: args.max_queries,
        },
        variants: args.variants,
        recall_at: args.recall_at,
        progress: Progress::Shown,
    };
    let compared = super::until_interrupted(async |stop| compare(&options, &stop).await)?;
    compared.report.write(&args.out)?;
    remove_runs(&args.out.join(RUNS_DIR))?;
    write_files(&args.out.join(RUNS_DIR), compared.files.iter().map(|(name, text)| (name, text)))?;
    let (header, rows) = compared.report.summary();
    print!("{}", table::markdown(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows));
    if compared.report.interrupted {
        println!("\nstopped early: the report has the queries that were ranked");
    }
    let queries = compared.report.query_set.queries;
    if queries < FEW_QUERIES {
        println!("\n{queries} queries: the intervals of fewer than {FEW_QUERIES} are too narrow to rely on");
    }
    println!("\n{} and {RUNS_DIR}/ in {}", QUALITY_FILES.join(", "), args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Removes the runs of an earlier comparison from the directory of runs: beside new ones they would look like new ones.
fn remove_runs(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "run") {
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
        for name in ["1-f32.run", "2-int8.run", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_runs(dir.path()).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        remove_runs(&dir.path().join("none")).unwrap();
    }
}
