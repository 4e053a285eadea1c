//! `assay tune`: time the GPU engine's kernel variants and keep the fastest.

use std::path::Path;

use serde::Serialize;

use super::engine::adapter;
use super::error::CliError;
use crate::device::{DeviceOptions, EngineChoice, EnginePrecision};
use crate::model::ModelStore;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model whose shapes are timed [default: see `assay model list`]
    #[arg(long)]
    model: Option<String>,
    /// Numbers as stored: f32 or f16
    #[arg(long, value_enum, default_value_t)]
    precision: EnginePrecision,
    /// The adapter, by its number in `assay devices` or a part of its name [default: the best]
    #[arg(long, value_name = "ADAPTER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Table<'a> {
    device: &'a str,
    model: &'a str,
    precision: String,
    entries: &'a [assay_kernels::gpu::tune::TuneEntry],
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let file = DeviceOptions::tune_file(data_dir);
    let options = DeviceOptions {
        choice: EngineChoice::Gpu,
        precision: args.precision,
        adapter: args.adapter.as_deref().map(adapter),
        tune_file: Some(file.clone()),
        ..DeviceOptions::default()
    };
    options.check()?;
    let stored = ModelStore::new(data_dir).open(args.model.as_deref())?;
    let architecture = stored.architecture()?;
    let table = options.tune(&architecture)?;
    if args.json {
        let (device, model) = (table.device.as_str(), stored.manifest.name.as_str());
        let line = Table { device, model, precision: args.precision.to_string(), entries: &table.entries };
        let line = serde_json::to_string(&line)
            .map_err(|error| CliError::failed(format!("the table cannot be written as JSON: {error}")))?;
        println!("{line}");
    } else {
        print!("{table}");
    }
    eprintln!("kept in {}", file.display());
    Ok(())
}
