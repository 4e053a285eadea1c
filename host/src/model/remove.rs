//! Removes a model from the store. Knows nothing of tenants: [`tenant`](crate::tenant) says whether one opens it.

use super::error::ModelError;
use super::name::{self, DEFAULT_FILE};
use super::store::{ModelStore, StoredModel, read_pointer, revision_dirs};
use crate::durable;
use crate::sweep::{DROPPING_PREFIX, Dropped, DroppedKind};

impl ModelStore {
    /// Removes a model with all its revisions. The directory is renamed first, so that a killed process leaves the
    /// whole model or none of it. The caller makes sure that no tenant's version opens it.
    ///
    /// # Errors
    /// There is no such model, it is the default one, its directory has another model too, or a file cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> Result<Vec<Dropped>, ModelError> {
        let dir = self.model_dir(name)?;
        let _lock = self.lock()?;
        if read_pointer(&self.root.join(DEFAULT_FILE))?.as_deref() == Some(name) {
            return Err(ModelError::IsDefault { name: name.to_owned() });
        }
        let (mut dropped, mut other) = (Vec::new(), None);
        for revision in revision_dirs(&dir)? {
            let directory = revision.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A damaged manifest names no model, and goes with the others.
            let manifest = StoredModel::read_any_name(&revision).ok().map(|model| model.manifest);
            let bytes = manifest.iter().flat_map(|manifest| manifest.files.values()).map(|file| file.bytes).sum();
            match manifest {
                Some(manifest) if manifest.name != name => other = Some(manifest.name),
                _ => dropped.push(Dropped {
                    kind: DroppedKind::ModelRevision,
                    name: format!("{name}@{directory}"),
                    bytes,
                }),
            }
        }
        match other {
            _ if dropped.is_empty() => return Err(ModelError::Unknown { name: name.to_owned() }),
            Some(taken_by) => return Err(ModelError::NameTaken { name: name.to_owned(), taken_by }),
            None => {}
        }
        let dropping = self.root.join(format!("{DROPPING_PREFIX}{}", name::directory(name)?));
        if dropping.exists() {
            std::fs::remove_dir_all(&dropping).map_err(ModelError::io(&dropping))?;
        }
        std::fs::rename(&dir, &dropping).map_err(ModelError::io(&dir))?;
        durable::sync_dir(&self.root).map_err(ModelError::io(&self.root))?;
        std::fs::remove_dir_all(&dropping).map_err(ModelError::io(&dropping))?;
        Ok(dropped)
    }
}
