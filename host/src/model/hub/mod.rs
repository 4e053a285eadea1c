//! Models from the Hugging Face hub: pins the commit before the first byte, and fetches the files that a model needs.
//!
//! Obeys the environment variables of the hub's own tools: where the hub is (`HF_ENDPOINT`), who asks (`HF_TOKEN` and
//! the token's file), and that it may not be asked (`HF_HUB_OFFLINE`): then the tools' cache is read in its place.

mod client;
mod download;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assay_kernels::checkpoint::{
    self, CONFIG_FILE, INDEX_FILE, MAX_CONFIG_BYTES, MAX_FILE_BYTES, WEIGHTS_FILE, head_files, weight_files,
};

use client::{HubClient, Revision};

use super::add::Added;
use super::error::{HubError, ModelError};
use super::hugging_face::{
    ADDED_TOKENS_FILE, MODULES_FILE, SENTENCE_TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE,
    TRANSFORMER_FILES,
};
use super::manifest::Source;
use super::name::directory;
use super::store::ModelStore;
use super::tokenizer::{MAX_TOKENIZER_BYTES, TOKENIZER_FILE};
use crate::durable::DirLock;

/// Directory in a data directory for downloads until they are in the store.
pub(crate) const DOWNLOADS_DIR: &str = "downloads";

/// Files that say how a model is used.
const SETTING_FILES: [&str; 5] =
    [TOKENIZER_CONFIG_FILE, MODULES_FILE, SENTENCE_TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE];

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
    let client = HubClient::new(variable("HF_ENDPOINT").as_deref(), token().as_deref())?;
    let Revision { commit, files } = client.revision(name, revision)?;
    eprintln!("{name} at commit {commit}");
    let source = Source::Hub { repository: name.to_owned(), commit: commit.clone() };
    if let Some(added) = store.keep(name, |manifest| manifest.source == source && manifest.adapter.is_none())? {
        return Ok(added);
    }
    let dir = downloads.join(&commit);
    let get = |file: &str, limit| client.fetch(name, &commit, file, &dir, limit);
    let added = fetch(&dir, &files, get).and_then(|()| store.add(name, &dir, source, None));
    // The store has its own copy of what it takes, and what it refuses would be refused again. A pull that was broken
    // off goes on with what is there.
    let is_done = !matches!(added, Err(ModelError::Io { .. } | ModelError::Hub(_)));
    if is_done && dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(ModelError::io(&dir))?;
    }
    added
}

/// Fetches a model's files. Small ones first: a model that cannot be computed is then refused before its weights are
/// fetched.
fn fetch(
    dir: &Path,
    there: &BTreeSet<String>,
    get: impl Fn(&str, u64) -> Result<PathBuf, ModelError>,
) -> Result<(), ModelError> {
    get(CONFIG_FILE, MAX_CONFIG_BYTES)?;
    for file in SETTING_FILES.into_iter().chain(TRANSFORMER_FILES).filter(|file| there.contains(*file)) {
        get(file, MAX_CONFIG_BYTES)?;
    }
    for folder in module_folders(dir) {
        let config = format!("{folder}/{CONFIG_FILE}");
        if there.contains(&config) {
            get(&config, MAX_CONFIG_BYTES)?;
        }
    }
    for file in head_files(dir)? {
        get(&file, MAX_FILE_BYTES)?;
    }
    get(TOKENIZER_FILE, MAX_TOKENIZER_BYTES)?;
    if there.contains(WEIGHTS_FILE) || !there.contains(INDEX_FILE) {
        return get(WEIGHTS_FILE, MAX_FILE_BYTES).map(drop);
    }
    get(INDEX_FILE, MAX_CONFIG_BYTES)?;
    for file in weight_files(dir)?.iter().filter(|file| *file != INDEX_FILE) {
        get(file, MAX_FILE_BYTES)?;
    }
    Ok(())
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
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
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
