//! What a component must be before it is compiled.

use std::path::Path;

use super::error::GuestError;
use crate::durable::read_at_most;

/// Largest component that is compiled: a Python guest has 35 MB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// Reads a component.
///
/// # Errors
/// The file cannot be read, or is larger than [`MAX_COMPONENT_BYTES`].
pub fn read_component(path: &Path) -> Result<Vec<u8>, GuestError> {
    let io = |source| GuestError::Io { path: path.to_owned(), source };
    let read = read_at_most(path, MAX_COMPONENT_BYTES).map_err(io)?;
    let (name, limit_bytes) = (path.display().to_string(), MAX_COMPONENT_BYTES);
    read.map_err(|bytes| GuestError::TooLarge { name, bytes, limit_bytes })
}

/// Checks a component's first bytes and its size.
pub(super) fn check(name: &str, wasm: &[u8]) -> Result<(), GuestError> {
    let name = name.to_owned();
    // The preamble of the binary format: magic, version, and the layer (0 a core module, 1 a component).
    match wasm {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => {}
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => return Err(GuestError::CoreModule { name }),
        _ => return Err(GuestError::NotWasm { name }),
    }
    if wasm.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(GuestError::TooLarge { name, bytes: wasm.len() as u64, limit_bytes: MAX_COMPONENT_BYTES });
    }
    Ok(())
}
