//! Safetensors files of one model: tensors by name, checked and widened to f32.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, SliceSafetensors};
use candle_core::{DType, Device};

use super::CheckpointError;
use crate::families::shown;

/// Most tensor names in a message.
const SHOWN_NAMES: usize = 4;

/// The way out where the file has PEFT's modules.
const UNMERGED: &str = "; it was saved with an adapter that was not merged: save what PEFT's merge_and_unload() gives, \
                        or the adapter alone with save_pretrained(DIR), and add that with --adapter";

/// Prefixes that training code leaves before all names: `torch.compile`, `DataParallel`, and an attribute `model`.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model."];

/// What training code may leave before a tensor's name: nothing, a wrapper, or two.
pub(super) fn wrappers() -> impl Iterator<Item = String> {
    let singles = WRAPPERS.iter().map(|&wrapper| wrapper.to_owned());
    let pairs = WRAPPERS.iter().flat_map(|outer| WRAPPERS.iter().map(move |inner| format!("{outer}{inner}")));
    std::iter::once(String::new()).chain(singles).chain(pairs)
}

pub(super) struct Tensors<'a> {
    files: Vec<(PathBuf, SliceSafetensors<'a>)>,
    /// Before every name of the files.
    wrapper: String,
    /// Prefix that the files' names lack: a bare encoder has `encoder.…` where a classifier has the family's name
    /// first.
    left_out: &'static str,
}

impl<'a> Tensors<'a> {
    /// Reads the headers of one or more files.
    pub(super) fn new(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>) -> Result<Self, CheckpointError> {
        let files = files.into_iter().map(|(path, bytes)| match SliceSafetensors::new(bytes) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(error) => Err(CheckpointError::Format { path: path.to_owned(), message: error.to_string() }),
        });
        let tensors = Self { files: files.collect::<Result<_, _>>()?, wrapper: String::new(), left_out: "" };
        tensors.check_unique()?;
        Ok(tensors)
    }

    /// Refuses a tensor that two files have: which one counts, only the index says.
    fn check_unique(&self) -> Result<(), CheckpointError> {
        let mut places: BTreeMap<String, &PathBuf> = BTreeMap::new();
        for (path, file) in self.files.iter().filter(|_| self.files.len() > 1) {
            for (name, _) in file.tensors() {
                if let Some(other) = places.get(&name) {
                    let message = format!("tensor {} is in {} too", shown(&name), other.display());
                    return Err(CheckpointError::Format { path: path.clone(), message });
                }
                places.insert(name, path);
            }
        }
        Ok(())
    }

    /// Looks names up as the files have them: found by `tensor`, with or without the family's `prefix`, and with what
    /// training code leaves before both.
    pub(super) fn of_encoder(mut self, prefix: &'static str, tensor: &str) -> Self {
        for wrapper in wrappers() {
            // With both forms in one file, the prefixed one is the model's.
            for (found, left_out) in
                [(format!("{wrapper}{prefix}{tensor}"), ""), (format!("{wrapper}{tensor}"), prefix)]
            {
                if self.find(&found).is_some() {
                    (self.wrapper, self.left_out) = (wrapper, left_out);
                    return self;
                }
            }
        }
        self
    }

    /// Whether the files are those of a bare encoder.
    pub(super) fn is_bare(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// Every tensor's name and shape.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let tensors = self.files.iter().flat_map(|(_, file)| file.tensors());
        tensors.map(|(name, view)| (name, view.shape().to_vec()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(&self.stored_name(name)).is_some()
    }

    pub(super) fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let name = self.stored_name(name);
        let Some((path, file)) = self.find(&name) else {
            let there = self.names_like(&name);
            return Err(CheckpointError::Missing { path: self.path(), name, there });
        };
        let path = path.clone();
        let damaged =
            |error: candle_core::Error| CheckpointError::Format { path: path.clone(), message: error.to_string() };
        let view = file.get(&name).map_err(damaged)?;
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
            .map_err(damaged)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(CheckpointError::NotFinite { path, name, index, value: values[index] }),
            None => Ok(values),
        }
    }

    fn find(&self, stored_name: &str) -> Option<&(PathBuf, SliceSafetensors<'a>)> {
        self.files.iter().find(|(_, file)| file.get(stored_name).is_ok())
    }

    /// The first file, for messages.
    fn path(&self) -> PathBuf {
        self.files.first().map(|(path, _)| path.clone()).unwrap_or_default()
    }

    /// The tensors whose names' ends are most similar to a missing one's.
    fn names_like(&self, missing: &str) -> String {
        let alike = |name: &str| missing.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
        let mut names: Vec<(usize, String)> = self.names().map(|(name, _)| (alike(&name), name)).collect();
        names.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        match names.len() {
            0 => "no tensors".to_owned(),
            count => {
                let is_peft = names.iter().any(|(_, name)| name.contains(".lora_A.") || name.contains(".base_layer."));
                let shown: Vec<String> = names.iter().take(SHOWN_NAMES).map(|(_, name)| shown(name)).collect();
                let way_out = if is_peft { UNMERGED } else { "" };
                format!("{count} tensors, such as {}{way_out}", shown.join(", "))
            }
        }
    }

    fn stored_name(&self, name: &str) -> String {
        format!("{}{}", self.wrapper, name.strip_prefix(self.left_out).unwrap_or(name))
    }
}
