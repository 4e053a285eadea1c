//! Models on disk, below `models/` in the data directory.
//!
//! ```text
//! models/
//!   default                         the name of the default model
//!   .lock                           held while any of this changes
//!   OWNER--NAME/
//!     current                       the revision that was added last
//!     REVISION/                     the first 16 digits of the content hash
//!       manifest.json               source, size and SHA-256 of every file
//!       config.json  model.safetensors (or shards and model.safetensors.index.json)
//!       tokenizer.json              as transformers would tokenise
//!       settings.json               what was decided, if anything
//!       adapter/                    adapter_config.json  adapter_model.safetensors
//! ```
//!
//! A revision is built in a temporary directory and renamed into place, and pointers are replaced by renaming. So a
//! reader sees a complete model or none, and a killed process leaves at most a directory that a sweep removes. A
//! revision never changes afterwards. Adding an existing revision checks it; a good file is renamed over a damaged one,
//! so that no file is ever missing. Concurrent adds copy in parallel and take the lock only to rename.

use std::path::{Path, PathBuf};

use assay_kernels::{Architecture, Model, Task, checkpoint};

use super::check::{cannot_rank, check_stored};
use super::error::{Damage, ModelError};
use super::hugging_face;
use super::manifest::{ADAPTER_DIR, FileRecord, Manifest, revision};
use super::name::{self, DEFAULT_FILE};
use super::settings::{ModelSettings, SETTINGS_FILE};
pub use super::tokenizer::{MAX_TOKENIZER_BYTES, TOKENIZER_FILE};
use crate::durable::{self, DirLock, Durability};
use crate::sweep::{DroppedKind, GRACE, Sweep};

pub(super) const MANIFEST_FILE: &str = "manifest.json";
const CURRENT_FILE: &str = "current";

/// Most bytes of a manifest.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Most bytes of a pointer.
const MAX_POINTER_BYTES: u64 = 1 << 10;

/// Digits of a revision that name its directory.
const DIRECTORY_DIGITS: usize = 16;

/// Models on disk.
#[derive(Debug, Clone)]
pub struct ModelStore {
    pub(super) root: PathBuf,
}

/// One revision of a model in the store.
#[derive(Debug, Clone)]
pub struct StoredModel {
    /// Origin and files.
    pub manifest: Manifest,
    dir: PathBuf,
}

/// A listed revision.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The revision.
    pub model: StoredModel,
    /// Whether it is its model's current one.
    pub is_current: bool,
}

impl ModelStore {
    /// The store in `data_dir`; created on the first write.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("models") }
    }

    /// Makes `name` the default model.
    ///
    /// # Errors
    /// There is no such model, it cannot rank by itself, or the store cannot be written.
    pub fn set_default(&self, name: &str) -> Result<(), ModelError> {
        self.current(name)?;
        let _lock = self.lock()?;
        if let Some(why) = self.current(name)?.cannot_rank()? {
            return Err(ModelError::CannotBeDefault { name: name.to_owned(), why });
        }
        self.write_default(name)
    }

    /// Refuses a model that cannot rank by itself under the default model's name: it would take the default's place.
    pub(super) fn refuse_as_default(&self, name: &str, cannot_rank: Option<&String>) -> Result<(), ModelError> {
        match (read_pointer(&self.root.join(DEFAULT_FILE))?, cannot_rank) {
            (Some(default), Some(why)) if default == name => {
                Err(ModelError::InPlaceOfDefault { name: name.to_owned(), why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The name of the default model, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn default_name(&self) -> Result<Option<String>, ModelError> {
        // An earlier version of this program stored a model of this name in the pointer's place.
        self.model_dir(DEFAULT_FILE)?;
        read_pointer(&self.root.join(DEFAULT_FILE))
    }

    /// Finds a model: `NAME` is its current revision, `NAME@DIGITS` the revision that begins with these digits, `None`
    /// the default model's current revision.
    ///
    /// # Errors
    /// There is no such model or revision, several revisions begin with the digits, or a manifest is damaged.
    pub fn open(&self, name: Option<&str>) -> Result<StoredModel, ModelError> {
        let Some(name) = name else { return self.current(&self.default_name()?.ok_or(ModelError::Empty)?) };
        let (name, Some(prefix)) = name::split_revision(name)? else { return self.current(name) };
        let mut found = self.revisions(name)?;
        found.retain(|model| model.manifest.revision.starts_with(prefix));
        match found.len() {
            0 => Err(ModelError::UnknownRevision { name: name.to_owned(), revision: prefix.to_owned() }),
            1 => Ok(found.remove(0)),
            _ => Err(ModelError::AmbiguousRevision {
                name: name.to_owned(),
                prefix: prefix.to_owned(),
                revisions: found.into_iter().map(|model| model.manifest.revision).collect(),
            }),
        }
    }

    /// Finds a revision of a model by its full hash.
    ///
    /// # Errors
    /// The store does not have it, or its manifest is damaged.
    pub fn open_revision(&self, name: &str, revision: &str) -> Result<StoredModel, ModelError> {
        let unknown = || ModelError::UnknownRevision { name: name.to_owned(), revision: revision.to_owned() };
        let dir = self.model_dir(name)?.join(directory_of(revision));
        match StoredModel::read(&dir, name) {
            Ok(model) if model.manifest.revision == revision => Ok(model),
            Ok(_) | Err(ModelError::Unknown { .. }) => Err(unknown()),
            Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Err(unknown()),
            Err(error) => Err(error),
        }
    }

    /// Every revision of a model, by its hash.
    ///
    /// # Errors
    /// There is no such model, or a manifest is damaged.
    pub fn revisions(&self, name: &str) -> Result<Vec<StoredModel>, ModelError> {
        let mut models = read_all(&self.model_dir(name)?)?;
        // In earlier programs two names could share a directory.
        models.retain(|model| model.manifest.name == name);
        if models.is_empty() {
            return Err(ModelError::Unknown { name: name.to_owned() });
        }
        Ok(models)
    }

    /// Every revision of every model, by name, the current ones first.
    ///
    /// # Errors
    /// The store cannot be read, or a manifest is damaged.
    pub fn list(&self) -> Result<Vec<Listed>, ModelError> {
        let mut listed = Vec::new();
        for dir in directories(&self.root)? {
            let Some(current) = current_revision(&dir)? else { continue };
            let models = read_all(&dir)?;
            let is_current = |model: &StoredModel| directory_of(&model.manifest.revision) == current;
            // A model that was removed meanwhile has no directory.
            if !models.iter().any(is_current) && dir.is_dir() {
                StoredModel::read_current(&dir.join(&current))?;
            }
            listed.extend(models.into_iter().map(|model| Listed { is_current: is_current(&model), model }));
        }
        let key = |listed: &Listed| (listed.model.manifest.name.clone(), !listed.is_current);
        listed.sort_by_key(key);
        Ok(listed)
    }

    /// Removes revisions that are neither current nor in `held`, and leftovers of interrupted operations.
    pub(crate) fn sweep(&self, held: &[(&str, &str)], sweep: &mut Sweep) -> Result<(), ModelError> {
        if !self.root.is_dir() {
            return Ok(());
        }
        let mut kept = Vec::new();
        for (name, revision) in held {
            kept.push(self.model_dir(name)?.join(directory_of(revision)));
        }
        let _lock = self.lock()?;
        sweep.leftovers(&self.root);
        for dir in directories(&self.root)? {
            let current = current_revision(&dir)?;
            sweep.leftovers(&dir);
            for revision in revision_dirs(&dir)? {
                sweep.leftovers(&revision);
                sweep.leftovers(&revision.join(ADAPTER_DIR));
                let directory = revision.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_current = current.as_deref() == Some(directory.as_str());
                if is_current || kept.contains(&revision) || !sweep.is_older_than(&revision, GRACE) {
                    continue;
                }
                // Only for display: if the manifest is damaged, uses the directory's name.
                let name = StoredModel::read_any_name(&revision).map(|model| model.manifest.name);
                let name = name.unwrap_or_else(|_| dir.file_name().unwrap_or_default().to_string_lossy().into_owned());
                sweep.directory(DroppedKind::ModelRevision, format!("{name}@{directory}"), &revision);
            }
        }
        Ok(())
    }

    fn current(&self, name: &str) -> Result<StoredModel, ModelError> {
        let model_dir = self.model_dir(name)?;
        match current_revision(&model_dir)? {
            Some(current) => StoredModel::read_current(&model_dir.join(current))?.named(name),
            None if revision_dirs(&model_dir)?.is_empty() => Err(ModelError::Unknown { name: name.to_owned() }),
            None => Err(ModelError::Damaged { path: model_dir.join(CURRENT_FILE), damage: Damage::NoPointer }),
        }
    }

    /// The directory of a model's revisions. The caller must not hold the lock.
    pub(super) fn model_dir(&self, name: &str) -> Result<PathBuf, ModelError> {
        let directory = name::directory(name)?;
        let dir = self.root.join(&directory);
        // Earlier versions of this program did not rename this directory and then could not read the default's name.
        if let Some(earlier) = directory.strip_suffix('~').map(|earlier| self.root.join(earlier))
            && earlier.is_dir()
        {
            let _lock = self.lock()?;
            if earlier.is_dir() && !dir.exists() {
                std::fs::rename(&earlier, &dir).map_err(ModelError::io(&earlier))?;
            }
        }
        Ok(dir)
    }

    pub(super) fn lock(&self) -> Result<DirLock, ModelError> {
        DirLock::acquire(&self.root).map_err(ModelError::io(&self.root))
    }

    pub(super) fn point_at(&self, model: &StoredModel) -> Result<(), ModelError> {
        let path = self.root.join(name::directory(&model.manifest.name)?).join(CURRENT_FILE);
        write_pointer(&path, directory_of(&model.manifest.revision))
    }

    pub(super) fn write_default(&self, name: &str) -> Result<(), ModelError> {
        write_pointer(&self.root.join(DEFAULT_FILE), name)
    }
}

impl StoredModel {
    /// Reads a manifest. If it has another name, the model is not there: this file system does not distinguish the
    /// directories.
    pub(super) fn read(dir: &Path, name: &str) -> Result<Self, ModelError> {
        Self::read_any_name(dir)?.named(name)
    }

    fn named(self, name: &str) -> Result<Self, ModelError> {
        match self.manifest.name == name {
            true => Ok(self),
            false => Err(ModelError::Unknown { name: name.to_owned() }),
        }
    }

    /// Reads a revision that a pointer names, so that its manifest must be there.
    fn read_current(dir: &Path) -> Result<Self, ModelError> {
        Self::read_any_name(dir).map_err(damaged_if_unreadable)
    }

    pub(super) fn read_any_name(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = match durable::read_own(&path, MAX_MANIFEST_BYTES) {
            // Others may have removed the revision.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ModelError::io(&path)(error)),
            Err(error) => return Err(ModelError::Damaged { path, damage: Damage::Unreadable(error) }),
            Ok(bytes) => bytes,
        };
        match serde_json::from_slice::<Manifest>(&bytes) {
            Ok(manifest) if !manifest.is_consistent() => Err(ModelError::Damaged { path, damage: Damage::Adapter }),
            Ok(manifest) => Ok(Self { manifest, dir: dir.to_owned() }),
            Err(error) => Err(ModelError::Damaged { path, damage: Damage::Manifest(error) }),
        }
    }

    /// The directory with `config.json` and the other files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The adapter's directory, if there is one.
    #[must_use]
    pub fn adapter_dir(&self) -> Option<PathBuf> {
        self.manifest.adapter.is_some().then(|| self.dir.join(ADAPTER_DIR))
    }

    /// Compares every file with its recorded hash, then checks every tensor again.
    ///
    /// # Errors
    /// A file differs; the error names the first one and how it differs.
    pub fn verify(&self) -> Result<(), ModelError> {
        self.check_contents()?;
        check_stored(&self.dir, self.adapter_dir().as_deref(), &self.settings()?)
    }

    /// Compares every file with its recorded hash.
    fn check_contents(&self) -> Result<(), ModelError> {
        let damaged = |path: PathBuf, damage| Err(ModelError::Damaged { path, damage });
        if revision(&self.manifest.files) != self.manifest.revision {
            return damaged(self.dir.join(MANIFEST_FILE), Damage::Revision);
        }
        for (file, added) in &self.manifest.files {
            let path = self.dir.join(file);
            let found = match FileRecord::of(&path) {
                Ok(found) => found,
                Err(error) => return damaged(path, Damage::Unreadable(error)),
            };
            if found.bytes != added.bytes {
                return damaged(path, Damage::Size { found: found.bytes, added: added.bytes });
            }
            if found.sha256 != added.sha256 {
                return damaged(path, Damage::Contents { found: found.sha256, added: added.sha256.clone() });
            }
        }
        Ok(())
    }

    /// Why its files cannot be used: that one is damaged, if one is, and otherwise the error that this led to.
    pub(crate) fn explain(&self, error: ModelError) -> ModelError {
        self.check_contents().err().unwrap_or(error)
    }

    /// The names of its classifier's labels, by number, with an empty one where its files have none; no labels of an
    /// embedding model. A label that was chosen leaves the others out of the computation, not out of here.
    ///
    /// # Errors
    /// The configuration is damaged.
    pub fn labels(&self) -> Result<Vec<String>, ModelError> {
        let architecture = checkpoint::read_adapted_config(&self.dir, self.adapter_dir().as_deref())?;
        if architecture.task() == Task::Embedding {
            return Ok(Vec::new());
        }
        let mut names =
            hugging_face::labels(&hugging_face::read(&self.dir, checkpoint::CONFIG_FILE)?.unwrap_or_default());
        names.resize(architecture.outputs(), String::new());
        Ok(names)
    }

    /// Why requests cannot be ranked by it without more settings, and what to do; `None` if they can.
    ///
    /// # Errors
    /// The configuration is damaged.
    pub(super) fn cannot_rank(&self) -> Result<Option<String>, ModelError> {
        Ok(cannot_rank(&self.architecture()?, &self.labels()?))
    }

    /// What was decided when it was added.
    ///
    /// # Errors
    /// The file is damaged, or a later program wrote it.
    pub fn settings(&self) -> Result<ModelSettings, ModelError> {
        // A file that is not one of the revision's decides nothing.
        match self.manifest.files.contains_key(SETTINGS_FILE) {
            true => ModelSettings::read(&self.dir),
            false => Ok(ModelSettings::default()),
        }
    }

    /// What it computes, without reading its weights.
    ///
    /// # Errors
    /// The configuration is damaged.
    pub fn architecture(&self) -> Result<Architecture, ModelError> {
        let mut architecture = checkpoint::read_adapted_config(&self.dir, self.adapter_dir().as_deref())?;
        self.settings()?.narrow(&self.dir, &mut architecture)?;
        Ok(architecture)
    }

    /// Reads the weights, with the adapter merged into them, as they are computed. Meanwhile another thread compares
    /// the files with their recorded hashes: a changed weight would give wrong scores and no error.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn load(&self) -> Result<Model, ModelError> {
        let (contents, model) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("check a model's files".to_owned());
            let contents = thread.spawn_scoped(scope, || self.check_contents()).map_err(ModelError::io(&self.dir))?;
            let model = checkpoint::load(&self.dir, self.adapter_dir().as_deref());
            Ok::<_, ModelError>((contents.join(), model))
        })?;
        // That a file is damaged says more than what the damage led to.
        contents.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut model = model?;
        self.settings()?.apply(&self.dir, &mut model)?;
        Ok(model)
    }
}

/// The name of a revision's directory.
pub(super) fn directory_of(revision: &str) -> &str {
    revision.get(..DIRECTORY_DIGITS).unwrap_or(revision)
}

/// Visible directories in `dir`, in order; none if `dir` does not exist.
pub(super) fn directories(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(ModelError::io(dir))?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let path = entry.map_err(ModelError::io(dir))?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.is_dir() {
            directories.push(path);
        }
    }
    directories.sort();
    Ok(directories)
}

/// The directories of a model's revisions.
pub(super) fn revision_dirs(model_dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut dirs = directories(model_dir)?;
    dirs.retain(|dir| is_directory_of_revision(&dir.file_name().unwrap_or_default().to_string_lossy()));
    Ok(dirs)
}

fn is_directory_of_revision(name: &str) -> bool {
    name.len() == DIRECTORY_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads the revisions in a model's directory, by their hash.
fn read_all(model_dir: &Path) -> Result<Vec<StoredModel>, ModelError> {
    let mut models = Vec::new();
    for dir in revision_dirs(model_dir)? {
        match StoredModel::read_any_name(&dir) {
            Ok(model) => models.push(model),
            // A sweep has removed it meanwhile.
            Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(models)
}

/// The directory of a model's current revision, by name; `None` if there is no such model.
fn current_revision(model_dir: &Path) -> Result<Option<String>, ModelError> {
    let path = model_dir.join(CURRENT_FILE);
    match read_pointer(&path).map_err(damaged_if_unreadable)? {
        Some(current) if !is_directory_of_revision(&current) => {
            Err(ModelError::Damaged { path, damage: Damage::Pointer })
        }
        current => Ok(current),
    }
}

/// Of a file that must be there, that it cannot be read is damage.
fn damaged_if_unreadable(error: ModelError) -> ModelError {
    match error {
        ModelError::Io { path, source } => ModelError::Damaged { path, damage: Damage::Unreadable(source) },
        other => other,
    }
}

/// Removes an empty directory that lies where a file belongs: a file cannot take its place.
pub(super) fn make_way(path: &Path) {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        // The write says what is in the way.
        let _ = std::fs::remove_dir(path);
    }
}

fn write_pointer(path: &Path, text: &str) -> Result<(), ModelError> {
    // One that cannot be read is replaced.
    if read_pointer(path).ok().flatten().as_deref() == Some(text) {
        return Ok(());
    }
    make_way(path);
    durable::replace(path, text.as_bytes(), Durability::Machine).map_err(ModelError::io(path))
}

pub(super) fn read_pointer(path: &Path) -> Result<Option<String>, ModelError> {
    match durable::read_own(path, MAX_POINTER_BYTES) {
        // Of a damaged one something is left, which points nowhere.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(ModelError::Io { path: path.to_owned(), source }),
    }
}
