//! The files of a checkpoint: which there are, and their bytes. Names what stands in a file's place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::wrappers::wrappers;
use super::{CONFIG_FILE, CheckpointError, INDEX_FILE, MAX_CONFIG_BYTES, MAX_FILE_BYTES, WEIGHTS_FILE};

/// First bytes of a file that Git LFS left in place of the real one.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Largest index: room for the names of a hundred thousand tensors.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Most files of one checkpoint.
const MAX_SHARDS: usize = 1024;

/// Largest header of a safetensors file. A model of a thousand tensors has a tenth of a megabyte; read, it takes ten times
/// as much memory.
const MAX_HEADER_BYTES: u64 = 8 << 20;

const PICKLE_WAY_OUT: &str = "loading a pickle can run code, so it is not read; convert it with transformers: \
    AutoModelForSequenceClassification.from_pretrained(DIR).save_pretrained(DIR)";
const OTHER_WAY_OUT: &str = "convert it with transformers, or fetch the repository's safetensors";

/// Weights in other formats, and how to convert them.
const OTHER_FORMATS: [(&str, &str); 7] = [
    ("pytorch_model.bin", PICKLE_WAY_OUT),
    ("pytorch_model.bin.index.json", PICKLE_WAY_OUT),
    ("pytorch_model.pt", PICKLE_WAY_OUT),
    ("tf_model.h5", OTHER_WAY_OUT),
    ("flax_model.msgpack", OTHER_WAY_OUT),
    ("model.onnx", OTHER_WAY_OUT),
    ("onnx", OTHER_WAY_OUT),
];

/// Reads a regular file of at most `limit` bytes. A device or a pipe may have no end.
///
/// # Errors
/// The file is missing or too large, or is a link to nothing or a pointer of Git LFS.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let bytes = size(path)?;
    if bytes > limit {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    // A file may grow meanwhile.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64, limit });
    }
    if bytes.starts_with(LFS_POINTER) {
        return Err(CheckpointError::LfsPointer { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Reads `config.json`.
pub(super) fn read_config_file(dir: &Path) -> Result<(PathBuf, Vec<u8>), CheckpointError> {
    let path = dir.join(CONFIG_FILE);
    let bytes = read(&path, MAX_CONFIG_BYTES)?;
    Ok((path, bytes))
}

/// The names of the files in `dir` that hold the weights: one, or the index and its shards.
///
/// # Errors
/// There are none, or the index is damaged.
pub fn weight_files(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let is_there = |file: &str| dir.join(file).symlink_metadata().is_ok();
    if is_there(WEIGHTS_FILE) {
        return Ok(vec![WEIGHTS_FILE.to_owned()]);
    }
    if is_there(INDEX_FILE) {
        let mut files = vec![INDEX_FILE.to_owned()];
        files.extend(shards(&dir.join(INDEX_FILE))?);
        return Ok(files);
    }
    if let Some(&(found, way_out)) = OTHER_FORMATS.iter().find(|(file, _)| is_there(file)) {
        return Err(CheckpointError::NoWeights { dir: dir.to_owned(), found, way_out });
    }
    Err(CheckpointError::Io { path: dir.join(WEIGHTS_FILE), source: std::io::ErrorKind::NotFound.into() })
}

/// Every file of weights.
pub(super) fn weight_paths(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut left = MAX_FILE_BYTES;
    let mut paths = Vec::new();
    for file in weight_files(dir)?.iter().filter(|file| *file != INDEX_FILE) {
        let path = dir.join(file);
        let bytes = size(&path)?;
        left = left.checked_sub(bytes).ok_or_else(|| CheckpointError::TooLarge {
            path: path.clone(),
            bytes,
            limit: left,
        })?;
        paths.push(path);
    }
    Ok(paths)
}

/// The shape of a tensor of the weights, from headers alone.
pub(super) fn shape_of(dir: &Path, tensor: &str) -> Result<Option<Vec<usize>>, CheckpointError> {
    for file in weight_files(dir)?.iter().filter(|file| *file != INDEX_FILE) {
        if let Some(shape) = shape_in(&dir.join(file), tensor)? {
            return Ok(Some(shape));
        }
    }
    Ok(None)
}

/// The shape of a tensor of one file, from its header alone.
pub(super) fn shape_in(path: &Path, tensor: &str) -> Result<Option<Vec<usize>>, CheckpointError> {
    #[derive(Deserialize)]
    struct Entry {
        shape: Option<Vec<usize>>,
    }
    let damaged = |message: String| CheckpointError::Format { path: path.to_owned(), message };
    let (_, _, header) = open(path)?;
    let mut header: BTreeMap<String, Entry> =
        serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let found = wrappers().find_map(|wrapper| header.remove(&format!("{wrapper}{tensor}")));
    Ok(found.and_then(|entry| entry.shape))
}

/// Opens a safetensors file: with its size, and its header, which is not checked.
pub(super) fn open(path: &Path) -> Result<(File, u64, Vec<u8>), CheckpointError> {
    let damaged = |message: &str| CheckpointError::Format { path: path.to_owned(), message: message.to_owned() };
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let bytes = size(path)?;
    if bytes > MAX_FILE_BYTES {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes, limit: MAX_FILE_BYTES });
    }
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(LFS_POINTER.len() as u64).read_to_end(&mut start).map_err(io)?;
    if start == LFS_POINTER {
        return Err(CheckpointError::LfsPointer { path: path.to_owned() });
    }
    let length = start.first_chunk::<8>().copied().map(u64::from_le_bytes);
    let length = length.filter(|&length| length <= bytes.saturating_sub(8));
    let length = length.ok_or_else(|| damaged("its header is cut off"))? as usize;
    if length as u64 > MAX_HEADER_BYTES {
        return Err(damaged(&format!("its header has {length} bytes, the most that is read is {MAX_HEADER_BYTES}")));
    }
    let mut header = start.split_off(8);
    let more = (length as u64).saturating_sub(header.len() as u64);
    file.by_ref().take(more).read_to_end(&mut header).map_err(io)?;
    header.truncate(length);
    Ok((file, bytes, header))
}

/// A regular file's size.
fn size(path: &Path) -> Result<u64, CheckpointError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(CheckpointError::NotAFile { path: path.to_owned() }),
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => match std::fs::read_link(path) {
            Ok(target) => Err(CheckpointError::DanglingLink { path: path.to_owned(), target }),
            Err(_) => Err(CheckpointError::Io { path: path.to_owned(), source }),
        },
    }
}

/// The files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let damaged = |message: String| CheckpointError::Index { path: index.to_owned(), message };
    let bytes = read(index, MAX_INDEX_BYTES)?;
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let files: BTreeSet<String> = weight_map.into_values().collect();
    // A name from the file becomes a path in this folder, and one in the store.
    let is_plain = |file: &String| file.ends_with(".safetensors") && !file.contains(['/', '\\', ':']);
    match files.iter().find(|file| !is_plain(file)) {
        Some(file) => Err(damaged(format!("{} is not the name of a safetensors file", crate::families::shown(file)))),
        None if files.is_empty() => Err(damaged("it names no file".to_owned())),
        None if files.len() > MAX_SHARDS => Err(damaged(format!("it names more than {MAX_SHARDS} files"))),
        None => Ok(files),
    }
}
