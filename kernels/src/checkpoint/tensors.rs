//! One safetensors file: tensors by name, checked and widened to f32.

use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, SliceSafetensors};
use candle_core::{DType, Device};

use super::CheckpointError;

/// What a bare encoder's tensors lack in front: `BertModel` stores `encoder.…` where a classifier stores
/// `bert.encoder.…`.
const ENCODER_PREFIX: &str = "bert.";

pub(super) struct Tensors<'a> {
    path: PathBuf,
    file: SliceSafetensors<'a>,
    bare: bool,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: &Path, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let file = SliceSafetensors::new(bytes)
            .map_err(|error| CheckpointError::Format { path: path.to_owned(), message: error.to_string() })?;
        let bare = file.get("embeddings.word_embeddings.weight").is_ok();
        Ok(Self { path: path.to_owned(), file, bare })
    }

    /// Every tensor's name and shape.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        self.file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file.get(self.stored_name(name)).is_ok()
    }

    pub(super) fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let (path, name) = (self.path.clone(), self.stored_name(name).to_owned());
        let Ok(view) = self.file.get(&name) else {
            return Err(CheckpointError::Missing { path, name });
        };
        if view.shape() != shape {
            let (found, expected) = (view.shape().to_vec(), shape.to_vec());
            return Err(CheckpointError::Shape { path, name, found, expected });
        }
        if !matches!(DType::try_from(view.dtype()), Ok(DType::F32 | DType::F16 | DType::BF16)) {
            return Err(CheckpointError::Type { path, name, found: format!("{:?}", view.dtype()) });
        }
        let values: Vec<f32> = view
            .load(&Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1())
            .map_err(|error| CheckpointError::Format { path: path.clone(), message: error.to_string() })?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(CheckpointError::NotFinite { path, name, index, value: values[index] }),
            None => Ok(values),
        }
    }

    fn stored_name<'n>(&self, name: &'n str) -> &'n str {
        if self.bare { name.strip_prefix(ENCODER_PREFIX).unwrap_or(name) } else { name }
    }
}
