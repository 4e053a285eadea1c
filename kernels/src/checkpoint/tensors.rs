//! Safetensors files of one model: tensors by name, checked, as they are stored or widened to f32.
//!
//! Only headers are held. A tensor is read when it is asked for, in pieces, so that loading a model takes little more
//! memory than the model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::wrappers::wrappers;
use super::{CheckpointError, files};
use crate::families::shown;
use crate::weights::Table;

/// Bytes of a tensor that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Most tensor names in a message.
const SHOWN_NAMES: usize = 4;

/// The way out where the file has PEFT's modules.
const UNMERGED: &str = "; it was saved with an adapter that was not merged: save what PEFT's merge_and_unload() gives, \
                        or the adapter alone with save_pretrained(DIR), and add that with --adapter";

pub(super) struct Tensors {
    files: Vec<StoredFile>,
    /// Before every name of the files.
    wrapper: String,
    /// Prefix that the files' names lack: a bare encoder has `encoder.…` where a classifier has the family's name
    /// first.
    left_out: &'static str,
}

/// An open file and its header.
struct StoredFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where tensors begin in the file.
    data: u64,
}

impl StoredFile {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |message: String| CheckpointError::Format { path: path.to_owned(), message };
        let (file, bytes, header) = files::open(path)?;
        let data = 8 + header.len() as u64;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
        // The reader of headers has checked that tensors lie side by side and are as large as their shapes say.
        let expected = data.saturating_add(header.data_len() as u64);
        if bytes != expected {
            return Err(damaged(format!("it has {bytes} bytes, its header describes {expected}")));
        }
        Ok(Self { path: path.to_owned(), file, header, data })
    }

    /// Calls `take` with a tensor's bytes, in whole pieces.
    fn read(&self, tensor: &TensorInfo, mut take: impl FnMut(&[u8])) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io { path: self.path.clone(), source };
        let (start, end) = tensor.data_offsets;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data + start as u64)).map_err(io)?;
        let mut piece = vec![0; PIECE_BYTES.min(end - start)];
        let mut left = end - start;
        while left > 0 {
            let piece = &mut piece[..PIECE_BYTES.min(left)];
            file.read_exact(piece).map_err(io)?;
            take(piece);
            left -= piece.len();
        }
        Ok(())
    }
}

impl Tensors {
    /// Reads the headers of one or more files.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, CheckpointError> {
        let files = paths.iter().map(|path| StoredFile::open(path)).collect::<Result<_, _>>()?;
        let tensors = Self { files, wrapper: String::new(), left_out: "" };
        tensors.check_unique()?;
        Ok(tensors)
    }

    /// Refuses a tensor that two files have: which one counts, only the index says.
    fn check_unique(&self) -> Result<(), CheckpointError> {
        let mut places: BTreeMap<String, &PathBuf> = BTreeMap::new();
        for StoredFile { path, header, .. } in self.files.iter().filter(|_| self.files.len() > 1) {
            for name in header.offset_keys() {
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
        let tensors = self.files.iter().flat_map(|file| file.header.tensors());
        tensors.map(|(name, tensor)| (name, tensor.shape.clone()))
    }

    /// The layers that have a tensor, where a layer's names begin with `prefix` and its number.
    pub(super) fn layers(&self, prefix: &str) -> BTreeSet<usize> {
        let prefix = self.stored_name(prefix);
        self.names().filter_map(|(name, _)| layer_of(&name, &prefix)).collect()
    }

    /// The types of floating-point tensors, each once.
    pub(super) fn types(&self) -> Vec<String> {
        let tensors = self.files.iter().flat_map(|file| file.header.tensors());
        let floats = [Dtype::F32, Dtype::F16, Dtype::BF16];
        let types = tensors.map(|(_, tensor)| tensor.dtype).filter(|dtype| floats.contains(dtype));
        let types: BTreeSet<String> = types.map(|dtype| format!("{dtype:?}").to_lowercase()).collect();
        types.into_iter().collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(&self.stored_name(name)).is_some()
    }

    /// A tensor's numbers, widened.
    pub(super) fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        match self.load_table(name, shape)? {
            Table::F32(numbers) => Ok(numbers),
            narrow => Ok(narrow.numbers(0..narrow.len()).into_owned()),
        }
    }

    /// A tensor's numbers as they are stored.
    pub(super) fn load_table(&self, name: &str, shape: &[usize]) -> Result<Table, CheckpointError> {
        let name = self.stored_name(name);
        let Some((file, tensor)) = self.find(&name) else {
            let there = self.names_like(&name);
            return Err(CheckpointError::Missing { path: self.path(), name, there });
        };
        let path = file.path.clone();
        if tensor.shape != shape {
            let (found, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(CheckpointError::Shape { path, name, found, expected });
        }
        let numbers = shape.iter().product();
        let table = match tensor.dtype {
            Dtype::F32 => Table::F32(read(file, tensor, numbers, f32::from_le_bytes)?),
            Dtype::F16 => Table::F16(read(file, tensor, numbers, f16::from_le_bytes)?),
            Dtype::BF16 => Table::Bf16(read(file, tensor, numbers, bf16::from_le_bytes)?),
            other => return Err(CheckpointError::Type { path, name, found: format!("{other:?}") }),
        };
        match first_not_finite(&table) {
            Some((index, value)) => Err(CheckpointError::NotFinite { path, name, index, value }),
            None => Ok(table),
        }
    }

    fn find(&self, stored_name: &str) -> Option<(&StoredFile, &TensorInfo)> {
        self.files.iter().find_map(|file| Some((file, file.header.info(stored_name)?)))
    }

    /// The first file, for messages.
    fn path(&self) -> PathBuf {
        self.files.first().map(|file| file.path.clone()).unwrap_or_default()
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

/// The number of the layer that a name belongs to, where a layer's names begin with `prefix` and its number.
pub(super) fn layer_of(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.split('.').next()?.parse().ok()
}

/// A tensor's numbers of `SIZE` bytes each.
fn read<T, const SIZE: usize>(
    file: &StoredFile,
    tensor: &TensorInfo,
    numbers: usize,
    number: impl Fn([u8; SIZE]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    // The file is as large, so its header cannot ask for more.
    let mut values = Vec::with_capacity(numbers);
    file.read(tensor, |piece| values.extend(piece.as_chunks().0.iter().map(|&bytes| number(bytes))))?;
    Ok(values)
}

fn first_not_finite(table: &Table) -> Option<(usize, f32)> {
    let at = match table {
        Table::F32(numbers) => numbers.iter().position(|number| !number.is_finite()),
        Table::F16(numbers) => numbers.iter().position(|number| !number.is_finite()),
        Table::Bf16(numbers) => numbers.iter().position(|number| !number.is_finite()),
    };
    at.map(|index| (index, table.numbers(index..index + 1)[0]))
}
