//! Models on disk, below `models/` in the data directory.
//!
//! ```text
//! models/
//!   default                         the name of the default model
//!   OWNER--NAME/
//!     current                       the revision in use
//!     REVISION/                     the first 16 digits of the content hash
//!       manifest.json               source, size and SHA-256 of every file
//!       config.json  tokenizer.json  model.safetensors
//!       adapter/                    adapter_config.json  adapter_model.safetensors
//! ```
//!
//! A revision is built beside its place and renamed into it, and the pointers are replaced by renaming, so that a
//! reader sees a whole model or none. Nothing in a revision changes afterwards.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use assay_kernels::checkpoint::{self, CheckpointError};

use super::manifest::{FileRecord, Manifest, Source, revision};

/// The tokenizer's file in a model directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
const ADAPTER_DIR: &str = "adapter";
const MANIFEST_FILE: &str = "manifest.json";
const CURRENT_FILE: &str = "current";
const DEFAULT_FILE: &str = "default";
const MODEL_FILES: [&str; 3] = [checkpoint::CONFIG_FILE, TOKENIZER_FILE, checkpoint::WEIGHTS_FILE];
const ADAPTER_FILES: [&str; 2] = [checkpoint::ADAPTER_CONFIG_FILE, checkpoint::ADAPTER_WEIGHTS_FILE];

/// Largest `tokenizer.json`: the largest vocabularies in use make 20 MB of it.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Longest name of a model, and so of its directory.
const MAX_NAME_BYTES: usize = 128;

/// Why a model cannot be added, found or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory is not a model.
    #[error("{} is not a model: it has no {file}", dir.display())]
    NotAModel {
        /// The directory.
        dir: PathBuf,
        /// The first file that is missing.
        file: &'static str,
    },
    /// The weights or the configuration are bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer is bad, or is another model's.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The name cannot be one of a model.
    #[error(
        "{name:?} is not a model's name: use NAME or OWNER/NAME of letters, digits, '.', '_' and '-', at most {MAX_NAME_BYTES} bytes"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The store has no such model.
    #[error(
        "there is no model {name} here: `assay model list` shows what there is, `assay model pull {name}` or `assay model add` brings one in"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// The store has no default model.
    #[error("no model is installed: `assay model pull` brings in the default one")]
    Empty,
    /// A file of the store is not what it was when it was added.
    #[error("{}: {message}; bring the model in again with `assay model pull` or `assay model add`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        message: String,
    },
    /// The model could not be fetched.
    #[error("{0}")]
    Fetch(String),
}

impl ModelError {
    /// Wraps what the system said about a path.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Models on disk.
#[derive(Debug, Clone)]
pub struct ModelStore {
    root: PathBuf,
}

/// A model in the store.
#[derive(Debug, Clone)]
pub struct StoredModel {
    /// What the store knows of it.
    pub manifest: Manifest,
    dir: PathBuf,
}

impl ModelStore {
    /// The store below `data_dir`; made on the first write.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("models") }
    }

    /// Checks the model in `dir`, with the LoRA adapter in `adapter` over it, and copies both into the store. The
    /// first model that is added becomes the default.
    ///
    /// # Errors
    /// The directory is not a model, any tensor is missing, misshapen or not finite, or the tokenizer is not the
    /// model's. Nothing is changed then.
    pub fn add(
        &self,
        name: &str,
        dir: &Path,
        source: Source,
        adapter: Option<(&Path, Source)>,
    ) -> Result<StoredModel, ModelError> {
        let model_dir = self.model_dir(name)?;
        check_model(dir, adapter.as_ref().map(|(path, _)| *path))?;

        std::fs::create_dir_all(&self.root).map_err(ModelError::io(&self.root))?;
        let staged =
            tempfile::Builder::new().prefix(".adding-").tempdir_in(&self.root).map_err(ModelError::io(&self.root))?;
        let mut files = BTreeMap::new();
        for file in MODEL_FILES {
            files.insert(file.to_owned(), copy(&dir.join(file), &staged.path().join(file))?);
        }
        if let Some((adapter, _)) = &adapter {
            let to = staged.path().join(ADAPTER_DIR);
            std::fs::create_dir(&to).map_err(ModelError::io(&to))?;
            for file in ADAPTER_FILES {
                files.insert(format!("{ADAPTER_DIR}/{file}"), copy(&adapter.join(file), &to.join(file))?);
            }
        }
        let revision = revision(&files);
        let adapter = adapter.map(|(_, source)| source);
        let manifest = Manifest { name: name.to_owned(), revision, source, adapter, files };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        write_whole(&staged.path().join(MANIFEST_FILE), &text)?;

        std::fs::create_dir_all(&model_dir).map_err(ModelError::io(&model_dir))?;
        let directory = &manifest.revision[..16];
        let place = model_dir.join(directory);
        if place.exists() {
            // The same content is here already, or was: what counts is that it is whole now.
            std::fs::remove_dir_all(&place).map_err(ModelError::io(&place))?;
        }
        std::fs::rename(staged.path(), &place).map_err(ModelError::io(&place))?;
        // What was staged is in its place: there is nothing left to clean up.
        let _ = staged.keep();
        replace(&model_dir.join(CURRENT_FILE), directory)?;
        if self.default_name()?.is_none() {
            self.set_default(name)?;
        }
        Ok(StoredModel { manifest, dir: place })
    }

    /// Makes `name` the model that is used where none is named.
    ///
    /// # Errors
    /// There is no such model, or the store cannot be written.
    pub fn set_default(&self, name: &str) -> Result<(), ModelError> {
        self.open(Some(name))?;
        replace(&self.root.join(DEFAULT_FILE), name)
    }

    /// The name of the default model, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn default_name(&self) -> Result<Option<String>, ModelError> {
        read_pointer(&self.root.join(DEFAULT_FILE))
    }

    /// Finds a model; `None` is the default one.
    ///
    /// # Errors
    /// There is no such model, or its manifest is damaged.
    pub fn open(&self, name: Option<&str>) -> Result<StoredModel, ModelError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.default_name()?.ok_or(ModelError::Empty)?,
        };
        let model_dir = self.model_dir(&name)?;
        let Some(current) = read_pointer(&model_dir.join(CURRENT_FILE))? else {
            return Err(ModelError::Unknown { name });
        };
        StoredModel::read(&model_dir.join(current))
    }

    /// Every model, by name.
    ///
    /// # Errors
    /// The store cannot be read, or a manifest is damaged.
    pub fn list(&self) -> Result<Vec<StoredModel>, ModelError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(ModelError::io(&self.root))?,
        };
        let mut models = Vec::new();
        for entry in entries {
            let path = entry.map_err(ModelError::io(&self.root))?.path();
            if let Some(current) = read_pointer(&path.join(CURRENT_FILE))? {
                models.push(StoredModel::read(&path.join(current))?);
            }
        }
        models.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(models)
    }

    /// Where a model's revisions lie. A name holds one '/' at most and it becomes "--", so no name leaves the store.
    fn model_dir(&self, name: &str) -> Result<PathBuf, ModelError> {
        let part = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !part.is_empty() && !part.starts_with('.') && !part.contains("--") && part.bytes().all(allowed)
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || name.len() > MAX_NAME_BYTES || !parts.iter().all(|&name| part(name)) {
            return Err(ModelError::Name { name: name.to_owned() });
        }
        Ok(self.root.join(parts.join("--")))
    }
}

impl StoredModel {
    fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = std::fs::read(&path).map_err(ModelError::io(&path))?;
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Self { manifest, dir: dir.to_owned() }),
            Err(error) => Err(ModelError::Damaged { path, message: error.to_string() }),
        }
    }

    /// Where `config.json` and the others lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the adapter lies, if there is one.
    #[must_use]
    pub fn adapter_dir(&self) -> Option<PathBuf> {
        self.manifest.adapter.is_some().then(|| self.dir.join(ADAPTER_DIR))
    }

    /// Reads every file through and compares it with what was added, then checks every tensor again.
    ///
    /// # Errors
    /// Names the first file that differs, and how.
    pub fn verify(&self) -> Result<(), ModelError> {
        for (file, expected) in &self.manifest.files {
            let path = self.dir.join(file);
            let found = FileRecord::of(&path).map_err(ModelError::io(&path))?;
            if found.bytes != expected.bytes {
                let message = format!("has {} bytes, had {} when it was added", found.bytes, expected.bytes);
                return Err(ModelError::Damaged { path, message });
            }
            if found.sha256 != expected.sha256 {
                let message = format!("SHA-256 is {}, was {} when it was added", found.sha256, expected.sha256);
                return Err(ModelError::Damaged { path, message });
            }
        }
        check_model(&self.dir, self.adapter_dir().as_deref())?;
        Ok(())
    }
}

/// Checks that a directory is a whole model: every tensor there, of the right shape and finite, and a tokenizer whose
/// ids are in the model's vocabulary.
fn check_model(dir: &Path, adapter: Option<&Path>) -> Result<(), ModelError> {
    for (dir, files) in [(Some(dir), MODEL_FILES.as_slice()), (adapter, ADAPTER_FILES.as_slice())] {
        let Some(dir) = dir else { continue };
        std::fs::metadata(dir).map_err(ModelError::io(dir))?;
        for &file in files {
            if !dir.join(file).is_file() {
                return Err(ModelError::NotAModel { dir: dir.to_owned(), file });
            }
        }
    }
    // The cheap checks first: a wrong architecture is named before any weights are read.
    let architecture = checkpoint::read_config(dir)?;
    check_tokenizer(&dir.join(TOKENIZER_FILE), architecture.vocab_size)?;
    checkpoint::load(dir, adapter)?;
    Ok(())
}

fn check_tokenizer(path: &Path, vocab_size: usize) -> Result<(), ModelError> {
    let bad = |message: String| ModelError::Tokenizer { path: path.to_owned(), message };
    let bytes = read_tokenizer(path)?;
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("is not a tokenizer: {error}")))?;
    let vocabulary = &tokenizer["model"]["vocab"];
    let ids = vocabulary.as_object().into_iter().flat_map(|entries| entries.values());
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    let largest = ids.chain(added).filter_map(serde_json::Value::as_u64).max();
    match largest {
        None => Err(bad("is not a tokenizer: it has no vocabulary".to_owned())),
        Some(largest) if largest >= vocab_size as u64 => Err(bad(format!(
            "has token ids up to {largest}, the model's vocabulary has {vocab_size} entries: it is another model's \
             tokenizer"
        ))),
        Some(_) => Ok(()),
    }
}

/// Reads a `tokenizer.json`.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Vec<u8>, ModelError> {
    let bytes = std::fs::metadata(path).map_err(ModelError::io(path))?.len();
    if bytes > MAX_TOKENIZER_BYTES {
        let message = format!("has {bytes} bytes, the most that is read is {MAX_TOKENIZER_BYTES}");
        return Err(ModelError::Tokenizer { path: path.to_owned(), message });
    }
    std::fs::read(path).map_err(ModelError::io(path))
}

fn copy(from: &Path, to: &Path) -> Result<FileRecord, ModelError> {
    std::fs::copy(from, to).map_err(ModelError::io(from))?;
    // Recorded from the copy: what is hashed is what will be loaded.
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(ModelError::io(to))?;
    FileRecord::of(to).map_err(ModelError::io(to))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let mut file = std::fs::File::create(path).map_err(ModelError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ModelError::io(path))
}

fn replace(path: &Path, text: &str) -> Result<(), ModelError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(ModelError::io(dir))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(ModelError::io(path))?;
    file.persist(path).map_err(|error| ModelError::Io { path: path.to_owned(), source: error.error })?;
    Ok(())
}

fn read_pointer(path: &Path) -> Result<Option<String>, ModelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(ModelError::Io { path: path.to_owned(), source }),
    }
}
