//! Adds a model to the store: checks it, then copies, keeps or repairs it.
//!
//! A new revision is copied to a temporary directory and renamed into place under the store's lock. An existing
//! revision is compared with its hashes, and a good copy is renamed over a damaged file. No other file is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::{ADAPTER_FILES, Checked, Choices, check_model, model_files};
use super::error::ModelError;
use super::manifest::{ADAPTER_DIR, FileRecord, Manifest, Source, revision};
use super::name::{self, DEFAULT_FILE};
use super::settings::{ModelSettings, SETTINGS_FILE};
use super::store::{
    MANIFEST_FILE, ModelStore, StoredModel, directories, directory_of, make_way, read_pointer, revision_dirs,
};
use super::tokenizer::TOKENIZER_FILE;
use crate::durable::{self, Durability};

/// The result of adding a model.
#[derive(Debug, Clone)]
pub struct Added {
    /// The revision, now its model's current one.
    pub model: StoredModel,
    /// The change in the store.
    pub change: Change,
    /// What was decided, with what people should know.
    pub settings: ModelSettings,
}

/// The change in the store when a model is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The revision was copied in.
    Copied,
    /// The revision was there and complete.
    Kept,
    /// The revision was there; damaged files were replaced.
    Repaired,
}

/// The files of a model to add.
struct Files<'a> {
    /// Expected size and hash of each file, by its path in the revision's directory.
    records: BTreeMap<String, FileRecord>,
    /// Files that are not copied from a directory.
    made: BTreeMap<String, Vec<u8>>,
    dir: &'a Path,
    adapter: Option<&'a Path>,
}

impl ModelStore {
    /// Adds a model as its files describe it: see [`add_with`](Self::add_with).
    ///
    /// # Errors
    /// As there.
    pub fn add(
        &self,
        name: &str,
        dir: &Path,
        source: Source,
        adapter: Option<(&Path, Source)>,
    ) -> Result<Added, ModelError> {
        self.add_with(name, dir, source, adapter, &Choices::default())
    }

    /// Checks the model in `dir`, with the LoRA adapter in `adapter`, and copies both into the store unless they are
    /// there already. The revision becomes its model's current one, and the first model that can rank becomes the
    /// default.
    ///
    /// # Errors
    /// The directory is not a model, a tensor is missing, misshapen or not finite, the tokenizer cannot be used, a file
    /// asks for what is not computed, the name is too close to another model's, or it is the default model's and this
    /// one cannot rank by itself. Nothing changes then.
    pub fn add_with(
        &self,
        name: &str,
        dir: &Path,
        source: Source,
        adapter: Option<(&Path, Source)>,
        choices: &Choices,
    ) -> Result<Added, ModelError> {
        let model_dir = self.model_dir(name)?;
        self.default_name()?;
        let (adapter_dir, adapter) = adapter.unzip();
        let checked = check_model(dir, adapter_dir, choices)?;
        self.refuse_as_default(name, checked.cannot_rank.as_ref())?;
        let files = Files::record(dir, adapter_dir, &checked)?;
        let revision = revision(&files.records);
        let manifest = Manifest { name: name.to_owned(), revision, source, adapter, files: files.records.clone() };
        let place = model_dir.join(directory_of(&manifest.revision));

        std::fs::create_dir_all(&self.root).map_err(ModelError::io(&self.root))?;
        let staged = if place.exists() { None } else { Some(self.stage(&manifest, &files)?) };
        let _lock = self.lock()?;
        self.refuse_taken(name)?;
        self.refuse_as_default(name, checked.cannot_rank.as_ref())?;
        std::fs::create_dir_all(&model_dir).map_err(ModelError::io(&model_dir))?;
        let change = match staged {
            Some(staged) if !place.exists() => {
                std::fs::rename(staged.path(), &place).map_err(ModelError::io(&place))?;
                // Renamed into place: nothing is left to clean up.
                let _ = staged.keep();
                durable::sync_dir(&model_dir).map_err(ModelError::io(&model_dir))?;
                Change::Copied
            }
            _ => repair(&place, &manifest, &files)?,
        };
        let model = StoredModel::read(&place, name)?;
        self.point_at(&model)?;
        if checked.cannot_rank.is_none() && read_pointer(&self.root.join(DEFAULT_FILE))?.is_none() {
            self.write_default(name)?;
        }
        Ok(Added { model, change, settings: checked.settings })
    }

    /// Makes the revision that matches `is_it` current if the store has it complete, so it need not be fetched again.
    pub(super) fn keep(&self, name: &str, is_it: impl Fn(&Manifest) -> bool) -> Result<Option<Added>, ModelError> {
        let kept = self.revisions(name).unwrap_or_default().into_iter().find(|model| is_it(&model.manifest));
        let Some(model) = kept.filter(|model| model.verify().is_ok()) else { return Ok(None) };
        let _lock = self.lock()?;
        let settings = model.settings()?;
        self.refuse_as_default(name, model.cannot_rank()?.as_ref())?;
        self.point_at(&model)?;
        Ok(Some(Added { model, change: Change::Kept, settings }))
    }

    /// Copies files into a temporary directory, removed when the value is dropped.
    fn stage(&self, manifest: &Manifest, files: &Files<'_>) -> Result<tempfile::TempDir, ModelError> {
        let staged = tempfile::Builder::new().prefix(".adding-").tempdir_in(&self.root);
        let staged = staged.map_err(ModelError::io(&self.root))?;
        for file in files.records.keys() {
            files.copy(file, staged.path())?;
        }
        write_manifest(staged.path(), manifest)?;
        Ok(staged)
    }

    /// Refuses a name whose directory some file systems do not distinguish from another model's.
    fn refuse_taken(&self, name: &str) -> Result<(), ModelError> {
        let folded = name::fold(&name::directory(name)?);
        for dir in directories(&self.root)? {
            if name::fold(&dir.file_name().unwrap_or_default().to_string_lossy()) != folded {
                continue;
            }
            // A damaged manifest names no model.
            let models = revision_dirs(&dir)?.into_iter().filter_map(|dir| StoredModel::read_any_name(&dir).ok());
            if let Some(other) = models.map(|model| model.manifest.name).find(|other| other != name) {
                return Err(ModelError::NameTaken { name: name.to_owned(), taken_by: other });
            }
        }
        Ok(())
    }
}

impl<'a> Files<'a> {
    /// Reads every file completely and records it.
    fn record(dir: &'a Path, adapter: Option<&'a Path>, checked: &Checked) -> Result<Self, ModelError> {
        let tokenizer = checked.tokenizer.clone().map(|bytes| (TOKENIZER_FILE.to_owned(), bytes));
        let settings = checked.settings.to_file().map(|bytes| (SETTINGS_FILE.to_owned(), bytes));
        let made: BTreeMap<_, _> = tokenizer.into_iter().chain(settings).collect();
        let made_records = made.iter().map(|(file, bytes)| (file.clone(), FileRecord::of_bytes(bytes))).collect();
        let mut files = Self { records: made_records, made, dir, adapter };
        let adapter_files = ADAPTER_FILES.iter().filter(|_| adapter.is_some());
        for file in model_files(dir)?.into_iter().chain(adapter_files.map(|file| format!("{ADAPTER_DIR}/{file}"))) {
            if files.made.contains_key(&file) {
                continue;
            }
            let path = files.source(&file);
            let record = FileRecord::of(&path).map_err(ModelError::io(&path))?;
            files.records.insert(file, record);
        }
        Ok(files)
    }

    /// The source of a file.
    fn source(&self, file: &str) -> PathBuf {
        match (file.strip_prefix(ADAPTER_DIR).and_then(|file| file.strip_prefix('/')), self.adapter) {
            (Some(file), Some(adapter)) => adapter.join(file),
            _ => self.dir.join(file),
        }
    }

    /// Copies a file to its place in `dir` and checks the copy against the record.
    fn copy(&self, file: &str, dir: &Path) -> Result<(), ModelError> {
        let (from, to) = (self.source(file), dir.join(file));
        make_way(&to);
        if let Some(bytes) = self.made.get(file) {
            return durable::replace(&to, bytes, Durability::Machine).map_err(ModelError::io(&to));
        }
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
        }
        let mut contents = durable::open_own(&from).map_err(ModelError::io(&from))?;
        durable::replace_from(&to, &mut contents, Durability::Machine).map_err(ModelError::io(&to))?;
        let copied = FileRecord::of(&to).map_err(ModelError::io(&to))?;
        match self.records.get(file) {
            Some(record) if *record != copied => Err(ModelError::Changing { path: from }),
            _ => Ok(()),
        }
    }
}

/// Replaces damaged files of a revision one by one, so that no file is ever missing. The manifest goes last: without it
/// there is no revision.
fn repair(place: &Path, manifest: &Manifest, files: &Files<'_>) -> Result<Change, ModelError> {
    let kept = StoredModel::read_any_name(place).ok().map(|model| model.manifest);
    if let Some(kept) = kept.as_ref().filter(|kept| kept.revision != manifest.revision) {
        let (name, revision) = (manifest.name.clone(), manifest.revision.clone());
        return Err(ModelError::RevisionClash { name, revision, kept: kept.revision.clone() });
    }
    let mut change = Change::Kept;
    for (file, record) in &files.records {
        if !FileRecord::of(&place.join(file)).is_ok_and(|found| found == *record) {
            files.copy(file, place)?;
            change = Change::Repaired;
        }
    }
    if !kept.is_some_and(|kept| kept.name == manifest.name && kept.files == manifest.files) {
        write_manifest(place, manifest)?;
        change = Change::Repaired;
    }
    Ok(change)
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), ModelError> {
    let path = dir.join(MANIFEST_FILE);
    make_way(&path);
    // Strings and numbers only, which JSON can always represent.
    let text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    durable::replace(&path, &text, Durability::Machine).map_err(ModelError::io(&path))
}
