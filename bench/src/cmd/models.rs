//! `assay-bench models`: compares models by ranking quality, speed and memory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use assay::cli::EngineArgs;
use assay_bench::progress::Progress;
use assay_bench::quality::queries::Unjudged;
use assay_bench::quality::variant::Variant;
use assay_bench::quality::{QualityOptions, dir_name};

use super::ranking::{QueryArgs, ReportArgs};

/// Compares models in one table: ranking quality from relevance judgements, pairs per second, the latency of a request,
/// and memory.
///
/// All rank the same requests in turns. Requests without relevances compare speed and memory alone. docs/quality.md has
/// the formats and the measures; `assay-bench quality` compares precisions, guests and settings too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models of the store, or directories with config.json, weights and tokenizer.json; the first is the baseline
    #[arg(required = true, value_name = "NAME|DIR")]
    models: Vec<String>,
    #[command(flatten)]
    queries: QueryArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Where models and compiled guests are kept [default: the user's data directory]
    #[arg(long, env = "ASSAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A guest in place of the standard one
    #[arg(long, value_name = "COMPONENT.wasm")]
    guest: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let data_dir = super::data_dir(args.data_dir)?;
    let options = QualityOptions {
        device: args.engine.options(&data_dir)?,
        data_dir,
        model: None,
        guest: args.guest,
        source: args.queries.source(Unjudged::Ranked),
        variants: args.models.into_iter().map(variant).collect::<Result<_>>()?,
        recall_at: args.report.recall_at,
        progress: Progress::Shown,
    };
    args.report.compare(&options)
}

/// A model with all else as the command says it.
fn variant(model: String) -> Result<Variant> {
    let dir = Path::new(&model);
    let name = if dir.is_dir() { dir_name(dir)? } else { model.clone() };
    Ok(Variant { name, model: Some(model), ..Variant::default() })
}
