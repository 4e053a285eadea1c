//! Models from the Hugging Face hub, through the hub's own client: shows progress, resumes broken downloads, and pins the
//! commit before the first byte.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use assay_kernels::checkpoint::{CONFIG_FILE, WEIGHTS_FILE};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use super::add::Added;
use super::error::{HubError, ModelError};
use super::manifest::Source;
use super::name::directory;
use super::store::{ModelStore, TOKENIZER_FILE};
use crate::durable::DirLock;

/// Directory in a data directory for downloads until they are in the store.
pub(crate) const DOWNLOADS_DIR: &str = "downloads";

/// Most time for the hub to resolve a revision. The answer is small, so a slower hub counts as out of reach.
const DEFAULT_HUB_TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches `name` (`OWNER/NAME`) at `revision` (a branch, tag or commit; `None` is the main branch) and adds it. A
/// commit that the store has complete is not fetched again.
///
/// # Errors
/// The hub is out of reach, lacks the model, or sends a model that cannot be computed.
pub fn pull(store: &ModelStore, data_dir: &Path, name: &str, revision: Option<&str>) -> Result<Added, ModelError> {
    let downloads = data_dir.join(DOWNLOADS_DIR).join(directory(name)?);
    // If two processes pull the same model, the second finds it in the store.
    let _lock = DirLock::acquire(&downloads).map_err(ModelError::io(&downloads))?;
    let cache = downloads.join("cache");
    let commit = resolve(&cache, name, revision)?;
    eprintln!("{name} at commit {commit}");
    let source = Source::Hub { repository: name.to_owned(), commit: commit.clone() };
    if let Some(added) = store.keep(name, |manifest| manifest.source == source && manifest.adapter.is_none())? {
        return Ok(added);
    }
    let repository = repository(&cache, name, Some(&commit))?;
    let mut dir = None;
    for file in [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE] {
        let path = repository.get(file).map_err(|error| refused(format!("{file} of {name}"), error))?;
        dir = path.parent().map(Path::to_owned);
    }
    let dir = dir.ok_or_else(|| HubError::Nowhere { name: name.to_owned() })?;
    let added = store.add(name, &dir, source, None)?;
    // The store has its own copy now. Downloads are removed only then, so that a failed pull can be resumed.
    std::fs::remove_dir_all(&cache).map_err(ModelError::io(&cache))?;
    Ok(added)
}

/// Asks the hub for the commit of a revision. The client has no time limit, so a separate thread asks and is abandoned
/// if no answer comes.
fn resolve(cache: &Path, name: &str, revision: Option<&str>) -> Result<String, HubError> {
    let repository = repository(cache, name, revision)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(repository.info()));
    match receiver.recv_timeout(DEFAULT_HUB_TIMEOUT) {
        Ok(Ok(info)) => Ok(info.sha),
        Ok(Err(error)) => Err(refused(name.to_owned(), error)),
        Err(_) => Err(HubError::Silent { timeout: DEFAULT_HUB_TIMEOUT }),
    }
}

fn repository(cache: &Path, name: &str, revision: Option<&str>) -> Result<ApiRepo, HubError> {
    let api = ApiBuilder::from_env()
        .with_cache_dir(cache.to_owned())
        .with_progress(true)
        .build()
        .map_err(|error| refused(name.to_owned(), error))?;
    Ok(api.repo(match revision {
        Some(revision) => Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()),
        None => Repo::model(name.to_owned()),
    }))
}

fn refused(what: String, error: ApiError) -> HubError {
    HubError::Refused { what, source: Box::new(error) }
}
