//! Models from the Hugging Face hub, through the hub's own client: shows progress, resumes broken downloads, and pins
//! the commit before the first byte.
//!
//! Obeys the environment variables of the hub's own tools: where the hub is (`HF_ENDPOINT`), who asks (`HF_TOKEN` and
//! the token's file), and that it may not be asked (`HF_HUB_OFFLINE`): then the tools' cache is read in its place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use assay_kernels::checkpoint::{
    self, CONFIG_FILE, INDEX_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, head_files, weight_files,
};
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use super::add::Added;
use super::error::{HubError, ModelError};
use super::hugging_face::{
    ADDED_TOKENS_FILE, MODULES_FILE, SENTENCE_TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE,
    TRANSFORMER_FILES,
};
use super::manifest::Source;
use super::name::directory;
use super::store::{ModelStore, TOKENIZER_FILE};
use crate::durable::DirLock;

/// Directory in a data directory for downloads until they are in the store.
pub(crate) const DOWNLOADS_DIR: &str = "downloads";

/// Files that say how a model is used.
const SETTING_FILES: [&str; 5] =
    [TOKENIZER_CONFIG_FILE, MODULES_FILE, SENTENCE_TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE];

/// Most time for the hub to resolve a revision. The answer is small, so a slower hub counts as out of reach.
const DEFAULT_HUB_TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches `name` (`OWNER/NAME`) at `revision` (a branch, tag or commit; `None` is the main branch) and adds it. A
/// commit that the store has complete is not fetched again.
///
/// # Errors
/// The hub is out of reach, lacks the model, or sends a model that cannot be computed.
pub fn pull(store: &ModelStore, data_dir: &Path, name: &str, revision: Option<&str>) -> Result<Added, ModelError> {
    let downloads = data_dir.join(DOWNLOADS_DIR).join(directory(name)?);
    if let Some(variable) = OFFLINE.into_iter().find(|variable| is_true(variable)) {
        return from_cache(store, name, revision, variable);
    }
    // If two processes pull the same model, the second finds it in the store.
    let _lock = DirLock::acquire(&downloads).map_err(ModelError::io(&downloads))?;
    let cache = downloads.join("cache");
    let RepoInfo { sha: commit, siblings } = resolve(&cache, name, revision)?;
    eprintln!("{name} at commit {commit}");
    let source = Source::Hub { repository: name.to_owned(), commit: commit.clone() };
    if let Some(added) = store.keep(name, |manifest| manifest.source == source && manifest.adapter.is_none())? {
        return Ok(added);
    }
    let repository = repository(&cache, name, Some(&commit))?;
    let there: BTreeSet<String> = siblings.into_iter().map(|file| file.rfilename).collect();
    let get = |file: &str| repository.get(file).map_err(|error| refused(format!("{file} of {name}"), error));
    let path = get(CONFIG_FILE)?;
    let dir = path.parent().ok_or_else(|| HubError::Nowhere { name: name.to_owned() })?;
    // Small files first: a model that cannot be computed is then refused before its weights are fetched.
    for file in SETTING_FILES.into_iter().chain(TRANSFORMER_FILES).filter(|file| there.contains(*file)) {
        get(file)?;
    }
    for folder in module_folders(dir) {
        let config = format!("{folder}/{CONFIG_FILE}");
        if there.contains(&config) {
            get(&config)?;
        }
    }
    for file in head_files(dir)? {
        get(&file)?;
    }
    get(TOKENIZER_FILE)?;
    if there.contains(WEIGHTS_FILE) || !there.contains(INDEX_FILE) {
        get(WEIGHTS_FILE)?;
    } else {
        get(INDEX_FILE)?;
        for file in weight_files(dir)?.iter().filter(|file| *file != INDEX_FILE) {
            get(file)?;
        }
    }
    let added = store.add(name, dir, source, None)?;
    // The store has its own copy now. Downloads are removed only then, so that a failed pull can be resumed.
    std::fs::remove_dir_all(&cache).map_err(ModelError::io(&cache))?;
    Ok(added)
}

/// The folders of sentence-transformers' modules. If their list cannot be read, checking the model says so.
fn module_folders(dir: &Path) -> Vec<String> {
    let modules = checkpoint::read_file(&dir.join(MODULES_FILE), MAX_CONFIG_BYTES).ok();
    modules.and_then(|modules| checkpoint::module_folders(&modules).ok()).unwrap_or_default()
}

/// Adds a model from the cache of the hub's tools.
fn from_cache(
    store: &ModelStore,
    name: &str,
    revision: Option<&str>,
    variable: &'static str,
) -> Result<Added, ModelError> {
    let cache = cache_dir();
    let repository = cache.join(Repo::model(name.to_owned()).folder_name());
    let revision = revision.unwrap_or("main");
    let offline = || HubError::Offline { variable, what: format!("{name} at {revision}"), cache: cache.clone() };
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !revision.split('/').all(is_plain) {
        return Err(offline().into());
    }
    let commit = std::fs::read_to_string(repository.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let dir = repository.join("snapshots").join(&commit);
    if commit.contains('/') || !dir.is_dir() {
        return Err(offline().into());
    }
    eprintln!("{name} at commit {commit}, from the cache");
    store.add(name, &dir, Source::Hub { repository: name.to_owned(), commit }, None)
}

/// Variables that forbid asking the hub.
const OFFLINE: [&str; 2] = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];

fn is_true(variable: &str) -> bool {
    let value = std::env::var(variable).unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

/// A variable's value, if it is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The directory of the hub's tools.
fn home_dir() -> PathBuf {
    let home = || variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from).unwrap_or_default();
    let cache = || variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    variable("HF_HOME").map_or_else(|| cache().join("huggingface"), PathBuf::from)
}

fn cache_dir() -> PathBuf {
    let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    named.map_or_else(|| home_dir().join("hub"), PathBuf::from)
}

/// The person's token: of the environment, or of the file that `hf auth login` writes.
fn token() -> Option<String> {
    if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
        let file = variable("HF_TOKEN_PATH").map_or_else(|| home_dir().join("token"), PathBuf::from);
        let token = std::fs::read_to_string(file).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    })
}

/// Asks the hub for the commit of a revision. The client has no time limit, so a separate thread asks and is abandoned
/// if no answer comes.
fn resolve(cache: &Path, name: &str, revision: Option<&str>) -> Result<RepoInfo, HubError> {
    let repository = repository(cache, name, revision)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(repository.info()));
    match receiver.recv_timeout(DEFAULT_HUB_TIMEOUT) {
        Ok(Ok(info)) => Ok(info),
        Ok(Err(error)) => Err(refused(name.to_owned(), error)),
        Err(_) => Err(HubError::Silent { timeout: DEFAULT_HUB_TIMEOUT }),
    }
}

fn repository(cache: &Path, name: &str, revision: Option<&str>) -> Result<ApiRepo, HubError> {
    let mut builder = ApiBuilder::from_env();
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = builder
        .with_cache_dir(cache.to_owned())
        .with_progress(true)
        .with_token(token())
        .build()
        .map_err(|error| refused(name.to_owned(), error))?;
    Ok(api.repo(match revision {
        Some(revision) => Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()),
        None => Repo::model(name.to_owned()),
    }))
}

fn refused(what: String, error: ApiError) -> HubError {
    let is_closed = ["401", "403"].iter().any(|status| error.to_string().contains(status));
    let what = match (is_closed, token().is_some()) {
        (false, _) => what,
        (true, false) => format!("{what} (it may need a token: set HF_TOKEN)"),
        (true, true) => format!("{what} (the token in HF_TOKEN or its file may not see it)"),
    };
    HubError::Refused { what, source: Box::new(error) }
}
