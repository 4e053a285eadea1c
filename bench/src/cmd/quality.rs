//! `assay-bench quality`: compares rankings with relevance judgements, beside speed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use assay::cli::EngineArgs;
use assay_bench::progress::Progress;
use assay_bench::quality::QualityOptions;
use assay_bench::quality::queries::Unjudged;
use assay_bench::quality::variant::Variant;

use super::ranking::{QueryArgs, ReportArgs};

/// Variants unless told otherwise: what the fastest precision costs.
const DEFAULT_VARIANTS: [&str; 2] = ["f32:precision=f32", "int8:precision=int8"];

/// Measures ranking quality from relevance judgements, of several models, precisions, guests or policies side by side,
/// and their speed.
///
/// Queries come from --requests with relevances, or from a TREC --run with --queries, --documents and --qrels.
/// docs/quality.md has the formats, the measures and an example.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    queries: QueryArgs,
    /// What to compare, the baseline first: keys are model, engine, precision, guest, max-tokens, truncation,
    /// setting.NAME, and rescore=VARIANT@N, which has an earlier variant rank the first N again
    #[arg(long = "variant", value_name = "NAME:KEY=VALUE,…", default_values = DEFAULT_VARIANTS)]
    variants: Vec<Variant>,
    #[command(flatten)]
    report: ReportArgs,
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

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let data_dir = super::data_dir(args.data_dir)?;
    let options = QualityOptions {
        device: args.engine.options(&data_dir)?,
        data_dir,
        model: args.model,
        guest: args.guest,
        source: args.queries.source(Unjudged::Refused),
        variants: args.variants,
        recall_at: args.report.recall_at,
        progress: Progress::Shown,
    };
    args.report.compare(&options)
}
