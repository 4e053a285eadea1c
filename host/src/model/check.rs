//! Checks whether a directory is a complete model that can be computed. Reads everything, changes nothing.

use std::path::Path;

use assay_kernels::gpu::GpuEngine;
use assay_kernels::{Architecture, CpuEngine, checkpoint};

use super::error::{ModelError, TokenizerFault};

/// The tokenizer's file in a model directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The files of a model.
pub(super) const MODEL_FILES: [&str; 3] = [checkpoint::CONFIG_FILE, TOKENIZER_FILE, checkpoint::WEIGHTS_FILE];

/// The files of an adapter.
pub(super) const ADAPTER_FILES: [&str; 2] = [checkpoint::ADAPTER_CONFIG_FILE, checkpoint::ADAPTER_WEIGHTS_FILE];

/// Largest `tokenizer.json`: those of the largest vocabularies in use have 20 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Checks that every tensor is present, finite and of the right shape, and that the tokenizer's ids are in the model's
/// vocabulary.
pub(super) fn check_model(dir: &Path, adapter: Option<&Path>) -> Result<(), ModelError> {
    for (dir, files) in [(Some(dir), MODEL_FILES.as_slice()), (adapter, ADAPTER_FILES.as_slice())] {
        let Some(dir) = dir else { continue };
        std::fs::metadata(dir).map_err(ModelError::io(dir))?;
        for &file in files {
            if !dir.join(file).is_file() {
                return Err(ModelError::NotAModel { dir: dir.to_owned(), file });
            }
        }
    }
    // Cheap checks first: a wrong architecture is reported before any weights are read.
    let architecture = checkpoint::read_config(dir)?;
    check_parts(dir, &architecture)?;
    check_tokenizer(&dir.join(TOKENIZER_FILE), architecture.vocab_size)?;
    checkpoint::load(dir, adapter)?;
    Ok(())
}

/// Refuses a model that no engine computes, by the part that the processor's engine lacks.
fn check_parts(dir: &Path, architecture: &Architecture) -> Result<(), ModelError> {
    match (CpuEngine::supports(architecture), GpuEngine::supports(architecture)) {
        (Err(lacking), Err(_)) => Err(ModelError::Unsupported { path: dir.join(checkpoint::CONFIG_FILE), lacking }),
        _ => Ok(()),
    }
}

fn check_tokenizer(path: &Path, vocab_size: usize) -> Result<(), ModelError> {
    let bad = |fault| ModelError::Tokenizer { path: path.to_owned(), fault };
    let bytes = read_tokenizer(path)?;
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| bad(TokenizerFault::NotJson(error)))?;
    let vocabulary = &tokenizer["model"]["vocab"];
    let ids = vocabulary.as_object().into_iter().flat_map(|entries| entries.values());
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    let largest = ids.chain(added).filter_map(serde_json::Value::as_u64).max();
    match largest {
        None => Err(bad(TokenizerFault::NoVocabulary)),
        Some(largest) if largest >= vocab_size as u64 => {
            Err(bad(TokenizerFault::OtherVocabulary { largest, vocab_size }))
        }
        Some(_) => Ok(()),
    }
}

/// Reads a `tokenizer.json`.
pub(crate) fn read_tokenizer(path: &Path) -> Result<Vec<u8>, ModelError> {
    let bytes = std::fs::metadata(path).map_err(ModelError::io(path))?.len();
    if bytes > MAX_TOKENIZER_BYTES {
        return Err(ModelError::Tokenizer {
            path: path.to_owned(),
            fault: TokenizerFault::TooLarge { bytes, max_bytes: MAX_TOKENIZER_BYTES },
        });
    }
    std::fs::read(path).map_err(ModelError::io(path))
}
