//! Models from the Hugging Face hub, with the hub's own client: progress, resumption of broken downloads, and a
//! revision that is pinned before the first byte.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use assay_kernels::checkpoint::{CONFIG_FILE, WEIGHTS_FILE};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use super::manifest::Source;
use super::store::{ModelError, ModelStore, StoredModel, TOKENIZER_FILE};

/// How long the hub may take to say which commit a revision is. It is a small answer: a hub that needs longer is out
/// of reach, and waiting on would only delay saying so.
const DEFAULT_HUB_TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches `name` (`OWNER/NAME`) at `revision` (a branch, tag or commit; the main branch where absent) and adds it.
///
/// # Errors
/// The hub cannot be reached, has no such model, or what it sends is not a model that can be computed.
pub fn pull(
    store: &ModelStore,
    data_dir: &Path,
    name: &str,
    revision: Option<&str>,
) -> Result<StoredModel, ModelError> {
    let cache = data_dir.join("downloads");
    let commit = resolve(&cache, name, revision)?;
    eprintln!("{name} at commit {commit}");
    let repository = repository(&cache, name, Some(&commit))?;
    let mut dir = None;
    for file in [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE] {
        let path = repository.get(file).map_err(|error| fetch_error(name, Some(file), &error))?;
        dir = path.parent().map(Path::to_owned);
    }
    let dir = dir.ok_or_else(|| ModelError::Fetch(format!("the hub's client put {name} nowhere")))?;
    let source = Source::Hub { repository: name.to_owned(), commit };
    let model = store.add(name, &dir, source, None)?;
    // The store has its own copy now. What was downloaded is only removed after that, so a failure can be resumed.
    std::fs::remove_dir_all(&cache).map_err(ModelError::io(&cache))?;
    Ok(model)
}

/// Asks the hub which commit a revision is. The client sets no time limits of its own, so the question is asked on a
/// thread that is left behind if no answer comes.
fn resolve(cache: &Path, name: &str, revision: Option<&str>) -> Result<String, ModelError> {
    let repository = repository(cache, name, revision)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(repository.info()));
    match receiver.recv_timeout(DEFAULT_HUB_TIMEOUT) {
        Ok(Ok(info)) => Ok(info.sha),
        Ok(Err(error)) => Err(fetch_error(name, None, &error)),
        Err(_) => Err(ModelError::Fetch(format!("the hub did not answer within {} s", DEFAULT_HUB_TIMEOUT.as_secs()))),
    }
}

fn repository(cache: &Path, name: &str, revision: Option<&str>) -> Result<ApiRepo, ModelError> {
    let api = ApiBuilder::from_env()
        .with_cache_dir(cache.to_owned())
        .with_progress(true)
        .build()
        .map_err(|error| fetch_error(name, None, &error))?;
    Ok(api.repo(match revision {
        Some(revision) => Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()),
        None => Repo::model(name.to_owned()),
    }))
}

fn fetch_error(name: &str, file: Option<&str>, error: &ApiError) -> ModelError {
    let what = file.map_or_else(|| name.to_owned(), |file| format!("{file} of {name}"));
    ModelError::Fetch(format!("the hub gave no {what}: {error}"))
}
