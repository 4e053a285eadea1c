//! `assay model`: bring models in, list and check them.

mod against;
mod cards;
mod comparison;

use std::path::{Path, PathBuf};

use assay_kernels::Task;
use assay_kernels::checkpoint::RankedLabel;
use clap::{Args, Subcommand, ValueEnum};

use self::against::{Against, Judging};
use super::error::CliError;
use super::{gc, orders, table};
use crate::model::page::ModelPage;
use crate::model::store::StoredModel;
use crate::model::{
    Added, Change, Choices, DefaultScores, ModelError, ModelRevision, ModelStore, Source, builtin, hub, of_directory,
};
use crate::tenant::admin::{Command as AdminCommand, HeldModel, Reply};

/// For an empty store.
const NO_MODELS: &str = "no models: `assay model pull` brings in the default one";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch a model from the Hugging Face hub; without a name, the default model
    Pull(Pull),
    /// Check a Hugging Face directory and copy it in; tenants keep the revision that they have
    Add(Add),
    /// List the stored models by revision, with their origins and the tenants' versions that open them
    List(List),
    /// Show all that was decided about a model
    Show(Show),
    /// Compare every file with what was added, check every tensor, and compare scores with those in a file
    Verify(Box<Verify>),
    /// Compare a known model's scores with those of its card; fetches the model if it is not here
    Check(Check),
    /// Make a model the default one; it must rank by itself
    Default(Default),
    /// Remove a model with all its revisions, unless it is the default one or a tenant's version opens it
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// OWNER/NAME on the hub
    name: Option<String>,
    /// Branch, tag or commit
    #[arg(long, requires = "name")]
    revision: Option<String>,
    /// Do not ask the hub: use the model made of a Python package and the embedded adapter
    #[arg(long, conflicts_with = "name")]
    embedded: bool,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// A directory with config.json, tokenizer.json and model.safetensors or its shards
    dir: PathBuf,
    /// A directory with a LoRA adapter in PEFT's format, merged over the weights; a tokenizer and sentence-transformers'
    /// files that were saved with it take the place of the model's
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// NAME or OWNER/NAME under which to keep the model [default: the directory's name; of a folder in a hub's cache
    /// the repository's]
    #[arg(long)]
    name: Option<String>,
    /// The label to rank by, of a model with several: its number, its name, or A-B for the difference of two numbers
    #[arg(long)]
    label: Option<String>,
    /// How scores are given by default [default: as the model's files say, otherwise raw]
    #[arg(long)]
    scores: Option<CliScores>,
    /// Text before every query [default: as the model's files say]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CliScores {
    Raw,
    Sigmoid,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// NAME or NAME@REVISION [default: the default model]
    name: Option<String>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// NAME or NAME@REVISION [default: every revision of every model; with --against the default model]
    name: Option<String>,
    #[command(flatten)]
    against: Against,
    #[command(flatten)]
    judging: Judging,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// OWNER/NAME on the hub; another name gets the list of the known ones
    name: String,
    #[command(flatten)]
    judging: Judging,
}

#[derive(Debug, Args)]
pub(super) struct Default {
    /// The model
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The model
    name: String,
}

pub(super) fn run(command: Command, data_dir: &Path) -> Result<(), CliError> {
    let store = ModelStore::new(data_dir);
    let before = default_revision(&store);
    match command {
        Command::Pull(Pull { name: Some(name), revision, .. }) => {
            added(&hub::pull(&store, data_dir, &name, revision.as_deref())?);
        }
        Command::Pull(Pull { embedded: true, .. }) => {
            let pulled = builtin::pull_embedded(&store, data_dir)?;
            store.set_default(&pulled.model.manifest.name)?;
            added(&pulled);
        }
        Command::Pull(_) => added(&builtin::pull_default(&store, data_dir)?),
        Command::Add(args) => add(&args, &store)?,
        Command::List(args) => list(&args, &store, data_dir)?,
        Command::Show(args) => show(&args, &store)?,
        Command::Verify(args) => verify(&args, &store, data_dir)?,
        Command::Check(args) => check(&args, &store, data_dir)?,
        Command::Default(args) => store.set_default(&args.name)?,
        Command::Remove(args) => remove(args.name, data_dir)?,
    }
    if let Some(now) = default_revision(&store).filter(|now| before.as_ref() != Some(now)) {
        eprintln!("the default model is now {}, revision {:.16}", now.name, now.revision);
    }
    Ok(())
}

/// What commands rank with if they name no model.
fn default_revision(store: &ModelStore) -> Option<ModelRevision> {
    store.open(None).ok().map(|model| model.manifest.model_revision())
}

fn remove(name: String, data_dir: &Path) -> Result<(), CliError> {
    match orders::execute(AdminCommand::RemoveModel { name }, None, data_dir)? {
        Reply::Swept(swept) => eprintln!("removed {}", gc::summary(&swept)),
        Reply::Refused(error) => return Err(error.into()),
        _ => return Err(orders::another_answer()),
    }
    Ok(())
}

fn added(added: &Added) {
    let manifest = &added.model.manifest;
    let change = match added.change {
        Change::Copied => "added",
        Change::Kept => "kept, as it was here already,",
        Change::Repaired => "repaired",
    };
    eprintln!("{change} {} from {}, revision {:.16}", manifest.name, manifest.source, manifest.revision);
    say_decisions(added);
}

/// Says what was decided about a model beyond its files, and what people should know.
pub(super) fn say_decisions(added: &Added) {
    for change in &added.settings.tokenizer_changes {
        eprintln!("tokenizer: {change}");
    }
    for note in &added.settings.notes {
        eprintln!("note: {note}");
    }
}

fn show(args: &Show, store: &ModelStore) -> Result<(), CliError> {
    let page = ModelPage::of(&store.open(args.name.as_deref())?)?;
    if args.json {
        let line = serde_json::to_string(&page)
            .map_err(|error| CliError::failed(format!("the page cannot be written as JSON: {error}")))?;
        println!("{line}");
    } else {
        print!("{page}");
    }
    Ok(())
}

fn add(args: &Add, store: &ModelStore) -> Result<(), CliError> {
    let absolute = |dir: &Path| {
        std::fs::canonicalize(dir).map_err(|error| CliError::bad_input(format!("{}: {error}", dir.display())))
    };
    let directory = |dir: &Path| Source::Directory { path: dir.display().to_string() };
    let mut dir = absolute(&args.dir)?;
    if dir.is_file() {
        return Err(ModelError::NotADirectory { path: args.dir.clone() }.into());
    }
    let adapter = args.adapter.as_deref().map(absolute).transpose()?;
    let name = match (of_directory(&dir), &args.name) {
        (Ok((files, own)), name) => {
            dir = files;
            name.clone().unwrap_or(own)
        }
        (Err(_), Some(name)) => name.clone(),
        (Err(error), None) => return Err(error.into()),
    };
    let adapter = adapter.as_deref().map(|adapter| (adapter, directory(adapter)));
    let scores = args.scores.map(|scores| match scores {
        CliScores::Raw => DefaultScores::Raw,
        CliScores::Sigmoid => DefaultScores::Sigmoid,
    });
    let choices = Choices { label: args.label.clone(), scores, prompt: args.prompt.clone() };
    added(&store.add_with(&name, &dir, directory(&dir), adapter, &choices)?);
    Ok(())
}

fn list(args: &List, store: &ModelStore, data_dir: &Path) -> Result<(), CliError> {
    let default = store.default_name()?;
    // The list is useful without tenants.
    let held = orders::held_models(data_dir)
        .inspect_err(|error| eprintln!("cannot tell which tenants open which models: {error}"))
        .unwrap_or_default();
    let mut rows = Vec::new();
    for listed in store.list()? {
        let manifest = &listed.model.manifest;
        let is_default = listed.is_current && default.as_deref() == Some(&manifest.name);
        let mut held_by: Vec<&HeldModel> = held.iter().filter(|held| held.model == manifest.model_revision()).collect();
        held_by.sort_by_key(|held| (&held.tenant, held.version));
        if args.json {
            let held_by: Vec<_> = held_by
                .iter()
                .map(|held| {
                    serde_json::json!({ "tenant": held.tenant, "version": held.version, "current": held.is_current })
                })
                .collect();
            let line = serde_json::json!({
                "default": is_default, "current": listed.is_current, "manifest": manifest, "held_by": held_by,
                "settings": listed.model.settings()?,
            });
            println!("{line}");
        } else {
            let mark = if is_default { "*" } else { "" };
            rows.push(row(mark, &listed.model, listed.is_current, &held_by)?);
        }
    }
    if !args.json {
        if rows.is_empty() {
            eprintln!("{NO_MODELS}");
            return Ok(());
        }
        let header = ["", "model", "task", "layers×hidden", "scores", "revision", "", "opened by", "source"];
        print!("{}", table::columns(&header, &rows));
    }
    Ok(())
}

fn row(mark: &str, model: &StoredModel, is_current: bool, held_by: &[&HeldModel]) -> Result<Vec<String>, CliError> {
    let manifest = &model.manifest;
    let (architecture, settings) = (model.architecture()?, model.settings()?);
    let task = match architecture.task() {
        Task::Embedding => "embedding",
        Task::CrossEncoder => "cross-encoder",
    };
    let scores = match architecture.task() {
        Task::Embedding => "-".to_owned(),
        Task::CrossEncoder => {
            let prompt = if settings.prompt.is_some() { ", prompt" } else { "" };
            let label = match settings.label {
                Some(RankedLabel { label, minus: None }) => format!(", label {label}"),
                Some(RankedLabel { label, minus: Some(minus) }) => format!(", label {label}-{minus}"),
                None if architecture.outputs() > 1 => format!(", {} labels, none chosen", architecture.outputs()),
                None => String::new(),
            };
            format!("{}{prompt}{label}", settings.scores.unwrap_or(DefaultScores::Raw).name())
        }
    };
    let source = match &manifest.adapter {
        Some(adapter) => format!("{}, adapter: {adapter}", manifest.source),
        None => manifest.source.to_string(),
    };
    let versions: Vec<String> = held_by
        .iter()
        .map(|held| format!("{} {}{}", held.tenant, held.version, if held.is_current { "*" } else { "" }))
        .collect();
    Ok(vec![
        mark.to_owned(),
        manifest.name.clone(),
        task.to_owned(),
        format!("{}×{}", architecture.layers.len(), architecture.hidden_size),
        scores,
        format!("{:.16}", manifest.revision),
        if is_current { "newest" } else { "" }.to_owned(),
        if versions.is_empty() { "-".to_owned() } else { versions.join(", ") },
        source,
    ])
}

fn verify(args: &Verify, store: &ModelStore, data_dir: &Path) -> Result<(), CliError> {
    let name = args.name.as_deref();
    if args.against.against.is_some() {
        let open = || {
            let model = store.open(name)?;
            model.verify()?;
            Ok(model)
        };
        return against::compare_with_file(&args.against, &args.judging, open, data_dir);
    }
    if args.judging.is_asked() {
        return Err(CliError::bad_input("--within and --json are about scores: name a file of scores with --against"));
    }
    let models = match name {
        Some(name) => vec![store.open(Some(name))?],
        None => store.list()?.into_iter().map(|listed| listed.model).collect(),
    };
    if models.is_empty() {
        eprintln!("{NO_MODELS}");
    }
    // A model that has lost its files is on no list.
    if name.is_none() && store.default_name()?.is_some() {
        store.open(None)?;
    }
    for model in models {
        model.verify()?;
        let manifest = &model.manifest;
        println!("{}@{:.16} is whole: {} files", manifest.name, manifest.revision, manifest.files.len());
    }
    Ok(())
}

fn check(args: &Check, store: &ModelStore, data_dir: &Path) -> Result<(), CliError> {
    let card = cards::find(&args.name)?;
    let model = match store.open(Some(&args.name)) {
        Err(ModelError::Unknown { .. }) => {
            let pulled = hub::pull(store, data_dir, &args.name, None)?;
            added(&pulled);
            pulled.model
        }
        found => found?,
    };
    against::compare_with_card(card, &args.judging, &model, data_dir)
}
