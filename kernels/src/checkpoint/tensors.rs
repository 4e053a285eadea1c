//! One safetensors file: tensors by name, checked and widened to f32.

use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, SliceSafetensors};
use candle_core::{DType, Device};

use super::CheckpointError;
use crate::families::shown;

/// Most tensor names in a message.
const SHOWN_NAMES: usize = 4;

pub(super) struct Tensors<'a> {
    path: PathBuf,
    file: SliceSafetensors<'a>,
    /// Prefix that the file's names lack: a bare encoder has `encoder.…` where a classifier has the family's name
    /// first.
    left_out: &'static str,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: &Path, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let file = SliceSafetensors::new(bytes)
            .map_err(|error| CheckpointError::Format { path: path.to_owned(), message: error.to_string() })?;
        Ok(Self { path: path.to_owned(), file, left_out: "" })
    }

    /// Strips `prefix` from looked-up names if the file has `tensor` without it.
    pub(super) fn of_encoder(self, prefix: &'static str, tensor: &str) -> Self {
        let left_out = if self.file.get(tensor).is_ok() { prefix } else { "" };
        Self { left_out, ..self }
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
            let there = self.names_like(&name);
            return Err(CheckpointError::Missing { path, name, there });
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

    /// The tensors whose names' ends are most similar to a missing one's.
    fn names_like(&self, missing: &str) -> String {
        let alike = |name: &str| missing.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
        let mut names: Vec<(usize, String)> = self.names().map(|(name, _)| (alike(&name), name)).collect();
        names.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        match names.len() {
            0 => "no tensors".to_owned(),
            count => {
                let shown: Vec<String> = names.iter().take(SHOWN_NAMES).map(|(_, name)| shown(name)).collect();
                format!("{count} tensors, such as {}", shown.join(", "))
            }
        }
    }

    fn stored_name<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.left_out).unwrap_or(name)
    }
}
